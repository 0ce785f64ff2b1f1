"""Logging in through an OpenID provider: a real one, on loopback, that also lies when it is told to."""

import base64
import hmac
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
import pytest
import sqlalchemy as sa
from joserfc import jwt

from ai.backend.common.errors import ConfigError
from ai.backend.manager.config import ManagerConfig, OpenIdConfig
from ai.backend.manager.db.schema import users
from ai.backend.manager.identity.model import UserDraft
from ai.backend.manager.openid import policy
from ai.backend.manager.openid.model import ProviderUnavailable
from ai.backend.testkit.openid_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    OpenIdProvider,
    new_key,
    openid_provider,
)
from ai.backend.testkit.site import Answer, Site, served

KEPT, SESSION = "BACKENDAI_OPENID", "AIOHTTP_SESSION"


@dataclass
class Browser:
    """Keeps cookies by name, and goes where it is sent, step by step."""

    site: Site
    provider: OpenIdProvider
    cookies: dict[str, str]

    async def get(self, url: str) -> Answer:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        async with self.site.http.get(url, headers=headers, allow_redirects=False) as response:
            for name, morsel in response.cookies.items():
                self.cookies[name] = morsel.value
                assert morsel["httponly"] and morsel["samesite"] == "lax"
            return Answer(response.status, response.headers, await response.read())

    async def to_provider(self, target: str = "/func/openid/login?next=/data") -> str:
        """Begins; returns where the provider sends the browser back to."""
        answer = await self.get(self.site.url + target)
        assert answer.status == 302, answer.body
        back = await self.get(answer.headers["Location"])
        assert back.status == 302, back.body
        return str(back.headers["Location"])

    async def log_in(self) -> Answer:
        return await self.get(await self.to_provider())

    async def email(self) -> str:
        """Whose web session this browser has."""
        found = await self.site.manager.logins.find(self.cookies.get(SESSION, ""))
        return found.email if found else ""


@pytest.fixture
async def provider() -> AsyncIterator[OpenIdProvider]:
    async with openid_provider() as found:
        yield found


def config(provider: OpenIdProvider, **more: Any) -> ManagerConfig:
    return ManagerConfig(
        openid=OpenIdConfig(issuer=provider.issuer, client_id=CLIENT_ID, client_secret=CLIENT_SECRET, **more)
    )


async def browser_of(site: Site, provider: OpenIdProvider) -> Browser:
    provider.redirect_uris.add(site.url + policy.CALLBACK)
    return Browser(site, provider, {})


async def eve(site: Site, email: str = "eve@example.com") -> None:
    await site.manager.identity.create_user(
        UserDraft(email=email, username=email.split("@", maxsplit=1)[0], password="correct horse")
    )


@pytest.fixture
async def browser(provider: OpenIdProvider, tmp_path: Path) -> AsyncIterator[Browser]:
    """At a site where eve is known."""
    async with served(tmp_path, config(provider)) as site:
        await eve(site, "Eve@example.com")
        yield await browser_of(site, provider)


async def test_a_login_ends_in_a_web_session(browser: Browser) -> None:
    answer = await browser.log_in()
    assert (answer.status, answer.headers["Location"]) == (302, "/data")
    assert browser.cookies[KEPT] == ""
    echo = await browser.site.call("GET", "/func/auth?echo=hi", cookie=browser.cookies[SESSION])
    assert echo.json["echo"] == "hi"
    assert await browser.email() == "Eve@example.com"


async def test_the_address_counts_once_and_the_subject_from_then_on(browser: Browser) -> None:
    await browser.log_in()
    browser.provider.person["email"] = "changed@example.com"
    assert (await browser.log_in()).status == 302
    assert await browser.email() == "Eve@example.com"
    # Somebody else who gets the address is not her.
    browser.provider.person |= {"sub": "43", "email": "eve@example.com"}
    assert (await browser.log_in()).status == 401


async def test_who_is_not_known_is_not_made_unless_wanted(browser: Browser) -> None:
    browser.provider.person |= {"sub": "44", "email": "new@example.com"}
    answer = await browser.log_in()
    assert (answer.status, answer.json["msg"]) == (401, policy.REFUSED)
    assert SESSION not in browser.cookies


