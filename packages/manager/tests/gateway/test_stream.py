"""Execution over WebSockets, and server-sent events."""

import asyncio
import json
from uuid import UUID

import aiohttp
import pytest

from ai.backend.manager.session.model import SessionStatus

EXECUTE = "/stream/session/mysess/execute"
REQUEST = {"code": "print(1)", "mode": "query", "options": {}}
FINISHED = {"status": "finished", "console": [["stdout", "1\n"]], "exitCode": 0, "options": None, "files": []}


async def test_query(client):
    for target in (EXECUTE, f"/stream/session/{UUID(int=1)}/execute", "/v4/stream/kernel/mysess/execute"):
        async with client.stream(target) as ws:
            await ws.send_json(REQUEST)
            assert await ws.receive_json() == FINISHED
            closed = await ws.receive()
            assert (closed.type, ws.close_code) == (aiohttp.WSMsgType.CLOSE, 1000)


async def test_batch_steps_and_input(client):
    async with client.stream(EXECUTE) as ws:
        await ws.send_json({"code": "", "mode": "batch", "options": {"build": "*", "exec": "*"}})
        assert [(await ws.receive_json())["status"] for _ in range(2)] == ["build-finished", "finished"]
    async with client.stream(EXECUTE) as ws:
        await ws.send_json({"code": "ask", "mode": "query"})
        asked = await ws.receive_json()
        assert (asked["status"], asked["options"]) == ("waiting-input", {"is_password": True})
        await ws.send_str('{"not": "json for us"}')
        assert (await ws.receive_json())["console"] == [["stdout", 'you said {"not": "json for us"}\n']]
    runs = {call[3] for call in client.manager.sessions.calls}
    assert len(runs) == 2


async def test_keep_serves_many_requests(client):
    async with client.stream(EXECUTE + "?keep=1") as ws:
        for _ in range(3):
            await ws.send_json(REQUEST)
            assert await ws.receive_json() == FINISHED
        assert not ws.closed
    runs = [call[3] for call in client.manager.sessions.calls]
    assert len(set(runs)) == 3


@pytest.mark.parametrize("frame", ["{", "[]", '{"mode": "continue"}', '{"mode": 5}'])
async def test_malformed_frames(client, frame):
    async with client.stream(EXECUTE + "?keep=1") as ws:
        await ws.send_str(frame)
        answer = await ws.receive_json()
        assert answer["status"] == "error"
        assert answer["msg"]
        await ws.receive()
        assert ws.close_code == 1003


async def test_a_failure_while_running(client):
    async with client.stream("/stream/session/faraway/execute") as ws:
        await ws.send_json(REQUEST)
        answer = await ws.receive_json()
        assert (answer["status"], answer["msg"]) == ("error", "the agent does not answer")
        await ws.receive()
        assert ws.close_code == 1011


async def test_a_client_that_goes_away_is_interrupted(client):
    sessions = client.manager.sessions
    async with client.stream(EXECUTE) as ws:
        await ws.send_json({"code": "long", "mode": "query"})
        assert (await ws.receive_json())["status"] == "continued"
    await asyncio.wait_for(sessions.stopped.wait(), 5)
    await asyncio.wait_for(sessions.finished.wait(), 5)
    run_id = sessions.calls[0][3]
    assert ("interrupt", run_id) in sessions.calls
    assert len(run_id) == 16


async def test_a_client_that_sends_too_much_ahead_is_closed(client):
    async with client.stream(EXECUTE) as ws:
        await ws.send_json({"code": "long", "mode": "query"})
        for _ in range(40):
            await ws.send_str("x")
        async for _ in ws:
            pass
        assert ws.close_code == 1008
    await asyncio.wait_for(client.manager.sessions.stopped.wait(), 5)


@pytest.mark.parametrize(
    ("target", "key", "status", "slug"),
    [
        (EXECUTE, "liar", 401, "auth-failed"),
        ("/stream/session/missing/execute", "user", 404, "object-not-found"),
        (EXECUTE + "?owner_access_key=AKIAROOTROOTROOTROOT", "user", 403, "generic-forbidden"),
        ("/stream/session/mysess/nothing", "user", 404, "url-not-found"),
    ],
)
async def test_refused_upgrades_say_why(client, target, key, status, slug):
    headers = client.signed("GET", target, key=key) | {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x" * 22 + "==",
    }
    async with client.http.get(
        client.url(target), headers=headers, skip_auto_headers=["Content-Type"]
    ) as response:
        assert response.status == status
        assert (await response.json(content_type="application/problem+json"))["type"].endswith("/" + slug)
        assert response.headers["X-RateLimit-Window"] == "900"
        assert response.headers["Server"] == "BackendAI"


