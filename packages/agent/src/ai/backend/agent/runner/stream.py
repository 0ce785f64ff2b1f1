"""Byte streams into a running container: TCP connections to its own loopback, and terminals.

Theory of operation. A container has a network of its own that nobody outside can dial, so its runner does: it connects, and hands the
connection to the agent as a descriptor, over a unix socket in the kernel's run folder that the agent listens on from the first stream on.
A terminal connects there itself. Each brings the id that it was asked with; what brings no such id is closed.

What comes is untrusted: user code runs as the same user as the runner, may connect and send what it likes, and may keep a duplicate of
what it hands over and change its flags at any moment. So a descriptor must be a connected TCP socket; every call on it says for itself that
it must not wait; one that claims again and again to be ready without being so is closed; and all counts and times are bounded.
"""

import array
import asyncio
import contextlib
import os
import secrets
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from ai.backend.common.errors import ServiceRefused, StreamClosed, Timeout, TooManyStreams
from ai.backend.common.log import get_logger
from ai.backend.common.stream import Stream
from ai.backend.kernel import protocol as p

log = get_logger(__name__)

STREAMS_MAX = 128
"""Of one kernel, open or being opened. A browser opens half a dozen at a time."""
OPEN_TIMEOUT_S = 15.0
GREETING_TIMEOUT_S = 5.0
GREETINGS_MAX = 16
"""Connections that have not said yet what they are. The runner's say so with the connection; only strangers have to be waited for."""
BACKLOG = 256
ACCEPTS_AT_A_TIME = 64
READ_BYTES = 64 << 10
SPURIOUS_MAX = 1000
ACCEPT_AGAIN_S = 1.0
_NO_LINGER = struct.pack("ii", 0, 0)
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Pipe:
    """One open stream's socket. `close` is idempotent; whoever waits in a call then gets the end."""

    def __init__(self, sock: socket.socket, on_close: Callable[["Pipe"], None]) -> None:
        self._socket = sock
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._closed = False

    async def receive(self) -> bytes:
        """b"" at the end, also at a bad one: TCP tells no more than that."""
        for _ in range(SPURIOUS_MAX):
            try:
                return self._socket.recv(READ_BYTES, _FLAGS)
            except BlockingIOError:
                if not await self._ready("read"):
                    break
            except OSError:
                break
        return b""

    async def send(self, data: bytes) -> None:
        """Returns once the socket has taken it all. Raises StreamClosed."""
        view, spurious = memoryview(data), 0
        while view:
            try:
                sent = self._socket.send(view, _FLAGS)
                view, spurious = view[sent:], 0
            except BlockingIOError:
                spurious += 1
                if spurious > SPURIOUS_MAX or not await self._ready("write"):
                    raise StreamClosed("the session does not take what is sent") from None
            except OSError as exc:
                raise StreamClosed(f"the session closed the connection: {exc.strerror}") from exc

    async def wait_readable(self) -> bool:
        """False when it was closed meanwhile."""
        return await self._ready("read")

    async def _ready(self, what: str) -> bool:
        """Waits until the socket says that it is; False when it was closed meanwhile."""
        if self._closed:
            return False
        future = self._waiting[what] = self._loop.create_future()
        fd = self._socket.fileno()
        if what == "read":
            self._loop.add_reader(fd, _resolve, future)
        else:
            self._loop.add_writer(fd, _resolve, future)
        try:
            await future
        finally:
            self._unwatch(what)
        return not self._closed

    def _unwatch(self, what: str) -> None:
        if self._waiting.pop(what, None) is not None:
            fd = self._socket.fileno()
            if what == "read":
                self._loop.remove_reader(fd)
            else:
                self._loop.remove_writer(fd)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for what, future in list(self._waiting.items()):
            self._unwatch(what)
            _resolve(future)
        _close(self._socket)
        self._on_close(self)

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _close(sock: socket.socket) -> None:
    """Closing must not wait: a lingering socket would, and whoever made it could have asked for that."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    sock.close()


def tcp_socket(fd: int) -> socket.socket:
    """The connected TCP socket that a descriptor is; it is closed when it is anything else. Raises OSError."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise
    try:
        protocol = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
        sock.getpeername()
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or protocol != socket.IPPROTO_TCP:
            raise OSError("not a TCP socket")
        sock.setblocking(False)
    except OSError:
        _close(sock)
        raise
    return sock


