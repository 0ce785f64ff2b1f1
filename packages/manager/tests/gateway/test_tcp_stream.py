"""TCP and terminals over WebSockets, with a session that is played."""

import asyncio
import base64
import json

import aiohttp
import pytest

from ai.backend.common.stream import WINDOW_BYTES
from ai.backend.common.wire import terminal

PROXY = "/stream/session/mysess/tcpproxy?app=web"
PTY = "/stream/session/mysess/pty"


async def closed(ws):
    """The code with which the server closes; everything before is thrown away."""
    async for _ in ws:
        pass
    return ws.close_code


async def receive_all(stream):
    pieces = []
    while data := await stream.receive():
        pieces.append(data)
    return b"".join(pieces)


async def test_the_list_is_bare(client):
    for target in (
        "/stream/session/mysess/apps",
        "/stream/kernel/mysess/apps",
        "/v4/stream/kernel/mysess/apps",
    ):
        assert (await client.call("GET", target)).json == [
            {"name": "web", "protocol": "http", "ports": [8080]},
            {"name": "odd", "protocol": "tcp", "ports": [8081, 8082]},
            {"name": "3000", "protocol": "preopen", "ports": [3000]},
        ]
    assert (await client.call("GET", "/stream/session/missing/apps")).status == 404


async def test_a_creation_tells_its_ports_and_takes_text(client):
    wish = {"name": "fresh", "image": "python", "config": {"preopen_ports": ["3000", 3001]}}
    made = await client.call("POST", "/session", wish)
    assert (made.status, made.json["servicePorts"]) == (201, [])
    assert client.manager.sessions.drafts[-1][1].preopen_ports == ("3000", 3001)


@pytest.mark.parametrize("word", ["tcpproxy", "httpproxy"])
async def test_bytes_go_both_ways(client, word):
    sessions = client.manager.sessions
    async with client.stream(
        f"/stream/kernel/mysess/{word}?app=3000&arguments=%7B%22a%22%3A%22b%22%7D&envs="
    ) as ws:
        await ws.send_str("text is passed over")
        await ws.send_bytes(b"\0in")
        (inside,) = sessions.inside
        assert await inside.receive() == b"\0in"
        await inside.send(b"\xffout")
        assert await ws.receive_bytes() == b"\xffout"
        await inside.send(b"last words")
        inside.close()
        assert await ws.receive_bytes() == b"last words"
        assert await closed(ws) == 1001
    assert sessions.calls == [("connect", 3000, "AKIAUSERUSERUSERUSER")]


async def test_what_the_client_sent_before_it_left_arrives(client):
    sent = bytes(range(256)) * 1000
    async with client.stream(PROXY) as ws:
        for _ in range(3):
            await ws.send_bytes(sent)
    (inside,) = client.manager.sessions.inside
    assert await asyncio.wait_for(receive_all(inside), 5) == sent * 3


async def test_a_client_that_does_not_read_holds_back_the_session(client):
    async with client.stream(PROXY) as ws:
        while not client.manager.sessions.inside:
            await asyncio.sleep(0)
        (inside,) = client.manager.sessions.inside
        sent = 0

        async def write():
            nonlocal sent
            while True:
                await inside.send(bytes(WINDOW_BYTES))
                sent += WINDOW_BYTES

        writing = asyncio.create_task(write())
        last, same = 0, 0
        while same < 20:
            await asyncio.sleep(0.01)
            last, same = sent, same + 1 if sent == last else 0
        assert sent < 64 << 20, "the buffers of sockets and no more"
        for _ in range(20):
            await ws.receive_bytes()
        while sent == last:
            await asyncio.sleep(0.01)
        writing.cancel()


@pytest.mark.parametrize(("query", "code"), [("app=odd", 1013), ("app=odd&port=8082", 1011)])
async def test_failures_are_close_codes(client, query, code):
    async with client.stream(f"/stream/session/mysess/tcpproxy?{query}") as ws:
        assert await closed(ws) == code
        assert not client.manager.sessions.inside


