"""Session mode over a real server in front of a real manager: cookies, what other sites' pages can't do, encoded bodies, accounts."""

import base64
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from ai.backend.common.errors import MalformedBody
from ai.backend.gateway import web
from ai.backend.gateway.limits import GatewayConfig
from ai.backend.gateway.peer import client_address
from ai.backend.manager.config import LoginConfig, ManagerConfig
from ai.backend.manager.db.schema import users
from ai.backend.manager.login import totp
from ai.backend.testkit.site import Site, served

CROSS = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    config = GatewayConfig(shutdown_timeout_s=1, trusted_proxies=("127.0.0.1",))
    async with served(tmp_path, ManagerConfig(login=LoginConfig(signup=True)), config) as found:
        yield found


async def test_the_way_of_a_login(site: Site) -> None:
    answer = await site.call("POST", "/server/login", site.login())
    session_id = answer.headers["X-BackendAI-SessionID"]
    assert answer.status == 200
    assert answer.json == {
        "authenticated": True,
        "data": {"access_key": site.seeded.user.access_key, "role": "user", "status": "active"},
    }
    assert answer.headers.getall("Set-Cookie") == [
        f"AIOHTTP_SESSION={session_id}; HttpOnly; Max-Age=604800; Path=/; SameSite=lax"
    ]
    check = await site.call("POST", "/server/login-check", cookie=session_id)
    assert check.json == answer.json | {"session_id": session_id}
    again = await site.call("POST", "/server/login", site.login(), cookie=session_id)
    assert (again.status, again.headers["Content-Type"]) == (400, "application/problem+json")
    echo = await site.call("GET", "/func/auth?echo=hi", cookie=session_id)
    assert echo.json == {"authorized": "yes", "echo": "hi"}
    out = await site.call("POST", "/server/logout", cookie=session_id)
    assert (out.status, out.body) == (201, b"")
    assert "Max-Age=0" in out.headers["Set-Cookie"]
    refused = await site.call("GET", "/func/auth?echo=hi", cookie=session_id)
    assert refused.status == 401 and refused.json["type"].endswith("/auth-failed")
    check = await site.call("POST", "/server/login-check", cookie=session_id)
    assert check.json == {"authenticated": False, "data": None, "session_id": ""}


async def test_behind_a_proxy_that_speaks_https_the_cookie_is_for_https_only(site: Site) -> None:
    answer = await site.call("POST", "/server/login", site.login(), X_Forwarded_Proto="https")
    assert answer.headers["Set-Cookie"].endswith("; Secure")


async def test_failures_are_told_with_200(site: Site) -> None:
    failed = await site.call("POST", "/server/login", site.login(password="wrong"))
    assert failed.status == 200 and "Set-Cookie" not in failed.headers
    assert failed.json == {
        "authenticated": False,
        "data": {
            "type": "https://api.backend.ai/probs/auth-failed",
            "title": "Credential/signature mismatch.",
            "details": "User credential mismatch.",
        },
    }
    assert (await site.call("POST", "/server/login", {"username": "x"})).status == 400
    token = await site.call("POST", "/server/token-login", {"sToken": "x"})
    assert (token.status, token.json["authenticated"]) == (200, False)


async def test_too_many_failures(site: Site) -> None:
    for path in ["/server/login", "/auth/authorize"] * 5:
        await site.call("POST", path, site.login(password="wrong"))
    for path in ("/server/login", "/auth/authorize"):
        refused = await site.call("POST", path, site.login())
        assert refused.status == 429
        assert refused.json["type"] == "https://api.backend.ai/probs/too-many-requests"
        assert 1190 <= int(refused.headers["Retry-After"]) <= 1200
    assert (await site.call("POST", "/server/login", site.login(site.seeded.admin))).json["authenticated"]


async def test_session_mode_without_a_login(site: Site) -> None:
    for path in ("/func", "/func/"):
        assert (await site.call("GET", path)).json["version"].startswith("v8.")
    ping = await site.call("GET", "/func/ping")
    assert ping.json["details"] == "Success" and ping.json["version"]
    for method, path in (("GET", "/func/images"), ("POST", "/func/session"), ("GET", "/func/session")):
        for header in ({}, {"X_BackendAI_SessionID": "f" * 64}, {"Authorization": "BackendAI nonsense"}):
            refused = await site.call(method, path, **header)
            assert (refused.status, refused.headers["Content-Type"]) == (401, "application/problem+json")
    assert (await site.call("GET", "/func/func/images")).status == 404
    # A web session is for session mode only: the plain API wants a signature.
    session_id = await site.log_in()
    assert (await site.call("GET", "/images", cookie=session_id)).status == 401


