"""A real manager on SQLite behind a real HTTP server, an agent that the test plays, and callers of every role and of two domains."""

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import msgspec
import pytest
import sqlalchemy as sa
from yarl import URL

from ai.backend.common.bus import Accept, InProcessBus, StreamHandler
from ai.backend.common.clock import SystemClock
from ai.backend.common.errors import ServiceRefused
from ai.backend.common.ids import ProjectId
from ai.backend.common.wire import rpc, signature
from ai.backend.common.wire.rpc import AgentReport, ImageReport, KernelReport, KernelState
from ai.backend.gateway.limits import GatewayConfig
from ai.backend.gateway.main import bind, serve
from ai.backend.manager.access.model import Principal, Role
from ai.backend.manager.assembly import Manager, build
from ai.backend.manager.config import ManagerConfig
from ai.backend.manager.db.database import Database
from ai.backend.manager.db.migration import migrate
from ai.backend.manager.db.opening import open_database
from ai.backend.manager.db.schema import domains, projects
from ai.backend.manager.identity.model import UserDraft
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.secret import FileSecrets
from ai.backend.testkit.app_proxy import AppProxy, app_proxy
from ai.backend.testkit.postgres import PrivatePostgres, postgres  # noqa: F401 (a fixture)

VERSION = "v8.20240915"
OTHER_PROJECT = ProjectId(UUID(int=77))
IMAGE = ImageReport(name="local/python:3.11", digest="d", architecture="x86_64", size_bytes=1, labels={})


@dataclass
class PlayedAgent:
    """Starts and ends at once what it is told to."""

    bus: InProcessBus
    name: str = "a1"
    sequence: int = 0
    generation: int = 0
    capacity: dict[str, int] = field(default_factory=lambda: {"cpu": 4000, "mem": 8 << 30})
    images: list[ImageReport] = field(default_factory=lambda: [IMAGE])
    kernels: dict[UUID, KernelReport] = field(default_factory=dict)
    syncs: list[rpc.Sync] = field(default_factory=list)
    following: set[asyncio.Task[None]] = field(default_factory=set)
    logs: str = ""
    devices: list[rpc.DeviceReport] = field(default_factory=list)
    accelerators: list[rpc.AcceleratorReport] = field(default_factory=list)
    usage: dict[str, rpc.DeviceUsage] = field(default_factory=dict)
    streams: StreamHandler | None = None

    async def handle(self, request: rpc.Request) -> rpc.Reply:
        match request:
            case rpc.Sync():
                self.syncs.append(request)
                self.following.add(asyncio.create_task(self.follow(request)))
                return rpc.SyncReply(accepted=True, generation=request.generation)
            case rpc.GetLogs():
                return rpc.GetLogsReply(text=self.logs)
            case rpc.Execute():
                return rpc.ExecuteReply(
                    run_id=request.run_id, status="finished", exit_code=0, console=[("stdout", "42\n")]
                )
            case _:
                return rpc.Done()

    async def follow(self, sync: rpc.Sync) -> None:
        self.generation = (
            sync.generation
        )  # not before its kernels: what a report does not tell of is taken for lost
        self.kernels = {
            kernel.kernel_id: KernelReport(
                kernel_id=kernel.kernel_id,
                session_id=kernel.session_id,
                incarnation=kernel.incarnation,
                state=KernelState.TERMINATED if kernel.target == "stop" else KernelState.RUNNING,
                reason=kernel.stop_reason,
                devices=self.given(kernel),
                stats={"cpu_used_us": 1_500_000, "memory_peak_bytes": 10 << 20, "memory_bytes": 5 << 20},
            )
            for kernel in sync.kernels
        }
        await self.report()

    def given(self, kernel: rpc.DesiredKernel) -> dict[str, int]:
        """The devices that a kernel gets: those that were chosen for it."""
        return kernel.devices

    async def report(self) -> None:
        self.sequence += 1
        await self.bus.report(
            AgentReport(
                agent_id=self.name,
                started_at_us=1,
                sequence=self.sequence,
                generation=self.generation,
                version="1",
                backend="fake",
                architecture="x86_64",
                address="",
                capacity=self.capacity,
                images=self.images,
                kernels=list(self.kernels.values()),
                devices=self.devices,
                accelerators=self.accelerators,
                usage=self.usage,
            )
        )


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def problem(self) -> str:
        """The published word of a refusal."""
        assert self.headers["Content-Type"].startswith("application/problem+json"), self.body
        assert {"type", "title", "error_code"} <= set(self.json)
        return str(self.json["type"]).rpartition("/")[2]


