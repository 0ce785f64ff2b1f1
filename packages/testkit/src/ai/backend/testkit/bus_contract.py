"""What every bus between the manager and its agents must do. Each adapter's tests subclass `BusContract` and override `ends`.

The suite knows the port alone. It waits for what must come and never for time to pass, except where a timeout is itself the subject.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import pytest

from ai.backend.common.bus import AgentBus, Handler, ManagerBus
from ai.backend.common.errors import AgentUnreachable, BackendError, KernelError, SessionNotFound, Timeout
from ai.backend.common.wire import rpc

AGENT = "i-contract"
KERNEL_ID = UUID(int=7)
COMPLETE = rpc.Complete(kernel_id=KERNEL_ID, code="pri")


@dataclass(frozen=True, slots=True)
class Ends:
    manager: ManagerBus
    agent: AgentBus


class Foreign(BackendError):
    """An error class that only this side knows: a later release, or a plugin."""

    code = "contract.foreign"


def report(sequence: int, *, agent_id: str = AGENT) -> rpc.AgentReport:
    return rpc.AgentReport(
        agent_id=agent_id,
        started_at_us=1,
        sequence=sequence,
        generation=0,
        version="1",
        backend="fake",
        architecture="x86_64",
        address="",
        capacity={"cpu": 1000},
        images=[],
        kernels=[],
    )


@asynccontextmanager
async def serving(
    bus: AgentBus, handler: Handler, agent_id: str = AGENT
) -> AsyncIterator[asyncio.Task[None]]:
    """Answers calls while the block runs."""
    task = asyncio.create_task(bus.serve(agent_id, handler))
    await asyncio.sleep(0.01)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def echo(request: rpc.Request) -> rpc.Reply:
    """Answers a completion with its own code."""
    assert isinstance(request, rpc.Complete)
    return rpc.CompleteReply(completions=[request.code])


class BusContract:
    """The suite."""

    @pytest.fixture
    async def ends(self) -> AsyncIterator[Ends]:
        """Both ends of a fresh bus. Override."""
        raise NotImplementedError
        yield

    async def ask(self, ends: Ends, code: str = "pri", timeout_s: float = 5.0) -> list[str]:
        request = rpc.Complete(kernel_id=KERNEL_ID, code=code)
        return (await ends.manager.call(AGENT, request, rpc.CompleteReply, timeout_s=timeout_s)).completions

    async def test_a_call_is_answered(self, ends: Ends) -> None:
        async with serving(ends.agent, echo):
            assert await self.ask(ends, "print") == ["print"]

    async def test_bytes_and_uuids_survive(self, ends: Ends) -> None:
        seen: list[rpc.Request] = []

        async def handler(request: rpc.Request) -> rpc.Reply:
            seen.append(request)
            return rpc.ReadFileReply(content=bytes(range(256)))

        request = rpc.Upload(
            kernel_id=UUID(int=2**127 + 1), files=[rpc.UploadFile(path="ä/b", content=b"\0\xff")]
        )
        async with serving(ends.agent, handler):
            reply = await ends.manager.call(AGENT, request, rpc.ReadFileReply, timeout_s=5)
        assert reply.content == bytes(range(256))
        assert seen == [request]

    async def test_many_calls_run_at_a_time(self, ends: Ends) -> None:
        arrived = asyncio.Event()
        count = 0

        async def handler(request: rpc.Request) -> rpc.Reply:
            nonlocal count
            count += 1
            if count == 8:
                arrived.set()
            await arrived.wait()
            return await echo(request)

        async with serving(ends.agent, handler):
            answers = await asyncio.gather(*(self.ask(ends, str(number)) for number in range(8)))
        assert answers == [[str(number)] for number in range(8)]

    async def test_nobody_serves(self, ends: Ends) -> None:
        with pytest.raises(AgentUnreachable):
            await self.ask(ends)

    async def test_an_agent_that_left_is_unreachable(self, ends: Ends) -> None:
        async with serving(ends.agent, echo):
            await self.ask(ends)
        with pytest.raises(AgentUnreachable):
            await self.ask(ends)

    async def test_silence_ends_in_a_timeout(self, ends: Ends) -> None:
        async def never(request: rpc.Request) -> rpc.Reply:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        async with serving(ends.agent, never):
            with pytest.raises(Timeout):
                await self.ask(ends, timeout_s=0.05)

    async def test_a_known_error_comes_back_as_its_class(self, ends: Ends) -> None:
        async def handler(request: rpc.Request) -> rpc.Reply:
            raise SessionNotFound("no such thing", hint="Look again.", number=3, names=["a", "b"])

        async with serving(ends.agent, handler):
            with pytest.raises(SessionNotFound) as caught:
                await self.ask(ends)
        assert caught.value.message == "no such thing"
        assert caught.value.hint == "Look again."
        assert caught.value.detail == {"number": 3, "names": ["a", "b"]}

    async def test_details_of_any_shape_cross(self, ends: Ends) -> None:
        async def handler(request: rpc.Request) -> rpc.Reply:
            raise KernelError("x", matches=[{"id": 1}], when=(1, 2), agent_code="z", self_=None)

        async with serving(ends.agent, handler):
            with pytest.raises(KernelError) as caught:
                await self.ask(ends)
        assert set(caught.value.detail) == {"matches", "when", "agent_code", "self_"}

    async def test_a_bug_in_the_handler_is_an_internal_error(self, ends: Ends) -> None:
        broken = True

        async def handler(request: rpc.Request) -> rpc.Reply:
            if broken:
                raise ZeroDivisionError
            return await echo(request)

        async with serving(ends.agent, handler):
            with pytest.raises(BackendError) as caught:
                await self.ask(ends)
            assert caught.value.code == "internal"
            broken = False
            assert await self.ask(ends) == ["pri"]

    async def test_a_caller_that_gives_up_disturbs_nobody(self, ends: Ends) -> None:
        held = asyncio.Event()

        async def handler(request: rpc.Request) -> rpc.Reply:
            assert isinstance(request, rpc.Complete)
            if request.code == "slow":
                await held.wait()
            return await echo(request)

        async with serving(ends.agent, handler):
            task = asyncio.create_task(self.ask(ends, "slow"))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            held.set()
            assert await self.ask(ends) == ["pri"]

    async def test_a_second_agent_process_takes_over(self, ends: Ends) -> None:
        async def second(request: rpc.Request) -> rpc.Reply:
            return rpc.CompleteReply(completions=["second"])

        first = asyncio.create_task(ends.agent.serve(AGENT, echo))
        await asyncio.sleep(0.01)
        async with serving(ends.agent, second):
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert await self.ask(ends) == ["second"]

    async def test_reports_arrive_equal(self, ends: Ends) -> None:
        got: asyncio.Queue[rpc.AgentReport] = asyncio.Queue()
        ends.manager.on_report(got.put)
        async with serving(ends.agent, echo):
            await ends.agent.report(report(1))
            assert await asyncio.wait_for(got.get(), 5) == report(1)

    async def test_reports_of_one_agent_are_handed_over_one_at_a_time(self, ends: Ends) -> None:
        active, most, done = 0, 0, asyncio.Event()

        async def handler(got: rpc.AgentReport) -> None:
            nonlocal active, most
            active += 1
            most = max(most, active)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            active -= 1
            if got.sequence == 9:
                done.set()

        ends.manager.on_report(handler)
        async with serving(ends.agent, echo):
            await asyncio.gather(*(ends.agent.report(report(number)) for number in range(10)))
            await asyncio.wait_for(done.wait(), 5)
        assert most == 1

    async def test_a_failing_report_handler_does_not_hurt_the_agent(self, ends: Ends) -> None:
        got: asyncio.Queue[int] = asyncio.Queue()

        async def handler(one: rpc.AgentReport) -> None:
            if one.sequence == 1:
                raise KernelError("the database is away")
            await got.put(one.sequence)

        ends.manager.on_report(handler)
        async with serving(ends.agent, echo):
            await ends.agent.report(report(1))
            await ends.agent.report(report(2))
            assert await asyncio.wait_for(got.get(), 5) == 2

    async def test_a_report_without_a_manager_is_dropped(self, ends: Ends) -> None:
        async with serving(ends.agent, echo):
            await ends.agent.report(report(1))
