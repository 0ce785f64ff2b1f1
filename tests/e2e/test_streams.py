"""Programs in a session, reached from outside it: TCP through WebSockets, terminals, and that nothing of either stays."""

import asyncio
import base64
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from ai.backend.client.client import AsyncClient
from ai.backend.client.config import ClientConfig
from ai.backend.client.error import ApiError
from ai.backend.client.request import signed_headers
from ai.backend.client.session import AsyncSession
from ai.backend.client.stream import AppStream
from ai.backend.client.sync import Client

from .conftest import LAUNCHER, Cluster

SIZE = 20 << 20
PORT, SILENT = 8000, 8001
SERVER = f"""
import hashlib, http.server, os, threading
open("big.bin", "wb").write(os.urandom({SIZE}))
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(hashlib.sha256(body).hexdigest().encode())
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", {PORT}), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(hashlib.sha256(open("big.bin", "rb").read()).hexdigest())
"""
WAIT_S = 30


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(ClientConfig.from_environ({**cluster.env, **cluster.as_user()})) as client:
        yield client


@pytest.fixture
async def session(api: AsyncClient) -> AsyncIterator[AsyncSession]:
    wishes: dict[str, Any] = {"resources": {"cpu": 1, "mem": "256m"}, "preopen_ports": [str(PORT), SILENT]}
    async with api.sessions.temporary(
        image="python", name=f"stream-{uuid.uuid4().hex[:8]}", **wishes
    ) as made:
        yield made


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0.02)


def cluster_fds(cluster: Cluster) -> set[str]:
    """The sockets and terminals that the cluster's process has open: TCP to clients comes and goes, so only unix sockets in sessions'
    folders, and connections of other network namespaces, which no table of ours names."""
    ours = (
        Path("/proc/net/tcp").read_text()
        + Path("/proc/net/tcp6").read_text()
        + Path("/proc/net/unix").read_text()
    )
    found = set()
    for entry in Path(f"/proc/{cluster.pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if match := re.fullmatch(r"socket:\[(\d+)\]", target):
            named = next((line for line in ours.splitlines() if match[1] in line.split()), None)
            if named is None or "streams.sock" in named:
                found.add(target)
    return found


async def fetch(stream: AppStream, path: str) -> bytes:
    await stream.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    pieces = []
    while data := await stream.receive():
        pieces.append(data)
    return b"".join(pieces).partition(b"\r\n\r\n")[2]


async def digest_of_server(session: AsyncSession) -> str:
    done = await session.run(SERVER)
    assert not done.stderr, done.stderr
    return done.stdout.strip()


async def test_20_mib_arrive_whole(cluster: Cluster, api: AsyncClient, session: AsyncSession) -> None:
    digest = await digest_of_server(session)
    assert [(one.name, one.protocol, one.ports) for one in await session.apps()] == [
        ("8000", "preopen", [8000]),
        ("8001", "preopen", [8001]),
    ]
    async with session.connect("8000") as stream:
        assert hashlib.sha256(await fetch(stream, "/big.bin")).hexdigest() == digest

    # The same without our library but for the signature, as any client has it.
    config = ClientConfig.from_environ({**cluster.env, **cluster.as_user()})
    target = f"/stream/kernel/{session.name}/tcpproxy?app={PORT}"
    url = URL(cluster.env["BACKEND_ENDPOINT"] + target, encoded=True)
    headers = signed_headers(config, "v7.20230615", "GET", url, "", datetime.now(UTC))
    async with aiohttp.ClientSession() as http, http.ws_connect(url, headers=headers, max_msg_size=0) as ws:
        await ws.send_str("ignored")
        await ws.send_bytes(b"GET /big.bin HTTP/1.0\r\n")
        await ws.send_bytes(b"\r\n")
        got = b""
        async for message in ws:
            assert message.type is aiohttp.WSMsgType.BINARY
            got += message.data
        assert ws.close_code == 1001
    assert hashlib.sha256(got.partition(b"\r\n\r\n")[2]).hexdigest() == digest


async def test_20_mib_can_be_sent(session: AsyncSession) -> None:
    await digest_of_server(session)
    body = os.urandom(SIZE)
    async with session.connect("8000") as stream:
        await stream.send(f"POST / HTTP/1.0\r\nContent-Length: {SIZE}\r\n\r\n".encode())
        for start in range(0, SIZE, 1 << 20):
            await stream.send(body[start : start + (1 << 20)])
        answer = b""
        while data := await stream.receive():
            answer += data
    assert answer.endswith(hashlib.sha256(body).hexdigest().encode())


async def test_a_reader_that_pauses_holds_back_the_program(cluster: Cluster, session: AsyncSession) -> None:
    digest = await digest_of_server(session)
    resident = _resident_kib(cluster.pid)
    async with session.connect("8000") as stream:
        await stream.send(b"GET /big.bin HTTP/1.0\r\n\r\n")
        head = await stream.receive()
        await asyncio.sleep(1)
        grown = _resident_kib(cluster.pid) - resident
        assert grown < SIZE >> 11, "half of what is under way would show"
        while data := await stream.receive():
            head += data
    assert hashlib.sha256(head.partition(b"\r\n\r\n")[2]).hexdigest() == digest


def _resident_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1])  # type: ignore[index]


