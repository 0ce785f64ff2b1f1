"""The bus between a manager and its agents, with weather: loss, duplication, delay (and so reordering) and partitions.

A `Network` is the wire; `ManagerEnd` and `AgentEnd` are what the programs hold, and they die with their process: a message to a dead end is
lost, as is one across a partition, at either moment, departure or arrival. In calm weather it passes the same contract suite as every
other bus. All chance comes from one seeded generator. It must never know what the messages mean.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from ai.backend.common.bus import Handler, ReportHandler, StreamHandler, answer, answer_stream, result_of
from ai.backend.common.errors import AgentUnreachable, BackendError, StreamClosed, Timeout
from ai.backend.common.log import request_id
from ai.backend.common.stream import Frame, Stream, StreamEnd
from ai.backend.common.wire import rpc

R = TypeVar("R", bound=rpc.Message)
Deliver = Callable[[bytes], None]
Respond = Callable[[bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Shares are of single messages. A late message takes `late_s` more than its delay: it arrives after many later ones."""

    loss: float = 0.0
    duplication: float = 0.0
    lateness: float = 0.0
    delay_s: tuple[float, float] = (0.0, 0.0)
    late_s: float = 10.0


CALM = Weather()
STREAM_LINGER_S = 0.1


class Network:
    """`weather` may be changed at any moment; `cut` holds the agents that are partitioned from the manager now."""

    def __init__(self, rng: Random, *, weather: Weather = CALM) -> None:
        self._rng = rng
        self.weather = weather
        self.cut: set[str] = set()
        self.carried = 0
        self.lost = 0
        self._manager: ManagerEnd | None = None
        self._agents: dict[str, Service] = {}

    def manager(self) -> "ManagerEnd":
        """The end for a manager process that starts now; the one before it gets nothing more."""
        self._manager = ManagerEnd(self)
        return self._manager

    def agent(self) -> "AgentEnd":
        """The end for an agent process that starts now."""
        return AgentEnd(self)

    def carry(self, agent_id: str, data: bytes, deliver: Deliver) -> None:
        """Takes a message between the manager and this agent, either way, with today's weather."""
        copies = 2 if self._rng.random() < self.weather.duplication else 1
        for _ in range(copies):
            if agent_id in self.cut or self._rng.random() < self.weather.loss:
                self.lost += 1
                continue
            delay_s = self._rng.uniform(*self.weather.delay_s)
            if self._rng.random() < self.weather.lateness:
                delay_s += self.weather.late_s
            asyncio.get_running_loop().call_later(delay_s, self._arrive, agent_id, data, deliver)

    def stream_delay(self, agent_id: str) -> float | None:
        """How long a stream's frame takes; None: it is lost."""
        if agent_id in self.cut or self._rng.random() < self.weather.loss:
            self.lost += 1
            return None
        self.carried += 1
        return self._rng.uniform(*self.weather.delay_s)

    def _arrive(self, agent_id: str, data: bytes, deliver: Deliver) -> None:
        if agent_id in self.cut:
            self.lost += 1
            return
        self.carried += 1
        deliver(data)

    def attach(self, agent_id: str, service: "Service") -> None:
        self._agents[agent_id] = service

    def detach(self, agent_id: str, service: "Service") -> None:
        if self._agents.get(agent_id) is service:
            del self._agents[agent_id]
            if self._manager is not None:
                self._manager.agent_gone(agent_id)

    def serving(self, agent_id: str) -> "Service | None":
        return self._agents.get(agent_id)

    def deliver_request(self, agent_id: str, data: bytes, respond: Respond) -> None:
        service = self._agents.get(agent_id)
        if service is not None:
            service.take(data, respond)

    def deliver_report(self, agent_id: str, data: bytes) -> None:
        if self._manager is not None:
            self._manager.take(agent_id, data)


class Line:
    """One stream's two ends. A stream is all or nothing, as over a real connection: its frames arrive in order, and one that is lost, or
    whose end is dead, loses the stream on both sides."""

    def __init__(self, network: Network, agent_id: str) -> None:
        self._network = network
        self._agent_id = agent_id
        self._arrived: dict[str, float] = {"in": 0.0, "out": 0.0}
        self._under_way: dict[str, deque[Frame]] = {"in": deque(), "out": deque()}
        self.handler: asyncio.Task[None] | None = None
        self.lost = False
        self.manager_end = StreamEnd(lambda frame: self._carry("in", frame))
        self.agent_end = StreamEnd(lambda frame: self._carry("out", frame), on_end=self._linger)

    def _carry(self, way: str, frame: Frame) -> None:
        loop = asyncio.get_running_loop()
        delay_s = self._network.stream_delay(self._agent_id)
        if delay_s is None:
            self.lose()
            return
        self._arrived[way] = max(self._arrived[way], loop.time() + delay_s)
        self._under_way[way].append(frame)
        loop.call_at(self._arrived[way], self._arrive, way)

    def _arrive(self, way: str) -> None:
        frame = self._under_way[way].popleft()  # timers of one moment come in any order, frames do not
        if self.lost:
            return
        if self._agent_id in self._network.cut:
            self.lose()
            return
        (self.agent_end if way == "in" else self.manager_end).take(frame)

    def _linger(self) -> None:
        if self.handler is not None:
            asyncio.get_running_loop().call_later(STREAM_LINGER_S, self.handler.cancel)

    def lose(self) -> None:
        """The connection is gone."""
        self.lost = True
        self.manager_end.lost(AgentUnreachable(f"agent {self._agent_id} went away", agent=self._agent_id))
        self.agent_end.lost(StreamClosed("the manager went away"))