def blocks(text: str) -> list[dict[str, str]]:
    """Parses as the published client does: each line that is no comment is split at its first colon."""
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        fields = {line.split(":", 1)[0]: line.split(":", 1)[1].strip() for line in lines}
        if fields:
            json.loads(fields["data"])
            found.append(fields)
    return found


async def test_events_of_one_session_end_with_server_close(client):
    events = client.manager.events
    async with client.watch("/events/session?sessionName=mysess&scope=*") as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert (await response.content.readuntil(b"\n\n")) == b": ping\n\n"
        payload = {"sessionName": "mysess", "ownerAccessKey": "AK", "userId": "u", "exitCode": 0}
        events.publish("session_started", UUID(int=1), **payload)
        events.publish(
            "kernel_started", UUID(int=1), kernelId="k", clusterRole="main", clusterIdx=1, **payload
        )
        events.publish("session_terminated", UUID(int=1), reason="user-requested", **payload)
        found = blocks((await response.content.read()).decode())
    assert [block["event"] for block in found] == [
        "session_started",
        "kernel_started",
        "session_terminated",
        "server_close",
    ]
    assert [block.get("id") for block in found] == ["1", "2", "3", None]
    assert json.loads(found[2]["data"]) == {
        "reason": "user-requested",
        "sessionName": "mysess",
        "ownerAccessKey": "AK",
        "sessionId": str(UUID(int=1)),
        "exitCode": 0,
    }
    assert found[3]["data"] == "{}"
    assert events.asked[0] == {
        "session_id": None,
        "session_name": "mysess",
        "access_key": "AKIAUSERUSERUSERUSER",
        "scope": frozenset({"*"}),
        "after": None,
    }
    assert not events.readers


async def test_resuming_and_scopes(client):
    events = client.manager.events
    events.publish("session_started", UUID(int=1), sessionName="mysess")
    events.publish("session_terminated", UUID(int=1), sessionName="mysess", reason="self-terminated")
    target = f"/events/session?sessionId={UUID(int=1)}&scope=session,kernel"
    async with client.watch(target, {"Last-Event-ID": "1"}) as response:
        found = blocks((await response.content.read()).decode())
    assert [block["event"] for block in found] == ["session_terminated", "server_close"]
    assert events.asked[0]["scope"] == {"session", "kernel"}
    assert (events.asked[0]["session_id"], events.asked[0]["after"]) == (UUID(int=1), 1)
    async with client.watch(target, {"Last-Event-ID": "soon"}) as response:
        assert response.status == 400


async def test_a_session_that_ended_already(client):
    async with client.watch(f"/events/session?sessionId={UUID(int=9)}&scope=*") as response:
        assert blocks((await response.content.read()).decode())[-1]["event"] == "server_close"
    async with client.watch(f"/events/session?sessionId={UUID(int=9)}", {"Last-Event-ID": "5"}) as response:
        assert blocks((await response.content.read()).decode())[-1]["event"] == "server_close"
    async with client.watch(f"/events/session?sessionId={UUID(int=99)}") as response:
        assert response.status == 404
    await asyncio.sleep(0)
    assert not client.manager.events.readers
    assert client.manager.sessions.rows["ended"].status is SessionStatus.TERMINATED


async def test_all_sessions_and_a_reader_that_leaves(client):
    events = client.manager.events
    async with client.watch("/v4/stream/kernel/_/events") as response:
        await response.content.readuntil(b"\n\n")
        events.publish("session_terminated", UUID(int=1), sessionName="mysess")
        assert b"session_terminated" in await response.content.readuntil(b"\n\n")
        assert events.asked[0]["access_key"] is None
        response.close()
    for _ in range(100):
        if not events.readers:
            break
        await asyncio.sleep(0.01)
    assert not events.readers