async def test_many_connections_at_a_time(session: AsyncSession) -> None:
    await digest_of_server(session)
    await session.write_file("small.txt", b"small")

    async def one() -> bytes:
        async with session.connect("8000") as stream:
            return await fetch(stream, "/small.txt")

    assert await asyncio.gather(*(one() for _ in range(40))) == [b"small"] * 40


async def test_nobody_listens(api: AsyncClient, session: AsyncSession) -> None:
    path = f"/stream/session/{session.name}/tcpproxy"
    async with api._requester.websocket(path, query={"app": SILENT}) as ws:
        async for _ in ws:
            pass
        assert ws.close_code == 1013
    with pytest.raises(ApiError) as told:
        async with session.connect(str(SILENT)) as stream:
            await stream.receive()
    assert told.value.message == f"nothing listens on port {SILENT}"


async def test_what_is_not_offered(session: AsyncSession) -> None:
    for app, port in (("nope", None), ("8000", 8001)):
        with pytest.raises(ApiError) as told:
            async with session.connect(app, port=port):
                pass
        assert told.value.status == (404 if app == "nope" else 400)


async def test_the_session_knows_its_ports(session: AsyncSession) -> None:
    done = await session.run(
        "import os; print(os.environ['BACKENDAI_PREOPEN_PORTS'], os.environ['BACKENDAI_SERVICE_PORTS'])"
    )
    assert done.stdout == "8000,8001 \n"


async def test_the_end_of_a_session_ends_its_streams(
    cluster: Cluster, api: AsyncClient, session: AsyncSession
) -> None:
    await session.run("import socket; s = socket.create_server(('127.0.0.1', 8000)); c = []")
    before = cluster_fds(cluster)
    async with (
        session.connect("8000") as stream,
        api._requester.websocket(f"/stream/session/{session.name}/pty") as terminal,
    ):
        await session.run("c.append(s.accept()); c[0][0].send(b'there')")
        assert await stream.receive() == b"there"
        assert (await terminal.receive()).type is aiohttp.WSMsgType.TEXT
        assert len(cluster_fds(cluster)) > len(before)
        await session.destroy()
        assert await stream.receive() == b""
        async for _ in terminal:
            pass
        assert terminal.close_code == 1000
    await until(lambda: not cluster_fds(cluster) - before)
    await until(lambda: not _processes(session.id))


def _processes(session_id: str) -> list[str]:
    """Those whose environment names the session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if session_id.encode() in entry.read_bytes():
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


def _program(pid: str) -> str:
    """What it runs; a process that has only been forked still runs what its parent does."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