async def test_new_users_where_they_are_wanted(provider: OpenIdProvider, tmp_path: Path) -> None:
    async with served(tmp_path, config(provider, create_users=True)) as site:
        browser = await browser_of(site, provider)
        assert (await browser.log_in()).status == 302
        first = browser.cookies[SESSION]
        assert (await browser.log_in()).status == 302
        assert await browser.email() == "eve@example.com"
        # The login that was there before is ended by the new one.
        assert await site.manager.logins.find(first) is None
        rows = await site.manager.database.read(
            lambda conn: conn.execute(sa.select(users).where(users.c.email == "eve@example.com")).all()
        )
        assert [(row.full_name, row.role) for row in rows] == [("Eve Moneypenny", "user")]
        principal = await site.manager.logins.find(browser.cookies[SESSION])
        assert principal and await site.manager.identity.project("default", "default", principal)
        provider.person |= {"sub": "45", "email_verified": False, "email": "mallory@example.com"}
        assert (await browser.log_in()).status == 401


async def test_addresses_must_be_verified(browser: Browser) -> None:
    browser.provider.person["email_verified"] = False
    assert (await browser.log_in()).status == 401
    del browser.provider.person["email_verified"]
    assert (await browser.log_in()).status == 401


async def test_addresses_from_the_userinfo_endpoint(browser: Browser) -> None:
    browser.provider.email_in_userinfo_only = True
    assert (await browser.log_in()).status == 302
    assert "/userinfo" in browser.provider.asked


async def test_inactive_users(browser: Browser) -> None:
    await browser.log_in()
    await browser.site.manager.database.run(
        lambda conn: conn.execute(sa.update(users).values(status="inactive")).close()
    )
    browser.site.manager.identity.forget()
    assert (await browser.log_in()).status == 401


LIES: dict[str, dict[str, Any]] = {
    "wrong nonce": {"nonce": "other"},
    "no nonce": {"nonce": None},
    "wrong audience": {"aud": "other"},
    "no audience": {"aud": None},
    "many audiences, no authorized party": {"aud": [CLIENT_ID, "other"]},
    "another authorized party": {"azp": "other"},
    "expired": {"exp": 1},
    "no expiry": {"exp": None},
    "expiry is no number": {"exp": "2099"},
    "expiry is a truth": {"exp": True},
    "from the future": {"iat": 1 << 40},
    "not yet": {"nbf": 1 << 40},
    "wrong issuer": {"iss": "https://evil.example"},
    "no subject": {"sub": None},
    "subject is no text": {"sub": 42},
    "empty subject": {"sub": ""},
}


async def test_lies_let_nobody_in(browser: Browser) -> None:
    for lie, said in LIES.items():
        browser.provider.spoil = lambda claims, said=said: {  # type: ignore[misc]
            name: value for name, value in (claims | said).items() if value is not None
        }
        answer = await browser.log_in()
        assert (answer.status, answer.json["msg"]) == (401, policy.REFUSED), lie
        assert SESSION not in browser.cookies
    # The same browser gets in once the truth is told.
    browser.provider.spoil = lambda claims: claims
    assert (await browser.log_in()).status == 302


