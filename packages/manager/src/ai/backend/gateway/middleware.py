"""The outer edge, in front of routing: request ids, CORS, version negotiation, method override, old paths, and headers of every answer.

Pure ASGI. It rewrites `path` and `method` for routing but leaves `raw_path` and `query_string` alone: signatures cover what was sent.
"""

import re
import secrets
from typing import Any

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from ai.backend.common.errors import InvalidInput
from ai.backend.common.log import bound_request
from ai.backend.common.wire import problem, version

from . import web
from .auth import VERSION_HEADERS
from .limits import ANONYMOUS_REQUESTS, RATE_WINDOW_S
from .problem import UnsupportedVersion, problem_of

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_VERSION_PREFIX = re.compile(r"^/v[2-9](?=/|$)")
_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{8,64}$")
_COMMON_HEADERS = (
    (b"server", b"BackendAI"),
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"*"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
)
_WINDOW = str(RATE_WINDOW_S).encode()


def modern_path(method: str, path: str) -> str:
    """The present path of an old one: `/v2/kernel/x` is `/session/x`, POST `/session/_/create` is `/session`."""
    path = _VERSION_PREFIX.sub("", path) or "/"
    if path == "/stream/kernel/_/events":
        return "/events/session"
    for old, new in (("/kernel", "/session"), ("/stream/kernel", "/stream/session")):
        if path == old or path.startswith(old + "/"):
            path = new + path[len(old) :]
    if method == "POST" and path in ("/session/create", "/session/_/create"):
        return "/session"
    return path


class Edge:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # type: ignore[comparison-overlap]
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, value)
        given_id = headers.get(b"x-request-id", b"")
        rid = given_id.decode() if _REQUEST_ID.match(given_id) else secrets.token_hex(8)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["rate"] = (ANONYMOUS_REQUESTS, ANONYMOUS_REQUESTS)
        wrapped = _Answer(scope, send, rid)
        with bound_request(rid):
            await self._handle(scope, headers, receive, wrapped)

    async def _handle(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: "_Answer"
    ) -> None:
        sent = str(scope.get("method", "GET"))
        if sent == "OPTIONS":
            await send.preflight(headers.get(b"access-control-request-headers", b"*"))
            return
        override = headers.get(b"x-method-override", b"").decode("latin-1").upper()
        method = override if override in METHODS else sent
        scope["state"]["methods"] = (sent, method) if method != sent else (sent,)
        stated = next((headers[n] for n in map(str.encode, VERSION_HEADERS) if headers.get(n)), b"")
        if stated:
            try:
                version.parse(stated.decode("latin-1"))
            except InvalidInput as exc:
                await send.refuse(UnsupportedVersion(exc.message, hint=exc.hint))
                return
        routed: Any = dict(scope)
        inner = web.inner_path(scope["path"])
        scope["state"]["web"] = inner is not None
        if web.is_encoded(headers) and (inner is not None or scope["path"].startswith("/server/")):
            receive = web.decoded(receive, headers.get(b"host", b"").decode("latin-1"))
        routed["path"] = modern_path(method, scope["path"] if inner is None else inner)
        if scope["type"] == ScopeType.HTTP:
            # A HEAD is answered as the GET would be, without the body.
            routed["method"] = "GET" if method == "HEAD" else method
            send.headless = sent == "HEAD"
        await self._app(routed, receive, send)


class _Answer:
    """The `send` of one connection: adds the common headers, and answers a refused WebSocket upgrade with a problem document."""

    def __init__(self, scope: Scope, send: Send, rid: str) -> None:
        self._state = scope["state"]
        self._path = scope["path"]
        self._websocket = scope["type"] == ScopeType.WEBSOCKET
        self._send = send
        self._rid = rid
        self._accepted = False
        self.headless = False
        """The answer goes without its body."""

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            start: Any = message
            kept = [pair for pair in start["headers"] if pair[0].lower() != b"server"]
            start["headers"] = [*kept, *self._headers()]
            await self._send(start)
        elif kind == "http.response.body" and self.headless:
            if not self._accepted:
                self._accepted = True
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        elif kind == "websocket.close" and not self._accepted:
            error = self._state.get("error")
            await self.refuse(
                error if isinstance(error, Exception) else RuntimeError("closed before accepted")
            )
        else:
            self._accepted = self._accepted or kind == "websocket.accept"
            await self._send(message)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        limit, remaining = self._state["rate"]
        return [
            *_COMMON_HEADERS,
            (b"x-request-id", self._rid.encode()),
            (b"x-ratelimit-limit", str(limit).encode()),
            (b"x-ratelimit-remaining", str(remaining).encode()),
            (b"x-ratelimit-window", _WINDOW),
        ]

    async def preflight(self, wanted: bytes) -> None:
        headers = [
            (b"access-control-allow-methods", ", ".join(sorted(METHODS)).encode()),
            (b"access-control-allow-headers", wanted),
            (b"access-control-max-age", b"3600"),
        ]
        await self._respond(204, headers, b"")

    async def refuse(self, error: Exception) -> None:
        status, body = problem_of(error, self._path)
        headers = [(b"content-type", problem.CONTENT_TYPE.encode())]
        await self._respond(status, headers, msgspec.json.encode(body))

    async def _respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        prefix = "websocket.http.response" if self._websocket else "http.response"
        if status != 204:
            headers = [*headers, (b"content-length", str(len(body)).encode())]
        start: Any = {"type": f"{prefix}.start", "status": status, "headers": [*headers, *self._headers()]}
        rest: Any = {"type": f"{prefix}.body", "body": body, "more_body": False}
        await self._send(start)
        await self._send(rest)
