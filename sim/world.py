"""One simulated cluster: processes that can die at any step, nodes and a database that outlive them, and the faults that befall them.

A process is what is lost in a crash: its tasks, its ends of the bus, its view of database or engine. At a crash those views die first, so
that no `finally` of the dead process can still change the world, and then its tasks are cancelled. The manager is the real one; agents
are real or the model (`sim.model_agent`), as the run wishes.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any, Protocol, TypeVar

from ai.backend.agent.container.errors import ContainerFailed
from ai.backend.agent.container.model import ContainerStatus, ExitCause, ExitInfo
from ai.backend.agent.kernel.driver import LABEL_DEVICES
from ai.backend.common.clock import Clock
from ai.backend.common.errors import BackendError, Unavailable
from ai.backend.common.ids import Random as RandomPort
from ai.backend.manager.assembly import Manager, build
from ai.backend.manager.config import ManagerConfig
from ai.backend.manager.db.database import Database
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.secret import Secrets
from ai.backend.testkit.fake_container import FakeBackend, FakeContainer, FakeWorld

from .checkers import TERMINAL, Checkers, ContainerFact, NetworkFact, Rows, short
from .container import MortalBackend
from .database import MortalDatabase
from .faults import Fault, Kind
from .loop import VirtualTimeLoop
from .network import CALM, AgentEnd, ManagerEnd, Network
from .story import Story

T = TypeVar("T")

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
CONFIG = ManagerConfig(
    start_timeout_s=60, restart_timeout_s=40, terminate_timeout_s=40, error_timeout_s=120, destroy_wait_s=20.0
)
"""Shorter limits than in production: less virtual time for each seed."""


class ManagerGone(Unavailable):
    """The manager died during the call, or there is none now. The caller can't know whether its wish was heard."""

    code = "sim.manager-gone"


class SimClock:
    """The loop's time from a fixed date on; its wall clock can jump, its monotonic time can't."""

    def __init__(self) -> None:
        self.offset_s = 0.0

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.monotonic() + self.offset_s)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class NoSecrets:
    """Nothing in a simulation is secret."""

    def seal(self, plain: str, *, context: str) -> bytes:
        return plain.encode()

    def unseal(self, sealed: bytes, *, context: str) -> str:
        return sealed.decode()

    def derive(self, context: str) -> bytes:
        return context.encode()[:32].ljust(32)


class AgentProgram(Protocol):
    async def run(self) -> None:
        """Until cancelled."""


@dataclass(slots=True)
class Node:
    """A machine: its containers and its disk outlive its agent."""

    agent_id: str
    engine: FakeWorld
    capacity: dict[str, int]
    gpus: int = 0
    """Of which shares are given."""
    disk: dict[str, Any] = field(default_factory=dict)
    """Whatever the agent program keeps between its lives."""
    process: "AgentProcess | None" = None


MakeAgent = Callable[[Node, MortalBackend, AgentEnd, Clock, RandomPort], Awaitable[AgentProgram]]


@dataclass(slots=True)
class AgentProcess:
    bus: AgentEnd
    backend: MortalBackend
    task: asyncio.Task[None]


@dataclass(slots=True)
class ManagerProcess:
    manager: Manager
    bus: ManagerEnd
    database: MortalDatabase
    task: asyncio.Task[None]
    calls: dict[asyncio.Task[Any], None] = field(default_factory=dict)


