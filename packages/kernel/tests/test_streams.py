"""Streams out of a real runner, outside any container: connections handed over as descriptors, and terminals."""

import os
import secrets
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.kernel.protocol import (
    STREAM_ID_BYTES,
    STREAM_SOCKET_NAME,
    Connect,
    Finished,
    OpenTerminal,
    StreamFailed,
    WaitingInput,
)
from ai.backend.kernel.terminal import FrameError, Frames

from .conftest import INTERPRETER, LAUNCHER, Agent

TIMEOUT_S = 15


class Door:
    """The agent's socket for streams."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.bind(str(folder / STREAM_SOCKET_NAME))
        self.socket.listen()

    def take(self) -> tuple[str, socket.socket, list[int]]:
        connection, _ = self.socket.accept()
        connection.settimeout(TIMEOUT_S)
        data, fds, _, _ = socket.recv_fds(connection, STREAM_ID_BYTES, 4)
        return data.decode(), connection, fds


@pytest.fixture
def agent(start: Callable[..., Agent]) -> Agent:
    return start()


@pytest.fixture
def door(agent: Agent) -> Iterator[Door]:
    made = Door(agent.folder)
    yield made
    made.socket.close()


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.settimeout(TIMEOUT_S)
        try:
            made.bind((request.param, 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        made.listen()
        yield made


def stream_id() -> str:
    return secrets.token_hex(STREAM_ID_BYTES // 2)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def open_fds(agent: Agent) -> int:
    return len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.01)


def test_a_connection_is_handed_over(agent: Agent, door: Door, listener: socket.socket) -> None:
    before = open_fds(agent)
    for _ in range(3):
        wanted = stream_id()
        agent.send(Connect(wanted, listener.getsockname()[1]))
        came, connection, fds = door.take()
        assert came == wanted and len(fds) == 1
        assert connection.recv(1) == b""
        service, _ = listener.accept()
        with socket.socket(fileno=fds[0]) as ours, service:
            ours.settimeout(TIMEOUT_S)
            ours.sendall(b"in")
            assert service.recv(9) == b"in"
            service.sendall(b"out")
            assert ours.recv(9) == b"out"
            service.close()
            assert ours.recv(9) == b"", "the runner kept nothing of it"
        connection.close()
    until(lambda: open_fds(agent) == before)


def test_nobody_listens(agent: Agent, door: Door) -> None:
    wanted, port = stream_id(), unused_port()
    agent.send(Connect(wanted, port))
    assert agent.receive() == StreamFailed(wanted, True, f"nothing listens on port {port}")


def test_nobody_takes_the_connection(agent: Agent, listener: socket.socket) -> None:
    before = open_fds(agent)
    wanted = stream_id()
    agent.send(Connect(wanted, listener.getsockname()[1]))
    failed = agent.receive()
    assert isinstance(failed, StreamFailed) and not failed.refused and "did not take" in failed.reason
    assert open_fds(agent) == before


def test_a_run_goes_on_meanwhile(agent: Agent, door: Door, listener: socket.socket) -> None:
    assert isinstance(agent.run("input('?')")[-1], WaitingInput)
    agent.send(Connect(stream_id(), listener.getsockname()[1]))
    _, connection, (fd,) = door.take()
    os.close(fd)
    connection.close()


def typed(data: bytes) -> bytes:
    return b"i" + len(data).to_bytes(4, "big") + data


def resized(rows: int, columns: int) -> bytes:
    return b"r" + struct.pack("!IHH", 4, rows, columns)


def open_terminal(agent: Agent, door: Door, rows: int = 24, columns: int = 80) -> socket.socket:
    wanted = stream_id()
    agent.send(OpenTerminal(wanted, rows, columns))
    came, connection, fds = door.take()
    assert (came, fds) == (wanted, [])
    return connection


def read_until(connection: socket.socket, word: bytes) -> bytes:
    got = b""
    while word not in got:
        data = connection.recv(65536)
        assert data, got
        got += data
    return got


def children(pid: int) -> set[int]:
    return {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def program(pid: int) -> str:
    """What it runs; a process that has only been forked still runs what its parent does."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def shell_of(agent: Agent, before: set[int]) -> tuple[int, int]:
    """The newest terminal's process and its shell."""
    process = (children(agent.process.pid) - before).pop()
    until(lambda: bool(children(process)))
    return process, children(process).pop()


