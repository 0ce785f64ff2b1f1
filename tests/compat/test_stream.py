"""WebSockets: streamed execution, the terminal, the list of apps, and TCP tunnels to what listens in a session."""

import re
import socket
import time
from collections.abc import Iterator

import pytest

from .client import Client
from .sessions import DEADLINE_S, Running, execute, running

STREAM = """
import asyncio, json
from ai.backend.client.session import AsyncSession
async def main():
    records = []
    async with AsyncSession() as s:
        async with s.ComputeSession(name).stream_execute(code, mode=mode, opts=opts) as stream:
            async for message in stream:
                record = json.loads(message.data)
                records.append(record)
                if record["status"] == "waiting-input":
                    await stream.send_str(answers.pop(0))
                if record["status"] == "finished":
                    break
    give(records)
asyncio.run(main())
"""

TERMINAL = """
import asyncio, base64, json
from ai.backend.client.session import AsyncSession
async def main():
    seen = ""
    async with AsyncSession() as s:
        async with s.ComputeSession(name).stream_pty() as pty:
            if size:
                await pty.send_str(json.dumps({"type": "resize", "rows": size[0], "cols": size[1]}))
            await pty.send_str(json.dumps({"type": "ping"}))
            chars = base64.b64encode(typed.encode()).decode()
            await pty.send_str(json.dumps({"type": "stdin", "chars": chars}))
            async for message in pty:
                told = json.loads(message.data)
                if told["type"] == "out":
                    seen += base64.b64decode(told["data"]).decode(errors="replace")
                if until in seen:
                    break
    give(seen)
asyncio.run(asyncio.wait_for(main(), 30))
"""

APPS = """
import asyncio
from ai.backend.client.session import AsyncSession
async def main():
    async with AsyncSession() as s:
        give(await s.ComputeSession(name).stream_app_info())
asyncio.run(main())
"""

START_SERVICE = """
import asyncio
from ai.backend.client.session import AsyncSession
from ai.backend.client.exceptions import BackendAPIError
async def main():
    async with AsyncSession() as s:
        try:
            give([200, await s.ComputeSession(name).start_service(app)])
        except BackendAPIError as e:
            give([e.status, e.data])
asyncio.run(main())
"""

LISTENER = """
import http.server, threading
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'hello from ' + self.path.encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 3000), Hello)
threading.Thread(target=server.serve_forever, daemon=True).start()
print('listening')
"""


def stream(
    client: Client, name: str, code: str, mode: str = "query", **more: object
) -> list[dict[str, object]]:
    records: list[dict[str, object]] = client.sdk(
        STREAM, **{"name": name, "code": code, "mode": mode, "opts": None, "answers": [], **more}
    )
    return records


def text(records: list[dict[str, object]], kind: str = "stdout") -> str:
    return "".join(value for record in records for name, value in record["console"] if name == kind)  # type: ignore[attr-defined]


# --- execution ---


def test_a_stream_ends_with_its_code(user: Client, live: Running) -> None:
    records = stream(user, live.name, "print('streamed')")
    assert text(records) == "streamed\n"
    last = records[-1]
    assert last["status"] == "finished" and last["exitCode"] == 0
    assert all(isinstance(record["console"], list) for record in records)
    assert all(record["files"] in ([], None) for record in records)


def test_output_comes_as_it_is_made(user: Client, live: Running) -> None:
    records = stream(user, live.name, "import time\nprint('early', flush=True); time.sleep(3); print('late')")
    first = next(record for record in records if record["console"])
    assert first["status"] == "continued" and "late" not in str(first["console"])
    assert text(records) == "early\nlate\n"


def test_a_stream_asks(user: Client, live: Running) -> None:
    records = stream(user, live.name, "print(input('a? ') + input('b? '))", answers=["4", "2"])
    asking = [record for record in records if record["status"] == "waiting-input"]
    assert len(asking) == 2 and all(isinstance(record["options"], dict) for record in asking)
    assert "42" in text(records)


def test_a_stream_asks_for_a_password(user: Client, live: Running) -> None:
    records = stream(user, live.name, "import getpass; print(len(getpass.getpass()))", answers=["secret"])
    (asking,) = [record for record in records if record["status"] == "waiting-input"]
    assert asking["options"] == {"is_password": True}
    assert "6" in text(records)


