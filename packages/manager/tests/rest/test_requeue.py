"""Sessions that wait in the queue again: those that failed to start, and those that were preempted where victims are rescheduled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ai.backend.common.bus import Accept
from ai.backend.common.errors import AgentUnreachable, ServiceRefused
from ai.backend.common.wire import rpc
from ai.backend.common.wire.rpc import KernelReport, KernelState
from ai.backend.manager.db.schema import agents, kernels, resource_groups, sessions
from ai.backend.manager.resource.store import use

from .conftest import PlayedAgent, World
from .test_limits import create, execute, until


@dataclass
class FailingAgent(PlayedAgent):
    """Starts nothing, as long as `works` is false."""

    works: bool = False
    logs: str = "what it last said"
    silent: bool = False
    once: bool = False
    """It works after the first failure."""
    tried: set[str] = field(default_factory=set)

    async def handle(self, request: rpc.Request) -> rpc.Reply:
        if isinstance(request, rpc.GetLogs) and self.silent:
            raise AgentUnreachable("it is busy")
        if isinstance(request, rpc.GetLogs) and request.kernel_id not in self.kernels:
            raise ServiceRefused("the manager did not list it any more, so it was forgotten")
        return await super().handle(request)

    async def follow(self, sync: rpc.Sync) -> None:
        ended = {one.kernel_id: one for one in self.kernels.values() if one.reason == "failed-to-start"}
        self.tried |= {str(kernel.session_id) for kernel in sync.kernels}
        await super().follow(sync)
        for kernel_id, one in list(self.kernels.items()):
            if kernel_id in ended or (not self.works and one.state is KernelState.RUNNING):
                self.kernels[kernel_id] = KernelReport(
                    kernel_id=kernel_id,
                    session_id=one.session_id,
                    incarnation=one.incarnation,
                    state=KernelState.TERMINATED,
                    reason="failed-to-start",
                    message="The disk of this node is broken.",
                )
        # Before it tells: the manager may be back with the next wish while it does.
        self.works |= self.once and bool(self.kernels)
        await self.report()

    async def report(self) -> None:
        if not self.works and any(one.state is KernelState.RUNNING for one in self.kernels.values()):
            return  # what the parent tells before we have spoilt it
        await super().report()


@dataclass
class SlowAgent(PlayedAgent):
    """Ends nothing before it may."""

    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, sync: rpc.Sync) -> None:
        if any(kernel.target == "stop" for kernel in sync.kernels):
            await self.may_end.wait()
        await super().follow(sync)


@contextlib.asynccontextmanager
async def joined(world: World, agent: PlayedAgent) -> AsyncIterator[None]:
    async def no_stream(request: rpc.StreamRequest, accept: Accept) -> None:
        raise AssertionError("nobody asks for one")

    serving = asyncio.create_task(agent.bus.serve(agent.name, agent.handle, no_stream))
    await agent.report()
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def rows(world: World, table: Any, *where: Any) -> list[Any]:
    return list(await world.database.read(lambda conn: list(conn.execute(sa.select(table).where(*where)))))


async def agent_row(world: World, name: str) -> Any:
    return (await rows(world, agents, agents.c.id == name))[0]


async def full(world: World) -> None:
    """The agent of the world takes no sessions for a while: those go to the failing one first."""
    await execute(world, sa.update(agents).where(agents.c.id == "a1").values(schedulable=False))


async def test_a_failed_start_is_tried_on_another_agent(world: World) -> None:
    bad = FailingAgent(world.agent.bus, name="a0", capacity={"cpu": 64000, "mem": 64 << 30})
    bad.silent = True
    async with joined(world, bad):
        answer = await create(world, "my-work")
        info = await until(world, "my-work", "RUNNING")
        session_id = answer.json["sessionId"]
        assert info["id"] == session_id and bad.tried == {session_id}
        old, new = sorted(await rows(world, kernels), key=lambda row: -row.attempt)
        assert (old.agent_id, old.status, old.attempt) == ("a0", "CANCELLED", 1)
        assert (new.agent_id, new.status, new.attempt) == ("a1", "RUNNING", 0)
        (row,) = await rows(world, sessions)
        (attempt,) = row.attempts
        assert attempt["blamed"] == ["a0"] and attempt["reason"] == "failed-to-start"
        assert "RUNNING" in row.status_history and attempt["failed"]
        assert (await agent_row(world, "a0")).start_failures == 1, "it worked elsewhere: that is evidence"
        bad.silent = False
        assert (await world.call("DELETE", "/session/my-work")).status == 200
        async with asyncio.timeout(30):
            while not (await rows(world, kernels, kernels.c.attempt == 1, kernels.c.logs == bad.logs)):
                await asyncio.sleep(0.01)
        assert {row.status for row in await rows(world, kernels)} == {"CANCELLED", "TERMINATED"}


async def test_what_fails_everywhere_fails_and_speaks_against_no_agent(world: World) -> None:
    others = [FailingAgent(world.agent.bus, name=f"b{number}") for number in range(4)]
    async with contextlib.AsyncExitStack() as stack:
        for one in others:
            await stack.enter_async_context(joined(world, one))
        await full(world)
        await create(world, "broken")
        async with asyncio.timeout(30):
            while not (found := await rows(world, sessions, sessions.c.status == "CANCELLED")):
                await asyncio.sleep(0.01)
        (row,) = found
        assert row.reason == "failed-to-start" and "disk" in row.reason_detail["message"]
        assert len(row.attempts) == 2 and sum(bool(one.tried) for one in others) == 3
        assert all([(await agent_row(world, one.name)).start_failures == 0 for one in others])


async def test_one_agent_alone_is_not_asked_twice(world: World) -> None:
    bad = FailingAgent(world.agent.bus, name="a0")
    async with joined(world, bad):
        await full(world)
        await create(world, "my-work")
        async with asyncio.timeout(30):
            while not await rows(world, sessions, sessions.c.status == "CANCELLED"):
                await asyncio.sleep(0.01)
        assert len(await rows(world, kernels)) == 1


async def test_an_agent_where_it_failed_is_better_than_none_and_not_blamed_if_it_works_then(
    world: World,
) -> None:
    await create(world, "fills-it", cpu="4")
    await until(world, "fills-it", "RUNNING")
    bad = FailingAgent(world.agent.bus, name="a0", once=True)
    async with joined(world, bad):
        await create(world, "my-work")
        await until(world, "my-work", "RUNNING")
        (row,) = await rows(world, sessions, sessions.c.name == "my-work")
        assert [attempt["blamed"] for attempt in row.attempts] == [["a0"]]
        assert (await agent_row(world, "a0")).start_failures == 0


async def test_an_agent_where_starts_fail_rests_and_comes_back_by_a_canary(world: World) -> None:
    bad = FailingAgent(world.agent.bus, name="a0", capacity={"cpu": 64000, "mem": 64 << 30})
    async with joined(world, bad):
        for number in range(3):
            await create(world, f"work-{number}", cpu="0.5")
            await until(world, f"work-{number}", "RUNNING")
        row = await agent_row(world, "a0")
        assert row.start_failures == 3 and row.rests_until > datetime.now(UTC) + timedelta(seconds=30)
        await create(world, "work-3", cpu="0.5")
        await until(world, "work-3", "RUNNING")
        assert len(bad.tried) == 3, "it rests"
        await create(world, "too-large", cpu="8")  # only the resting one has so much
        why = (await world.call("GET", "/session/too-large/why")).json
        assert "Agent a0 rests after 3 starts in a row" in why["message"]
        assert why["considered"] == {"agent-not-schedulable": 1, "not-enough-free-slots": 1}, why
        bad.works = True
        rested = sa.update(agents).where(agents.c.id == "a0")
        await execute(world, rested.values(rests_until=datetime.now(UTC) - timedelta(seconds=1)))
        await create(world, "work-4", cpu="0.5")  # the scheduler looks
        await until(world, "too-large", "RUNNING")
        row = await agent_row(world, "a0")
        assert (row.start_failures, row.rests_until) == (0, None)


async def test_a_preempted_session_is_rescheduled_where_that_is_wished(world: World) -> None:
    options = {"preemption": {"enabled": True, "scope": "resource-group", "mode": "reschedule"}}
    await execute(world, sa.update(resource_groups).values(scheduler_opts=options))
    low = (await create(world, "low-one", cpu="4")).json["sessionId"]
    await until(world, "low-one", "RUNNING")
    await create(world, "high-one", key="root", cpu="4", job_priority=5)
    await until(world, "high-one", "RUNNING", key="root")
    info = await until(world, "low-one", "PENDING", "not-enough-free-slots")
    assert info["id"] == low
    (row,) = await rows(world, sessions, sessions.c.name == "low-one")
    (attempt,) = row.attempts
    assert attempt["reason"] == "preempted" and not attempt["failed"] and not attempt["blamed"]
    assert set(row.status_history) == {"PENDING"} and row.result == "undefined"
    why = (await world.call("GET", "/session/low-one/why")).json
    assert "Attempt 1, on a1, ended at" in why["message"] and "took its place" in why["message"]
    assert (await world.call("DELETE", "/session/high-one", key="root")).status == 200
    await until(world, "low-one", "RUNNING")
    day = timedelta(days=1)
    now = datetime.now(UTC)
    used = await world.database.read(lambda conn: use(conn, now - day, now + day))
    names = [(one.session_name, one.terminated_at is None) for one in used]
    assert sorted(names) == [("high-one", False), ("low-one", False), ("low-one", True)]


async def test_who_ends_a_session_that_is_to_be_tried_again_ends_it(world: World) -> None:
    options = {"preemption": {"enabled": True, "scope": "resource-group", "mode": "reschedule"}}
    await execute(world, sa.update(resource_groups).values(scheduler_opts=options))
    await full(world)
    slow = SlowAgent(world.agent.bus, name="b0")
    async with joined(world, slow):
        await create(world, "low-one", cpu="4")
        await until(world, "low-one", "RUNNING")
        await create(world, "high-one", key="root", cpu="4", job_priority=5)
        await until(world, "low-one", "TERMINATING", "preempted")
        ending = asyncio.create_task(world.call("DELETE", "/session/low-one"))
        await until(world, "low-one", "TERMINATING", "user-requested")
        slow.may_end.set()
        assert (await ending).status == 200
        (row,) = await rows(world, sessions, sessions.c.name == "low-one")
        assert (row.status, row.reason, row.attempts) == ("TERMINATED", "user-requested", [])
        await until(world, "high-one", "RUNNING", key="root")
