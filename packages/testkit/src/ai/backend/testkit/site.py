"""A real manager on SQLite behind a real server on loopback, without agents, and a client that keeps no cookies of its own accord."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from ai.backend.common.bus import InProcessBus
from ai.backend.common.clock import SystemClock
from ai.backend.gateway.limits import GatewayConfig
from ai.backend.gateway.main import bind, serve
from ai.backend.manager.assembly import Manager, build
from ai.backend.manager.config import ManagerConfig
from ai.backend.manager.db.migration import migrate
from ai.backend.manager.db.opening import open_database
from ai.backend.manager.identity.model import Seeded, SeedResult
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.secret import FileSecrets


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class Site:
    """A served manager, and a client that keeps no cookies of its own accord."""

    http: aiohttp.ClientSession
    manager: Manager
    seeded: SeedResult
    url: str

    async def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        cookie: str = "",
        body: bytes | None = None,
        **headers: str,
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if cookie:
            named["Cookie"] = f"other=1; AIOHTTP_SESSION={cookie}"
        if json is not None:
            body = msgspec.json.encode(json)
        async with self.http.request(method, self.url + path, data=body, headers=named) as response:
            return Answer(response.status, response.headers, await response.read())

    def login(self, who: Seeded | None = None, **more: Any) -> dict[str, Any]:
        who = who or self.seeded.user
        return {"username": who.email, "password": who.password} | more

    async def log_in(self, who: Seeded | None = None) -> str:
        answer = await self.call("POST", "/server/login", self.login(who))
        assert answer.json["authenticated"], answer.json
        return str(answer.headers["X-BackendAI-SessionID"])


_migrated: list[bytes] = []
"""An empty database with the newest schema: migrating takes longer than most tests."""


@contextlib.asynccontextmanager
async def served(
    folder: Path, config: ManagerConfig | None = None, gateway: GatewayConfig | None = None
) -> AsyncIterator[Site]:
    rng, clock = random.SystemRandom(), SystemClock()
    file = folder / "test.db"
    if not _migrated:
        first = await open_database(f"sqlite:///{file}", rng=rng)
        await migrate(first)
        await first.close()
        _migrated.append(file.read_bytes())
    file.write_bytes(_migrated[0])
    database = await open_database(f"sqlite:///{file}", rng=rng)
    identity = IdentityService(database, FileSecrets(folder / "key", rng), clock=clock, rng=rng)
    seeded = await identity.seed(rng, clock.now())
    manager = build(
        config=config or ManagerConfig(),
        clock=clock,
        rng=rng,
        database=database,
        bus=InProcessBus(),
        identity=identity,
    )
    listener = bind("127.0.0.1", 0)
    ready = asyncio.Event()
    serving = asyncio.create_task(
        serve(manager, listener, ready=ready, config=gateway or GatewayConfig(shutdown_timeout_s=1))
    )
    await ready.wait()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield Site(http, manager, seeded, f"http://127.0.0.1:{listener.getsockname()[1]}")
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    await database.close()