class World:
    """Build inside a running virtual loop; `start`, then `fault` and `ask` as the run wishes."""

    def __init__(
        self,
        rng: Random,
        *,
        loop: VirtualTimeLoop,
        database: Database,
        nodes: list[Node],
        make_agent: MakeAgent,
        checkers: Checkers,
        story: Story,
    ) -> None:
        self._rng = rng
        self._loop = loop
        self._database = database
        self._make_agent = make_agent
        self.nodes = nodes
        self.checkers = checkers
        self.story = story
        self.clock = SimClock()
        self.network = Network(Random(rng.getrandbits(64)))
        self.manager: ManagerProcess | None = None
        self._restarting = 0
        self._crash_on_commit: Fault | None = None
        self._due: list[tuple[int, Fault]] = []
        self._own: dict[asyncio.Task[Any], None] = {}
        for node in nodes:
            node.engine.on_start.append(partial(self._container, node, "runs"))
            node.engine.on_gone.append(partial(self._container, node, "is gone"))
            node.engine.on_networks.append(self._network)
            node.engine.listen(lambda _name: self.checkers.containers_changed(self.now_s, self._facts()))
        loop.after_step = self._count_step

    @property
    def now_s(self) -> float:
        return self._loop.time()

    def tell(self, text: str) -> None:
        self.story.tell(self.now_s, text)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of the world itself, which no crash touches."""
        task = self._loop.create_task(work)
        self._own[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._own.pop(task, None)
        if not task.cancelled():
            task.exception()  # whoever awaits it has it; an agent that died meanwhile has not

    async def start(self) -> None:
        self.start_manager()
        for node in self.nodes:
            await self.start_agent(node)

    # Processes.

    def start_manager(self) -> None:
        assert self.manager is None
        self.tell("manager starts")
        bus = self.network.manager()
        database = MortalDatabase(self._database, Random(self._rng.getrandbits(64)), self._committed)
        rng = Random(self._rng.getrandbits(64))
        secrets: Secrets = NoSecrets()
        identity = IdentityService(database, secrets, clock=self.clock, rng=rng)
        manager = build(
            config=CONFIG, clock=self.clock, rng=rng, database=database, bus=bus, identity=identity
        )
        task = self._loop.create_task(manager.run(ready=asyncio.Event()), name="manager")
        process = ManagerProcess(manager, bus, database, task)
        task.add_done_callback(lambda done: self._process_ended("manager", done, process.database.dead))
        self.manager = process

    def crash_manager(self, down_s: float) -> None:
        process, self.manager = self.manager, None
        if process is None:
            return
        self.tell(f"manager crashes, down for {down_s:.1f} s")
        process.database.dead = True
        process.bus.die()
        for task in [process.task, *process.calls]:
            task.cancel()
        self.spawn(self._restart_manager(down_s))

    async def _restart_manager(self, down_s: float) -> None:
        self._restarting += 1
        await asyncio.sleep(down_s)
        self._restarting -= 1
        if self.manager is None and not self._restarting:
            self.start_manager()

    async def start_agent(self, node: Node) -> None:
        assert node.process is None
        self.tell(f"{node.agent_id} starts")
        bus = self.network.agent()
        backend = MortalBackend(FakeBackend(node.engine), self.spawn)
        program = await self._make_agent(node, backend, bus, self.clock, Random(self._rng.getrandbits(64)))
        task = self._loop.create_task(program.run(), name=node.agent_id)
        process = AgentProcess(bus, backend, task)
        task.add_done_callback(lambda done: self._process_ended(node.agent_id, done, process.backend.dead))
        node.process = process

    def crash_agent(self, node: Node, down_s: float) -> None:
        process, node.process = node.process, None
        if process is None:
            return
        self.tell(f"{node.agent_id} crashes, down for {down_s:.1f} s")
        process.bus.die()
        process.backend.dead = True
        process.task.cancel()
        self.spawn(self._restart_agent(node, down_s))

    async def _restart_agent(self, node: Node, down_s: float) -> None:
        await asyncio.sleep(down_s)
        if node.process is None:
            await self.start_agent(node)

    def _process_ended(self, name: str, task: asyncio.Task[None], dead: bool) -> None:
        if not dead and not task.cancelled():
            self.unexpected(f"{name} ended by itself", task.exception())

    def unexpected(self, what: str, exc: BaseException | None) -> None:
        """Something that no correct program does, faults or not."""
        self.tell(f"UNEXPECTED {what}: {_described(exc)}")
        self.checkers.violations.append(f"{what}: {_described(exc)}")

    async def ask(self, work: Callable[[Manager], Coroutine[Any, Any, T]]) -> T:
        """A user's call: runs inside the manager's process and dies with it (ManagerGone)."""
        process = self.manager
        if process is None:
            raise ManagerGone("there is no manager now")
        task = self._loop.create_task(work(process.manager), name="call")
        process.calls[task] = None
        try:
            await asyncio.wait({task})
        finally:
            process.calls.pop(task, None)
            task.cancel()
        if task.cancelled():
            raise ManagerGone("the manager died during the call")
        return task.result()

    # What is seen.

    def _committed(self, rows: Rows) -> None:
        before = {session.id: session.status for session in self.checkers.rows.sessions}
        for session in rows.sessions:
            was = before.get(session.id, "")
            if was != session.status:
                why = f" ({session.reason})" if session.reason else ""
                self.tell(
                    f"session {short(session.id)} {session.name}: {was or 'new'} -> {session.status}{why}"
                )
        self.checkers.rows_changed(self.now_s, rows)
        fault, self._crash_on_commit = self._crash_on_commit, None
        if fault is not None:
            self.crash_manager(fault.duration_s)
            raise asyncio.CancelledError

    def _container(self, node: Node, what: str, container: FakeContainer) -> None:
        cause = f" ({container.exit.cause.value})" if container.exit else ""
        self.tell(f"{node.agent_id}: container {container.spec.name[:20]} {what}{cause}")
        self.checkers.containers_changed(self.now_s, self._facts())

    def _network(self) -> None:
        facts = [
            NetworkFact(agent_id=node.agent_id, session_id=name)
            for node in self.nodes
            for name in sorted(node.engine.networks)
        ]
        self.checkers.networks_changed(self.now_s, facts)

    def _facts(self) -> list[ContainerFact]:
        return [
            ContainerFact(
                agent_id=node.agent_id,
                name=name,
                kernel_id=_kernel_id(container),
                uid=container.spec.uid,
                memory_bytes=container.spec.limits.memory_bytes,
                cpu_milli=container.spec.limits.cpu_milli,
                devices=_devices(container),
                network=container.spec.network.name if container.spec.network else "",
            )
            for node in self.nodes
            for name, container in sorted(node.engine.containers.items())
            if container.status is ContainerStatus.RUNNING
        ]

    # Faults.

    def fault(self, fault: Fault) -> None:
        """Applies a fault now."""
        self.tell(f"FAULT {fault}")
        node = self.nodes[fault.node % len(self.nodes)]
        match fault.kind:
            case Kind.MANAGER_CRASH | Kind.AGENT_CRASH:
                self._due.append((self._loop.steps + fault.steps, fault))
            case Kind.COMMIT_THEN_CRASH:
                self._crash_on_commit = fault
            case Kind.NODE_REBOOT:
                self.crash_agent(node, fault.duration_s)
                node.engine.reboot()
            case Kind.STORM:
                self.network.weather = fault.weather
                self._later(fault.duration_s, self._calm)
            case Kind.PARTITION:
                self.network.cut.add(node.agent_id)
                self._later(fault.duration_s, lambda: self.network.cut.discard(node.agent_id))
            case Kind.ENGINE_ERROR:
                node.engine.fail_next(fault.call, ContainerFailed("a fault of the simulator"))
            case Kind.ENGINE_PAUSE:
                node.engine.available = False
                self._later(fault.duration_s, lambda: setattr(node.engine, "available", True))
            case Kind.OUT_OF_MEMORY | Kind.SELF_EXIT:
                self._end_container(fault)
            case Kind.CLOCK_JUMP:
                self.clock.offset_s += fault.duration_s

    def heal(self) -> None:
        """Ends every fault that still lasts."""
        self._calm()
        self.network.cut.clear()
        self._crash_on_commit = None
        self._due.clear()
        for node in self.nodes:
            node.engine.available = True
            node.engine._faults.clear()

    def _calm(self) -> None:
        self.network.weather = CALM

    def _later(self, delay_s: float, action: Callable[[], object]) -> None:
        self._loop.call_later(delay_s, action)

    def _end_container(self, fault: Fault) -> None:
        running = [
            (node, name)
            for node in self.nodes
            for name, container in sorted(node.engine.containers.items())
            if container.status is ContainerStatus.RUNNING
        ]
        if not running:
            return
        node, name = running[fault.node % len(running)]
        if fault.kind is Kind.OUT_OF_MEMORY:
            node.engine.oom(name)
        else:
            node.engine.exit(name, ExitInfo(cause=ExitCause.EXITED, exit_code=0))

    def _count_step(self) -> None:
        if not self._due or self._loop.steps < self._due[0][0]:
            return
        for due, fault in [one for one in self._due if one[0] <= self._loop.steps]:
            self._due.remove((due, fault))
            if fault.kind is Kind.MANAGER_CRASH:
                self.crash_manager(fault.duration_s)
            else:
                self.crash_agent(self.nodes[fault.node % len(self.nodes)], fault.duration_s)

    def live(self) -> list[str]:
        """Ids of sessions that have not ended, by rows."""
        return [session.id for session in self.checkers.rows.sessions if session.status not in TERMINAL]


def _devices(container: FakeContainer) -> dict[str, int]:
    labels = dict(container.spec.labels)
    held: dict[str, dict[str, int]] = json.loads(labels.get(LABEL_DEVICES, "{}"))
    return {device: milli for given in held.values() for device, milli in given.items()}


def _kernel_id(container: FakeContainer) -> str:
    for name, value in container.spec.labels:
        if name.endswith(("kernel-id", "kernel_id", "kernel")):
            return value
    raise AssertionError(f"the container {container.spec.name} has no label with its kernel's id")


def _described(exc: BaseException | None) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if exc is None:
        return "no exception"
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    text = str(exc) if isinstance(exc, BackendError) else repr(exc)
    return f"{text}{where}"
