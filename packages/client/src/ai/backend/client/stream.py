"""Connections to programs in a session: one by one, or through a local port that others connect to.

One connection is one WebSocket. Neither side is read faster than the other takes.
"""

import asyncio
import contextlib
from collections.abc import Callable

import aiohttp

from ai.backend.common.wire.rest.session import AppItem

from .error import ApiError, ClientError
from .request import Requester, segment

READ_BYTES = 64 << 10
_TRY_AGAIN = 1013
_IN_ORDER = frozenset({1000, 1001})


async def list_apps(requester: Requester, ref: str) -> list[AppItem]:
    return (await requester.call("GET", f"/stream/session/{segment(ref)}/apps")).decode(list[AppItem])


class AppStream:
    """A TCP connection to an app of a session. As a context manager it is opened and closed."""

    def __init__(self, requester: Requester, ref: str, app: str, *, port: int | None = None) -> None:
        self._requester = requester
        self._ref = ref
        self._app = app
        self._port = port
        self._stack = contextlib.AsyncExitStack()
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def __aenter__(self) -> "AppStream":
        path = f"/stream/session/{segment(self._ref)}/tcpproxy"
        query = {"app": self._app, "port": self._port}
        try:
            self._socket = await self._stack.enter_async_context(self._requester.websocket(path, query=query))
        except ApiError as refused:
            # The refusal's body is lost in an upgrade; a plain request has the same reason, most likely.
            await self._requester.call("GET", f"/stream/session/{segment(self._ref)}/apps")
            raise ApiError(
                f"the session {self._ref} offers no {self._app}"
                + (f" at port {self._port}" if self._port else ""),
                status=refused.status,
                code="session.app-not-found",
                hint=f"See what it offers with 'backend.ai apps {self._ref}'.",
            ) from refused
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def close(self) -> None:
        await self._stack.aclose()

    async def send(self, data: bytes) -> None:
        """Raises ApiError when it is closed."""
        assert self._socket is not None, "use 'async with'"
        try:
            await self._socket.send_bytes(data)
        except (aiohttp.ClientError, OSError) as exc:
            raise self._ended() from exc

    async def receive(self) -> bytes:
        """What has come; b"" when the program has closed. Raises ApiError when it could not be reached, or the stream broke."""
        assert self._socket is not None, "use 'async with'"
        while True:
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                data: bytes = message.data
                if data:
                    return data
            elif message.type is aiohttp.WSMsgType.CLOSE and message.data not in _IN_ORDER:
                raise self._ended(message.data, message.extra or "")
            elif message.type is aiohttp.WSMsgType.ERROR or self._socket.close_code == 1006:
                raise self._ended()
            elif message.type is not aiohttp.WSMsgType.TEXT:
                return b""

    def _ended(self, code: int = 0, reason: str = "") -> ApiError:
        if code == _TRY_AGAIN:
            return ApiError(
                reason or f"{self._app} does not answer",
                code="stream.refused",
                hint="Start the program in the session, or try again.",
            )
        return ApiError(
            reason or "the connection to the session broke off",
            code="client.stream-closed",
            hint="See with 'backend.ai ps --all' whether the session still runs.",
        )


class Forward:
    """Listens on a local address; each connection to it is one to the app. As a context manager it is opened and closed.

    `on_failure` is told of connections that could not be made."""

    def __init__(
        self,
        requester: Requester,
        ref: str,
        app: str,
        *,
        host: str = "127.0.0.1",
        bind_port: int = 0,
        port: int | None = None,
        on_failure: Callable[[ClientError], None] = lambda _: None,
    ) -> None:
        self._requester = requester
        self._ref = ref
        self._app = app
        self._host = host
        self._bind_port = bind_port
        self._port = port
        self._on_failure = on_failure
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._server is not None, "use 'async with'"
        host, port, *_ = self._server.sockets[0].getsockname()
        return host, port

    async def __aenter__(self) -> "Forward":
        self._server = await asyncio.start_server(self._accept, self._host, self._bind_port, limit=READ_BYTES)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def serve_forever(self) -> None:
        """Until cancelled."""
        await asyncio.get_running_loop().create_future()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except ClientError as exc:
            writer.transport.abort()
            self._on_failure(exc)
        except OSError:
            writer.transport.abort()  # whoever connected has gone
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with AppStream(self._requester, self._ref, self._app, port=self._port) as stream:

            async def inwards() -> None:
                while data := await reader.read(READ_BYTES):
                    await stream.send(data)
                # A client that will send nothing more may still read: only the app's end ends the connection.
                await asyncio.get_running_loop().create_future()

            async def outwards() -> None:
                while data := await stream.receive():
                    writer.write(data)
                    await writer.drain()

            sides = [asyncio.create_task(inwards()), asyncio.create_task(outwards())]
            try:
                await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
                if sides[1].done():
                    sides[1].result()
                else:
                    sides[0].result()
            finally:
                for side in sides:
                    side.cancel()
                await asyncio.gather(*sides, return_exceptions=True)