async def test_a_failure_in_the_middle(client):
    from ai.backend.common.errors import KernelError

    async with client.stream(PROXY) as ws:
        while not client.manager.sessions.inside:
            await asyncio.sleep(0)
        client.manager.sessions.inside[0].close(KernelError("it broke"))
        assert await closed(ws) == 1011


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/stream/session/mysess/tcpproxy", 400),
        ("/stream/session/mysess/tcpproxy?app=nope", 404),
        ("/stream/session/missing/tcpproxy?app=web", 404),
        ("/stream/session/mysess/tcpproxy?app=web&port=8081", 400),
        ("/stream/session/mysess/tcpproxy?app=web&port=x", 400),
        ("/stream/session/mysess/tcpproxy?app=web&envs=%7B", 400),
        ("/stream/session/mysess/tcpproxy?app=web&arguments=%5B1%5D", 400),
        ("/stream/session/mysess/tcpproxy?app=web&arguments=%7B%22a%22%3A1%7D", 400),
        ("/stream/session/missing/pty", 404),
    ],
)
async def test_refusals_come_before_the_upgrade(client, target, status):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with client.stream(target):
            pass
    assert refused.value.status == status


async def test_an_unknown_app_is_told_as_published(client):
    headers = client.signed("GET", "/stream/session/mysess/tcpproxy?app=nope") | {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 22 + "==",
    }  # fmt: skip
    async with client.http.get(
        client.url("/stream/session/mysess/tcpproxy?app=nope"), headers=headers
    ) as answer:
        told = json.loads(await answer.read())
    assert (answer.status, told["title"]) == (404, "No such app service.")


async def test_a_terminal(client):
    sessions = client.manager.sessions
    async with client.stream(PTY) as ws:
        await ws.send_json({"type": "ping"})
        await ws.send_json({"type": "of a later release"})
        await ws.send_json({"type": "resize", "rows": 50, "cols": 1 << 40})
        await ws.send_json({"type": "stdin", "chars": base64.b64encode(b"ls\n").decode()})
        while not sessions.inside:
            await asyncio.sleep(0)
        (inside,) = sessions.inside
        wanted = terminal.resized(50, 1000) + terminal.typed(b"ls\n")
        got = b""
        while len(got) < len(wanted):
            got += await inside.receive()
        assert got == wanted
        await inside.send(b"\xff\x1b[0m")
        assert await ws.receive_json() == {"type": "out", "data": base64.b64encode(b"\xff\x1b[0m").decode()}
        inside.close()
        assert await closed(ws) == 1000
    assert sessions.calls == [("terminal", 24, 80)]


async def test_a_terminal_that_is_left_hangs_up(client):
    async with client.stream(PTY):
        while not client.manager.sessions.inside:
            await asyncio.sleep(0)
    assert await asyncio.wait_for(receive_all(client.manager.sessions.inside[0]), 5) == b""


async def test_a_restart_opens_another_terminal_of_the_same_size(client):
    sessions = client.manager.sessions
    async with client.stream(PTY) as ws:
        await ws.send_json({"type": "resize", "rows": 10, "cols": 20})
        await ws.send_json({"type": "restart"})
        await ws.send_json({"type": "stdin", "chars": "eA=="})
        while len(sessions.inside) < 2:
            await asyncio.sleep(0)
        assert await sessions.inside[1].receive() == terminal.typed(b"x")
    assert sessions.calls == [("terminal", 24, 80), ("restart", "mysess"), ("terminal", 10, 20)]


@pytest.mark.parametrize(
    "frame", ["{", "[]", "{}", '{"type": "stdin", "chars": "\\u00e4"}', '{"type": "stdin", "chars": "a"}']
)
async def test_frames_that_are_none(client, frame):
    async with client.stream(PTY) as ws:
        await ws.send_str(frame)
        assert await closed(ws) == 1003


async def test_a_session_that_does_not_answer(client):
    for target in ("/stream/session/faraway/pty", "/stream/session/faraway/tcpproxy?app=web"):
        async with client.stream(target) as ws:
            assert await closed(ws) == 1011