async def test_several_audiences_of_which_we_are_the_party(browser: Browser) -> None:
    browser.provider.spoil = lambda claims: claims | {"aud": [CLIENT_ID, "other"], "azp": CLIENT_ID}
    assert (await browser.log_in()).status == 302


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def test_forged_signatures(browser: Browser) -> None:
    provider = browser.provider
    none = {"alg": "none", "kid": provider.key.kid}
    stranger = new_key()

    def unsigned(claims: dict[str, Any]) -> str:
        return f"{_b64(msgspec.json.encode(none))}.{_b64(msgspec.json.encode(claims))}."

    def by_public_key(claims: dict[str, Any]) -> str:
        """The classic: our public key as the secret of an HMAC."""
        head = _b64(msgspec.json.encode({"alg": "HS256", "kid": provider.key.kid}))
        said = f"{head}.{_b64(msgspec.json.encode(claims))}"
        proof = hmac.digest(provider.key.as_pem(private=False), said.encode(), "sha256")
        return f"{said}.{_b64(proof)}"

    def spliced(claims: dict[str, Any]) -> str:
        """The signature of something else."""
        head, _, signature = provider.sign(claims | {"sub": "0"}).split(".")
        return ".".join((head, provider.sign(claims).split(".")[1], signature))

    def by_stranger(claims: dict[str, Any]) -> str:
        header = {"alg": "RS256", "kid": provider.key.kid}
        return jwt.encode(header, claims, stranger, algorithms=["RS256"])

    for forge in (
        unsigned,
        by_public_key,
        spliced,
        by_stranger,
        lambda claims: provider.sign(claims, stranger),
        # Not allowed by us; allowed, but not what the key is for.
        lambda claims: provider.sign(claims, alg="RS512"),
        lambda claims: provider.sign(claims, alg="PS256"),
        lambda claims: provider.sign(claims)[:-8],
        lambda claims: "x" * 20_000,
        lambda claims: "a.b.c",
    ):
        provider.forge = forge
        answer = await browser.log_in()
        assert (answer.status, answer.json["msg"]) == (401, policy.REFUSED)
    provider.forge = None
    assert (await browser.log_in()).status == 302


async def test_keys_are_kept_and_asked_for_anew_when_they_change(browser: Browser) -> None:
    for _ in range(3):
        assert (await browser.log_in()).status == 302
    assert browser.provider.asked.count("/keys") == 1
    assert browser.provider.asked.count("/.well-known/openid-configuration") == 1
    browser.provider.rotate()
    # Not at once again and again: an attacker's invented key must not make us ask the provider each time.
    assert (await browser.log_in()).status == 401
    openid: Any = browser.site.manager.openid
    openid._keys = (openid._keys[0] - 11, openid._keys[1])
    assert (await browser.log_in()).status == 302
    assert browser.provider.asked.count("/keys") == 2


def spoiled(url: str, **changes: str | None) -> str:
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()} | changes
    kept = {name: value for name, value in query.items() if value is not None}
    return parts._replace(query=urlencode(kept)).geturl()


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "other"},
        {"state": None},
        {"state": "é"},
        {"code": "other"},
        {"code": None},
        {"iss": "https://evil.example"},
        {"error": "access_denied", "code": None},
    ],
)
async def test_spoiled_returns(browser: Browser, changes: dict[str, str | None]) -> None:
    answer = await browser.get(spoiled(await browser.to_provider(), **changes))
    assert (answer.status, answer.headers["Content-Type"]) == (401, "application/problem+json")
    assert SESSION not in browser.cookies


async def test_a_return_works_once_and_only_in_the_browser_that_began(browser: Browser) -> None:
    back = await browser.to_provider()
    other = Browser(browser.site, browser.provider, {})
    # Somebody is made to open a link that would log them in as somebody else.
    assert (await other.get(back)).status == 401
    other_back = await other.to_provider()
    assert (await browser.get(other_back)).status == 401
    kept = browser.cookies[KEPT]
    assert (await browser.get(back)).status == 302
    for cookies in ({}, {KEPT: kept}, {KEPT: kept[:-4] + "AAAA"}, {KEPT: "x"}, {KEPT: "é" * 9}):
        again = Browser(browser.site, browser.provider, cookies)
        assert (await again.get(back)).status == 401


async def test_a_state_works_once_even_with_another_code(browser: Browser) -> None:
    """The provider might hand out two codes for one state (somebody pressed back): the first return counts."""
    begun = await browser.get(browser.site.url + "/func/openid/login")
    backs = [str((await browser.get(begun.headers["Location"])).headers["Location"]) for _ in range(2)]
    kept = browser.cookies[KEPT]
    assert (await browser.get(backs[0])).status == 302
    browser.cookies[KEPT] = kept
    assert (await browser.get(backs[1])).status == 401


