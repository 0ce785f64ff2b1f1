"""A small app proxy that is real where it matters: its coordinator speaks HTTP and gives tokens for what it was told, its worker dials TCP.

`answers` makes the coordinator answer otherwise, so that tests see what a server does with one that is broken, or lies.
"""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

SECRET = "shared-by-manager-and-proxy"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AppProxy:
    def __init__(self, url: str) -> None:
        self.url = url
        self.advertised: str | None = "https://apps.example.com:10200/"
        self.asked: list[str] = []
        """Method and path of each request."""
        self.confs: dict[str, dict[str, Any]] = {}
        """What it was told, by the token that it gave for it."""
        self.answers: dict[str, Answer] = {}
        """By path, instead of its own."""

    async def status(self, request: web.Request) -> web.StreamResponse:
        told = {"api_version": "v2"} | ({"advertise_address": self.advertised} if self.advertised else {})
        return await self._answer(request, lambda _: _json(told))

    async def conf(self, request: web.Request) -> web.StreamResponse:
        conf = msgspec.json.decode(await request.read())

        def keep(_: web.Request) -> Awaitable[web.StreamResponse]:
            token = secrets.token_urlsafe(24)
            self.confs[token] = conf
            return _json({"token": token})

        return await self._answer(request, keep)

    async def _answer(self, request: web.Request, usual: Answer) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        if request.headers.get("X-BackendAI-Token") != SECRET:
            return web.json_response({"title": "Unauthorized"}, status=401)
        return await self.answers.get(request.path, usual)(request)

    async def dial(self, token: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """What a worker does for whoever comes with a token."""
        conf = self.confs[token]
        return await asyncio.open_connection(conf["kernel_host"], conf["kernel_port"])


async def _json(value: Any) -> web.StreamResponse:
    return web.json_response(value)


@asynccontextmanager
async def app_proxy() -> AsyncIterator[AppProxy]:
    """Served on a loopback address of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = AppProxy(f"http://127.0.0.1:{listener.getsockname()[1]}")
    app = web.Application()
    app.router.add_get("/status", proxy.status)
    app.router.add_post("/v2/conf", proxy.conf)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield proxy
    finally:
        await runner.cleanup()
