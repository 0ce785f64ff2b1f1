"""The port between the manager and its agents, and its in-process adapter.

Two directions only: the manager *calls* an agent (a request and its reply), and an agent *reports* to the manager (no reply; the next
report repairs a lost one). Nothing above knows whether a network lies between. Every adapter passes `testkit.bus_contract`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from . import errors
from .errors import AgentUnreachable, BackendError, KernelError, Timeout
from .wire import rpc

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
    """The wire form of an error."""
    detail = {
        k: v if isinstance(v, str | int | float | bool | list) or v is None else str(v)
        for k, v in exc.detail.items()
    }
    return rpc.Failure(code=exc.code, text=exc.message, hint=exc.hint, detail=detail)


def error_of(failure: rpc.Failure) -> BackendError:
    """The error again, as the class of its code where this side knows it, else a KernelError that keeps code and text."""
    kind = _codes(errors.BackendError).get(failure.code)
    detail = {k: v for k, v in failure.detail.items() if k not in ("message", "hint", "self")}
    if kind is None:
        return KernelError(failure.text, hint=failure.hint, agent_code=failure.code, **detail)
    return kind(failure.text, hint=failure.hint, **detail)


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
                data = await self._answer(handler, rpc.encode(request))
        except TimeoutError as exc:
            raise Timeout(f"agent {agent_id} did not answer within {timeout_s:g} s", agent=agent_id) from exc
        answer = rpc.decode_reply(data)
        if isinstance(answer, rpc.Failure):
            raise error_of(answer)
        assert isinstance(answer, reply), f"{type(answer).__name__} is no {reply.__name__}"
        return answer

    @staticmethod
    async def _answer(handler: Handler, data: bytes) -> bytes:
        try:
            return rpc.encode(await handler(rpc.decode_request(data)))
        except BackendError as exc:
            return rpc.encode(failure_of(exc))

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
            await self._report_handler(rpc.decode_report(rpc.encode(report)))