async def test_the_header_wins_over_the_cookie(site: Site) -> None:
    user, admin = await site.log_in(), await site.log_in(site.seeded.admin)
    listed = await site.call("GET", "/func/agents", cookie=user, X_BackendAI_SessionID=admin)
    assert listed.status == 200
    assert (await site.call("GET", "/func/agents", cookie=admin, X_BackendAI_SessionID=user)).status in (
        401,
        403,
    )
    assert (await site.call("GET", "/func/images", cookie=admin, X_BackendAI_SessionID="no id")).status == 401


async def test_old_paths_and_other_methods_in_session_mode(site: Site) -> None:
    user = await site.log_in()
    for path in ("/func/session/none", "/func/kernel/none", "/func/v2/kernel/none"):
        answer = await site.call("GET", path, cookie=user)
        assert answer.json["type"].endswith("/object-not-found"), path
    created = await site.call("POST", "/func/session", {"name": "fresh", "image": "none"}, cookie=user)
    assert (created.status, created.json["title"]) == (404, "No such environment image.")
    named = await site.call(
        "POST",
        "/func/auth/update-full-name",
        {"email": site.seeded.user.email, "full_name": "U"},
        cookie=user,
    )
    assert named.status == 200


async def test_pages_of_other_sites_change_nothing(site: Site) -> None:
    user = await site.log_in()
    body = {"email": site.seeded.user.email, "full_name": "Mallory"}
    authority = site.url.removeprefix("http://")
    for headers, status in (
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://{authority}.evil.example"}, 403),
        ({"Sec_Fetch_Site": "same-origin", "Origin": "http://127.0.0.1:1"}, 200),
        ({"Origin": f"http://{authority}"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
    ):
        answer = await site.call("POST", "/func/auth/update-full-name", body, cookie=user, **headers)
        assert answer.status == status, headers
    # A page that knows the id is ours, wherever it is from.
    answer = await site.call(
        "POST", "/func/auth/update-full-name", body, X_BackendAI_SessionID=user, Sec_Fetch_Site="cross-site"
    )
    assert answer.status == 200
    assert (await site.call("GET", "/func/auth", cookie=user, Sec_Fetch_Site="cross-site")).status == 200
    overridden = await site.call(
        "GET", "/func/auth/test", cookie=user, Sec_Fetch_Site="cross-site", X_Method_Override="POST"
    )
    assert overridden.status == 403
    assert (
        await site.call("POST", "/server/logout", cookie=user, Origin="https://evil.example")
    ).status == 403
    planted = await site.call("POST", "/server/login", site.login(), Sec_Fetch_Site="cross-site")
    assert planted.json["authenticated"] and "Set-Cookie" not in planted.headers


async def test_websockets_and_event_streams(site: Site) -> None:
    user = await site.log_in()
    target = site.url.replace("http", "ws") + "/func/stream/session/none/execute"
    for headers, status in (
        ({}, 401),
        ({"Cookie": f"AIOHTTP_SESSION={user}"}, 404),
        ({"X-BackendAI-SessionID": user}, 404),
        ({"Cookie": f"AIOHTTP_SESSION={user}", "Origin": "https://evil.example"}, 403),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await site.http.ws_connect(target, headers=headers)
        assert refused.value.status == status
    async with site.http.get(
        site.url + "/func/events/session", headers={"Cookie": f"AIOHTTP_SESSION={user}"}
    ) as stream:
        assert stream.status == 200 and await stream.content.readline() == b": ping\n"


async def test_addresses(site: Site) -> None:
    """What the user may come from is checked with each request, and a proxy that is not trusted is not believed."""
    user = await site.log_in()
    principal = await site.manager.logins.find(user)
    assert principal is not None
    await site.manager.database.run(
        lambda conn: conn.execute(
            users.update().where(users.c.id == principal.user_id).values(allowed_client_ip=["10.0.0.0/8"])
        ).close()
    )
    site.manager.identity.forget()
    assert (await site.call("GET", "/func/auth", cookie=user)).status == 401
    assert (await site.call("GET", "/func/auth", cookie=user, X_Forwarded_For="10.2.3.4")).status == 200
    spoofed = "10.2.3.4, 192.0.2.7"
    assert (await site.call("GET", "/func/auth", cookie=user, X_Forwarded_For=spoofed)).status == 401
    refused = await site.call("POST", "/server/login", site.login())
    assert refused.json["authenticated"] is False


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "address"),
    [
        ("192.0.2.1", "10.0.0.1", (), "192.0.2.1"),
        ("192.0.2.1", "10.0.0.1", ("127.0.0.1",), "192.0.2.1"),
        ("127.0.0.1", "10.0.0.1", ("127.0.0.1",), "10.0.0.1"),
        ("127.0.0.1", "", ("127.0.0.1",), "127.0.0.1"),
        ("127.0.0.1", "1.1.1.1, 10.0.0.1", ("127.0.0.1",), "10.0.0.1"),
        ("127.0.0.1", "1.1.1.1, 10.0.0.1", ("127.0.0.1", "10.0.0.0/8"), "1.1.1.1"),
        ("127.0.0.1", "nonsense", ("127.0.0.1",), "nonsense"),
    ],
)
def test_who_is_believed_about_addresses(
    peer: str, forwarded: str, trusted: tuple[str, ...], address: str
) -> None:
    assert client_address(peer, forwarded, trusted) == address


async def test_accounts_over_http(site: Site) -> None:
    form = {"domain": "elsewhere", "email": "eve@example.com", "password": "correct horse", "fullName": "Eve"}
    # In session mode the domain is the site's.
    made = await site.call("POST", "/func/auth/signup", form)
    assert made.status == 201 and set(made.json) == {"access_key", "secret_key"}
    taken = await site.call("POST", "/func/auth/signup", form)
    assert (taken.status, taken.json["msg"]) == (400, "Email already exists")
    assert (await site.call("POST", "/auth/signup", form | {"email": "e@example.com"})).status == 404
    answer = await site.call(
        "POST", "/server/login", {"username": "eve@example.com", "password": "correct horse"}
    )
    eve = answer.headers["X-BackendAI-SessionID"]
    role = await site.call("GET", "/func/auth/role", cookie=eve)
    assert role.json == {"global_role": "user", "domain_role": "user", "group_role": None}
    role = await site.call("GET", f"/func/auth/role?group={site.seeded.project_id}", cookie=eve)
    assert role.json["group_role"] == "user"
    assert (await site.call("GET", "/func/auth/role?group=none", cookie=eve)).status == 404
    assert (await site.call("GET", "/func/auth/ssh-keypair", cookie=eve)).json == {"ssh_public_key": None}
    pair = (await site.call("PATCH", "/func/auth/ssh-keypair", cookie=eve)).json
    assert set(pair) == {"ssh_public_key", "ssh_private_key"}
    kept = await site.call(
        "POST",
        "/func/auth/ssh-keypair",
        {"pubkey": pair["ssh_public_key"], "privkey": pair["ssh_private_key"]},
        cookie=eve,
    )
    assert kept.json == pair
    acl = await site.call("GET", "/func/acl", cookie=eve)
    assert "mount-in-session" in acl.json["vfolder_host_permission_list"]
    change = {"old_password": "correct horse", "new_password": "battery staple"}
    differ = await site.call(
        "POST", "/func/auth/update-password", change | {"new_password2": "slip"}, cookie=eve
    )
    assert (differ.status, list(differ.json)) == (400, ["error_msg"])
    done = await site.call(
        "POST", "/func/auth/update-password", change | {"new_password2": "battery staple"}, cookie=eve
    )
    assert (done.status, done.json) == (200, {})
    assert (await site.call("GET", "/func/auth", cookie=eve)).status == 200
    gone = await site.call(
        "POST", "/func/auth/signout", {"email": "eve@example.com", "password": "battery staple"}, cookie=eve
    )
    assert (gone.status, gone.json) == (200, {})
    assert (await site.call("GET", "/func/auth", cookie=eve)).status == 401


async def test_a_password_that_has_expired(site: Site) -> None:
    await site.manager.database.run(
        lambda conn: conn.execute(users.update().values(need_password_change=True)).close()
    )
    refused = await site.call("POST", "/server/login", site.login())
    assert refused.json["data"] == {
        "type": "https://api.backend.ai/probs/password-expired",
        "title": "Password has expired.",
        "details": "Password has expired.",
    }
    authorize = await site.call("POST", "/auth/authorize", site.login())
    assert (authorize.status, authorize.json["title"]) == (401, "Password has expired.")
    change = {
        "username": site.seeded.user.email,
        "current_password": site.seeded.user.password,
        "new_password": "short",
    }
    told = (await site.call("POST", "/server/update-password-no-auth", change)).json
    assert told["data"]["details"] == "a password has 8 to 1024 characters"
    wrong = change | {"current_password": "x"}
    told = (await site.call("POST", "/server/update-password-no-auth", wrong)).json
    assert told["data"]["details"] == "User credential mismatch." and told["password_changed_at"] is None
    change["new_password"] = "battery staple"
    told = (await site.call("POST", "/server/update-password-no-auth", change)).json
    assert told["data"] is None and told["password_changed_at"]
    change |= {"current_password": "battery staple", "new_password": "correct horse"}
    assert (await site.call("POST", "/auth/update-password-no-auth", change)).status == 400
    admin = site.seeded.admin
    change = {"username": admin.email, "current_password": admin.password, "new_password": "correct horse"}
    changed = await site.call("POST", "/auth/update-password-no-auth", change | {"domain": "default"})
    assert changed.status == 201 and list(changed.json) == ["password_changed_at"]


async def test_second_factor_over_http(site: Site) -> None:
    user = await site.log_in()
    prepared = (await site.call("POST", "/func/totp", cookie=user)).json
    assert set(prepared) == {"totp_key", "totp_uri"}
    step = totp.step_of(site.manager.clock.now())
    codes = [totp.code_at(prepared["totp_key"], step + n) for n in (0, 1)]
    # A page may send it as a number, without the zeros in front.
    done = await site.call("POST", "/func/totp/verify", {"otp": int(codes[0])}, cookie=user)
    assert (done.status, done.json) == (200, {"success": True})
    told = (await site.call("POST", "/server/login", site.login())).json
    assert told["data"]["details"] == "OTP not provided"
    authorize = await site.call("POST", "/auth/authorize", site.login())
    assert (authorize.status, authorize.json["msg"]) == (401, "OTP not provided")
    assert (await site.call("POST", "/server/login", site.login(otp=codes[1]))).json["authenticated"]
    assert not (await site.call("POST", "/server/login", site.login(otp=codes[1]))).json["authenticated"]
    removed = await site.call("DELETE", "/func/totp", cookie=user)
    assert (removed.status, removed.json) == (200, {"success": True})
    await site.log_in()


# Encoded bodies.


def encode(endpoint: str, body: bytes, iv: bytes = b"") -> bytes:
    """As published clients do, written from the description."""
    iv = iv or secrets.token_hex(8).encode()
    key = (base64.b64encode(endpoint.encode()) + iv + iv)[:32]
    padder = PKCS7(128).padder()
    sealer = Cipher(AES(key), CBC(iv)).encryptor()
    padded = padder.update(body) + padder.finalize()
    return iv + b":" + base64.b64encode(sealer.update(padded) + sealer.finalize())


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [
        ("h:80", "http://h:80"),
        ("h", "http://h/"),
        ("h", "http://h:80"),
        ("h", "https://h"),
        ("[::1]:8081", "http://[::1]:8081"),
        ("[::1]", "http://[::1]:80/"),
        ("a-long-name.example.com", "https://a-long-name.example.com/any/path"),
    ],
)
def test_decoding_whatever_address_the_client_has(host: str, endpoint: str) -> None:
    for number in range(50):
        body = msgspec.json.encode({"password": "x" * number})
        assert web.decode_body(encode(endpoint, body), host) == body


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b":",
        b"x" * 16 + b":",
        b"x" * 16 + b":!!!!",
        b"x" * 16 + b":" + base64.b64encode(b"y" * 15),
        b"\xff" * 99,
    ],
)
def test_what_is_no_encoded_body(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        web.decode_body(body, "h")


def test_a_body_for_another_server_is_none_of_ours() -> None:
    with pytest.raises(MalformedBody) as told:
        web.decode_body(encode("http://other", b'{"password": "hush"}'), "h")
    assert "hush" not in str(told.value)


async def test_encoded_bodies(site: Site) -> None:
    body = encode(site.url, msgspec.json.encode(site.login()))
    answer = await site.call("POST", "/server/login", body=body, X_BackendAI_Encoded="true")
    assert answer.json["authenticated"]
    user = answer.headers["X-BackendAI-SessionID"]
    echo = encode(site.url, b'{"echo": "hi"}')
    for _ in range(2):
        answer = await site.call("POST", "/func/auth", body=echo, cookie=user, X_BackendAI_Encoded="true")
        assert answer.json["echo"] == "hi"
    assert (
        await site.call("POST", "/func/auth", body=b"nonsense", cookie=user, X_BackendAI_Encoded="true")
    ).status == 400
    assert (
        await site.call("POST", "/server/login", body=b"x" * (9 << 20), X_BackendAI_Encoded="true")
    ).status in (400, 413)
    assert (await site.call("GET", "/func/auth?echo=hi", cookie=user, X_BackendAI_Encoded="true")).json[
        "echo"
    ] == "hi"