class Streams:
    """All of one kernel. `send` gives the runner a message. Costs nothing until the first is opened."""

    def __init__(self, folder: Path, uid: int, send: Callable[[p.ToRunner], None]) -> None:
        self._folder = folder
        self._uid = uid
        self._send = send
        self._listener: socket.socket | None = None
        self._asked: dict[str, asyncio.Future[socket.socket]] = {}
        self._terminals: set[str] = set()
        """Which of those that were asked for."""
        self._open: set[Pipe] = set()
        self._greetings: set[asyncio.Task[None]] = set()
        self._closed = False

    async def connect(self, port: int) -> Pipe:
        """Raises ServiceRefused, TooManyStreams, Timeout or StreamClosed."""
        return await self._ask(lambda stream_id: p.Connect(stream_id, port), terminal=False)

    async def terminal(self, rows: int, columns: int) -> Pipe:
        """Raises TooManyStreams, Timeout or StreamClosed."""
        return await self._ask(lambda stream_id: p.OpenTerminal(stream_id, rows, columns), terminal=True)

    async def _ask(self, message: Callable[[str], p.ToRunner], *, terminal: bool) -> Pipe:
        if self._closed:
            raise StreamClosed("the session's container is gone")
        if len(self._asked) + len(self._open) >= STREAMS_MAX:
            raise TooManyStreams(
                f"{STREAMS_MAX} connections into this session are open", hint="Close some.", limit=STREAMS_MAX
            )
        if self._listener is None:
            self._listen()
        stream_id = secrets.token_hex(p.STREAM_ID_BYTES // 2)
        answer = self._asked[stream_id] = asyncio.get_running_loop().create_future()
        if terminal:
            self._terminals.add(stream_id)
        self._send(message(stream_id))
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await asyncio.wait({answer})
        except (TimeoutError, asyncio.CancelledError) as exc:
            if answer.done() and answer.exception() is None:
                _close(answer.result())  # it came at the last moment, and nobody will use it
            if isinstance(exc, asyncio.CancelledError):
                raise
            raise Timeout(
                f"the session did not open a stream in {OPEN_TIMEOUT_S:g} s",
                hint="If it was started by an older release, restart it.",
            ) from exc
        finally:
            del self._asked[stream_id]
            self._terminals.discard(stream_id)
            answer.cancel()
        pipe = Pipe(answer.result(), self._open.discard)
        if self._closed:
            pipe.close()
            raise StreamClosed("the session's container is gone")
        self._open.add(pipe)
        return pipe

    def failed(self, message: p.StreamFailed) -> None:
        """The runner says that nothing will come."""
        answer = self._asked.get(message.stream_id)
        if answer is not None and not answer.done():
            reason = message.reason[:1000]
            answer.set_exception(ServiceRefused(reason) if message.refused else StreamClosed(reason))

    def close(self) -> None:
        """The kernel is gone, or the agent goes: everything that is open is closed. Idempotent."""
        self._closed = True
        for task in self._greetings:
            task.cancel()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for answer in self._asked.values():
            if not answer.done():  # else its opener finds us closed
                answer.set_exception(StreamClosed("the session's container is gone"))
        for pipe in list(self._open):
            pipe.close()

    # -- the socket ------------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        path = self._folder / p.STREAM_SOCKET_NAME
        try:
            path.unlink(missing_ok=True)
            # A socket's path may not be longer than 107 bytes, but folders may: go through the folder's descriptor.
            handle = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
            try:
                listener.bind(f"/proc/self/fd/{handle}/{p.STREAM_SOCKET_NAME}")
            finally:
                os.close(handle)
            path.chmod(0o600)
            if os.getuid() == 0:
                os.chown(path, self._uid, self._uid, follow_symlinks=False)
            listener.listen(BACKLOG)
        except OSError as exc:
            listener.close()
            raise StreamClosed(f"the kernel's stream socket can't be made: {exc.strerror}") from exc
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(ACCEPTS_AT_A_TIME):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                # Out of descriptors, most likely: it would be told again at once.
                log.warning("stream-not-accepted", error=str(exc))
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener.fileno())
                loop.call_later(ACCEPT_AGAIN_S, self._accept_again)
                return
            connection.setblocking(False)
            try:
                self._take(connection, *_receive(connection))
            except BlockingIOError:
                self._wait_for(connection)
            except OSError:
                connection.close()

    def _accept_again(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _wait_for(self, connection: socket.socket) -> None:
        if len(self._greetings) >= GREETINGS_MAX:
            connection.close()
            return
        task = asyncio.create_task(self._greet(connection), name="stream-greeting")
        self._greetings.add(task)
        task.add_done_callback(self._greetings.discard)

    async def _greet(self, connection: socket.socket) -> None:
        """Waits for a connection's first words."""
        pipe = Pipe(connection, lambda _: None)
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                if await pipe.wait_readable():
                    self._take(connection, *_receive(connection))
        except (TimeoutError, OSError):
            pipe.close()
        except asyncio.CancelledError:
            pipe.close()
            raise

    def _take(self, connection: socket.socket, first_words: bytes, fds: list[int]) -> None:
        """Gives what came to whoever asked for it; what nobody asked for is closed."""
        stream_id = first_words.decode("ascii", "replace")
        answer = self._asked.get(stream_id) if len(first_words) == p.STREAM_ID_BYTES else None
        kept = False
        if answer is not None and not answer.done():
            if (stream_id in self._terminals) != (not fds):
                answer.set_exception(StreamClosed("the session sent something else than what was asked for"))
            elif not fds:
                answer.set_result(connection)
                kept = True
            else:
                try:
                    answer.set_result(tcp_socket(fds.pop()))
                except OSError as exc:
                    answer.set_exception(StreamClosed(f"the session did not hand over a connection: {exc}"))
        for fd in fds:
            os.close(fd)
        if not kept:
            connection.close()


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """At most one descriptor is taken; the kernel closes what does not fit."""
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    data, ancillary, _, _ = connection.recvmsg(p.STREAM_ID_BYTES, socket.CMSG_LEN(4), flags)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)


async def relay(pipe: Pipe, stream: Stream) -> None:
    """Copies both ways until the manager closes or the session does; what the session said before its end has been sent then."""

    async def inwards() -> None:
        broken = False
        while data := await stream.receive():
            if broken:
                continue  # the session reads no more, but may have something to say yet
            try:
                await pipe.send(data)
            except StreamClosed:
                broken = True

    async def outwards() -> None:
        while data := await pipe.receive():
            await stream.send(data)

    tasks = [asyncio.create_task(inwards()), asyncio.create_task(outwards())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