def test_a_shell_on_a_terminal(agent: Agent, door: Door) -> None:
    (agent.folder / "environ.txt").write_text("GREETING=from-the-file\n")
    with open_terminal(agent, door, 33, 101) as terminal:
        terminal.sendall(typed(b"tty; pwd; stty size; echo $GREETING-$TERM; echo e''nd\n"))
        said = read_until(terminal, b"end\r\n").decode()
        assert "/dev/pts/" in said and f"{agent.home}\r\n" in said and "33 101" in said
        assert "-xterm-256color" in said
        terminal.sendall(resized(10, 20) + typed(b"stty si") + typed(b"ze; echo e''nd\n"))
        assert b"10 20" in read_until(terminal, b"end\r\n")
        terminal.sendall(typed(b"echo a; sleep 600 & echo last wo''rds; exit\n"))
        assert b"last words" in read_until(terminal, b"last words")
        while terminal.recv(65536):
            pass


def test_hanging_up_ends_what_runs(agent: Agent, door: Door) -> None:
    before, fds = children(agent.process.pid), open_fds(agent)
    terminal = open_terminal(agent, door)
    terminal.sendall(typed(b"sleep 4711 & sleep 4712\n"))
    process, shell = shell_of(agent, before)
    until(lambda: [program(pid) for pid in children(shell)] == ["sleep", "sleep"])
    below = [process, shell, *children(shell)]
    terminal.close()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))
    assert children(agent.process.pid) == before and open_fds(agent) == fds


@pytest.fixture
def started_by_nohup() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


def test_hanging_up_works_under_nohup_too(started_by_nohup: None, agent: Agent, door: Door) -> None:
    test_hanging_up_ends_what_runs(agent, door)


def test_a_shell_that_ignores_the_hang_up_is_killed(agent: Agent, door: Door) -> None:
    before = children(agent.process.pid)
    terminal = open_terminal(agent, door)
    terminal.sendall(typed(b"trap '' HUP TERM; echo r''eady; while true; do read -t 1 x; done\n"))
    read_until(terminal, b"ready")
    process, shell = shell_of(agent, before)
    terminal.close()
    until(lambda: not Path(f"/proc/{shell}").exists() and not Path(f"/proc/{process}").exists())


def test_a_flood_waits_for_its_reader(agent: Agent, door: Door) -> None:
    before = children(agent.process.pid)
    with open_terminal(agent, door) as terminal:
        terminal.sendall(typed(b"yes xxxx\n"))
        read_until(terminal, b"xxxx\r\nxxxx")
        process = (children(agent.process.pid) - before).pop()
        status = Path(f"/proc/{process}/status")
        resident = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        time.sleep(0.3)
        later = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        assert int(later.split()[1]) - int(resident.split()[1]) < 4096
        terminal.sendall(typed(b"\x03echo e''nd\n"))
        read_until(terminal, b"end\r\n")


def test_what_is_no_frame_ends_the_terminal(agent: Agent, door: Door) -> None:
    with open_terminal(agent, door) as terminal:
        terminal.sendall(b"x" * 64)
        while terminal.recv(65536):
            pass


def test_runs_and_terminals_do_not_disturb_each_other(agent: Agent, door: Door) -> None:
    with open_terminal(agent, door) as terminal:
        assert isinstance(agent.run("print(1)")[-1], Finished)
        terminal.sendall(typed(b"echo e''nd\n"))
        read_until(terminal, b"end\r\n")
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(TIMEOUT_S) == 0


def test_nothing_of_it_is_imported_at_the_start() -> None:
    script = (
        f"import sys; sys.argv[0] = {str(LAUNCHER)!r}\nsys.path.insert(0, {str(LAUNCHER.parents[3])!r})\n"
        "import ai.backend.kernel.runner, ai.backend.kernel.main\n"
        "found = {'ai.backend.kernel.dial', 'ai.backend.kernel.terminal', 'termios', 'socket'} & set(sys.modules)\n"
        "sys.exit(repr(found) if found else 0)"
    )
    done = subprocess.run(
        [INTERPRETER, "-I", "-S", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


FRAMES = st.lists(
    st.one_of(
        st.binary(max_size=40).map(lambda data: ("i", data)),
        st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda size: ("r", size)),
    ),
    max_size=12,
)


@given(FRAMES, st.lists(st.integers(0, 60), max_size=30))
def test_frames_survive_any_cutting(
    frames: list[tuple[str, bytes | tuple[int, int]]], cuts: list[int]
) -> None:
    data = b"".join(typed(value) if isinstance(value, bytes) else resized(*value) for _, value in frames)
    reader, got, sizes = Frames(), b"", []
    for cut in [*cuts, len(data)]:
        piece, data = data[:cut], data[cut:]
        more, size = reader.feed(piece)
        got += more
        if size:
            sizes.append(size)
    assert got == b"".join(value for _, value in frames if isinstance(value, bytes))
    wanted = [value for kind, value in frames if kind == "r"]
    assert sizes[-1:] == wanted[-1:]


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_garbage_is_refused_and_never_kept(pieces: list[bytes]) -> None:
    reader = Frames()
    for piece in pieces:
        try:
            reader.feed(piece)
        except FrameError:
            return
        assert len(reader._buffer) <= 9
