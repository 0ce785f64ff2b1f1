"""The port between the manager and its agents, and its in-process adapter.

The manager *calls* an agent (a request and its reply), an agent *reports* to the manager (no reply; the next report repairs a lost one),
and the manager opens byte *streams* into an agent's kernels. Nothing above knows whether a network lies between. Every adapter passes
`testkit.bus_contract`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from . import errors
from .errors import AgentUnreachable, BackendError, KernelError, StreamClosed, Timeout
from .log import get_logger, request_id
from .stream import End, Frame, Stream, StreamEnd
from .wire import rpc

log = get_logger(__name__)

R = TypeVar("R", bound=rpc.Message)
Handler = Callable[[rpc.Request], Awaitable[rpc.Reply]]
ReportHandler = Callable[[rpc.AgentReport], Awaitable[None]]
Accept = Callable[[], Stream]
"""Tells the manager that its stream is open; returns the agent's end of it."""
StreamHandler = Callable[[rpc.StreamRequest, Accept], Awaitable[None]]
"""Serves one stream from its opening to its end. What it raises before it has accepted refuses the stream; what it raises afterwards is
told to the reader, after everything that was sent. When it returns, the stream is closed. After the manager has closed its end, the handler
may take in what is left; one that takes too long is cancelled, as are all when the agent stops serving."""

STREAM_LINGER_S = 10.0
"""How long a stream's handler may still take in what came before the manager closed."""


class ManagerBus(Protocol):
    """The manager's end."""

    async def call(self, agent_id: str, request: rpc.Request, reply: type[R], *, timeout_s: float) -> R:
        """The agent's reply. Raises AgentUnreachable, Timeout, or the error that the agent raised."""

    async def open_stream(self, agent_id: str, request: rpc.StreamRequest, *, timeout_s: float) -> Stream:
        """A stream that the agent has accepted; close it. Raises AgentUnreachable, Timeout, or the error with which it was refused.

        When the agent goes away later, the stream's calls raise AgentUnreachable or StreamClosed."""

    def on_report(self, handler: ReportHandler) -> None:
        """Hands every report, one at a time for each agent, to `handler`."""


class AgentBus(Protocol):
    """The agent's end."""

    async def serve(self, agent_id: str, handler: Handler, streams: StreamHandler | None = None) -> None:
        """Answers calls for `agent_id` with `handler`, and streams with `streams`, many at a time, until cancelled."""

    async def report(self, report: rpc.AgentReport) -> None:
        """Sends a report, or drops it when the manager can't be reached: the next one will tell."""