@dataclass
class World:
    manager: Manager
    database: Database
    agent: PlayedAgent
    http: aiohttp.ClientSession
    authority: str
    keys: dict[str, tuple[str, str]]
    who: dict[str, Principal]

    def signed(self, method: str, target: str, key: str, content_type: str) -> dict[str, str]:
        access_key, secret = self.keys[key]
        now = datetime.now(UTC)
        text = signature.string_to_sign(
            method=method,
            target=target,
            date=now.isoformat(),
            host=self.authority,
            content_type=content_type,
            version=VERSION,
            body=b"",
            version_header="x-backendai-version",
        )
        proof = signature.sign(secret, now, self.authority, text)
        return {
            "Date": now.isoformat(),
            "X-BackendAI-Version": VERSION,
            "Authorization": signature.authorization(access_key, proof),
            "Content-Type": content_type,
        }

    def request(
        self,
        method: str,
        target: str,
        json: Any,
        key: str | None,
        body: bytes | None,
        more: Mapping[str, str] | None = None,
    ) -> Any:
        content_type = "text/plain"
        if json is not None:
            body, content_type = msgspec.json.encode(json), "application/json"
        headers = {"Content-Type": content_type}
        if key is not None:
            headers = self.signed(method, target, key, content_type)
        url = URL(f"http://{self.authority}{target}", encoded=True)
        return self.http.request(method, url, data=body, headers={**headers, **(more or {})})

    async def call(
        self,
        method: str,
        target: str,
        json: Any = None,
        *,
        key: str | None = "user",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        async with self.request(method, target, json, key, body, headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def events(self, target: str, key: str = "user") -> list[tuple[str, Any]]:
        """All of a server-sent event stream."""
        found, name = [], ""
        async with self.request("GET", target, None, key, None) as response:
            assert response.status == 200, await response.read()
            assert response.headers["Content-Type"].startswith("text/event-stream")
            async for raw in response.content:
                line = raw.decode().rstrip("\n")
                assert line == "" or ":" in line, "published clients split every line at a colon"
                kind, _, value = line.partition(": ")
                if kind == "event":
                    name = value
                elif kind == "data":
                    found.append((name, msgspec.json.decode(value)))
        return found

    async def start(self, name: str = "mysess", key: str = "user", **config: Any) -> Answer:
        return await self.call(
            "POST", "/session", {"name": name, "image": "python", "config": config}, key=key
        )


@dataclass(frozen=True)
class Template:
    """A database with people in it, made once (hashing passwords takes its time) and copied for each test."""

    folder: Path
    url: str
    keys: dict[str, tuple[str, str]]


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder = tmp_path_factory.mktemp("template")
    url = f"sqlite:///{folder / 'test.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").create()

    async def make() -> dict[str, tuple[str, str]]:
        database = await open_database(url, rng=random.Random(1))
        await migrate(database)
        rng = random.SystemRandom()
        identity = IdentityService(database, FileSecrets(folder / "key", rng), clock=SystemClock(), rng=rng)
        try:
            return await people(identity, database)
        finally:
            await database.close()

    return Template(folder, url, asyncio.run(make()))


@pytest.fixture
async def database(
    tmp_path: Path, template: Template, request: pytest.FixtureRequest
) -> AsyncIterator[Database]:
    shutil.copytree(template.folder, tmp_path, dirs_exist_ok=True)
    url = f"sqlite:///{tmp_path / 'test.db'}"
    if template.url.startswith("postgresql"):
        server: PrivatePostgres = request.getfixturevalue("postgres")
        url = server.create(template=template.url.partition("@/")[2].partition("?")[0])
    made = await open_database(url, rng=random.Random(1))
    yield made
    await made.close()


async def people(identity: IdentityService, database: Database) -> dict[str, tuple[str, str]]:
    """root, user (of the domain default), admin (of it), peer (another user of it), monitor, and in another domain: stranger, boss."""
    now = SystemClock().now()
    seeded = await identity.seed(random.Random(3), now)

    def another_domain(conn: sa.Connection) -> None:
        conn.execute(sa.insert(domains).values(name="other", created_at=now))
        conn.execute(
            sa.insert(projects).values(id=OTHER_PROJECT, name="theirs", domain_name="other", created_at=now)
        )

    await database.run(another_domain)
    keys = {
        "root": (seeded.admin.access_key, seeded.admin.secret_key),
        "user": (seeded.user.access_key, seeded.user.secret_key),
    }
    for name, role, domain, project in (
        ("admin", Role.ADMIN, "default", seeded.project_id),
        ("peer", Role.USER, "default", seeded.project_id),
        ("monitor", Role.MONITOR, "default", seeded.project_id),
        ("stranger", Role.USER, "other", OTHER_PROJECT),
        ("boss", Role.ADMIN, "other", OTHER_PROJECT),
    ):
        account = await identity.create_user(
            UserDraft(
                email=f"{name}@example.com",
                username=f"the-{name}",
                password="correct horse",
                role=role,
                domain_name=domain,
                project_ids=(project,),
            )
        )
        keys[name] = (account.access_key, account.secret_key)
    return keys


@contextlib.asynccontextmanager
async def running(
    database: Database, tmp_path: Path, template: Template, **config: Any
) -> AsyncIterator[World]:
    rng, clock, bus = random.SystemRandom(), SystemClock(), InProcessBus()
    identity = IdentityService(database, FileSecrets(tmp_path / "key", rng), clock=clock, rng=rng)
    who = {name: (await identity.authenticate(key))[0] for name, (key, _) in template.keys.items()}
    manager = build(
        config=ManagerConfig(**config), clock=clock, rng=rng, database=database, bus=bus, identity=identity
    )
    agent = PlayedAgent(bus)

    async def serve_stream(request: rpc.StreamRequest, accept: Accept) -> None:
        if agent.streams is None:
            raise ServiceRefused("nothing listens there")
        await agent.streams(request, accept)

    listener = bind("127.0.0.1", 0)
    host, port = listener.getsockname()
    ready = asyncio.Event()
    tasks = [
        asyncio.create_task(manager.run(ready=asyncio.Event())),
        asyncio.create_task(bus.serve("a1", agent.handle, serve_stream)),
        asyncio.create_task(
            serve(manager, listener, ready=ready, config=GatewayConfig(shutdown_timeout_s=1))
        ),
    ]
    waiting = asyncio.create_task(ready.wait())
    done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    for task in done - {waiting}:
        task.result()  # says why it could not start
    await agent.report()
    async with aiohttp.ClientSession() as http:
        yield World(manager, database, agent, http, f"{host}:{port}", template.keys, who)
    for task in reversed(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def world(database: Database, tmp_path: Path, template: Template) -> AsyncIterator[World]:
    async with running(database, tmp_path, template) as made:
        yield made


@pytest.fixture
async def proxy() -> AsyncIterator[AppProxy]:
    async with app_proxy() as made:
        yield made
