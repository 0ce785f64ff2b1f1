"""A byte stream between the manager and an agent: what both sides hold, and the end that every bus adapter builds on.

Each direction has a window: so many bytes may be under way that the reader has not taken yet. A writer waits when it is used up, so a slow
reader holds back the writer, through every process between them, and memory never grows. `StreamEnd` does the counting and knows no
transport: an adapter gives it a function that carries frames to the other end, in order, and hands it those that come from there.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from .errors import BackendError, StreamClosed

WINDOW_BYTES = 256 << 10
PIECE_BYTES = 64 << 10
"""No frame carries more."""


class Stream(Protocol):
    """One end. There is no half-closing: an end that is closed neither sends nor receives."""

    async def send(self, data: bytes) -> None:
        """Returns once the window has taken all of it. Raises StreamClosed, or the error with which the other side closed. One sender
        at a time."""

    async def receive(self) -> bytes:
        """What has come, at least one byte; b"" at the end. Everything that was sent before the end is delivered first. Raises the error
        with which the other side closed. One receiver at a time."""

    def close(self, failure: BackendError | None = None) -> None:
        """Idempotent. The other side gets what was sent, then the end, or `failure`."""


class Data(NamedTuple):
    data: bytes


class Credit(NamedTuple):
    """The reader has taken so many bytes more."""

    size: int


class End(NamedTuple):
    failure: BackendError | None


Frame = Data | Credit | End


class StreamEnd:
    """A `Stream`, over `transmit`, which must not wait: what it may have to keep is bounded by the window.

    `on_end` is told once, when the other side closes or the connection is lost."""

    def __init__(
        self,
        transmit: Callable[[Frame], None],
        *,
        window: int = WINDOW_BYTES,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._transmit = transmit
        self._window = window
        self._on_end = on_end
        self._credit = window
        """What we may still send."""
        self._granted = window
        """What the other side may still send."""
        self._taken = 0
        """Of what has come: read here, but not told to the other side yet."""
        self._inbox: deque[bytes] = deque()
        self._changed_in = asyncio.Event()
        self._changed_out = asyncio.Event()
        self._closed = False
        self._ended = False
        self._failure: BackendError | None = None

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while True:
            if self._ended and self._failure is not None:
                raise self._failure
            if self._ended or self._closed:
                raise StreamClosed("the stream is closed")
            if not view:
                return
            size = min(len(view), self._credit, PIECE_BYTES)
            if size:
                self._credit -= size
                self._transmit(Data(bytes(view[:size])))
                view = view[size:]
                continue
            self._changed_out.clear()
            await self._changed_out.wait()

    async def receive(self) -> bytes:
        while not self._inbox:
            if self._failure is not None:
                raise self._failure
            if self._ended or self._closed:
                return b""
            self._changed_in.clear()
            await self._changed_in.wait()
        data = self._inbox.popleft()
        self._taken += len(data)
        if self._taken >= self._window // 2 and not self._ended:
            self._granted += self._taken
            size, self._taken = self._taken, 0
            self._transmit(Credit(size))
        return data

    def close(self, failure: BackendError | None = None) -> None:
        if self._closed:
            return
        self._closed = True
        self._inbox.clear()
        self._wake()
        if not self._ended:
            self._transmit(End(failure))

    def take(self, frame: Frame) -> None:
        """A frame has come from the other end. One that breaks the rules ends the stream on both sides."""
        if self._closed or self._ended:
            return
        match frame:
            case Data(data=data):
                self._granted -= len(data)
                if self._granted < 0 or not data:
                    self._broken("it sent more than its window")
                    return
                self._inbox.append(data)
                self._changed_in.set()
            case Credit(size=size):
                self._credit += size
                if size <= 0 or self._credit > self._window:
                    self._broken("it gave credit for what was never sent")
                    return
                self._changed_out.set()
            case End(failure=failure):
                self._end(failure)

    def lost(self, failure: BackendError) -> None:
        """The connection is gone; nothing more comes."""
        if not (self._closed or self._ended):
            self._end(failure)

    def _broken(self, what: str) -> None:
        failure = StreamClosed(f"the other end broke the stream's rules: {what}")
        self._transmit(End(failure))
        self._end(failure)

    def _end(self, failure: BackendError | None) -> None:
        self._ended, self._failure = True, failure
        self._wake()
        if self._on_end is not None:
            self._on_end()

    def _wake(self) -> None:
        self._changed_in.set()
        self._changed_out.set()
