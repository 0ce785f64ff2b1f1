"""Serves the gateway over HTTP. Signals are the caller's business: cancel `serve` to stop it."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from litestar.types import ASGIApp

from .app import create_app
from .limits import FRAME_BYTES_MAX, PING_S, PONG_TIMEOUT_S, GatewayConfig
from .port import Manager


class _Server(uvicorn.Server):
    """Tells when it listens, and leaves the process's signal handlers alone."""

    def __init__(self, config: uvicorn.Config, ready: asyncio.Event) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()


def bind(host: str, port: int) -> socket.socket:
    """A listening address for `serve`; port 0 takes a free one (see `getsockname`). Raises OSError."""
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


async def serve(
    manager: Manager, listener: socket.socket, *, ready: asyncio.Event, config: GatewayConfig | None = None
) -> None:
    """Serves on a bound socket until cancelled; then ends open requests within `shutdown_timeout_s`. Sets `ready` when it listens."""
    config = config or GatewayConfig()
    await serve_app(create_app(manager, config), listener, ready=ready, config=config)


async def serve_app(
    app: ASGIApp, listener: socket.socket, *, ready: asyncio.Event, config: GatewayConfig
) -> None:
    """Any application on our server."""
    server = _Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="websockets-sansio",
            ws_max_size=FRAME_BYTES_MAX,
            ws_per_message_deflate=False,
            ws_ping_interval=PING_S,
            ws_ping_timeout=PONG_TIMEOUT_S,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=config.shutdown_timeout_s,
        ),
        ready,
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="gateway")
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