def test_a_stream_in_batch_mode(user: Client, live: Running) -> None:
    options = {"clean": "echo c", "build": "echo b", "exec": "echo e; exit 5"}
    records = stream(user, live.name, "", "batch", opts=options)
    statuses = [record["status"] for record in records if record["status"] != "continued"]
    assert statuses == ["clean-finished", "build-finished", "finished"]
    assert records[-1]["exitCode"] == 5 and text(records).split() == ["c", "b", "e"]


def test_a_large_record_fits(user: Client, live: Running) -> None:
    records = stream(user, live.name, "print('x' * (1 << 20))")
    assert text(records) == "x" * (1 << 20) + "\n"


def test_streams_follow_each_other(user: Client, live: Running) -> None:
    stream(user, live.name, "counter = 1")
    stream(user, live.name, "counter += 1")
    assert text(stream(user, live.name, "print(counter)")) == "2\n"


# --- terminal ---


def test_a_terminal_runs_commands(user: Client, live: Running) -> None:
    seen = user.sdk(TERMINAL, name=live.name, typed="echo $((40 + 2))-ok\n", until="42-ok", size=None)
    assert "42-ok" in seen


def test_a_terminal_has_a_size(user: Client, live: Running) -> None:
    typed = "sleep 0.5; python3 -c 'import os; print(*os.get_terminal_size(), sep=chr(120))'\n"
    assert "97x31" in user.sdk(TERMINAL, name=live.name, typed=typed, until="97x31", size=[31, 97])


def test_a_terminal_is_at_home(user: Client, live: Running) -> None:
    assert "dir:/home/work" in user.sdk(
        TERMINAL, name=live.name, typed="echo dir:$PWD\n", until="dir:/", size=None
    )


# --- apps ---


@pytest.fixture(scope="module")
def opened(user: Client) -> Iterator[Running]:
    """A session with two ports that were opened in advance; its image has no services of its own."""
    with running(user, "live-opened", preopen_ports=["3000", "3001"]) as session:
        yield session


def test_apps_are_listed(user: Client, opened: Running, live: Running) -> None:
    assert user.sdk(APPS, name=opened.name) == [
        {"name": "3000", "protocol": "preopen", "ports": [3000]},
        {"name": "3001", "protocol": "preopen", "ports": [3001]},
    ]
    assert user.sdk(APPS, name=live.name) == []


def test_apps_for_people(user: Client, opened: Running, version: str) -> None:
    assert "app services: 3000, 3001" in user.cli("apps", "-l", opened.name).ok().text
    if version == "23.9.10":
        return  # it stumbles over a name
    told = user.cli("apps", opened.name, "3001").ok().text
    assert "Service 3001 does not have customizable arguments." in told


def test_an_unknown_app_is_told(user: Client, live: Running) -> None:
    """The client says so, and stays all the same."""
    with user.stay("app", live.name, "no-such-app", "-b", "127.0.0.1:0") as app:
        app.hears("is not supported by the session")


def test_a_service_without_a_proxy_is_told(user: Client, opened: Running) -> None:
    """The proxy's address is a setting of the scaling group: without one there is no way in but through this server."""
    status, told = user.sdk(START_SERVICE, name=opened.name, app="3000")
    assert status == 503 and told["title"] and told["error_code"] == "coordinator.none"


# --- tunnels ---


@pytest.fixture
def listening(user: Client, opened: Running) -> str:
    """A session where a small web server listens on a port that was opened in advance."""
    assert execute(user, opened.name, LISTENER)["console"] == [["stdout", "listening\n"]]
    return opened.name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetched(port: int, path: str) -> bytes:
    """One HTTP exchange through the tunnel, tried until the client listens."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as tunnel:
                tunnel.sendall(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
                answer = b""
                while chunk := tunnel.recv(65536):
                    answer += chunk
                return answer
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def test_a_tunnel_carries_connections(user: Client, listening: str) -> None:
    port = free_port()
    with user.stay("app", listening, "3000", "-b", f"127.0.0.1:{port}"):
        assert fetched(port, "/one").endswith(b"hello from /one")
        assert fetched(port, "/two").endswith(b"hello from /two")


def test_a_tunnel_to_nothing_is_told(user: Client, live: Running) -> None:
    done = user.cli("apps", "-l", live.name).ok()
    assert not re.search(r"\b3000\b", done.text)
