"""The REST calls over a real server: published shapes, and refusals."""

import asyncio
from email import message_from_bytes
from uuid import UUID

import aiohttp
import pytest

ALIASES = [
    "/session",
    "/session/_/create",
    "/session/create",
    "/kernel/create",
    "/v2/kernel/create",
    "/v5/session",
]


@pytest.mark.parametrize("path", ALIASES)
async def test_create(client, path):
    answer = await client.call(
        "POST", path, {"name": "fresh", "image": "python", "config": {"resources": {"cpu": "1"}}}
    )
    assert answer.status == 201
    assert answer.json | {"sessionId": ""} == {
        "sessionId": "",
        "sessionName": "fresh",
        "status": "RUNNING",
        "created": True,
        "servicePorts": [],
        "kernelId": "fresh",
        "sessId": "fresh",
    }
    UUID(answer.json["sessionId"])
    assert answer.headers["Content-Type"].startswith("application/json")
    assert client.manager.sessions.drafts[0][1].resources == {"cpu": "1"}


async def test_create_that_waited_out(client):
    answer = await client.call("POST", "/session", {"name": "fresh", "image": "python", "maxWaitSeconds": 1})
    assert answer.json["status"] == "TIMEOUT"


async def test_a_client_that_goes_away_does_not_end_its_session(client):
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(client.call("POST", "/session", {"name": "fresh", "image": "blocked"}), 0.2)
    client.manager.sessions.gate.set()
    await asyncio.wait_for(client.manager.sessions.finished.wait(), 5)
    assert "fresh" in client.manager.sessions.rows


async def test_a_session_may_be_called_create(client):
    assert (await client.call("GET", "/session/create")).json["name"] == "create"
    assert (await client.call("DELETE", "/session/create")).status == 200


async def test_info(client):
    info = (await client.call("GET", "/session/mysess")).json
    published = set(
        """domainName groupId userId lang image architecture registry tag containerId occupiedSlots occupyingSlots
        requestedSlots occupiedShares environ resourceOpts status statusInfo statusData age creationTime terminationTime
        numQueriesExecuted lastStat idleChecks""".split()  # noqa: SIM905
    )
    ours = {"reason", "message", "hint", "id", "name", "priority", "job_priority", "is_preemptible"}
    assert published | ours == set(info)
    assert (info["registry"], info["message"], info["hint"]) == ("cr.example.com", "It runs.", "Use it.")
    assert info["requestedSlots"] == "{'cpu': '1', 'mem': '1073741824'}"
    assert info["lastStat"]["cpu_used"]["current"] == "1.500"


async def test_info_by_id_and_by_encoded_name(client):
    assert (await client.call("GET", f"/session/{UUID(int=1)}")).json["name"] == "mysess"
    assert (await client.call("GET", "/session/my%73ess")).json["name"] == "mysess"


async def test_list(client):
    page = (await client.call("GET", "/session?status=running,TERMINATED&limit=2&offset=1")).json
    assert page["total_count"] == 5
    assert [item["name"] for item in page["items"]] == ["faraway", "changed"]
    item = page["items"][0]
    assert item["requestedSlots"] == {"cpu": "1", "mem": "1073741824"}
    assert {
        "id",
        "status",
        "reason",
        "message",
        "image",
        "type",
        "domain",
        "project",
        "user",
        "accessKey",
        "agent",
    } <= set(item)
    assert {"createdAt", "terminatedAt", "exitCode"} <= set(item)
    for bad in ("limit=0", "limit=101", "offset=-1", "status=nope", "limit=x"):
        assert (await client.call("GET", f"/session?{bad}")).status == 400


async def test_match_and_history(client):
    assert (await client.call("GET", "/session/_/match?id=my")).json == {
        "matches": [{"id": str(UUID(int=1)), "name": "mysess", "status": "RUNNING"}]
    }
    history = (await client.call("GET", "/session/mysess/status-history")).json["result"]
    assert history["RUNNING"] == history["running"] == "2026-01-02T03:04:05+00:00"