async def test_a_login_that_took_too_long(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    back = await browser.to_provider()
    monkeypatch.setattr(policy, "LIFETIME_S", -1)
    assert (await browser.get(back)).status == 401


async def test_the_provider_insists_on_pkce_and_so_on_our_verifier(browser: Browser) -> None:
    """That our provider is no pushover: without the challenge, or with another one, there is no token."""
    begun = await browser.get(browser.site.url + "/func/openid/login")
    asked = parse_qs(urlsplit(begun.headers["Location"]).query)
    assert asked["code_challenge_method"] == ["S256"] and len(asked["code_challenge"][0]) == 43
    assert asked["scope"] == ["openid email profile"] and asked["nonce"] and asked["state"]
    missing = await browser.get(spoiled(begun.headers["Location"], code_challenge=None))
    assert "error=invalid_request" in missing.headers["Location"]
    swapped = await browser.get(spoiled(begun.headers["Location"], code_challenge="A" * 43))
    assert (await browser.get(swapped.headers["Location"])).status == 401
    assert (
        await browser.get(spoiled(begun.headers["Location"], redirect_uri="https://evil.example"))
    ).status == 400


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/data", "/data"),
        ("/data?a=1#b", "/data?a=1#b"),
        ("", "/"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/x\r\nSet-Cookie: a=b", "/"),
        ("/x y", "/"),
        ("javascript:alert(1)", "/"),
    ],
)
def test_where_a_login_may_end(text: str, path: str) -> None:
    assert policy.safe_path(text) == path


async def test_without_a_provider(tmp_path: Path, provider: OpenIdProvider) -> None:
    async with served(tmp_path) as site:
        for path in ("/func/openid/login", "/func/openid/callback?code=x&state=x"):
            answer = await site.call("GET", path)
            assert (answer.status, answer.json["title"]) == (404, "No such OpenID provider.")
    (tmp_path / "down").mkdir()
    issuer = "http://127.0.0.1:9"
    down = ManagerConfig(openid=OpenIdConfig(issuer=issuer, client_id=CLIENT_ID))
    async with served(tmp_path / "down", down) as site:
        assert (await site.call("GET", "/func/openid/login")).status == 503


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://other"},
        {"issuer": "https://op", "authorization_endpoint": "https://op/a", "token_endpoint": "http://op/t"},
        {"issuer": "https://op", "authorization_endpoint": 5, "token_endpoint": "https://op/t"},
        {},
    ],
)
def test_providers_that_make_no_sense(document: dict[str, Any]) -> None:
    with pytest.raises(ProviderUnavailable):
        policy.provider_of("https://op", document)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://op.example/x", True),
        ("http://127.0.0.1:5/x", True),
        ("http://[::1]/x", True),
        ("http://localhost/x", True),
        ("http://op.example/x", False),
        ("http://127.0.0.1.evil.example/x", False),
        ("ftp://op.example", False),
        ("https://", False),
        ("x", False),
    ],
)
def test_where_secrets_may_go(url: str, safe: bool) -> None:
    assert policy.is_safe(url) is safe


async def test_secrets_are_not_told(browser: Browser, capsys: pytest.CaptureFixture[str]) -> None:
    back = await browser.to_provider()
    code = parse_qs(urlsplit(back).query)["code"][0]
    await browser.get(spoiled(back, state="other"))
    await browser.get(back)
    said = capsys.readouterr().out
    for secret in (code, browser.cookies[SESSION], CLIENT_SECRET):
        assert secret not in said
    assert CLIENT_SECRET not in repr(config(browser.provider))


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "http://op.example"},
        {"client_id": ""},
        {"scopes": ("email",)},
        {"algorithms": ("RS256", "none")},
        {"algorithms": ("HS256",)},
        {"algorithms": ()},
    ],
)
def test_settings_that_would_let_nobody_in_or_anybody(wrong: dict[str, Any]) -> None:
    right = {"issuer": "https://op.example", "client_id": "x"}
    policy.check_config(OpenIdConfig(**right))
    policy.check_config(OpenIdConfig())
    with pytest.raises(ConfigError):
        policy.check_config(OpenIdConfig(**(right | wrong)))