def _codes(kind: type[BackendError]) -> dict[str, type[BackendError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found = {**_codes(child), **found}
    return found


def failure_of(exc: BackendError) -> rpc.Failure:
    """The wire form of an error. What the form has no place for (nested values, very large numbers) crosses as text."""

    def plain(value: Any) -> str | int | float | bool | list[str] | None:
        if isinstance(value, list):
            return [str(item) for item in value]
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return str(value)
        return value if isinstance(value, str | int | float | bool) or value is None else str(value)

    detail = {name: plain(value) for name, value in exc.detail.items()}
    return rpc.Failure(code=exc.code, text=exc.message, hint=exc.hint, detail=detail)


def error_of(failure: rpc.Failure) -> BackendError:
    """The error again, as the class of its code where this side knows it, else a KernelError that keeps code and text."""
    kind = _codes(errors.BackendError).get(failure.code)
    detail: dict[str, Any] = {k: v for k, v in failure.detail.items() if k not in ("message", "hint", "self")}
    if kind is None:
        return KernelError(failure.text, hint=failure.hint, **{**detail, "agent_code": failure.code})
    return kind(failure.text, hint=failure.hint, **detail)


async def answer(handler: Handler, data: bytes) -> bytes:
    """An encoded reply to an encoded request, whatever happens: also a bug in the handler is told, and stays with its call. What is
    logged meanwhile has the caller's request id."""
    before = request_id.set("")
    try:
        request = rpc.decode_request(data)
        request_id.set(request.request_id)
        return rpc.encode(await handler(request))
    except BackendError as exc:
        return rpc.encode(failure_of(exc))
    except Exception as exc:
        log.error("request-failed", error=repr(exc), exc_info=True)
        return rpc.encode(failure_of(BackendError("The agent failed to answer; its log says why.")))
    finally:
        request_id.reset(before)


def result_of(data: bytes, reply: type[R]) -> R:
    """The reply in an encoded answer; raises the error in it."""
    decoded = rpc.decode_reply(data)
    if isinstance(decoded, rpc.Failure):
        raise error_of(decoded)
    assert isinstance(decoded, reply), f"{type(decoded).__name__} is no {reply.__name__}"
    return decoded


async def answer_stream(
    handler: StreamHandler | None, data: bytes, end: StreamEnd, tell: Callable[[bytes], None]
) -> None:
    """Runs a stream's handler, in a task of its own, from its encoded request to its end. `tell` gets the encoded answer to the opening,
    exactly once; from then on `end` carries everything."""
    told = False

    def accept() -> Stream:
        nonlocal told
        told = True
        tell(rpc.encode(rpc.Done()))
        return end

    failure: BackendError | None = StreamClosed("the agent has stopped serving this stream")
    try:
        if handler is None:
            raise KernelError("this agent serves no streams", hint="It is of an older release.")
        request = rpc.decode_stream_request(data)
        request_id.set(request.request_id)  # for the rest of this task, which serves nothing else
        await handler(request, accept)
        failure = None
    except BackendError as exc:
        failure = exc
    except Exception as exc:
        log.error("stream-failed", error=repr(exc), exc_info=True)
        failure = BackendError("The agent failed to serve a stream; its log says why.")
    finally:
        if told:
            end.close(failure)
        else:
            tell(rpc.encode(failure_of(failure or KernelError("the stream was not accepted"))))


class _Service:
    """One `serve` of an agent, while it lasts."""

    def __init__(self, handler: Handler, streams: StreamHandler | None) -> None:
        self.handler = handler
        self.streams = streams
        self.running: set[asyncio.Task[None]] = set()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name="stream")
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task


def _crossed(frame: Frame) -> Frame:
    """A frame as it arrives on the other side of a network: bytes are what they were, an error is told and made again."""
    match frame:
        case End(failure=failure) if failure is not None:
            return End(error_of(failure_of(failure)))
        case _:
            return frame


def _linger(task: asyncio.Task[None], linger_s: float) -> None:
    """Cancels the task, if it still runs then."""
    timer = asyncio.get_running_loop().call_later(linger_s, task.cancel)
    task.add_done_callback(lambda _: timer.cancel())


class InProcessBus:
    """Both ends in one process and one event loop. Messages are encoded all the same, so that nothing mutable is shared and nothing
    works here that would not work over a network."""

    def __init__(self, *, stream_linger_s: float = STREAM_LINGER_S) -> None:
        self._services: dict[str, _Service] = {}
        self._stream_linger_s = stream_linger_s
        self._report_handler: ReportHandler | None = None
        self._report_locks: dict[str, asyncio.Lock] = {}

    async def call(self, agent_id: str, request: rpc.Request, reply: type[R], *, timeout_s: float) -> R:
        service = self._service(agent_id)
        try:
            async with asyncio.timeout(timeout_s):
                data = await answer(service.handler, rpc.encode_call(request, request_id.get()))
        except TimeoutError as exc:
            raise Timeout(f"agent {agent_id} did not answer within {timeout_s:g} s", agent=agent_id) from exc
        return result_of(data, reply)

    def _service(self, agent_id: str) -> _Service:
        service = self._services.get(agent_id)
        if service is None:
            raise AgentUnreachable(
                f"agent {agent_id} is not connected", hint="Check that the agent runs.", agent=agent_id
            )
        return service

    async def open_stream(self, agent_id: str, request: rpc.StreamRequest, *, timeout_s: float) -> Stream:
        service = self._service(agent_id)
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[bytes] = loop.create_future()

        def tell(data: bytes) -> None:
            if not opened.done():
                opened.set_result(data)

        ours: StreamEnd = StreamEnd(lambda frame: theirs.take(_crossed(frame)))
        theirs: StreamEnd = StreamEnd(
            lambda frame: ours.take(_crossed(frame)), on_end=lambda: _linger(task, self._stream_linger_s)
        )
        data = rpc.encode_call(request, request_id.get())
        task = service.run(answer_stream(service.streams, data, theirs, tell))
        never_ran = rpc.encode(failure_of(StreamClosed("the agent has stopped serving streams")))
        task.add_done_callback(lambda _: tell(never_ran))
        try:
            async with asyncio.timeout(timeout_s):
                result_of(await opened, rpc.Done)
        except TimeoutError as exc:
            task.cancel()
            raise Timeout(
                f"agent {agent_id} did not open a stream in {timeout_s:g} s", agent=agent_id
            ) from exc
        except asyncio.CancelledError:
            task.cancel()
            raise
        return ours

    def on_report(self, handler: ReportHandler) -> None:
        self._report_handler = handler

    async def serve(self, agent_id: str, handler: Handler, streams: StreamHandler | None = None) -> None:
        service = self._services[agent_id] = _Service(handler, streams)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if self._services.get(agent_id) is service:
                del self._services[agent_id]
            for task in list(service.running):
                task.cancel()

    async def report(self, report: rpc.AgentReport) -> None:
        if self._report_handler is None:
            return
        async with self._report_locks.setdefault(report.agent_id, asyncio.Lock()):
            try:
                await self._report_handler(rpc.decode_report(rpc.encode(report)))
            except Exception as exc:
                # The manager's trouble is not the agent's: the next report repairs it.
                known = isinstance(exc, BackendError)
                log.error("report-dropped", agent=report.agent_id, error=str(exc), exc_info=not known)