class Screen:
    """A terminal's client."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.seen = ""

    async def send(self, **frame: Any) -> None:
        await self.socket.send_str(json.dumps(frame))

    async def type(self, text: str) -> None:
        await self.send(type="stdin", chars=base64.b64encode(text.encode()).decode())

    async def until(self, word: str) -> str:
        async with asyncio.timeout(WAIT_S):
            while word not in self.seen:
                frame = await self.socket.receive_json()
                assert frame["type"] == "out"
                self.seen += base64.b64decode(frame["data"]).decode(errors="replace")
        before, _, self.seen = self.seen.partition(word)
        return before

    async def closed(self) -> int | None:
        async for _ in self.socket:
            pass
        return self.socket.close_code


async def test_a_terminal(cluster: Cluster, api: AsyncClient, session: AsyncSession) -> None:
    before = set(_processes(session.id))
    async with api._requester.websocket(f"/stream/session/{session.name}/pty") as ws:
        screen = Screen(ws)
        await screen.type("echo hi; tty; echo $USER; pwd; stty size; echo e''nd\n")
        said = (await screen.until("end\r\n")).partition("\rhi\r\n")[2]
        assert said.split("\r\n")[:4] == ["/dev/pts/0", "work", "/home/work", "24 80"]
        await screen.send(type="ping")
        await screen.send(type="resize", rows=33, cols=101)
        await screen.type("stty size; echo $BACKENDAI_SESSION_NAME-e''nd\n")
        assert "33 101" in await screen.until(f"{session.name}-end")
        await screen.type("exit\n")
        assert await screen.closed() == 1000
    async with api._requester.websocket(f"/stream/session/{session.name}/pty") as ws:
        screen = Screen(ws)
        await screen.type("sleep 4711 & sleep 4712; echo\n")
        await until(lambda: [_program(pid) for pid in _processes(session.id)].count("sleep") == 2)
    await until(lambda: set(_processes(session.id)) <= before)


async def test_a_restart_from_the_terminal(api: AsyncClient, session: AsyncSession) -> None:
    await session.write_file("kept.txt", b"kept")
    async with api._requester.websocket(f"/stream/session/{session.name}/pty") as ws:
        screen = Screen(ws)
        await screen.type("x=gone; echo e''nd\n")
        await screen.until("end\r\n")
        await screen.send(type="restart")
        await screen.type("cat kept.txt; echo [$x] e''nd\n")
        assert "kept" in await screen.until("[] end")


def test_the_blocking_client(cluster: Cluster) -> None:
    with Client(ClientConfig.from_environ({**cluster.env, **cluster.as_user()})) as api:
        made = api.sessions.create(image="python", preopen_ports=[PORT], resources={"cpu": 1, "mem": "256m"})
        with made as session:
            digest = session.run(SERVER).stdout.strip()
            assert [one.name for one in session.apps()] == [str(PORT)]
            with session.forward(str(PORT)) as local:
                host, port = local.address
                with urllib.request.urlopen(f"http://{host}:{port}/big.bin", timeout=WAIT_S) as answer:
                    assert hashlib.sha256(answer.read()).hexdigest() == digest
            with session.connect(str(PORT)) as stream:
                stream.send(b"GET / HTTP/1.0\r\n\r\n")
                assert stream.receive().startswith(b"HTTP/1.0 200")


def test_a_session_is_reached_again_after_a_crash(tmp_path: Path) -> None:
    cluster = Cluster(home=tmp_path / "home", backend="sandbox")
    cluster.up()
    try:
        cluster.cli("session", "create", "python", "-t", "kept", "-r", "mem=256m", "--preopen", str(PORT))
        digest = cluster.cli("exec", "kept", "-c", SERVER).stdout.strip()
        for crash in (True, False):
            with (
                Client(ClientConfig.from_environ(cluster.env)) as api,
                api.sessions.at("kept").connect(str(PORT)) as stream,
            ):
                stream.send(b"GET /big.bin HTTP/1.0\r\n\r\n")
                got = stream.receive()
                if crash:
                    os.kill(cluster.pid, signal.SIGKILL)
                    with pytest.raises(ApiError):
                        while stream.receive():
                            continue
                    cluster.up()
                    continue
                while data := stream.receive():
                    got += data
        assert hashlib.sha256(got.partition(b"\r\n\r\n")[2]).hexdigest() == digest
    finally:
        cluster.down()


@pytest.fixture
def named(cluster: Cluster) -> Iterator[str]:
    name = f"stream-{uuid.uuid4().hex[:8]}"
    wishes = ("-r", "cpu=1", "-r", "mem=256m", "--preopen", f"{PORT},{SILENT}")
    cluster.cli("session", "create", "python", "-t", name, *wishes, env=cluster.as_user())
    yield name
    cluster.cli("rm", name, env=cluster.as_user())


def test_the_command_line(cluster: Cluster, named: str) -> None:
    user = cluster.as_user()
    listed = cluster.json("apps", named, env=user)
    assert listed == {
        "items": [{"name": str(p), "protocol": "preopen", "ports": [p]} for p in (PORT, SILENT)],
        "total_count": 2,
    }
    assert f"{SILENT}  preopen" in cluster.cli("apps", named, str(SILENT), env=user).stdout
    digest = cluster.cli("exec", named, "-c", SERVER, env=user).stdout.strip()
    refused = cluster.cli("app", named, "nope", env=user, check=False)
    assert refused.returncode == 1 and "8000, 8001" in refused.stderr
    with _forwarding(cluster, named, PORT, "-b", "127.0.0.1:0", "--output", "json") as (process, line):
        told = json.loads(line)
        assert told["host"] == "127.0.0.1" and told["ok"]
        with urllib.request.urlopen(f"{told['url']}/big.bin", timeout=WAIT_S) as answer:
            assert hashlib.sha256(answer.read()).hexdigest() == digest
        taken = cluster.cli("app", named, str(PORT), "-b", str(told["port"]), env=user, check=False)
        assert taken.returncode == 1 and "can't listen" in taken.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
    with _forwarding(cluster, named, SILENT) as (process, line):
        address = line.strip().removeprefix("http://").rpartition(":")
        with socket.create_connection((address[0], int(address[2])), timeout=WAIT_S) as connection:
            assert _read_or_reset(connection) == b""
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=WAIT_S)
        assert f"nothing listens on port {SILENT}" in errors


def _read_or_reset(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1)
    except ConnectionResetError:
        return b""


class _forwarding:
    """`backend.ai app` while the block runs, and its first line."""

    def __init__(self, cluster: Cluster, name: str, port: int, *options: str) -> None:
        self.process = subprocess.Popen(
            [str(LAUNCHER), "app", name, str(port), *options],
            env={**os.environ, **cluster.env, **cluster.as_user()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> tuple["subprocess.Popen[str]", str]:
        assert self.process.stdout is not None
        return self.process, self.process.stdout.readline()

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.communicate()
