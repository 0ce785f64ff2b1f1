"""The edge: signatures on the wire, CORS, versions, rates, and problem documents for everything."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from ai.backend.gateway.app import ROUTES
from ai.backend.gateway.middleware import modern_path

PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    ("key", "text"),
    [(None, "Unauthorized access"), ("stranger", "Access key not found"), ("liar", "Signature mismatch")],
)
async def test_who_are_you(client, key, text):
    answer = await client.call("GET", "/session/mysess", key=key)
    assert (answer.status, answer.headers["Content-Type"]) == (401, PROBLEM)
    body = answer.json
    assert (body["type"], body["msg"]) == ("https://api.backend.ai/probs/auth-failed", text)
    assert body["title"] == "Credential/signature mismatch."
    assert body["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize("off_s", [-1000, 1000])
async def test_clock_skew(client, off_s):
    date = (datetime.now(UTC) + timedelta(seconds=off_s)).isoformat()
    answer = await client.call("GET", "/session/mysess", date=date)
    assert (answer.status, answer.json["msg"]) == (400, "Date/time sync error")
    assert answer.json["type"].endswith("/invalid-auth-params")


async def test_forms_of_dates_and_names(client):
    soon = (datetime.now(UTC) + timedelta(seconds=100)).replace(microsecond=0)
    for header, date in (
        ("X-BackendAI-Date", soon.isoformat().replace("+00:00", ".049Z")),
        ("X-Sorna-Date", soon.isoformat()),
        ("Date", soon.astimezone(timezone(timedelta(hours=9))).isoformat()),
    ):
        answer = await client.call("GET", "/auth?echo=1", date=date, date_header=header)
        assert answer.status == 200, header
    answer = await client.call("GET", "/auth", prefix="X-Sorna")
    assert answer.status == 200
    headers = client.signed("GET", "/auth", content_type="text/plain")
    headers["Authorization"] = headers["Authorization"].replace("BackendAI", "Sorna")
    assert (await client.call("GET", "/auth", key=None, headers=headers)).status == 200


async def test_the_target_is_verified_as_sent(client):
    for target in ("/auth?echo=%7e~%20+", "/auth?scope=*&echo=%2A", "/auth/?echo=1", "//auth?echo=1"):
        answer = await client.call("GET", target)
        assert answer.status == 200, target
    headers = client.signed("GET", "/auth?echo=~", content_type="text/plain")
    assert (await client.call("GET", "/auth?echo=%7e", key=None, headers=headers)).status == 401


async def test_old_clients_sign_the_body_and_another_host(client):
    for sign in ({"version": "v2.20170315"}, {"version": "v2.20170315", "host": "api.backend.ai"}):
        answer = await client.call(
            "POST", "/v2/kernel/create", {"lang": "python", "clientSessionToken": "fresh"}, **sign
        )
        assert (answer.status, answer.json["kernelId"]) == (201, "fresh")
    headers = client.signed(
        "POST", "/auth", content_type="application/json", version="v2.20170315", body=b'{"echo":"a"}'
    )
    answer = await client.call("POST", "/auth", {"echo": "b"}, key=None, headers=headers)
    assert (answer.status, answer.json["msg"]) == (401, "Signature mismatch")


async def test_a_missing_content_type_is_octet_stream(client):
    async with client.http.get(
        client.url("/auth"), headers=client.signed("GET", "/auth"), skip_auto_headers=["Content-Type"]
    ) as response:
        assert response.status == 200


async def test_every_route_that_is_not_flagged_needs_a_signature(client):
    checked = 0
    for route in ROUTES:
        operation = route.opt["operation"]
        for path in route.paths:
            target = path.replace("{name:str}", "mysess")
            for method in sorted(getattr(route, "http_methods", {"GET"})):
                if not hasattr(route, "http_methods"):
                    response = await client.http.get(
                        client.url(target),
                        headers={
                            "Connection": "Upgrade",
                            "Upgrade": "websocket",
                            "Sec-WebSocket-Version": "13",
                            "Sec-WebSocket-Key": "x" * 22 + "==",
                        },
                    )
                    status = response.status
                else:
                    status = (
                        await client.call(method, target, {"username": "x", "password": "x"}, key=None)
                    ).status
                judged = path in ("/auth/authorize", "/openid/callback")
                assert (status == 401) is (not operation.anonymous or judged), (
                    method,
                    path,
                )
                checked += not operation.anonymous
    assert checked >= 20


async def test_problem_documents_for_everything(client):
    for method, target, body, status, slug in (
        ("GET", "/no/such/path", None, 404, "url-not-found"),
        ("PUT", "/session/mysess", None, 405, "method-not-allowed"),
        ("POST", "/session", {"name": "fresh", "image": "nowhere"}, 404, "object-not-found"),
        ("POST", "/session", {"name": "fresh", "image": "too-many"}, 412, "quota-exceeded"),
        ("POST", "/session", {"name": "fresh", "image": "broken"}, 500, "kernel-creation-failed"),
        ("POST", "/session", {"name": "fresh"}, 400, "invalid-api-params"),
        ("POST", "/session", {"name": "x" * (9 << 20)}, 413, "request-too-large"),
        ("GET", "/session/missing", None, 404, "object-not-found"),
        ("GET", "/session/faraway/logs", None, 503, "instance-not-available"),
    ):
        answer = await client.call(method, target, body)
        assert (answer.status, answer.headers["Content-Type"]) == (status, PROBLEM), target
        assert answer.json["type"] == f"https://api.backend.ai/probs/{slug}"
        assert answer.json["title"]
        assert answer.headers["Server"] == "BackendAI"
    answer = await client.call("POST", "/session", body=b"{", content_type="application/json")
    assert (answer.status, answer.json["msg"]) == (400, "Malformed body")
    assert (await client.call("GET", "/no/such/path")).json["data"] == "/no/such/path"


async def test_a_crash_tells_nothing_but_its_id(client):
    answer = await client.call("POST", "/session", {"name": "fresh", "image": "crash"})
    assert (answer.status, answer.json["type"]) == (500, "https://api.backend.ai/probs/internal-server-error")
    assert b"secret detail" not in answer.body
    assert answer.json["request_id"] == answer.headers["X-Request-ID"]


async def test_request_ids(client):
    answer = await client.call("GET", "/health", key=None, headers={"X-Request-ID": "my-own-id.1"})
    assert answer.headers["X-Request-ID"] == "my-own-id.1"
    answer = await client.call("GET", "/health", key=None, headers={"X-Request-ID": "no good <id>"})
    assert len(answer.headers["X-Request-ID"]) == 16


async def test_versions(client):
    answer = await client.call("GET", "/", key=None, headers={"X-BackendAI-Version": "eight"})
    assert (answer.status, answer.json["msg"]) == (400, "Unsupported API version.")
    assert answer.json["type"].endswith("/generic-bad-request")
    for version in ("v9.20250722", "v4.20190615", "v10.20300101"):
        assert (
            await client.call("GET", "/", key=None, headers={"X-BackendAI-Version": version})
        ).status == 200
    assert (await client.call("GET", "/auth", version="v4.20181215")).status == 200
    headers = client.signed("GET", "/auth", content_type="text/plain", version="v5.20191215")
    del headers["X-BackendAI-Version"]
    assert (await client.call("GET", "/auth", key=None, headers=headers)).status == 200


async def test_method_override(client):
    answer = await client.call("POST", "/session/mysess", headers={"X-Method-Override": "delete"})
    assert answer.json == {"stats": {"version": 2, "status": "terminated"}}
    answer = await client.call("POST", "/session/mysess", key="liar", headers={"X-Method-Override": "DELETE"})
    assert answer.status == 401


async def test_cors(client):
    answer = await client.call(
        "OPTIONS",
        "/session/mysess",
        key=None,
        headers={
            "Origin": "https://web.example.com",
            "Access-Control-Request-Method": "DELETE",
            "Access-Control-Request-Headers": "authorization,x-backendai-version",
        },
    )
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization,x-backendai-version"
    assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    answer = await client.call("GET", "/session/missing")
    assert (
        answer.headers["Access-Control-Allow-Origin"],
        answer.headers["Access-Control-Expose-Headers"],
    ) == ("*", "*")


async def test_rates(client):
    answer = await client.call("GET", "/health", key=None)
    names = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Window")
    assert [answer.headers[name] for name in names] == ["1000", "1000", "900"]
    first = await client.call("GET", "/auth", key="slow")
    assert (first.status, [first.headers[name] for name in names]) == (200, ["1", "0", "900"])
    second = await client.call("GET", "/auth", key="slow")
    assert (second.status, [second.headers[name] for name in names]) == (429, ["1", "0", "900"])
    assert second.json["type"].endswith("/rate-limit-exceeded")
    assert (await client.call("GET", "/auth")).status == 200


@pytest.mark.parametrize(
    ("method", "old", "new"),
    [
        ("GET", "/v2", "/"),
        ("GET", "/v9/session/x", "/session/x"),
        ("GET", "/v10/session/x", "/v10/session/x"),
        ("GET", "/version", "/version"),
        ("GET", "/kernel/x/logs", "/session/x/logs"),
        ("GET", "/kernels", "/kernels"),
        ("GET", "/stream/kernel/x/execute", "/stream/session/x/execute"),
        ("GET", "/v4/stream/kernel/_/events", "/events/session"),
        ("POST", "/v4/kernel/create", "/session"),
        ("GET", "/session/create", "/session/create"),
    ],
)
def test_old_paths(method, old, new):
    assert modern_path(method, old) == new
