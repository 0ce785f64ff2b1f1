"""Streams into a kernel, as the agent sees them: what it takes, what it refuses, and that nothing of it stays. The other side here is
hostile as often as not."""

import asyncio
import fcntl
import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.agent.runner import stream as subject
from ai.backend.agent.runner.stream import Pipe, Streams, relay, tcp_socket
from ai.backend.common.errors import ServiceRefused, StreamClosed, Timeout, TooManyStreams
from ai.backend.common.stream import WINDOW_BYTES, Data, Frame, StreamEnd
from ai.backend.common.wire import terminal as wire
from ai.backend.kernel import protocol as p
from ai.backend.kernel.terminal import Frames


def fds() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except OSError:
            continue  # the one that lists
    return found


class Inside:
    """What is in the container: a service, and a runner that does as the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: asyncio.Queue[p.ToRunner] = asyncio.Queue()
        self.streams = Streams(folder, os.getuid(), self.asked.put_nowait)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = int(self.listener.getsockname()[1])

    async def service(self) -> socket.socket:
        connection, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        return connection

    def say(self, stream_id: str, descriptors: list[int]) -> socket.socket:
        """As the runner would, or user code in its place."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(self.folder / p.STREAM_SOCKET_NAME))
        socket.send_fds(connection, [stream_id.encode()], descriptors)
        connection.setblocking(False)
        return connection

    async def connected(self) -> tuple[Pipe, socket.socket, socket.socket]:
        """A pipe, the service's end of it, and the runner's duplicate."""
        opening = asyncio.create_task(self.streams.connect(self.port))
        asked = await self.asked.get()
        assert isinstance(asked, p.Connect) and asked.port == self.port
        dialed = socket.create_connection(("127.0.0.1", self.port))
        self.say(asked.stream_id, [dialed.fileno()]).close()
        return await opening, await self.service(), dialed


@asynccontextmanager
async def inside(folder: Path) -> AsyncIterator[Inside]:
    before = fds()
    made = Inside(folder)
    try:
        yield made
    finally:
        made.streams.close()
        made.listener.close()
        async with asyncio.timeout(5):
            while fds() - before:
                await asyncio.sleep(0.01)


async def test_a_connection_goes_both_ways(tmp_path: Path) -> None:
    async with inside(tmp_path) as there:
        assert not list(tmp_path.iterdir()), "nothing is made before the first stream"
        pipe, service, dialed = await there.connected()
        dialed.close()
        with pipe, service:
            await pipe.send(b"in")
            assert service.recv(9) == b"in"
            reading = asyncio.create_task(pipe.receive())
            await asyncio.sleep(0)
            service.sendall(b"out")
            assert await reading == b"out"
            service.close()
            assert await pipe.receive() == b""
        assert await pipe.receive() == b""
        with pytest.raises(StreamClosed):
            await pipe.send(b"x")


async def test_a_terminal_is_its_connection(tmp_path: Path) -> None:
    async with inside(tmp_path) as there:
        opening = asyncio.create_task(there.streams.terminal(24, 80))
        asked = await there.asked.get()
        assert isinstance(asked, p.OpenTerminal)
        with there.say(asked.stream_id, []) as process, await opening as pipe:
            process.sendall(b"$ ")
            assert await pipe.receive() == b"$ "


async def test_what_the_runner_says_is_told(tmp_path: Path) -> None:
    async with inside(tmp_path) as there:
        for refused, kind in ((True, ServiceRefused), (False, StreamClosed)):
            opening = asyncio.create_task(there.streams.connect(1))
            asked = await there.asked.get()
            assert isinstance(asked, p.Connect)
            there.streams.failed(p.StreamFailed("never asked for", refused, "x"))
            there.streams.failed(p.StreamFailed(asked.stream_id, refused, "why" * 1000))
            there.streams.failed(p.StreamFailed(asked.stream_id, refused, "again"))
            with pytest.raises(kind) as caught:
                await opening
            assert len(caught.value.message) <= 1000


