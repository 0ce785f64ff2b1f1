"""An agent reduced to its contract with the manager: with it the manager is simulated alone.

It takes whole desired sets with generations, makes the containers of a `ContainerBackend` match, and reports its whole state on every
change and every few seconds. Its journal is an object that outlives it, as a disk would. When a seed fails with real agents and passes
with these, the fault is the agent's. It must never know the manager.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from uuid import UUID

from ai.backend.agent.container.backend import ContainerBackend
from ai.backend.agent.container.errors import ContainerError
from ai.backend.agent.container.model import (
    Container,
    ContainerSpec,
    ContainerStatus,
    ExitCause,
    Image,
    Limits,
)
from ai.backend.common.bus import AgentBus
from ai.backend.common.clock import Clock
from ai.backend.common.errors import KernelError
from ai.backend.common.wire import rpc
from ai.backend.common.wire.rpc import DesiredKernel, KernelReport, KernelState

HEARTBEAT_S = 5.0
FIRST_UID = 10_000
KERNEL_LABEL = "ai.backend.kernel-id"
SESSION_LABEL = "ai.backend.session-id"
INCARNATION_LABEL = "ai.backend.incarnation"


@dataclass(slots=True)
class Journal:
    """What a disk keeps: survives the process."""

    generation: int = 0
    started_at_us: int = 0
    desired: dict[UUID, DesiredKernel] = field(default_factory=dict)
    ended: dict[UUID, KernelReport] = field(default_factory=dict)


class ModelAgent:
    def __init__(
        self,
        agent_id: str,
        *,
        capacity: dict[str, int],
        backend: ContainerBackend,
        bus: AgentBus,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._id = agent_id
        self._capacity = capacity
        self._backend = backend
        self._bus = bus
        self._clock = clock
        self._journal = journal
        self._sequence = 0
        self._images: list[rpc.ImageReport] = []
        self._seen: dict[str, Container] = {}
        self._healthy = True
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        now_us = int(self._clock.now().timestamp() * 1e6)
        self._journal.started_at_us = max(now_us, self._journal.started_at_us + 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._work())
            group.create_task(self._bus.serve(self._id, self._answer))

    async def _watch(self) -> None:
        async for _ in self._backend.events(lambda _name: self._changed.set()):
            self._changed.set()

    async def _answer(self, request: rpc.Request) -> rpc.Reply:
        if isinstance(request, rpc.Sync):
            if request.generation < self._journal.generation:
                return rpc.SyncReply(accepted=False, generation=self._journal.generation)
            self._journal.generation = request.generation
            self._journal.desired = {kernel.kernel_id: kernel for kernel in request.kernels}
            self._journal.ended = {
                kernel_id: report
                for kernel_id, report in self._journal.ended.items()
                if kernel_id in self._journal.desired
            }
            self._changed.set()
            return rpc.SyncReply(accepted=True, generation=request.generation)
        if isinstance(request, rpc.GetLogs):
            return rpc.GetLogsReply(text="")
        if isinstance(request, rpc.Execute) and self._running(request.kernel_id):
            return rpc.ExecuteReply(run_id=request.run_id, status="finished")
        raise KernelError("this agent has no such kernel")

    def _running(self, kernel_id: UUID) -> bool:
        container = self._seen.get(_name(kernel_id))
        return container is not None and container.status is ContainerStatus.RUNNING

    async def _work(self) -> None:
        """Look, act on one thing at a time, report; again when something changed and at every heartbeat."""
        while True:
            self._changed.clear()
            try:
                if not self._images:
                    await self._backend.open()
                    self._images = [_image(image) for image in await self._backend.images()]
                await self._look()
                for kernel in list(self._journal.desired.values()):
                    await self._drive(kernel)
                await self._look()
                self._healthy = True
            except ContainerError:
                self._healthy = False
            await self._report()
            try:
                async with asyncio.timeout(HEARTBEAT_S if self._healthy else 1.0):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        self._seen = {container.name: container for container in await self._backend.list()}

    async def _drive(self, kernel: DesiredKernel) -> None:
        name = _name(kernel.kernel_id)
        container = self._seen.get(name)
        ended = self._journal.ended.get(kernel.kernel_id)
        if ended is not None and ended.incarnation >= kernel.incarnation:
            if container is not None:
                await self._backend.remove(name)
            return
        if kernel.target == "stop":
            if container is not None:
                await self._backend.stop(name, grace_s=0.0 if kernel.forced else 2.0)
                await self._backend.remove(name)
            self._end(kernel, kernel.stop_reason or "user-requested", None)
            return
        if container is not None and int(container.labels[INCARNATION_LABEL]) < kernel.incarnation:
            await self._backend.remove(name)
            container = None
        if container is None:
            try:
                self._journal.ended.pop(kernel.kernel_id, None)
                await self._backend.create(self._spec(kernel))
                await self._backend.start(name)
            except ContainerError as exc:
                if not self._journal.desired.get(kernel.kernel_id):
                    return
                await self._backend.remove(name)
                self._end(kernel, "failed-to-start", exc.message)
        elif container.status is ContainerStatus.CREATED:
            await self._backend.start(name)
        elif container.status is ContainerStatus.EXITED:
            killed = container.exit is not None and container.exit.cause is ExitCause.OUT_OF_MEMORY
            await self._backend.remove(name)
            self._end(kernel, "out-of-memory" if killed else "self-terminated", None)
        elif kernel.startup_command:
            await self._backend.remove(name)
            code = int(kernel.startup_command.rpartition("exit ")[2])
            self._end(kernel, "task-finished", None, exit_code=code)

    def _end(
        self, kernel: DesiredKernel, reason: str, message: str | None, *, exit_code: int | None = None
    ) -> None:
        self._journal.ended[kernel.kernel_id] = KernelReport(
            kernel_id=kernel.kernel_id,
            session_id=kernel.session_id,
            incarnation=kernel.incarnation,
            state=KernelState.TERMINATED,
            reason=reason,
            message=message or "",
            exit_code=exit_code,
        )

    def _spec(self, kernel: DesiredKernel) -> ContainerSpec:
        taken = {container.labels.get("uid") for container in self._seen.values()}
        uid = next(uid for uid in range(FIRST_UID, FIRST_UID + 1000) if str(uid) not in taken)
        name = _name(kernel.kernel_id)
        spec = ContainerSpec(
            name=name,
            image=kernel.image,
            command=("runner",),
            environ=(),
            labels=(
                (KERNEL_LABEL, str(kernel.kernel_id)),
                (SESSION_LABEL, str(kernel.session_id)),
                (INCARNATION_LABEL, str(kernel.incarnation)),
                ("uid", str(uid)),
            ),
            mounts=(),
            limits=Limits(
                memory_bytes=kernel.slots.get("mem", 0), cpu_milli=kernel.slots.get("cpu", 0), pids=100
            ),
            uid=uid,
            gid=uid,
            hostname=kernel.hostname,
            workdir=PurePosixPath("/home/work"),
        )
        self._seen[name] = Container(
            id=name, name=name, image=spec.image, status=ContainerStatus.CREATED, labels=dict(spec.labels)
        )
        return spec

    async def _report(self) -> None:
        self._sequence += 1
        await self._bus.report(
            rpc.AgentReport(
                agent_id=self._id,
                started_at_us=self._journal.started_at_us,
                sequence=self._sequence,
                generation=self._journal.generation,
                version="model",
                backend="fake",
                architecture="x86_64",
                address="",
                capacity=self._capacity,
                images=self._images,
                kernels=self._kernels(),
                healthy=self._healthy,
                problem="" if self._healthy else "the engine does not answer",
            )
        )

    def _kernels(self) -> list[KernelReport]:
        reports = dict(self._journal.ended)
        for container in self._seen.values():
            kernel_id = UUID(container.labels[KERNEL_LABEL])
            if kernel_id not in reports:
                reports[kernel_id] = self._of_container(kernel_id, container)
        for kernel_id, kernel in self._journal.desired.items():
            if kernel_id not in reports:
                reports[kernel_id] = KernelReport(
                    kernel_id=kernel_id,
                    session_id=kernel.session_id,
                    incarnation=kernel.incarnation,
                    state=KernelState.PREPARING,
                )
        return list(reports.values())

    def _of_container(self, kernel_id: UUID, container: Container) -> KernelReport:
        desired = self._journal.desired.get(kernel_id)
        state = KernelState.UNKNOWN
        if desired is not None:
            running = container.status is ContainerStatus.RUNNING
            state = KernelState.RUNNING if running else KernelState.PREPARING
            state = KernelState.STOPPING if desired.target == "stop" else state
        return KernelReport(
            kernel_id=kernel_id,
            session_id=UUID(container.labels[SESSION_LABEL]),
            incarnation=int(container.labels[INCARNATION_LABEL]),
            state=state,
            container_id=container.id,
        )


def _name(kernel_id: UUID) -> str:
    return f"kernel-{kernel_id.hex}"


def _image(image: Image) -> rpc.ImageReport:
    return rpc.ImageReport(
        name=image.name,
        digest=image.digest,
        architecture=image.architecture,
        size_bytes=image.size_bytes,
        labels=image.labels,
    )
