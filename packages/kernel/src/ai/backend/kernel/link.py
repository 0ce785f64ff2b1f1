"""The runner's end of the connection to the agent: one ZeroMQ DEALER over a unix socket, non-blocking, with
its own bounded queue.

The queue outlives connections: when the agent restarts, the link reconnects and goes on with the first
message that was not written completely. The caller looks at `queued_bytes` for back-pressure and calls the
link when its descriptor is ready or `retry_s` has come.
"""

from __future__ import annotations

import _socket

from . import zmtp
from .protocol import Message, ProtocolError, ToRunner, decode, encode

RETRY_FIRST_S, RETRY_MAX_S = 0.01, 0.5
_READ_BYTES = 65536


class Link:
    """Attributes:
    path: of the agent's socket.
    fd: the descriptor to poll, -1 while there is no connection.
    dropped: messages that were no messages.
    retry_s: when to call `connect` again, on the caller's monotonic clock; None while connected.
    """

    def __init__(self, path: str) -> None:
        self.fd = -1
        self.dropped = 0
        self.retry_s: float | None = 0.0
        self.path = path
        self._socket: _socket.socket | None = None
        self._connection = zmtp.Connection()
        self._outgoing = zmtp.Outgoing()
        self._wait_s = RETRY_FIRST_S

    def connect(self, now_s: float) -> None:
        """Tries to connect; sets `fd` or `retry_s`."""
        self._socket = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        )
        try:
            self._socket.connect(self.path)
        except OSError:
            self.disconnect(now_s)
            return
        self.fd = self._socket.fileno()
        self.retry_s = None
        self._connection = zmtp.Connection()
        self._outgoing.restart()
        self.write(now_s)

    def disconnect(self, now_s: float) -> None:
        """Gives the connection up for now; a message that was cut is sent again from its start."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self.fd = None, -1
        self.retry_s = now_s + self._wait_s
        self._wait_s = min(self._wait_s * 2, RETRY_MAX_S)

    @property
    def queued_bytes(self) -> int:
        """What the agent has not taken yet."""
        return self._outgoing.bytes

    @property
    def wants_write(self) -> bool:
        return self._outgoing.wanted(self._connection.open)

    def send(self, message: Message) -> None:
        """Queues a message; it leaves with the next `write`."""
        self._outgoing.put(encode(message))

    def write(self, now_s: float) -> None:
        """Writes what the socket takes now."""
        if self._socket is None:
            return
        try:
            self._outgoing.write(self._socket.send, self._connection.open)
        except BlockingIOError:
            return
        except OSError:
            self.disconnect(now_s)

    def read(self, now_s: float) -> list[ToRunner]:
        """The messages that have come. A peer that breaks the protocol is disconnected; frames that are no
        message are counted."""
        if self._socket is None:
            return []
        try:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise zmtp.ZmtpError("closed")
            parts = self._connection.receive(data)
        except BlockingIOError:
            return []
        except (OSError, zmtp.ZmtpError):
            self.disconnect(now_s)
            return []
        if self._connection.open:
            self._wait_s = RETRY_FIRST_S
        if self._connection.replies:
            self._outgoing.reply(self._connection.replies)
            self._connection.replies = b""
        messages: list[ToRunner] = []
        for frames in parts:
            try:
                messages.append(decode(frames))  # type: ignore[arg-type]  # the machine has no row for messages of the other direction
            except ProtocolError:
                self.dropped += 1
        return messages