@pytest.mark.parametrize("what", ["file", "pipe", "unix", "listener", "udp", "unconnected", "nothing"])
async def test_what_is_no_connection_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("x")
    made: list[int] = []
    match what:
        case "file":
            made = [os.open(tmp_path / "file", os.O_RDONLY)]
        case "pipe":
            made = list(os.pipe())
        case "unix":
            made = [one.detach() for one in socket.socketpair()]
        case "listener":
            made = [socket.create_server(("127.0.0.1", 0)).detach()]
        case "udp":
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.connect(("127.0.0.1", 9))
            made = [udp.detach()]
        case "unconnected":
            made = [socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach()]
    try:
        async with inside(tmp_path) as there:
            opening = asyncio.create_task(there.streams.connect(1))
            asked = await there.asked.get()
            assert isinstance(asked, p.Connect)
            there.say(asked.stream_id, made[:1]).close()
            with pytest.raises(StreamClosed):
                await opening
    finally:
        for fd in made:
            os.close(fd)


async def test_strangers_are_turned_away(tmp_path: Path) -> None:
    async with inside(tmp_path) as there:
        opening = asyncio.create_task(there.streams.connect(there.port))
        asked = await there.asked.get()
        assert isinstance(asked, p.Connect)
        (tmp_path / "file").write_text("x")
        with (tmp_path / "file").open() as file:
            several = [file.fileno()] * 50
            strangers = [
                there.say(words, descriptors)
                for words, descriptors in (
                    ("x", several),
                    ("y" * 1000, several),
                    (secrets.token_hex(16), several),
                    ("\u00e4" * 16, []),
                )
            ]
        for stranger in strangers:
            async with asyncio.timeout(5):
                with suppress(ConnectionResetError):
                    assert await asyncio.get_running_loop().sock_recv(stranger, 1) == b""
            stranger.close()
        assert not opening.done()
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)


async def test_those_that_say_nothing_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "GREETING_TIMEOUT_S", 0.05)
    async with inside(tmp_path) as there:
        pipe, service, dialed = await there.connected()
        silent = []
        for _ in range(4 * subject.GREETINGS_MAX):
            silent.append(there.say("", []))
            await asyncio.sleep(0)
        for one in silent:
            async with asyncio.timeout(5):
                assert await asyncio.get_running_loop().sock_recv(one, 1) == b""
            one.close()
        for one in (pipe, service, dialed):
            one.close()


async def test_silence_ends_in_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "OPEN_TIMEOUT_S", 0.05)
    async with inside(tmp_path) as there:
        with pytest.raises(Timeout):
            await there.streams.connect(there.port)
        late = there.asked.get_nowait()
        assert isinstance(late, p.Connect)
        dialed = socket.create_connection(("127.0.0.1", there.port))
        there.say(late.stream_id, [dialed.fileno()]).close()
        dialed.close()
        with await there.service() as service:
            async with asyncio.timeout(5):
                assert await asyncio.get_running_loop().sock_recv(service, 1) == b""


async def test_streams_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "STREAMS_MAX", 3)
    async with inside(tmp_path) as there:
        opened = [await there.connected() for _ in range(2)]
        waiting = asyncio.create_task(there.streams.connect(there.port))
        await there.asked.get()
        with pytest.raises(TooManyStreams):
            await there.streams.connect(there.port)
        opened[0][0].close()
        opened.append(await there.connected())
        waiting.cancel()
        for several in opened:
            for one in several:
                one.close()


async def test_the_end_of_the_kernel_closes_everything(tmp_path: Path) -> None:
    async with inside(tmp_path) as there:
        pipe, service, dialed = await there.connected()
        dialed.close()
        reading = asyncio.create_task(pipe.receive())
        opening = asyncio.create_task(there.streams.connect(there.port))
        await there.asked.get()
        there.streams.close()
        there.streams.close()
        assert await reading == b""
        with pytest.raises(StreamClosed):
            await opening
        with pytest.raises(StreamClosed):
            await there.streams.connect(there.port)
        with service:
            assert service.recv(1) == b""


