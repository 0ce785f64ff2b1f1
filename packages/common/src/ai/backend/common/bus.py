"""The port between the manager and its agents, and its in-process adapter.

Two directions only: the manager *calls* an agent (a request and its reply), and an agent *reports* to the manager (no reply; the next
report repairs a lost one). Nothing above knows whether a network lies between. Every adapter passes `testkit.bus_contract`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from . import errors
from .errors import AgentUnreachable, BackendError, KernelError, Timeout
from .log import get_logger
from .wire import rpc

log = get_logger(__name__)

R = TypeVar("R", bound=rpc.Message)
Handler = Callable[[rpc.Request], Awaitable[rpc.Reply]]
ReportHandler = Callable[[rpc.AgentReport], Awaitable[None]]


class ManagerBus(Protocol):
    """The manager's end."""

    async def call(self, agent_id: str, request: rpc.Request, reply: type[R], *, timeout_s: float) -> R:
        """The agent's reply. Raises AgentUnreachable, Timeout, or the error that the agent raised."""

    def on_report(self, handler: ReportHandler) -> None:
        """Hands every report, one at a time for each agent, to `handler`."""


class AgentBus(Protocol):
    """The agent's end."""

    async def serve(self, agent_id: str, handler: Handler) -> None:
        """Answers calls for `agent_id` with `handler`, many at a time, until cancelled."""

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
    """An encoded reply to an encoded request, whatever happens: also a bug in the handler is told, and stays with its call."""
    try:
        return rpc.encode(await handler(rpc.decode_request(data)))
    except BackendError as exc:
        return rpc.encode(failure_of(exc))
    except Exception as exc:
        log.error("request-failed", error=repr(exc), exc_info=True)
        return rpc.encode(failure_of(BackendError("The agent failed to answer; its log says why.")))


def result_of(data: bytes, reply: type[R]) -> R:
    """The reply in an encoded answer; raises the error in it."""
    decoded = rpc.decode_reply(data)
    if isinstance(decoded, rpc.Failure):
        raise error_of(decoded)
    assert isinstance(decoded, reply), f"{type(decoded).__name__} is no {reply.__name__}"
    return decoded


class InProcessBus:
    """Both ends in one process and one event loop. Messages are encoded all the same, so that nothing mutable is shared and nothing
    works here that would not work over a network."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._report_handler: ReportHandler | None = None
        self._report_locks: dict[str, asyncio.Lock] = {}

    async def call(self, agent_id: str, request: rpc.Request, reply: type[R], *, timeout_s: float) -> R:
        handler = self._handlers.get(agent_id)
        if handler is None:
            raise AgentUnreachable(
                f"agent {agent_id} is not connected", hint="Check that the agent runs.", agent=agent_id
            )
        try:
            async with asyncio.timeout(timeout_s):
                data = await answer(handler, rpc.encode(request))
        except TimeoutError as exc:
            raise Timeout(f"agent {agent_id} did not answer within {timeout_s:g} s", agent=agent_id) from exc
        return result_of(data, reply)

    def on_report(self, handler: ReportHandler) -> None:
        self._report_handler = handler

    async def serve(self, agent_id: str, handler: Handler) -> None:
        self._handlers[agent_id] = handler
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if self._handlers.get(agent_id) is handler:
                del self._handlers[agent_id]

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
