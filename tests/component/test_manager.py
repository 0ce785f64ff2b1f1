"""The manager alone, on SQLite and PostgreSQL, with an agent that is played by the test over the real bus protocol."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from msgspec import structs

from ai.backend.common.bus import InProcessBus
from ai.backend.common.clock import SystemClock
from ai.backend.common.errors import (
    BackendError,
    Forbidden,
    InvalidSessionState,
    KernelCreationFailed,
    QuotaExceeded,
    SessionNotFound,
)
from ai.backend.common.ids import AgentId
from ai.backend.common.log import bound_request
from ai.backend.common.wire import rpc
from ai.backend.common.wire.rpc import AgentReport, DesiredKernel, ImageReport, KernelReport, KernelState
from ai.backend.manager.access.model import Principal
from ai.backend.manager.agents.desired import desired_kernel
from ai.backend.manager.assembly import Manager, build
from ai.backend.manager.config import ManagerConfig
from ai.backend.manager.db import schema
from ai.backend.manager.db.database import Database
from ai.backend.manager.db.migration import migrate
from ai.backend.manager.db.opening import open_database
from ai.backend.manager.event.model import Event as SessionEvent
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.secret import FileSecrets
from ai.backend.manager.session.model import Session, SessionDraft, SessionStatus, SessionType
from ai.backend.testkit.postgres import PrivatePostgres, postgres  # noqa: F401 (a fixture)

IMAGE = "local/python:3.11"


@dataclass
class PlayedAgent:
    """Does at once what it is told; `outcome` decides how a start goes."""

    bus: InProcessBus
    cpu: int = 4000
    started_at_us: int = 1
    sequence: int = 0
    generation: int = 0
    outcome: KernelState = KernelState.RUNNING
    kernels: dict[UUID, KernelReport] = field(default_factory=dict)
    syncs: list[rpc.Sync] = field(default_factory=list)
    asked: list[rpc.Request] = field(default_factory=list)
    deaf: bool = False
    task_exit: int | None = None
    """Commands end as soon as they have begun, with this code."""

    async def end(self, kernel_id: UUID, reason: str, exit_code: int | None = None) -> None:
        self.kernels[kernel_id] = structs.replace(
            self.kernels[kernel_id], state=KernelState.TERMINATED, reason=reason, exit_code=exit_code
        )
        await self.report()

    async def handle(self, request: rpc.Request) -> rpc.Reply:
        self.asked.append(request)
        match request:
            case rpc.Sync():
                self.syncs.append(request)
                if request.generation < self.generation:
                    return rpc.SyncReply(accepted=False, generation=self.generation)
                self.generation = request.generation
                asyncio.get_running_loop().create_task(self.follow(request.kernels))
                return rpc.SyncReply(accepted=True, generation=self.generation)
            case rpc.GetLogs():
                return rpc.GetLogsReply(text="it said \0 this")
            case rpc.Execute():
                return rpc.ExecuteReply(
                    run_id=request.run_id, status="finished", exit_code=0, console=[("stdout", "42\n")]
                )
            case _:
                return rpc.Done()

    async def follow(self, desired: list[DesiredKernel]) -> None:
        for kernel_id in set(self.kernels) - {kernel.kernel_id for kernel in desired}:
            del self.kernels[kernel_id]
        for kernel in desired:
            state = KernelState.TERMINATED if kernel.target == "stop" else self.outcome
            known = self.kernels.get(kernel.kernel_id)
            if known and known.state is KernelState.TERMINATED and known.incarnation == kernel.incarnation:
                continue
            failed = state is KernelState.TERMINATED and kernel.target == "run"
            self.kernels[kernel.kernel_id] = KernelReport(
                kernel_id=kernel.kernel_id,
                session_id=kernel.session_id,
                incarnation=kernel.incarnation,
                state=state,
                reason="failed-to-start" if failed else kernel.stop_reason,
                message="the image has no shell" if failed else "",
                container_id="c1",
                stats={"cpu_used_us": 1500, "memory_peak_bytes": 10},
            )
        await self.report()
        for kernel in desired:
            if kernel.startup_command and kernel.target == "run" and self.task_exit is not None:
                await self.end(kernel.kernel_id, "task-finished", self.task_exit)

    async def report(self, **changes: Any) -> None:
        self.sequence += 1
        if self.deaf:
            return
        values: dict[str, Any] = {
            "agent_id": "a1",
            "started_at_us": self.started_at_us,
            "sequence": self.sequence,
            "generation": self.generation,
            "version": "1",
            "backend": "fake",
            "architecture": "x86_64",
            "address": "",
            "capacity": {"cpu": self.cpu, "mem": 8 << 30},
            "images": [ImageReport(name=IMAGE, digest="d", architecture="x86_64", size_bytes=1, labels={})],
            "kernels": list(self.kernels.values()),
            **changes,
        }
        await self.bus.report(AgentReport(**values))


@dataclass
class World:
    manager: Manager
    agent: PlayedAgent
    admin: Principal
    user: Principal


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    if request.param == "postgres":
        server: PrivatePostgres = request.getfixturevalue("postgres")
        url = server.create()
    made = await open_database(url, rng=random.Random(1))
    await migrate(made)
    yield made
    await made.close()


@asynccontextmanager
async def running(
    database: Database, tmp_path: Path, agent: PlayedAgent | None = None, **config: Any
) -> AsyncIterator[World]:
    rng, clock = random.Random(7), SystemClock()
    bus = agent.bus if agent else InProcessBus()
    identity = IdentityService(database, FileSecrets(tmp_path / "key", rng), clock=clock, rng=rng)
    seeded = await identity.seed(rng, clock.now())
    manager = build(
        config=ManagerConfig(**config), clock=clock, rng=rng, database=database, bus=bus, identity=identity
    )
    agent = agent or PlayedAgent(bus)
    tasks = [
        asyncio.create_task(manager.run(ready=asyncio.Event())),
        asyncio.create_task(bus.serve("a1", agent.handle)),
    ]
    await asyncio.sleep(0)
    await agent.report()
    admin, _ = await identity.authenticate(seeded.admin.access_key)
    user, _ = await identity.authenticate(seeded.user.access_key)
    try:
        yield World(manager, agent, admin, user)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with running(database, tmp_path) as made:
        yield made


def draft(name: str = "mysess", **more: Any) -> SessionDraft:
    return SessionDraft(name=name, image="python", **more)


async def test_a_session_from_creation_to_its_end(world: World) -> None:
    sessions = world.manager.sessions
    told: list[str] = []
    world.manager.events.listen(lambda event: told.append(event.name))
    made = await sessions.create(world.user, draft())
    assert made.created and made.session.status is SessionStatus.RUNNING
    reply = await sessions.execute(
        world.user, "mysess", mode="query", code="print(42)", run_id=None, options={}
    )
    assert reply.console == [("stdout", "42\n")] and len(reply.run_id) == 16
    stats = await sessions.destroy(world.user, "mysess")
    assert stats["status"] == "terminated" and stats["cpu_used"]["current"] == "1.500"
    with pytest.raises(SessionNotFound):
        await sessions.get(world.user, "mysess")
    while await sessions.logs(world.user, "mysess") == "" or world.agent.kernels:
        await asyncio.sleep(0.01)
    assert "it said" in await sessions.logs(world.user, "mysess")
    assert [name for name in told if name.startswith("session")] == [
        "session_enqueued", "session_scheduled", "session_started", "session_terminating", "session_terminated",
    ]  # fmt: skip


async def test_what_does_not_fit_waits_and_says_why_then_starts(world: World) -> None:
    sessions = world.manager.sessions
    await sessions.create(world.user, draft("first", resources={"cpu": 3}))
    waiting = await sessions.create(world.user, draft("second", resources={"cpu": 2}, enqueue_only=True))
    while not (found := await sessions.get(world.user, "second")).reason:
        await asyncio.sleep(0.01)
    assert found.status is SessionStatus.PENDING and found.reason == "not-enough-free-slots"
    assert "asked 2, free 1" in found.reason_detail["message"] and found.reason_detail["position"] == 1
    await sessions.destroy(world.user, "first")
    again = await sessions.create(world.user, draft("second", resources={"cpu": 2}))
    assert not again.created and again.session.id == waiting.session.id
    assert again.session.status is SessionStatus.RUNNING and again.session.reason == ""


async def test_a_start_that_fails_tells_why_and_frees_everything(world: World) -> None:
    world.agent.outcome = KernelState.TERMINATED
    with pytest.raises(KernelCreationFailed) as told:
        await world.manager.sessions.create(world.user, draft())
    assert told.value.message == "the image has no shell"
    assert told.value.detail["status"] == "CANCELLED" and told.value.detail["reason"] == "failed-to-start"
    (agent,) = await world.manager.agents.list(world.admin)
    assert not agent.occupied
    world.agent.outcome = KernelState.RUNNING
    assert (await world.manager.sessions.create(world.user, draft())).created


async def test_a_start_that_fails_is_cancelled_also_when_its_agent_tidies_up_first(world: World) -> None:
    world.agent.outcome = KernelState.STOPPING
    with pytest.raises(KernelCreationFailed) as told:
        await world.manager.sessions.create(world.user, draft())
    ended = await until_ended(world, told.value.detail["sessionId"])
    assert ended.status is SessionStatus.CANCELLED
    assert {"TERMINATING", "CANCELLED"} <= ended.status_history.keys()
    assert "RUNNING" not in ended.status_history
    assert ended.main.status is SessionStatus.CANCELLED
    (agent,) = await world.manager.agents.list(world.admin)
    assert not agent.occupied


async def test_the_request_id_comes_along_to_the_agent(world: World) -> None:
    """One story, one id: the gateway's for what was asked for, the loop's for what it does by itself."""
    await world.manager.sessions.create(world.user, draft())
    with bound_request("req-of-the-gateway"):
        await world.manager.sessions.execute(
            world.user, "mysess", mode="query", code="1", run_id=None, options={}
        )
    told = {type(one).__name__: one.request_id for one in world.agent.asked}
    assert told["Execute"] == "req-of-the-gateway"
    assert told["Sync"].startswith("desired-state-")


async def test_max_wait_gives_up_waiting_not_the_session(world: World) -> None:
    await world.manager.sessions.create(world.user, draft("first", resources={"cpu": 4}))
    made = await world.manager.sessions.create(world.user, draft("second", max_wait_s=0.2))
    assert made.waited_out and made.session.status is SessionStatus.PENDING
    assert (await world.manager.sessions.destroy(world.user, "second"))["status"] == "cancelled"


async def test_restart_comes_back_with_a_new_incarnation(world: World) -> None:
    await world.manager.sessions.create(world.user, draft())
    await world.manager.sessions.restart(world.user, "mysess")
    session = await world.manager.sessions.get(world.user, "mysess")
    assert session.status is SessionStatus.RUNNING and session.main.incarnation == 2


async def test_a_kernel_that_ends_by_itself_ends_its_session_with_the_reason(world: World) -> None:
    made = await world.manager.sessions.create(world.user, draft())
    kernel = world.agent.kernels[made.session.main.id]
    world.agent.kernels[made.session.main.id] = KernelReport(
        kernel_id=kernel.kernel_id, session_id=kernel.session_id, incarnation=1, state=KernelState.TERMINATED,
        reason="out-of-memory", message="too much", exit_code=137,
    )  # fmt: skip
    await world.agent.report()
    ended = await world.manager.sessions.get(world.user, str(made.session.id), live_only=False)
    assert (ended.status, ended.reason, ended.main.exit_code) == (
        SessionStatus.TERMINATED,
        "out-of-memory",
        137,
    )


async def test_old_and_doubled_reports_change_nothing(world: World) -> None:
    made = await world.manager.sessions.create(world.user, draft())
    kernel = world.agent.kernels[made.session.main.id]
    for sequence in (1, world.agent.sequence):
        world.agent.sequence = sequence - 1
        await world.agent.report(kernels=[])
    world.agent.sequence = 1000
    assert kernel.state is KernelState.RUNNING
    assert (await world.manager.sessions.get(world.user, "mysess")).status is SessionStatus.RUNNING


async def test_a_lost_container_ends_its_session(world: World) -> None:
    await world.manager.sessions.create(world.user, draft())
    world.agent.kernels.clear()
    world.agent.started_at_us += 1
    await world.agent.report()
    with pytest.raises(SessionNotFound):
        await world.manager.sessions.get(world.user, "mysess")


async def test_a_restarted_manager_goes_on(database: Database, tmp_path: Path) -> None:
    async with running(database, tmp_path) as first:
        await first.manager.sessions.create(first.user, draft("running"))
        first.agent.deaf = True
        await first.manager.sessions.create(first.user, draft("started-unheard", enqueue_only=True))
        await asyncio.sleep(0.2)
        agent = first.agent
    agent.deaf = False
    async with running(database, tmp_path, agent) as second:
        made = await second.manager.sessions.create(second.user, draft("started-unheard"))
        assert not made.created and made.session.status is SessionStatus.RUNNING
        assert (await second.manager.sessions.get(second.user, "running")).status is SessionStatus.RUNNING


async def test_a_zombie_is_told_to_stop_and_a_stranger_is_left_alone(world: World) -> None:
    made = await world.manager.sessions.create(world.user, draft())
    await world.manager.sessions.destroy(world.user, "mysess")
    while world.agent.kernels:
        await asyncio.sleep(0.01)
    zombie, stranger = made.session.main.id, UUID(int=99)
    for kernel_id in (zombie, stranger):
        world.agent.kernels[kernel_id] = KernelReport(
            kernel_id=kernel_id, session_id=made.session.id, incarnation=1, state=KernelState.UNKNOWN
        )
    world.agent.syncs.clear()
    await world.agent.report()
    world.manager.intake._wake(True)
    while not world.agent.syncs:
        await asyncio.sleep(0.01)
    told = {kernel.kernel_id: kernel.target for kernel in world.agent.syncs[0].kernels}
    assert told == {zombie: "stop"}


async def test_a_restored_database_overtakes_the_agents_generation(world: World) -> None:
    world.agent.generation = 500
    made = await world.manager.sessions.create(world.user, draft())
    assert made.session.status is SessionStatus.RUNNING and world.agent.generation > 500


async def test_deadlines_are_kept(database: Database, tmp_path: Path) -> None:
    async with running(database, tmp_path, pending_timeout_s=0) as world:
        world.agent.cpu = 500
        await world.agent.report()
        with pytest.raises(BackendError):
            await world.manager.sessions.create(world.user, draft())


async def change_policies(world: World, **values: int) -> None:
    change = sa.update(schema.keypair_policies).values(**values)
    await world.manager.database.run(lambda conn: conn.execute(change))
    world.manager.identity.forget()


async def test_quotas_hold_under_concurrent_creation(world: World) -> None:
    """What may wait is counted exactly, also when many ask at once."""
    await change_policies(world, max_pending_session_count=30, max_concurrent_sessions=5)
    outcomes = await asyncio.gather(
        *(
            world.manager.sessions.create(world.user, draft(f"many-{n:02}", enqueue_only=True))
            for n in range(40)
        ),
        return_exceptions=True,
    )
    refused = sum(isinstance(outcome, QuotaExceeded) for outcome in outcomes)
    assert 5 <= refused <= 10, "30 may wait, and up to 5 of those that came first run by now"
    assert not [o for o in outcomes if isinstance(o, BaseException) and not isinstance(o, QuotaExceeded)]
    page = await world.manager.sessions.list(world.user, statuses=None, limit=7, offset=28)
    assert page.total_count == 40 - refused and len(page.items) == min(7, 12 - refused)


async def test_who_sees_what(world: World) -> None:
    made = await world.manager.sessions.create(world.admin, draft("admins"))
    with pytest.raises(SessionNotFound):
        await world.manager.sessions.get(world.user, str(made.session.id))
    with pytest.raises(Forbidden):
        await world.manager.agents.list(world.user)
    await world.manager.sessions.create(world.user, draft("users"))
    assert (
        await world.manager.sessions.list(world.admin, statuses=None, limit=10, offset=0)
    ).total_count == 2
    assert (await world.manager.sessions.list(world.user, statuses=None, limit=10, offset=0)).total_count == 1


async def test_executing_in_what_does_not_run_is_refused(world: World) -> None:
    await world.manager.sessions.create(world.user, draft("first", resources={"cpu": 4}))
    await world.manager.sessions.create(world.user, draft("second", enqueue_only=True))
    with pytest.raises(InvalidSessionState) as told:
        await world.manager.sessions.execute(
            world.user, "second", mode="query", code="", run_id=None, options={}
        )
    assert told.value.detail["status"] == "PENDING"


async def test_ending_all_for_a_shutdown(world: World) -> None:
    await world.manager.sessions.create(world.user, draft("first"))
    await world.manager.sessions.create(world.admin, draft("second"))
    assert await world.manager.sessions.end_all("cluster-down") == 2
    page = await world.manager.sessions.list(world.admin, statuses=None, limit=10, offset=0)
    assert {(s.status.value, s.reason) for s in page.items} == {("TERMINATED", "cluster-down")}


def batch(name: str = "mybatch", **more: Any) -> SessionDraft:
    return draft(name, session_type=SessionType.BATCH, startup_command="true", **more)


async def until_ended(world: World, ref: str) -> Session:
    while True:
        found = await world.manager.sessions.get(world.user, ref, live_only=False)
        if found.status.terminal:
            return found
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("exit_code", "result", "told"), [(0, "success", "session_success"), (3, "failure", "session_failure")]
)
async def test_a_batch_session_ends_with_its_command(
    world: World, exit_code: int, result: str, told: str
) -> None:
    heard: list[SessionEvent] = []
    world.manager.events.listen(heard.append)
    made = await world.manager.sessions.create(world.user, batch())
    (kernel,) = world.agent.syncs[-1].kernels
    assert kernel.startup_command == "true"
    await world.agent.end(made.session.main.id, "task-finished", exit_code)
    ended = await until_ended(world, str(made.session.id))
    assert (ended.reason, ended.result, ended.main.exit_code) == ("task-finished", result, exit_code)
    while [event.name for event in heard if event.name.startswith("session")][-1] != "session_terminated":
        await asyncio.sleep(0.01)
    names = [event.name for event in heard if event.name.startswith("session")]
    assert names[-2:] == [told, "session_terminated"]
    assert [event.payload["exitCode"] for event in heard if event.name == told] == [exit_code]


async def test_a_batch_session_over_its_limit_has_failed(world: World) -> None:
    made = await world.manager.sessions.create(world.user, batch(batch_timeout=1))
    ended = await until_ended(world, str(made.session.id))
    assert (ended.reason, ended.result) == ("task-timeout", "failure")


async def test_a_batch_session_that_ended_before_anybody_looked_was_created(world: World) -> None:
    world.agent.task_exit = 0
    made = await world.manager.sessions.create(world.user, batch())
    assert made.created
    assert (await until_ended(world, str(made.session.id))).result == "success"


async def test_runs_are_counted_without_a_write_for_each(world: World) -> None:
    sessions = world.manager.sessions
    made = await sessions.create(world.user, draft())
    for mode, run_id in (("query", None), ("query", None), ("continue", "x"), ("batch", None)):
        await sessions.execute(world.user, "mysess", mode=mode, code="1", run_id=run_id, options={})
    assert made.session.version == (await sessions.get(world.user, "mysess")).version
    assert (await sessions.get(world.user, "mysess")).num_queries == 3
    sessions.counts.wake()
    while sessions._queries:
        await asyncio.sleep(0.01)
    assert (await sessions.get(world.user, "mysess")).num_queries == 3


async def test_a_batch_session_starts_at_its_time_and_says_so_before(world: World) -> None:
    made = await world.manager.sessions.create(world.user, batch(starts_at="1s", enqueue_only=True))
    ref, runs = str(made.session.id), world.manager.scheduling.loop
    assert made.session.reason == "waits-for-time"
    while not (waiting := await world.manager.sessions.get(world.user, ref)).reason_detail:
        await asyncio.sleep(0.01)
    assert waiting.status is SessionStatus.PENDING and "as was asked for" in waiting.reason_detail["message"]
    before = runs.runs
    while (started := await world.manager.sessions.get(world.user, ref)).status is not SessionStatus.RUNNING:
        await asyncio.sleep(0.01)
    ran_at = datetime.fromisoformat(started.status_history["SCHEDULED"])
    assert made.session.starts_at is not None and ran_at >= made.session.starts_at
    assert runs.runs - before < 10, "it is not polled for"


async def test_a_chain_runs_in_order(world: World) -> None:
    world.agent.task_exit = 0
    sessions = world.manager.sessions
    first = await sessions.create(world.user, batch("first-one", starts_at="0.3s", enqueue_only=True))
    second = await sessions.create(
        world.user, batch("second-one", dependencies=("first-one",), enqueue_only=True)
    )
    third = await sessions.create(
        world.user, batch("third-one", dependencies=(str(second.session.id), "first-one"), enqueue_only=True)
    )
    graph = await sessions.dependency_graph(world.user, "third-one")
    assert sorted(node.session.name for node in graph.depends_on) == ["first-one", "second-one"]
    done = [await until_ended(world, str(made.session.id)) for made in (first, second, third)]
    assert {(one.status.value, one.result) for one in done} == {("TERMINATED", "success")}
    for before, after in itertools.pairwise(done):
        assert before.terminated_at is not None
        assert before.terminated_at <= datetime.fromisoformat(after.status_history["SCHEDULED"])


async def test_a_failed_one_cancels_all_that_depend_on_it(world: World) -> None:
    world.agent.task_exit = 1
    sessions = world.manager.sessions
    await sessions.create(world.user, batch("first-one", starts_at="0.2s", enqueue_only=True))
    second = await sessions.create(
        world.user, batch("second-one", dependencies=("first-one",), enqueue_only=True)
    )
    with pytest.raises(KernelCreationFailed, match="depends on that") as told:
        await sessions.create(world.user, batch("third-one", dependencies=("second-one",)))
    assert told.value.detail["reason"] == "dependency-failed"
    ended = await until_ended(world, str(second.session.id))
    assert (ended.status, ended.reason) == (SessionStatus.CANCELLED, "dependency-failed")


async def test_only_what_one_may_see_can_be_depended_on(world: World) -> None:
    theirs = await world.manager.sessions.create(world.admin, draft("admins"))
    for ref in ("nobody", "admins", str(theirs.session.id)):
        with pytest.raises(SessionNotFound):
            await world.manager.sessions.create(world.user, batch(dependencies=(ref,)))
    with pytest.raises(SessionNotFound):
        await world.manager.sessions.create(
            world.user, batch(dependencies=("mybatch",))
        )  # not even on itself


async def test_ending_one_and_all_that_wait_for_it(world: World) -> None:
    sessions = world.manager.sessions
    await sessions.create(world.user, batch("first-one"))
    for name, needs in (
        ("second-one", "first-one"),
        ("third-one", "second-one"),
        ("fourth-one", "third-one"),
    ):
        await sessions.create(world.user, batch(name, dependencies=(needs,), enqueue_only=True))
    stats = await sessions.destroy_recursive(world.user, "second-one")
    assert [one["status"] for one in stats] == ["cancelled"] * 3
    ended = await sessions.get(world.user, "fourth-one", live_only=False)
    assert (ended.status, ended.reason) == (SessionStatus.CANCELLED, "user-requested")
    assert (await sessions.get(world.user, "first-one")).status is SessionStatus.RUNNING


async def test_a_cluster_starts_and_ends_whole(world: World) -> None:
    sessions = world.manager.sessions
    await change_policies(world, max_containers_per_session=2)
    with pytest.raises(QuotaExceeded):
        await sessions.create(world.user, draft(cluster_size=3))
    await change_policies(world, max_containers_per_session=4)
    made = await sessions.create(world.user, draft(cluster_size=3))
    assert {kernel.status for kernel in made.session.kernels} == {SessionStatus.RUNNING}
    told = {kernel.hostname: kernel for kernel in world.agent.syncs[-1].kernels}
    assert set(told) == {"main1", "sub1", "sub2"}
    assert told["sub2"].cluster_hosts == ("main1", "sub1", "sub2") and told["sub2"].cluster_idx == 2
    assert {kernel.local_hosts for kernel in told.values()} == {("main1", "sub1", "sub2")}
    keys = [kernel.cluster_key for kernel in world.agent.syncs[0].kernels]
    (key,) = {key.public for key in keys if key is not None}
    assert key.startswith("ssh-ed25519 ")
    main, sub1, sub2 = made.session.kernels
    apart = replace(made.session, kernels=(main, sub1, replace(sub2, agent_id=AgentId("a2"))))
    assert [desired_kernel(apart, kernel).local_hosts for kernel in apart.kernels] == [
        ("main1", "sub1"),
        ("main1", "sub1"),
        ("sub2",),
    ]
    assert all(key and key.private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----") for key in keys)
    waiting = await sessions.create(world.user, draft("second", cluster_size=2, enqueue_only=True))
    while not (found := await sessions.get(world.user, "second")).reason:
        await asyncio.sleep(0.01)
    assert found.reason == "not-enough-free-slots" and "asked 2, free 1" in found.reason_detail["message"]
    assert {kernel.agent_id for kernel in found.kernels} == {None}
    await world.agent.end(made.session.kernels[2].id, "out-of-memory", 137)
    ended = await until_ended(world, "mysess")
    assert (ended.reason, {kernel.status for kernel in ended.kernels}) == (
        "out-of-memory",
        {SessionStatus.TERMINATED},
    )
    again = await sessions.create(world.user, draft("second", cluster_size=2))
    assert again.session.id == waiting.session.id and again.session.status is SessionStatus.RUNNING
    others = {
        kernel.cluster_key.public
        for sync in world.agent.syncs
        for kernel in sync.kernels
        if kernel.session_id == again.session.id and kernel.cluster_key is not None
    }
    assert len(others) == 1 and key not in others, "each session has a key of its own"


async def test_a_clusters_command_waits_until_all_its_kernels_run(world: World) -> None:
    await change_policies(world, max_containers_per_session=4)
    world.agent.task_exit = 0
    made = await world.manager.sessions.create(world.user, batch(cluster_size=2))
    ended = await until_ended(world, str(made.session.id))
    assert (ended.result, ended.reason) == ("success", "task-finished")
    given = [
        {kernel.hostname: kernel.startup_command for kernel in sync.kernels} for sync in world.agent.syncs
    ]
    assert given[0] == {"main1": "", "sub1": ""}
    assert {"main1": "true", "sub1": ""} in given and not any(one.get("sub1") for one in given)


async def test_an_agent_that_was_chosen_is_taken(world: World) -> None:
    sessions = world.manager.sessions
    with pytest.raises(Forbidden) as told:
        await sessions.create(world.user, draft(agent_list=("a1",)))
    assert told.value.code == "access.insufficient-privilege"
    made = await sessions.create(world.admin, draft(agent_list=("a1",)))
    assert made.session.main.agent_id == "a1" and made.session.agent_list == ("a1",)
