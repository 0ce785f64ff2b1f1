"""What every bus between the manager and its agents must do. Each adapter's tests subclass `BusContract` and override `ends`.

The suite knows the port alone. It waits for what must come and never for time to pass, except where a timeout is itself the subject.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import pytest

from ai.backend.common.bus import Accept, AgentBus, Handler, ManagerBus, StreamHandler
from ai.backend.common.errors import (
    AgentUnreachable,
    BackendError,
    KernelError,
    ServiceRefused,
    SessionNotFound,
    StreamClosed,
    Timeout,
)
from ai.backend.common.log import bound_request, request_id
from ai.backend.common.stream import WINDOW_BYTES, Stream
from ai.backend.common.wire import rpc

AGENT = "i-contract"
KERNEL_ID = UUID(int=7)
COMPLETE = rpc.Complete(kernel_id=KERNEL_ID, code="pri")
CONNECT = rpc.Connect(kernel_id=KERNEL_ID, port=8080)
MUCH = 20 * WINDOW_BYTES
ON_ITS_WAY = 4 * WINDOW_BYTES
"""What an adapter may hold of a stream, all in all: the window, and what its transport keeps."""


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
    bus: AgentBus, handler: Handler, agent_id: str = AGENT, streams: StreamHandler | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """Answers calls while the block runs."""
    task = asyncio.create_task(bus.serve(agent_id, handler, streams))
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


async def parrot(request: rpc.StreamRequest, accept: Accept) -> None:
    """A stream that says what it hears."""
    stream = accept()
    while data := await stream.receive():
        await stream.send(data)


async def read_all(stream: Stream) -> bytes:
    pieces = []
    while data := await stream.receive():
        pieces.append(data)
    return b"".join(pieces)


async def settled(value: Callable[[], int]) -> int:
    """The value once it has stopped changing."""
    last, same = value(), 0
    while same < 20:
        await asyncio.sleep(0.005)
        last, same = value(), same + 1 if value() == last else 0
    return last


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

    async def test_the_callers_request_id_is_the_agents(self, ends: Ends) -> None:
        """It crosses in the message, and is in the context of whoever answers: its log lines have it."""
        seen: list[tuple[str, str]] = []

        async def handler(request: rpc.Request) -> rpc.Reply:
            seen.append((request.request_id, request_id.get()))
            return await echo(request)

        async def streams(request: rpc.StreamRequest, accept: Accept) -> None:
            seen.append((request.request_id, request_id.get()))
            accept()

        async with serving(ends.agent, handler, streams=streams):
            for rid in ("req-1", ""):
                with bound_request(rid):
                    await self.ask(ends)
                    (await ends.manager.open_stream(AGENT, CONNECT, timeout_s=5)).close()
                    assert request_id.get() == rid
        assert seen == [("req-1", "req-1")] * 2 + [("", "")] * 2

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

    # -- streams ---------------------------------------------------------------------------------------------------------------

    async def open(self, ends: Ends, request: rpc.StreamRequest = CONNECT, timeout_s: float = 5.0) -> Stream:
        return await ends.manager.open_stream(AGENT, request, timeout_s=timeout_s)

    async def test_bytes_go_both_ways(self, ends: Ends) -> None:
        async with serving(ends.agent, echo, streams=parrot):
            stream = await self.open(ends)
            await stream.send(b"\0\xff")
            await stream.send(b"")
            assert await stream.receive() == b"\0\xff"
            stream.close()
            stream.close()
            assert await stream.receive() == b""
            with pytest.raises(StreamClosed):
                await stream.send(b"x")

    async def test_the_handler_sees_the_request(self, ends: Ends) -> None:
        seen: asyncio.Queue[rpc.StreamRequest] = asyncio.Queue()

        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            seen.put_nowait(request)
            accept()

        terminal = rpc.OpenTerminal(kernel_id=KERNEL_ID, rows=24, columns=80)
        async with serving(ends.agent, echo, streams=handler):
            for request in (CONNECT, terminal):
                stream = await self.open(ends, request)
                assert await stream.receive() == b""
                assert seen.get_nowait() == request

    async def test_much_arrives_whole_and_in_order(self, ends: Ends) -> None:
        sent = bytes(range(256)) * (MUCH // 256)

        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            await accept().send(sent)

        async with serving(ends.agent, echo, streams=handler):
            assert await read_all(await self.open(ends)) == sent

    async def test_much_can_be_sent(self, ends: Ends) -> None:
        sent = bytes(range(256)) * (MUCH // 256)
        got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            got.set_result(await read_all(accept()))

        async with serving(ends.agent, echo, streams=handler):
            stream = await self.open(ends)
            await stream.send(sent)
            stream.close()
            assert await asyncio.wait_for(got, 5) == sent, "what was sent before the close arrives"

    async def test_a_slow_reader_holds_back_the_agent(self, ends: Ends) -> None:
        sent = 0

        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            nonlocal sent
            stream = accept()
            while sent < MUCH:
                await stream.send(bytes(1000))
                sent += 1000

        async with serving(ends.agent, echo, streams=handler):
            stream = await self.open(ends)
            assert await settled(lambda: sent) <= ON_ITS_WAY
            assert len(await read_all(stream)) == sent >= MUCH

    async def test_a_slow_agent_holds_back_the_sender(self, ends: Ends) -> None:
        go = asyncio.Event()
        got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        sent = 0

        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            stream = accept()
            await go.wait()
            got.set_result(await read_all(stream))

        async def write(stream: Stream) -> None:
            nonlocal sent
            while sent < MUCH:
                await stream.send(bytes(1000))
                sent += 1000
            stream.close()

        async with serving(ends.agent, echo, streams=handler):
            writing = asyncio.create_task(write(await self.open(ends)))
            assert await settled(lambda: sent) <= ON_ITS_WAY
            go.set()
            assert len(await asyncio.wait_for(got, 5)) >= MUCH
            await writing

    async def test_one_stream_that_stands_still_does_not_hold_back_others(self, ends: Ends) -> None:
        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            await accept().send(bytes(MUCH))

        async with serving(ends.agent, echo, streams=handler):
            still, others = await self.open(ends), [await self.open(ends) for _ in range(8)]
            found = await asyncio.gather(*(read_all(one) for one in others))
            assert [len(one) for one in found] == [MUCH] * 8
            assert await self.ask(ends) == ["pri"]
            still.close()

    async def test_a_refused_stream_raises_its_error(self, ends: Ends) -> None:
        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            raise ServiceRefused("nothing listens", port=8080)

        async with serving(ends.agent, echo, streams=handler):
            with pytest.raises(ServiceRefused) as caught:
                await self.open(ends)
        assert caught.value.detail == {"port": 8080}

    async def test_a_bug_before_the_opening_is_an_internal_error(self, ends: Ends) -> None:
        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            raise ZeroDivisionError

        async with serving(ends.agent, echo, streams=handler):
            with pytest.raises(BackendError) as caught:
                await self.open(ends)
            assert caught.value.code == "internal"

    async def test_a_failure_later_comes_after_what_was_sent(self, ends: Ends) -> None:
        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            await accept().send(b"so far")
            raise ServiceRefused("and no further")

        async with serving(ends.agent, echo, streams=handler):
            stream = await self.open(ends)
            assert await stream.receive() == b"so far"
            with pytest.raises(ServiceRefused):
                await stream.receive()
            with pytest.raises(ServiceRefused):
                await stream.send(b"x")

    async def test_a_handler_that_does_not_accept_is_given_up(self, ends: Ends) -> None:
        ended = asyncio.Event()

        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        async with serving(ends.agent, echo, streams=handler):
            with pytest.raises(Timeout):
                await self.open(ends, timeout_s=0.05)
            await asyncio.wait_for(ended.wait(), 5)

    async def test_a_caller_that_gives_up_ends_the_handler(self, ends: Ends) -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            begun.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        async with serving(ends.agent, echo, streams=handler):
            task = asyncio.create_task(self.open(ends))
            await begun.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.wait_for(ended.wait(), 5)

    async def test_an_agent_learns_that_the_manager_has_closed(self, ends: Ends) -> None:
        learned: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            stream = accept()
            try:
                while True:
                    await stream.send(bytes(1000))
            except StreamClosed as exc:
                learned.set_result(exc.code)

        async with serving(ends.agent, echo, streams=handler):
            stream = await self.open(ends)
            await stream.receive()
            stream.close()
            assert await asyncio.wait_for(learned, 5) == "stream.closed"

    async def test_a_handler_that_goes_on_after_the_close_is_cancelled(self, ends: Ends) -> None:
        """`ends` should let handlers linger for a moment only."""
        ended = asyncio.Event()

        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            accept()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        async with serving(ends.agent, echo, streams=handler):
            (await self.open(ends)).close()
            await asyncio.wait_for(ended.wait(), 5)

    async def test_nobody_serves_streams(self, ends: Ends) -> None:
        with pytest.raises(AgentUnreachable):
            await self.open(ends)
        async with serving(ends.agent, echo):
            with pytest.raises(KernelError):
                await self.open(ends)

    async def test_an_agent_that_leaves_ends_its_streams(self, ends: Ends) -> None:
        ended = asyncio.Event()

        async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
            try:
                await parrot(request, accept)
            finally:
                ended.set()

        async with serving(ends.agent, echo, streams=handler):
            stream = await self.open(ends)
            await stream.send(b"x")
            assert await stream.receive() == b"x"
        await asyncio.wait_for(ended.wait(), 5)
        with pytest.raises((StreamClosed, AgentUnreachable)):
            await asyncio.wait_for(stream.receive(), 5)