async def test_destroy_restart_rename(client):
    answer = await client.call("DELETE", "/session/mysess?forced=true&recursive=true")
    assert answer.json == [{"version": 2, "status": "terminated"}, {"status": "cancelled"}]
    answer = await client.call("DELETE", "/session/mysess?forced=true")
    assert answer.json == {"stats": {"version": 2, "status": "terminated"}}
    assert client.manager.sessions.calls[-1] == ("destroy", "AKIAUSERUSERUSERUSER", "mysess", True)
    answer = await client.call("PATCH", "/session/mysess")
    assert (answer.status, answer.body) == (204, b"")
    assert (await client.call("POST", "/session/mysess/rename?name=better")).status == 204
    assert client.manager.sessions.calls[-1] == ("rename", "mysess", "better")


async def test_commit(client):
    answer = await client.call("GET", "/session/mysess/commit")
    assert answer.json == {"status": "ready", "kernel": str(UUID(int=1001))}
    assert (await client.call("GET", "/session/changed/commit")).json["status"] == "ongoing"
    answer = await client.call("POST", "/session/changed/commit")
    assert (answer.status, answer.json["error_code"]) == (409, "session.commit-ongoing")
    answer = await client.call("POST", "/session/mysess/commit", {"filename": "mine"})
    assert answer.status == 201
    assert set(answer.json) == {"bgtask_id", "kernel", "path"}
    assert answer.json["path"].endswith("/mine.tar.gz")
    # As published clients send it: without a body.
    assert (await client.call("POST", "/session/mysess/commit")).json["path"].endswith(".tar.gz")
    answer = await client.call("POST", "/session/mysess/commit", {"filename": "../mine"})
    assert (answer.status, answer.json["error_code"]) == (400, "request.invalid")


async def test_imagify(client):
    answer = await client.call("POST", "/session/mysess/imagify?image_name=mine")
    assert answer.status == 201 and answer.json["task_id"] == str(UUID(int=8))
    assert answer.json["image"].endswith("/mine:latest")
    assert (await client.call("POST", "/session/mysess/imagify", {})).status == 400
    for bad in ("a/b", "UPPER", "..", "a:b:c"):
        answer = await client.call("POST", "/session/mysess/imagify", {"image_name": bad})
        assert (answer.status, answer.json["error_code"]) == (400, "request.invalid"), bad
    answer = await client.call(
        "POST", "/session/mysess/imagify", {"image_name": "mine", "image_visibility": "project"}
    )
    assert answer.status == 400
    answer = await client.call("POST", "/session/mysess/imagify", {"image_name": "theirs"})
    assert (answer.status, answer.json["error_code"]) == (409, "image.exists")


async def test_abusing_report(client):
    assert (await client.call("GET", "/session/mysess/abusing-report")).json == {}
    assert (await client.call("GET", "/session/nowhere/abusing-report")).status == 404


async def test_a_head_is_a_get_without_a_body(client):
    answer = await client.call("HEAD", "/session/mysess")
    assert (answer.status, answer.body) == (200, b"")
    assert (await client.call("HEAD", "/session/nowhere")).status == 404
    assert (await client.call("HEAD", "/session/mysess/upload")).status == 405


async def test_owner_in_query_or_body(client):
    for target, body in (
        ("/session/mysess?owner_access_key=AKIAUSERUSERUSERUSER", {"mode": "query", "code": "1"}),
        ("/session/mysess", {"mode": "query", "code": "1", "owner_access_key": "AKIAUSERUSERUSERUSER"}),
    ):
        assert (await client.call("POST", target, body, key="root")).status == 200
        assert client.manager.sessions.calls[-1][-1] == "AKIAUSERUSERUSERUSER"
    answer = await client.call("GET", "/session/mysess?owner_access_key=AKIAROOTROOTROOTROOT")
    assert (answer.status, answer.json["type"]) == (403, "https://api.backend.ai/probs/generic-forbidden")
    assert (await client.call("GET", "/session/mysess?owner_access_key=AKIANOBODY", key="root")).status == 400