async def test_a_duplicate_that_is_made_blocking_blocks_nobody(tmp_path: Path) -> None:
    """User code can keep what it hands over, and its flags are shared."""
    async with inside(tmp_path) as there:
        pipe, service, duplicate = await there.connected()
        flags = fcntl.fcntl(duplicate, fcntl.F_GETFL)
        fcntl.fcntl(duplicate, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        reading = asyncio.create_task(pipe.receive())
        writing = asyncio.create_task(pipe.send(bytes(64 << 20)))
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not reading.done() and not writing.done()
        duplicate.close()
        pipe.close()
        assert await reading == b""
        with pytest.raises(StreamClosed):
            await writing
        service.close()


async def test_a_socket_that_only_claims_to_be_ready_is_given_up(tmp_path: Path) -> None:
    """Time stamps that nobody fetches make a socket ready for ever, without anything to read."""
    async with inside(tmp_path) as there:
        pipe, service, duplicate = await there.connected()
        hardware, software, report = 1 << 1, 1 << 4, 1 << 1
        duplicate.setsockopt(socket.SOL_SOCKET, 37, struct.pack("i", report | software | hardware))
        duplicate.send(b"x")
        assert service.recv(1) == b"x"
        async with asyncio.timeout(20):
            assert await pipe.receive() == b""
        for one in (pipe, service, duplicate):
            one.close()


def test_a_descriptor_that_is_none() -> None:
    with pytest.raises(OSError):
        tcp_socket(os.open("/dev/null", os.O_RDONLY))


class Wire:
    """A stream's two ends."""

    def __init__(self) -> None:
        self.manager = StreamEnd(self._to_agent)
        self.agent = StreamEnd(self.manager.take)

    def _to_agent(self, frame: Frame) -> None:
        self.agent.take(frame)


async def test_the_relay_delivers_what_came_before_an_end(tmp_path: Path) -> None:
    async with inside(tmp_path) as there:
        pipe, service, dialed = await there.connected()
        dialed.close()
        wire_ = Wire()
        relaying = asyncio.create_task(relay(pipe, wire_.agent))
        service.setblocking(False)
        loop = asyncio.get_running_loop()
        sent = os.urandom(WINDOW_BYTES * 8)
        sending = asyncio.create_task(loop.sock_sendall(service, sent))
        sending.add_done_callback(lambda _: service.close())
        got = b""
        while len(got) < len(sent):
            got += await wire_.manager.receive()
        assert got == sent
        await relaying
        pipe.close()


async def test_the_relay_ends_with_the_manager_and_delivers_first(tmp_path: Path) -> None:
    async with inside(tmp_path) as there:
        pipe, service, dialed = await there.connected()
        dialed.close()
        wire_ = Wire()
        await wire_.manager.send(b"last words")
        wire_.manager.close()
        await relay(pipe, wire_.agent)
        pipe.close()
        with service:
            assert (service.recv(99), service.recv(99)) == (b"last words", b"")


async def test_the_relay_hears_a_program_out_that_reads_no_more(tmp_path: Path) -> None:
    async with inside(tmp_path) as there:
        pipe, service, dialed = await there.connected()
        dialed.close()
        wire_ = Wire()
        relaying = asyncio.create_task(relay(pipe, wire_.agent))
        service.shutdown(socket.SHUT_RD)
        service.sendall(b"no thanks")
        await wire_.manager.send(b"x" * 1000)
        assert await wire_.manager.receive() == b"no thanks"
        service.close()
        await relaying
        pipe.close()


def test_an_end_that_sends_too_much_is_cut_off() -> None:
    frames: list[object] = []
    end = StreamEnd(frames.append, window=1000)
    end.take(Data(bytes(600)))
    end.take(Data(bytes(600)))
    assert len(frames) == 1
    with pytest.raises(StreamClosed):
        asyncio.run(_read_twice(end))


async def _read_twice(end: StreamEnd) -> None:
    assert len(await end.receive()) == 600
    await end.receive()


@given(
    st.lists(
        st.one_of(st.binary(min_size=1, max_size=64), st.tuples(st.integers(), st.integers())), max_size=8
    ),
    st.integers(1, 50),
)
def test_both_sides_agree_on_terminal_frames(items: list[bytes | tuple[int, int]], cut: int) -> None:
    data = b"".join(wire.typed(one) if isinstance(one, bytes) else wire.resized(*one) for one in items)
    frames, typed, sizes = Frames(), b"", []
    for start in range(0, len(data), cut):
        more, size = frames.feed(data[start : start + cut])
        typed += more
        sizes += [size] if size else []
    assert typed == b"".join(one for one in items if isinstance(one, bytes))
    wanted = [wire.bounded_size(*one) for one in items if isinstance(one, tuple)]
    assert sizes[-1:] == wanted[-1:]
    assert all(1 <= side <= wire.SIZE_MAX for size in wanted for side in size)
