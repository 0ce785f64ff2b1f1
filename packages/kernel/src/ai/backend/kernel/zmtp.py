"""ZMTP 3.0, the wire protocol of ZeroMQ, as far as one DEALER socket needs it: NULL mechanism, no I/O.

The runner speaks it itself instead of loading libzmq: `import zmq` takes longer than the whole start of the
interpreter, libzmq adds an I/O thread that makes forking unsafe, and its queue hides how much the peer has
not taken yet, which is what back-pressure needs. The agent does too: to it the I/O thread would be two more
changes of thread in every execute. Whoever else talks to the runner uses an ordinary ZeroMQ socket. See ZeroMQ
RFC 23/ZMTP for the format.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE_BYTES_MAX = 72 << 20
"""A rich result is one message of up to 16 M characters; a larger message costs the connection."""
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_GREETING_BYTES = 64
_TOGETHER_BYTES = 65536
_MORE, _LONG, _COMMAND = 1, 2, 4


class ZmtpError(Exception):
    """The peer does not speak ZMTP 3 with the NULL mechanism, or sent a frame that is no frame. Close the
    connection."""


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value


def _frame(flags: int, body: bytes) -> bytes:
    if len(body) > 255:
        return bytes([flags | _LONG]) + len(body).to_bytes(8, "big") + body
    return bytes([flags, len(body)]) + body


def hello() -> bytes:
    """What to send first on a new connection: greeting and READY command."""
    greeting = _SIGNATURE + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
    ready = b"\x05READY" + _property(b"Socket-Type", b"DEALER") + _property(b"Identity", b"")
    return greeting + _frame(_COMMAND, ready)


def pack(frames: list[bytes]) -> bytes:
    """The bytes of one multipart message."""
    last = len(frames) - 1
    return b"".join([_frame(_MORE if index < last else 0, frame) for index, frame in enumerate(frames)])


class Outgoing:
    """The sending half: whole messages in order. It outlives connections: `restart` begins a new one with the
    handshake and then the first message that was not written completely.

    Attributes:
        bytes: what has not been written yet.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._queue: deque[bytes] = deque()
        self._written = 0
        self._urgent = b""

    def __len__(self) -> int:
        return len(self._queue)

    def restart(self) -> None:
        self._written = 0
        self._urgent = hello()

    def put(self, frames: list[bytes]) -> None:
        """Queues a message; it leaves with the next `write`."""
        data = pack(frames)
        self._queue.append(data)
        self.bytes += len(data)

    def reply(self, data: bytes) -> None:
        """Queues what the protocol itself answers. Amid a message it is dropped: the peer asks again."""
        if not self._written:
            self._urgent += data

    def wanted(self, is_open: bool) -> bool:
        return bool(self._urgent) or (is_open and bool(self._queue))

    def write(self, send: Callable[[bytes | memoryview], int], is_open: bool) -> None:
        """Writes what `send` takes; messages only when the peer's handshake `is_open`. Raises what `send` raises,
        BlockingIOError included."""
        while self._urgent:
            self._urgent = self._urgent[send(self._urgent) :]
        while is_open and self._queue:
            self._written += send(self._next())
            while self._queue and self._written >= len(self._queue[0]):
                size = len(self._queue.popleft())
                self.bytes -= size
                self._written -= size

    def _next(self) -> bytes | memoryview:
        """What is to be written: small messages together, so that the peer wakes up once for them."""
        head = self._queue[0]
        if self._written:
            return memoryview(head)[self._written :]
        size, many = 0, 0
        for message in self._queue:
            size += len(message)
            if size > _TOGETHER_BYTES:
                break
            many += 1
        return b"".join(islice(self._queue, many)) if many > 1 else head


class Connection:
    """The receiving half of one connection, from its first byte on.

    Attributes:
        open: whether the peer has finished its handshake, so that messages may be sent.
        replies: bytes that the protocol itself wants sent (answers to heartbeats); the caller sends and
        clears them.
    """

    def __init__(self) -> None:
        self.open = False
        self.replies = b""
        self._greeted = False
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._parts_bytes = 0

    def receive(self, data: bytes) -> list[list[bytes]]:
        """Takes in what was read; returns the messages that are now complete. Raises ZmtpError."""
        self._buffer += data
        if not self._greeted and not self._greet():
            return []
        messages: list[list[bytes]] = []
        at = 0
        while True:
            head = self._head(at)
            if head is None:
                break
            flags, start, end = head
            body = bytes(self._buffer[start:end])
            at = end
            if flags & _COMMAND:
                self._command(body)
                continue
            if not self.open:
                raise ZmtpError("a message before READY")
            self._parts.append(body)
            if not flags & _MORE:
                messages.append(self._parts)
                self._parts, self._parts_bytes = [], 0
        del self._buffer[:at]
        return messages

    def _head(self, at: int) -> tuple[int, int, int] | None:
        """Flags, start and end of the body of the frame at `at`; None when it is not all there yet."""
        buffer = self._buffer
        if len(buffer) - at < 2:
            return None
        flags = buffer[at]
        if flags > 7 or (flags & _COMMAND and flags & _MORE):
            raise ZmtpError("bad flags")
        if flags & _LONG:
            if len(buffer) - at < 9:
                return None
            size, start = int.from_bytes(buffer[at + 1 : at + 9], "big"), at + 9
        else:
            size, start = buffer[at + 1], at + 2
        if size + self._parts_bytes > MESSAGE_BYTES_MAX:
            raise ZmtpError("message too large")
        if len(buffer) - start < size:
            return None
        if not flags & _COMMAND:
            self._parts_bytes += size + 1
        return flags, start, start + size

    def _greet(self) -> bool:
        buffer = self._buffer
        if buffer and buffer[0] != 0xFF:
            raise ZmtpError("not a ZeroMQ peer")
        if len(buffer) < _GREETING_BYTES:
            return False
        if buffer[9] != 0x7F or buffer[10] < 3 or bytes(buffer[12:32]).rstrip(b"\0") != b"NULL":
            raise ZmtpError("not ZMTP 3 with the NULL mechanism")
        del buffer[:_GREETING_BYTES]
        self._greeted = True
        return True

    def _command(self, body: bytes) -> None:
        if body.startswith(b"\x05READY"):
            self.open = True
        elif body.startswith(b"\x04PING"):
            self.replies += _frame(_COMMAND, b"\x04PONG" + body[7:])
        elif body.startswith(b"\x05ERROR"):
            raise ZmtpError("refused by the peer")