async def test_execute(client):
    answer = await client.call(
        "POST", "/session/mysess", {"mode": "query", "code": "print(1)", "runId": None}
    )
    assert answer.json == {
        "result": {
            "status": "finished",
            "runId": "fresh-run",
            "exitCode": 0,
            "options": None,
            "files": [],
            "console": [["stdout", "1\n"]],
        }
    }
    answer = await client.call("POST", "/session/mysess", {"mode": "query", "code": "ask"})
    assert answer.json["result"]["options"] == {"is_password": True}
    answer = await client.call("POST", "/session/mysess", {"mode": "input", "code": "me", "runId": "r1"})
    assert answer.json["result"]["console"] == [["stdout", "you said me\n"]]
    answer = await client.call("POST", "/session/mysess", {"mode": "query", "code": "image"})
    assert answer.json["result"]["console"] == [["media", ["image/png", "data:"]], ["stderr", "oops"]]
    batch = {"clean": None, "build": "*", "buildLog": False, "exec": "python x.py"}
    answer = await client.call("POST", "/session/mysess", {"mode": "batch", "code": "", "options": batch})
    assert answer.json["result"]["status"] == "build-finished"
    assert client.manager.sessions.calls[-1][4] == {"build": "*", "buildLog": False, "exec": "python x.py"}


async def test_completion(client):
    expected = {"result": {"status": "finished", "completions": ["print", "printf"]}}
    options = {"row": 0, "col": 2, "line": "pr", "post": ""}
    for target, body in (
        ("/session/mysess/complete", {"code": "pr", "options": options}),
        ("/session/mysess", {"code": "pr", "options": options}),
        ("/session/mysess", {"mode": "complete", "code": "pr", "options": options}),
    ):
        assert (await client.call("POST", target, body)).json == expected
    assert (await client.call("POST", "/session/mysess", {"code": "1"})).status == 400


async def test_files_logs_interrupt(client):
    assert (await client.call("GET", "/session/mysess/files", {"path": "/home/work/x"})).json == {
        "files": '[{"mode":"-rw-r--r--","size":3,"ctime":1.0,"mtime":1.0,"atime":1.0,"filename":"a.txt"}]',
        "errors": "",
        "abspath": "/home/work/x",
    }
    assert (await client.call("GET", "/session/mysess/logs")).json == {"result": {"logs": "hello\n"}}
    assert (await client.call("POST", "/session/mysess/interrupt")).status == 204
    answer = await client.call("GET", "/session/mysess/download_single?file=a.txt")
    assert answer.body == b"content of a.txt"


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/session/mysess/download", {"files": ["a", "b"]}),
        ("GET", "/session/mysess/download?files=a&files=b", None),
        ("POST", "/session/mysess/download", {"files": ["a", "b"]}),
        ("POST", "/session/mysess/download?files=a&files=b", None),
    ],
)
async def test_download(client, method, target, body):
    answer = await client.call(method, target, body)
    assert answer.status == 200
    mixed = message_from_bytes(
        b"Content-Type: " + answer.headers["Content-Type"].encode() + b"\r\n\r\n" + answer.body
    )
    assert mixed.get_content_type() == "multipart/mixed"
    parts = mixed.get_payload()
    assert [part["Content-Encoding"] for part in parts] == ["identity", "identity"]
    assert [part.get_payload(decode=True) for part in parts] == [b"tar of a", b"tar of b"]


async def test_download_limits(client):
    for files in ([], list("abcdef")):
        assert (await client.call("POST", "/session/mysess/download", {"files": files})).status == 400


def files_form(*files: tuple[str, bytes], quote: bool = True, field: str = "src") -> aiohttp.FormData:
    form = aiohttp.FormData(quote_fields=quote)
    for name, content in files:
        form.add_field(field, content, filename=name, content_type="application/octet-stream")
    return form


@pytest.mark.parametrize("quote", [True, False])
async def test_upload(client, quote):
    form = files_form(
        ("src/main.py", b"print(1)\r\n--x"), ("big", b"x" * (1 << 20)), ("empty", b""), quote=quote
    )
    answer = await client.call("POST", "/session/mysess/upload", form=form)
    assert (answer.status, answer.body) == (204, b"")
    uploaded = {f.path: f.content for f in client.manager.sessions.uploads}
    assert uploaded == {"src/main.py": b"print(1)\r\n--x", "big": b"x" * (1 << 20), "empty": b""}