class ManagerEnd:
    """A `ManagerBus`."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._handler: ReportHandler | None = None
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._waiting: dict[asyncio.Future[bytes], str] = {}
        self._lines: list[Line] = []
        self._dead = False

    async def open_stream(self, agent_id: str, request: rpc.StreamRequest, *, timeout_s: float) -> Stream:
        service = self._network.serving(agent_id)
        if service is None:
            raise AgentUnreachable(f"agent {agent_id} is not connected", agent=agent_id)
        opened: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        line = Line(self._network, agent_id)
        self._lines = [one for one in self._lines if not one.lost] + [line]

        def respond(data: bytes) -> None:
            self._network.carry(agent_id, data, lambda got: self._resolve(opened, got))

        self._network.carry(
            agent_id,
            rpc.encode_call(request, request_id.get()),
            lambda data: service.open_stream(data, line, respond),
        )
        try:
            async with asyncio.timeout(timeout_s):
                result_of(await opened, rpc.Done)
        except BaseException as exc:
            line.lose()
            if line.handler is not None:
                line.handler.cancel()
            if isinstance(exc, TimeoutError):
                raise Timeout(f"agent {agent_id} did not open a stream in {timeout_s:g} s") from exc
            raise
        return line.manager_end

    async def call(self, agent_id: str, request: rpc.Request, reply: type[R], *, timeout_s: float) -> R:
        if self._network.serving(agent_id) is None:
            raise AgentUnreachable(
                f"agent {agent_id} is not connected", hint="Check that the agent runs.", agent=agent_id
            )
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[answered] = agent_id

        def respond(data: bytes) -> None:
            self._network.carry(agent_id, data, lambda got: self._resolve(answered, got))

        try:
            async with asyncio.timeout(timeout_s):
                self._network.carry(
                    agent_id,
                    rpc.encode_call(request, request_id.get()),
                    lambda data: self._network.deliver_request(agent_id, data, respond),
                )
                return result_of(await answered, reply)
        except TimeoutError as exc:
            raise Timeout(f"agent {agent_id} did not answer within {timeout_s:g} s", agent=agent_id) from exc
        finally:
            self._waiting.pop(answered, None)

    def _resolve(self, answered: asyncio.Future[bytes], data: bytes) -> None:
        if not self._dead and not answered.done():
            answered.set_result(data)

    def on_report(self, handler: ReportHandler) -> None:
        self._handler = handler

    def take(self, agent_id: str, data: bytes) -> None:
        """A report has arrived."""
        if self._dead or self._handler is None:
            return
        task = asyncio.get_running_loop().create_task(
            self._hand_over(self._handler, agent_id, data), name="report"
        )
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _hand_over(self, handler: ReportHandler, agent_id: str, data: bytes) -> None:
        async with self._locks.setdefault(agent_id, asyncio.Lock()):
            try:
                await handler(rpc.decode_report(data))
            except BackendError:
                return  # the next report repairs it

    def agent_gone(self, agent_id: str) -> None:
        """Its connection closed: calls in flight will not be answered."""
        for answered, of_agent in list(self._waiting.items()):
            if of_agent == agent_id and not answered.done():
                answered.set_exception(
                    AgentUnreachable(f"agent {agent_id} went away during the call", agent=agent_id)
                )

    def die(self) -> None:
        """The process is gone, at this very moment."""
        self._dead = True
        for line in self._lines:
            line.lose()
        for task in list(self._tasks):
            task.cancel()


class Service:
    """One `serve` of an agent's end, while it lasts."""

    def __init__(self, handler: Handler, streams: StreamHandler | None, group: asyncio.TaskGroup) -> None:
        self._handler = handler
        self._streams = streams
        self._group = group
        self._lines: list[Line] = []
        self.dead = False

    def take(self, data: bytes, respond: Respond) -> None:
        """A request has arrived."""
        if not self.dead:
            self._group.create_task(self._answer(data, respond), name="request")

    def open_stream(self, data: bytes, line: Line, respond: Respond) -> None:
        """A request for a stream has arrived."""
        if self.dead or line.handler is not None or line.lost:
            return
        self._lines = [one for one in self._lines if not one.lost] + [line]
        line.handler = self._group.create_task(
            answer_stream(self._streams, data, line.agent_end, respond), name="stream"
        )

    def end(self) -> None:
        self.dead = True
        for line in self._lines:
            line.lose()

    async def _answer(self, data: bytes, respond: Respond) -> None:
        reply = await answer(self._handler, data)
        if not self.dead:
            respond(reply)


class AgentEnd:
    """An `AgentBus`."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._services: dict[Service, str] = {}
        self._dead = False

    async def serve(self, agent_id: str, handler: Handler, streams: StreamHandler | None = None) -> None:
        async with asyncio.TaskGroup() as group:
            service = Service(handler, streams, group)
            self._services[service] = agent_id
            self._network.attach(agent_id, service)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._end(service)

    def _end(self, service: Service) -> None:
        service.end()
        self._network.detach(self._services.pop(service, ""), service)

    async def report(self, report: rpc.AgentReport) -> None:
        if self._dead:
            return
        agent_id = report.agent_id
        self._network.carry(
            agent_id, rpc.encode(report), lambda data: self._network.deliver_report(agent_id, data)
        )

    def die(self) -> None:
        """The process is gone, at this very moment."""
        self._dead = True
        for service in list(self._services):
            self._end(service)
