"""What bad input gets: a clear problem document with a stable code, and nothing left behind."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from ai.backend.common.wire.signature import authorization, sign, string_to_sign

from .conftest import Cluster

VERSION = "v8.20240915"


async def call(
    cluster: Cluster,
    method: str,
    target: str,
    *,
    json: Any = None,
    data: Any = None,
    content_type: str = "application/json",
    secret_key: str | None = None,
    skew: timedelta = timedelta(),
) -> tuple[int, Any, CIMultiDict[str]]:
    """One signed request, made by hand; returns status, decoded body and headers."""
    endpoint = cluster.env["BACKEND_ENDPOINT"]
    host = endpoint.removeprefix("http://")
    when = datetime.now(UTC) + skew
    multipart = isinstance(data, aiohttp.FormData)
    signed_type = "multipart/form-data" if multipart else content_type
    text = string_to_sign(
        method=method,
        target=target,
        date=when.isoformat(),
        host=host,
        content_type=signed_type,
        version=VERSION,
    )
    signature = sign(secret_key or cluster.env["BACKEND_SECRET_KEY"], when, host, text)
    headers = {
        "Date": when.isoformat(),
        "X-BackendAI-Version": VERSION,
        "Authorization": authorization(cluster.env["BACKEND_ACCESS_KEY"], signature),
    }
    if not multipart:
        headers["Content-Type"] = content_type
    async with aiohttp.ClientSession() as http:
        body = {"json": json} if json is not None else {"data": data}
        async with http.request(method, endpoint + target, headers=headers, **body) as response:
            kind = response.content_type
            content = await response.json(content_type=None) if "json" in kind else await response.read()
            return response.status, content, response.headers.copy()


def new_name() -> str:
    return f"bad-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def cluster(sandbox_cluster: Cluster) -> Cluster:
    return sandbox_cluster


def is_problem(body: Any, slug: str, code: str) -> bool:
    assert set(body) >= {"type", "title", "error_code"}, body
    assert (body["type"].rpartition("/")[2], body["error_code"]) == (slug, code), body
    return True


async def test_a_bad_signature(cluster: Cluster) -> None:
    status, body, headers = await call(cluster, "GET", "/session", secret_key="wrong")
    assert (
        status == 401
        and is_problem(body, "auth-failed", "auth.failed")
        and body["msg"] == "Signature mismatch"
    )
    assert headers["Content-Type"].startswith("application/problem+json")


async def test_clock_skew(cluster: Cluster) -> None:
    for minutes in (-16, 16):
        status, body, _ = await call(cluster, "GET", "/session", skew=timedelta(minutes=minutes))
        assert status == 400 and is_problem(body, "invalid-auth-params", "auth.invalid-parameters")
        assert "Date/time sync error" in body["msg"]


async def test_an_unknown_image(cluster: Cluster) -> None:
    status, body, _ = await call(cluster, "POST", "/session", json={"name": new_name(), "image": "cobol"})
    assert status == 404 and is_problem(body, "object-not-found", "image.not-found")
    assert "environment image" in body["title"]


async def test_impossible_resources_name_slot_asked_and_available(cluster: Cluster) -> None:
    asked = {"name": new_name(), "image": "python", "config": {"resources": {"cpu": 4096, "mem": "256m"}}}
    status, body, _ = await call(cluster, "POST", "/session", json=asked)
    assert status == 400 and is_problem(body, "invalid-api-params", "session.impossible-resources")
    (slot,) = body["data"]["slots"]
    assert slot["slot"] == "cpu" and slot["asked"] == "4096" and float(slot["available"]) > 0


async def test_a_duplicate_name(cluster: Cluster) -> None:
    name = new_name()
    status, first, _ = await call(cluster, "POST", "/session", json={"name": name, "image": "python"})
    assert status == 201 and first["created"] is True
    again = {"name": name, "image": "python", "reuseIfExists": False}
    status, body, _ = await call(cluster, "POST", "/session", json=again)
    assert status == 400 and is_problem(body, "session-already-exists", "session.already-exists")
    assert body["data"]["existingSessionId"] == first["sessionId"]
    status, reused, _ = await call(cluster, "POST", "/session", json={"name": name, "image": "python"})
    assert status == 201 and reused["created"] is False and reused["sessionId"] == first["sessionId"]
    await call(cluster, "DELETE", f"/session/{name}")


async def test_fifty_at_once_make_one_session(cluster: Cluster) -> None:
    name = new_name()
    asked = {"name": name, "image": "python", "enqueueOnly": True}
    answers = await asyncio.gather(*(call(cluster, "POST", "/session", json=asked) for _ in range(50)))
    assert {status for status, _, _ in answers} == {201}
    assert sum(body["created"] for _, body, _ in answers) == 1
    assert len({body["sessionId"] for _, body, _ in answers}) == 1
    await call(cluster, "DELETE", f"/session/{name}?forced=true")


async def test_malformed_json_and_wrong_types(cluster: Cluster) -> None:
    for raw in (
        "{",
        "[1",
        '{"name": 5}',
        '"text"',
        '{"name": "okay1", "image": ["x"]}',
        '{"name":"okay1","image":"python","config":3}',
    ):
        status, body, _ = await call(cluster, "POST", "/session", data=raw)
        assert status == 400, (raw, body)
        assert body["title"] == "Missing or invalid API parameters.", (raw, body)


async def test_unknown_paths_and_methods(cluster: Cluster) -> None:
    status, body, _ = await call(cluster, "GET", "/nowhere")
    assert status == 404 and body["type"].endswith("url-not-found")
    status, body, _ = await call(cluster, "DELETE", "/openapi.json")
    assert status == 405 and body["type"].endswith("method-not-allowed")


@pytest.fixture
async def session(cluster: Cluster):  # type: ignore[no-untyped-def]
    name = new_name()
    status, _, _ = await call(cluster, "POST", "/session", json={"name": name, "image": "python"})
    assert status == 201
    yield name
    await call(cluster, "DELETE", f"/session/{name}?forced=true")


async def upload(cluster: Cluster, session: str, *files: tuple[str, bytes]) -> tuple[int, Any]:
    form = aiohttp.FormData()
    for name, content in files:
        form.add_field("src", content, filename=name, content_type="application/octet-stream")
    status, body, _ = await call(cluster, "POST", f"/session/{session}/upload", data=form)
    return status, body


async def test_oversized_uploads(cluster: Cluster, session: str) -> None:
    status, body = await upload(cluster, session, ("big.bin", b"x" * ((1 << 20) + 1)))
    assert status == 400 and "Too large file" in body["msg"]
    status, body = await upload(cluster, session, *((f"f{i}", b"x") for i in range(21)))
    assert status == 400 and "Too many files" in body["msg"]
    status, body = await upload(cluster, session, ("fine.bin", b"x" * (1 << 20)))
    assert status == 204


TRAVERSALS = [
    "../outside", "../../etc/passwd", "a/../../outside", "/etc/passwd", "/home/work/../x", "//etc/passwd", "./../x",
    "..", "a/..//../b", "..\\x/../../y", "%2e%2e/../x", "a/./../../b",
]  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
async def test_paths_that_leave_the_home_folder(cluster: Cluster, session: str, path: str) -> None:
    status, body = await upload(cluster, session, (path, b"x"))
    assert status == 400, (path, body)
    status, body, _ = await call(cluster, "POST", f"/session/{session}/download", json={"files": [path]})
    assert status == 400, (path, body)
    status, body, _ = await call(cluster, "GET", f"/session/{session}/files", json={"path": path})
    assert status == 400 or body["errors"], (path, body)


async def test_links_made_inside_lead_nowhere(cluster: Cluster, session: str) -> None:
    code = "import os; os.symlink('/etc', 'etc'); os.symlink('/etc/passwd', 'pw'); os.mkfifo('fifo')"
    status, body, _ = await call(
        cluster,
        "POST",
        f"/session/{session}",
        json={"mode": "query", "code": code, "runId": None, "options": {}},
    )
    assert status == 200 and body["result"]["status"] == "finished", body
    for path in ("etc/passwd", "pw", "fifo"):
        status, body, _ = await call(cluster, "POST", f"/session/{session}/download", json={"files": [path]})
        assert status == 400, (path, body)
    status, body = await upload(cluster, session, ("etc/evil", b"x"))
    assert status == 400


async def test_a_session_killed_under_execute(cluster: Cluster, session: str) -> None:
    running = asyncio.ensure_future(
        call(
            cluster,
            "POST",
            f"/session/{session}",
            json={"mode": "query", "code": "import time; time.sleep(60)", "runId": "r1"},
        )
    )
    await asyncio.sleep(0.3)
    status, body, _ = await call(cluster, "DELETE", f"/session/{session}?forced=true")
    assert status == 200 and body["stats"]["status"] == "terminated", body
    status, body, _ = await asyncio.wait_for(running, 30)
    while status == 200 and body["result"]["status"] == "continued":
        status, body, _ = await call(
            cluster, "POST", f"/session/{session}", json={"mode": "continue", "code": "", "runId": "r1"}
        )
    assert (status == 200 and body["result"]["exitCode"] == 130) or (
        status == 404 and is_problem(body, "object-not-found", "session.not-found")
    )


async def test_rate_limit_headers_are_on_every_answer(cluster: Cluster) -> None:
    for target in ("/", "/session", "/nowhere"):
        _, _, headers = await call(cluster, "GET", target)
        assert int(headers["X-RateLimit-Limit"]) > 0 and headers["X-RateLimit-Window"] == "900"
        assert int(headers["X-RateLimit-Remaining"]) >= 0