@pytest.mark.parametrize(
    ("form", "status", "text"),
    [
        (lambda: files_form(*((f"f{n}", b"x") for n in range(21))), 400, "Too many files"),
        (lambda: files_form(("big", b"x" * ((1 << 20) + 1))), 400, "Too large file"),
        (lambda: files_form(("../../etc/passwd", b"x")), 400, "no name for an uploaded file"),
        (lambda: files_form(("a", b"x"), field="other"), 400, "no file was sent"),
        (lambda: files_form(*((f"f{n}", b"x" * (3 << 20)) for n in range(15))), 413, ""),
    ],
)
async def test_upload_limits(client, form, status, text):
    answer = await client.call("POST", "/session/mysess/upload", form=form())
    assert answer.status == status
    assert text in answer.json.get("msg", "")
    assert not client.manager.sessions.uploads


async def test_uploads_that_are_none(client):
    for content_type, body in (
        ("application/json", b"{}"),
        ("multipart/form-data", b"x"),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nContent-Disposition: form-data; name=src; filename=a\r\n\r\nxx",
        ),
    ):
        answer = await client.call("POST", "/session/mysess/upload", body=body, content_type=content_type)
        assert answer.status == 400, content_type


async def test_service_calls(client):
    assert (await client.call("GET", "/", key=None)).json == {"version": "v8.20240915", "manager": "25.5.2"}
    assert (await client.call("GET", "/v2", key=None)).json["manager"] == "25.5.2"
    assert (await client.call("GET", "/manager/announcement", key=None)).json == {
        "enabled": False,
        "message": "",
    }
    assert (await client.call("GET", "/config/resource-slots", key=None)).json == {
        "cpu": "count",
        "mem": "bytes",
    }
    status = (await client.call("GET", "/manager/status", {"status": "running"}, key=None)).json
    assert (status["status"], status["nodes"][0]["api_version"]) == ("running", [8, "20240915"])
    for _ in range(3):
        assert (await client.call("GET", "/health", key=None)).json == {"status": "ok", "agents": 3}
    assert client.manager.agents.counted <= 2
    agents = (await client.call("GET", "/agents", key="root")).json
    assert (agents["total_count"], agents["items"][0]["problem"]) == (1, "disk is full")
    assert (await client.call("GET", "/images")).json["items"][0]["sizeBytes"] == 5


async def test_the_page(client):
    answer = await client.call("GET", "/", key=None, headers={"Accept": "text/html,*/*;q=0.8"})
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    page = answer.body.decode()
    assert "<h1>Backend.AI</h1>" in page
    assert 'href="/openapi.json"' in page
    assert "http" not in page.replace('href="/', "")


async def test_auth_calls(client):
    assert (await client.call("GET", "/auth?echo=hi")).json == {"authorized": "yes", "echo": "hi"}
    assert (await client.call("POST", "/auth/test", {"echo": "hi"})).json == {
        "authorized": "yes",
        "echo": "hi",
    }
    login = {"type": "keypair", "domain": "default", "username": "user@example.com", "password": "right"}
    answer = await client.call("POST", "/auth/authorize", login, key=None)
    assert answer.json == {
        "data": {
            "access_key": "AKIAUSERUSERUSERUSER",
            "secret_key": "user-secret",
            "role": "user",
            "status": "active",
        }
    }
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await client.call("POST", "/auth/authorize", login | {"type": "x"}, key=None)).status == 400


async def test_password_guessing_is_slowed(client):
    login = {"username": "user@example.com", "password": "wrong"}
    for _ in range(10):
        answer = await client.call("POST", "/auth/authorize", login, key=None)
        assert (answer.status, answer.json["msg"]) == (401, "User credential mismatch.")
    assert (
        await client.call("POST", "/auth/authorize", login | {"password": "right"}, key=None)
    ).status == 429
