"""A whole manager on a database in memory, and signed calls to its gateway without a socket: thousands of them take seconds."""

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ai.backend.common.bus import ReportHandler
from ai.backend.common.clock import SystemClock
from ai.backend.common.errors import AgentUnreachable
from ai.backend.common.stream import Stream
from ai.backend.common.wire import rpc, signature
from ai.backend.gateway.app import create_app
from ai.backend.gateway.middleware import Edge
from ai.backend.manager.assembly import Manager, build
from ai.backend.manager.config import ManagerConfig
from ai.backend.manager.db.migration import migrate
from ai.backend.manager.db.sqlite import driver_of
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.secret import FileSecrets
from ai.backend.testkit.inline_database import InlineDatabase

R = TypeVar("R", bound=rpc.Message)
VERSION = "v8.20240915"
HOST = "gateway.test"
FEED_S = 30.0
"""Only ends a broken test."""


class SilentBus:
    """Remembers what agents are asked, and says that none answers: whatever gets so far was allowed. With `reply`, that is answered."""

    def __init__(self) -> None:
        self.reply: rpc.Message | None = None
        self.asked: list[rpc.Request | rpc.StreamRequest] = []
        self.report: ReportHandler | None = None

    async def call(self, agent_id: str, request: rpc.Request, reply: type[R], *, timeout_s: float) -> R:
        self.asked.append(request)
        if isinstance(self.reply, reply):
            return self.reply
        raise AgentUnreachable("the agent does not answer")

    async def open_stream(self, agent_id: str, request: rpc.StreamRequest, *, timeout_s: float) -> Stream:
        self.asked.append(request)
        raise AgentUnreachable("the agent does not answer")

    def on_report(self, handler: ReportHandler) -> None:
        self.report = handler


@dataclass(frozen=True)
class Answer:
    """`frames`: what a WebSocket was sent; its `status` is 101 once it was accepted."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    frames: tuple[Any, ...] = ()

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class Gateway:
    """`keys`: access key and secret key by a person's name."""

    manager: Manager
    database: InlineDatabase
    identity: IdentityService
    bus: SilentBus
    app: Edge
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    _kept: sqlite3.Connection = field(default_factory=lambda: sqlite3.connect(":memory:"))

    def keep(self) -> None:
        """What `restore` goes back to."""
        driver_of(self.database._connection).backup(self._kept)

    def restore(self) -> None:
        """Undoes all that was written since, also in what services remember of it."""
        self._kept.backup(driver_of(self.database._connection))
        self.identity.forget()
        self.manager.settings.forget()
        self.manager.sessions._routes.clear()
        self.manager.sessions._queries.clear()
        self.bus.asked.clear()

    async def call(
        self,
        method: str,
        target: str,
        json: Any = None,
        *,
        key: str | None,
        body: bytes = b"",
        content_type: str = "",
    ) -> Answer:
        """`method` WS opens a WebSocket and sends `body` as its first text frame."""
        if json is not None:
            body, content_type = msgspec.json.encode(json), "application/json"
        verb = "GET" if method == "WS" else method
        headers = {"host": HOST, "content-type": content_type or "text/plain"}
        if key is not None:
            headers |= self._signed(verb, target, key, headers["content-type"])
        path, _, query = target.partition("?")
        scope: dict[str, Any] = {
            "type": "websocket" if method == "WS" else "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            **({} if method == "WS" else {"method": method}),
            "scheme": "ws" if method == "WS" else "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 50_000),
            "server": (HOST, 80),
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        return await _Exchange(self.app, scope, body).answer()

    def _signed(self, method: str, target: str, key: str, content_type: str) -> dict[str, str]:
        access_key, secret = self.keys[key]
        now = datetime.now(UTC)
        text = signature.string_to_sign(
            method=method,
            target=target,
            date=now.isoformat(),
            host=HOST,
            content_type=content_type,
            version=VERSION,
            body=b"",
            version_header="x-backendai-version",
        )
        proof = signature.sign(secret, now, HOST, text)
        return {
            "date": now.isoformat(),
            "x-backendai-version": VERSION,
            "authorization": signature.authorization(access_key, proof),
        }


class _Exchange:
    """One request. A stream of events is left after its first piece."""

    def __init__(self, app: Edge, scope: dict[str, Any], body: bytes) -> None:
        self._app = app
        self._scope = scope
        self._websocket = scope["type"] == "websocket"
        self._incoming: list[dict[str, Any]] = (
            [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": body.decode()}]
            if self._websocket
            else [{"type": "http.request", "body": body, "more_body": False}]
        )
        self._left = asyncio.Event()
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._frames: list[Any] = []

    async def answer(self) -> Answer:
        app: Any = self._app
        running = asyncio.ensure_future(app(self._scope, self._receive, self._send))
        left = asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait({running, left}, timeout=FEED_S, return_when=asyncio.FIRST_COMPLETED)
            assert running.done() or left.done(), f"no answer to {self._scope['path']}"
            with contextlib.suppress(asyncio.CancelledError):
                if not running.done():
                    running.cancel()
                await running
        finally:
            left.cancel()
        return Answer(self._status, self._headers, bytes(self._body), tuple(self._frames))

    async def _receive(self) -> dict[str, Any]:
        if self._incoming:
            return self._incoming.pop(0)
        await self._left.wait()
        return {"type": "websocket.disconnect" if self._websocket else "http.disconnect", "code": 1001}

    async def _send(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self._status = message["status"]
                self._headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            case "http.response.body" | "websocket.http.response.body":
                self._body += message.get("body", b"")
                if self._body and self._headers.get("content-type", "").startswith("text/event-stream"):
                    self._left.set()
            case "websocket.accept":
                self._status = 101
            case "websocket.send":
                self._frames.append(msgspec.json.decode(message["text"]))
            case "websocket.close":
                self._frames.append({"closed": message.get("code"), "reason": message.get("reason")})
                self._left.set()


async def open_gateway(folder: Path, config: ManagerConfig | None = None) -> Gateway:
    """Migrated and empty. None of the manager's loops runs: what is written stays as it was written."""
    rng, clock, bus, database = random.SystemRandom(), SystemClock(), SilentBus(), InlineDatabase()
    await database.open()
    await migrate(database)
    identity = IdentityService(database, FileSecrets(folder / "key", rng), clock=clock, rng=rng)
    manager = build(
        config=config or ManagerConfig(),
        clock=clock,
        rng=rng,
        database=database,
        bus=bus,
        identity=identity,
    )
    return Gateway(manager, database, identity, bus, create_app(manager))


def without(value: Any, names: Sequence[str]) -> Any:
    """A JSON value without these fields, however deep they are."""
    if isinstance(value, dict):
        return {name: without(inner, names) for name, inner in value.items() if name not in names}
    if isinstance(value, list):
        return [without(inner, names) for inner in value]
    return value
