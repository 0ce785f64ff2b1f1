"""Relays: TCP ports of this server, each of which leads to one service of one session.

A relay knows neither sessions nor coordinators: it asks `Guard` whether a connection may come in, `Dial` for a stream to copy it to, and
bounds what is open at once. What it must never do is to let in whom its guard does not, or to outlive what it was opened for: `Relays`
closes by key.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from ai.backend.common.errors import BackendError, StreamClosed
from ai.backend.common.log import get_logger
from ai.backend.common.stream import PIECE_BYTES, Stream

from .model import NoRelay

log = get_logger(__name__)

RELAYS_MAX = 1024
CONNECTIONS_MAX = 256
"""Of one relay; how many streams a session takes is its agent's business."""
LINGER_S = 30.0
"""How long a service may go on answering after the other side has said all it will. Streams have no half-closing: nobody can tell one who
listens on from one who has gone."""

Guard = Callable[[str], bool]
"""Of the other side's address."""
Dial = Callable[[], Awaitable[Stream]]
K = TypeVar("K", bound=Hashable)


class Relay:
    """One listening port. `guard` may be replaced at any time; it counts for connections from then on."""

    def __init__(self, guard: Guard, dial: Dial) -> None:
        self.guard = guard
        self._dial = dial
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._closed = False

    async def listen(self, host: str, ports: tuple[int, int]) -> None:
        """On the first free port of that range; (0, 0) is any. Raises NoRelay."""
        failure: OSError | None = None
        for port in range(ports[0], ports[1] + 1):
            try:
                self._server = await asyncio.start_server(self._accept, host, port, limit=PIECE_BYTES)
                return
            except OSError as exc:
                failure = exc
        raise NoRelay(
            f"this server can't listen at relay-host for the coordinator: {failure.strerror if failure else 'no port'}",
            hint="An administrator sets relay-host and relay-ports in [manager.coordinator] of the server's configuration.",
        )

    @property
    def port(self) -> int:
        assert self._server is not None, "listen() first"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Breaks off what is open. Idempotent."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()

    async def closed(self) -> None:
        """Once nothing of it is left."""
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        peer = str((writer.get_extra_info("peername") or ("",))[0])
        try:
            if self._closed:
                pass  # it was accepted just before
            elif not self.guard(peer):
                log.warning("relay-refused", peer=peer)
            elif len(self._connections) >= CONNECTIONS_MAX:
                log.warning("relay-full", peer=peer)
            else:
                self._connections.add(task)
                await self._serve(reader, writer)
                writer.close()
        except BackendError as exc:
            log.info("relay-ended", peer=peer, code=exc.code, reason=exc.message)
        except (OSError, asyncio.CancelledError):
            pass  # the other side has gone, or the relay is closed
        finally:
            self._connections.discard(task)
            if not writer.is_closing():
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Returns when the service has ended the connection, or when the other side said no more and LINGER_S have passed since."""
        stream = await self._dial()
        inwards = asyncio.create_task(_inwards(reader, stream))
        outwards = asyncio.create_task(_outwards(stream, writer))
        try:
            await asyncio.wait({inwards, outwards}, return_when=asyncio.FIRST_COMPLETED)
            if not outwards.done():
                inwards.result()
                await asyncio.wait({outwards}, timeout=LINGER_S)
        finally:
            for side in (inwards, outwards):
                side.cancel()
            await asyncio.gather(inwards, outwards, return_exceptions=True)
            stream.close()
        if not outwards.cancelled():
            outwards.result()
            await _taken(reader)


async def _taken(reader: asyncio.StreamReader) -> None:
    """Waits for the other side to close in its turn, and reads what it sends until then: a connection that is closed while something is
    unread is reset, and what was sent to it last may then be lost."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while await reader.read(PIECE_BYTES):
                pass


async def _inwards(reader: asyncio.StreamReader, stream: Stream) -> None:
    with contextlib.suppress(StreamClosed):  # what the service said before it closed is still delivered
        while data := await reader.read(PIECE_BYTES):
            await stream.send(data)


async def _outwards(stream: Stream, writer: asyncio.StreamWriter) -> None:
    while data := await stream.receive():
        writer.write(data)
        await writer.drain()
    if not writer.is_closing():
        writer.write_eof()


class _Kept:
    def __init__(self, opening: "asyncio.Task[Relay]") -> None:
        self.opening = opening
        self.users = 0
        """Those who are about to tell somebody of it."""
        self.told = False


class Relays(Generic[K]):
    """At most one relay for each key."""

    def __init__(self, host: str, ports: tuple[int, int]) -> None:
        self._host = host
        self._ports = ports
        self._kept: dict[K, _Kept] = {}

    @contextlib.asynccontextmanager
    async def hold(self, key: K, guard: Guard, dial: Dial) -> AsyncIterator[Relay]:
        """The relay of that key, opened if there is none. Leave in order once somebody was told of it: then it stays. Leave by an error,
        and it is closed, unless somebody else was told of it or is about to be. Raises NoRelay."""
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= RELAYS_MAX:
                raise NoRelay(
                    f"{RELAYS_MAX} services are opened for coordinators already, and this server opens no more",
                    hint="Shut down services, or end sessions.",
                )
            kept = self._kept[key] = _Kept(asyncio.create_task(self._open(guard, dial)))
        kept.users += 1
        try:
            relay = await asyncio.shield(kept.opening)
            relay.guard = guard
            yield relay
            kept.told = True
        finally:
            kept.users -= 1
            if not kept.told and not kept.users:
                self._drop(key, kept)

    async def _open(self, guard: Guard, dial: Dial) -> Relay:
        relay = Relay(guard, dial)
        await relay.listen(self._host, self._ports)
        return relay

    def close(self, which: Callable[[K], bool]) -> None:
        for key, kept in [(key, kept) for key, kept in self._kept.items() if which(key)]:
            self._drop(key, kept)

    def _drop(self, key: K, kept: _Kept) -> None:
        if self._kept.get(key) is kept:
            del self._kept[key]
        kept.opening.add_done_callback(_close_opened)

    async def aclose(self) -> None:
        """Closes all, and waits until nothing of them is left."""
        openings = [kept.opening for kept in self._kept.values()]
        self.close(lambda _: True)
        for relay in await asyncio.gather(*openings, return_exceptions=True):
            if isinstance(relay, Relay):
                relay.close()
                await relay.closed()


def _close_opened(opening: "asyncio.Task[Relay]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
