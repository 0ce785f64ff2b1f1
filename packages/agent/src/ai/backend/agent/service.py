"""The agent: makes this node's kernels what the manager wants them to be, and reports what is.

It adopts what it finds at its start, refuses old wishes, touches nothing that it does not know, and leaves everything running when it goes.
"""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any
from uuid import UUID

from ai.backend.common.bus import Accept, AgentBus
from ai.backend.common.clock import Clock
from ai.backend.common.errors import BackendError, KernelError
from ai.backend.common.log import get_logger
from ai.backend.common.quantity import parse_size
from ai.backend.common.wire import rpc

from .commit.service import Commits
from .config import AgentConfig
from .container.backend import RUNNER_DIR, ContainerBackend
from .container.model import Image, Mount
from .kernel.driver import (
    LABEL_DEVICES,
    LABEL_HOSTS,
    LABEL_INCARNATION,
    LABEL_KERNEL,
    LABEL_SESSION,
    LABEL_UID,
    RETRY_S,
    STEP_TOLD_AFTER_S,
    Driver,
    LinkFactory,
    Numa,
    Surroundings,
)
from .kernel.file import HomeFolder
from .kernel.journal import Entry, Journal, NodeFacts
from .kernel.machine import Event, State
from .kernel.network import SessionNetworks
from .kernel.scratch import Scratch
from .resource.capacity import free_bytes, node_capacity, usable_cores
from .resource.device import Devices
from .resource.numa import read_nodes
from .resource.uid import lowest_free
from .runner.client import Runner
from .runner.stream import relay

log = get_logger(__name__)

VERSION = "0.1.0"
RECONNECT_S = 0.5


class NoSuchKernel(KernelError):
    """This agent runs no such kernel (any more)."""

    code = "kernel.not-found"


class Agent:
    """`state_dir` is private to the agent; `scratch_dir` lies below folders that containers' users can traverse.

    `own_uid`: the user id of all kernels when the agent is not root; None gives each its own.
    """

    def __init__(
        self,
        *,
        config: AgentConfig,
        clock: Clock,
        bus: AgentBus,
        backend: ContainerBackend,
        agent_id: str,
        state_dir: Path,
        scratch_dir: Path,
        runner_volume: Path,
        link: LinkFactory,
        architecture: str,
        own_uid: int | None,
        capacity: dict[str, int] | None = None,
        devices: Devices | None = None,
    ) -> None:
        self.config = config
        self.backend = backend
        self.id = agent_id
        self._clock = clock
        self._bus = bus
        self._journal = Journal(state_dir)
        self._scratch_dir = scratch_dir
        self._architecture = architecture
        self._own_uid = own_uid
        self._capacity = capacity or node_capacity(
            reserved_memory_bytes=parse_size(config.reserved_mem), cores=config.cores
        )
        self._devices = devices or Devices()
        self._runner_volume = Mount(source=runner_volume, target=RUNNER_DIR)
        self._link = link
        self._kernels: dict[UUID, Driver] = {}
        self._images: list[Image] = []
        self._problem = ""
        self._generation = 0
        self._sequence = 0
        self._started_at_us = 0
        self._news = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._networks = SessionNetworks(backend, self._kernels.values)
        commit_dir = Path(config.commit_dir) if config.commit_dir else state_dir / "commits"
        self._commits = Commits(config=config, backend=backend, folder=commit_dir, made=self._tell_images)
        self._sweeping: asyncio.Task[None] | None = None
        self._around = Surroundings(
            config=config,
            backend=backend,
            journal=self._journal,
            scratch_root=lambda kernel_id: Scratch.of(scratch_dir, kernel_id),
            networks=self._networks,
            devices=self._devices,
            numa=Numa(nodes=read_nodes(), usable=usable_cores()),
            runner_volume=self._runner_volume,
            link=self._link,
            spawn=self._spawn,
            changed=self._news.set,
        )

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        assert self._group is not None, "the agent does not run"
        return self._group.create_task(coroutine)

    async def run(self, *, ready: asyncio.Event) -> None:
        """Until cancelled. What runs when it ends is left running, to be adopted at the next start."""
        self._journal.open()
        facts = self._journal.facts() or NodeFacts(agent_id=self.id)
        self._generation = facts.generation
        self._started_at_us = max(int(self._clock.now().timestamp() * 1e6), facts.started_at_us + 1)
        self._remember()
        self._scratch_dir.mkdir(parents=True, exist_ok=True)
        self._scratch_dir.chmod(0o711)
        await asyncio.to_thread(self._commits.open)
        await self._devices.open()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._recover()
                group.create_task(self._watch())
                group.create_task(self._bus.serve(self.id, self.handle, self.stream))
                group.create_task(self._report_forever(ready))
        finally:
            for driver in self._kernels.values():
                driver.leaving = True
                if driver.runner is not None:
                    driver.runner.close()
            with contextlib.suppress(BackendError):
                await self._bus.report(self._report(leaving=True))
            await self._devices.close()
            await self.backend.close()

    def _remember(self) -> None:
        facts = NodeFacts(agent_id=self.id, generation=self._generation, started_at_us=self._started_at_us)
        self._journal.write_facts(facts)

    # -- recovery --------------------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """The journal says what there should be; `_find_strangers` and each driver's `look` say what there is."""
        for entry in self._journal.entries():
            self._adopt(entry)

    async def _find_strangers(self) -> None:
        """Containers of ours that no journal entry tells of: shown as unknown, until the manager says what to do with them."""
        for container in await self.backend.list():
            labels = container.labels
            if LABEL_KERNEL not in labels or UUID(labels[LABEL_KERNEL]) in self._kernels:
                continue
            desired = rpc.DesiredKernel(
                kernel_id=UUID(labels[LABEL_KERNEL]),
                session_id=UUID(labels[LABEL_SESSION]),
                target="run",
                incarnation=int(labels.get(LABEL_INCARNATION, "1")),
                image=container.image,
                local_hosts=tuple(filter(None, labels.get(LABEL_HOSTS, "").split(","))),
            )
            log.warning("container-without-journal", kernel=container.name)
            uid = int(labels[LABEL_UID]) if LABEL_UID in labels else self._uid()
            driver = self._kernels[desired.kernel_id] = Driver(self._around, desired, uid)
            driver.devices = json.loads(labels.get(LABEL_DEVICES, "{}"))
            self._devices.adopt(desired.kernel_id, driver.devices)
            driver.happened(Event.FOUND)

    def _adopt(self, entry: Entry) -> None:
        driver = self._kernels[entry.desired.kernel_id] = Driver(self._around, entry.desired, entry.uid)
        driver.reason, driver.message = entry.reason, entry.message
        driver.ran = entry.ran or entry.state == State.RUNNING.value  # older journals don't tell it
        driver.exit_code, driver.stats, driver.container_id = entry.exit_code, entry.stats, entry.container_id
        driver.devices = entry.devices
        if entry.state != State.TERMINATED.value:
            self._devices.adopt(entry.desired.kernel_id, entry.devices)
        try:
            state = State(entry.state)
        except ValueError:
            state = State.STOPPING
        if state is State.TERMINATED:
            driver.state = State.TERMINATED
        elif state in (State.STARTING, State.RUNNING, State.QUARANTINED):
            # Its container may run: connect, look, and wait until its runner answers.
            driver.state = State.QUARANTINED
            driver.happened(Event.RUN_WANTED)
            self._spawn(driver.look())
        elif state in (State.NEW, State.PREPARING, State.RECREATING):
            # Half made when the agent died: clear whatever there is, and make it anew.
            driver.state = State.QUARANTINED
            driver.happened(Event.RESTART_WANTED)
        else:
            driver.state = State.QUARANTINED
            driver.happened(Event.STOP_WANTED)

    def _uid(self) -> int:
        if self._own_uid is not None:
            return self._own_uid
        taken = (driver.uid for driver in self._kernels.values() if driver.state is not State.TERMINATED)
        return lowest_free(self.config.uid_base, taken)

    # -- what the manager asks ---------------------------------------------------------------------------------------------------

    async def handle(self, request: rpc.Request) -> rpc.Reply:
        """Answers one call. Raises BackendError; the bus carries it back."""
        match request:
            case rpc.Execute():
                return await self._runner_of(request.kernel_id).execute(request)
            case rpc.Sync():
                return self._sync(request)
            case rpc.Interrupt():
                self._runner_of(request.kernel_id).interrupt(request.run_id)
                return rpc.Done()
            case rpc.Complete():
                runner = self._runner_of(request.kernel_id)
                found = await runner.complete(
                    request.code, request.row, request.col, request.line, request.post
                )
                return rpc.CompleteReply(completions=found)
            case rpc.Upload():
                folder = self._home_of(request.kernel_id)
                await asyncio.to_thread(folder.write, request.files)
                return rpc.Done()
            case rpc.Download():
                folder = self._home_of(request.kernel_id)
                archives = [
                    await asyncio.to_thread(folder.archive, path, bytes_max=request.bytes_max)
                    for path in request.paths
                ]
                return rpc.DownloadReply(archives=archives)
            case rpc.ReadFile():
                folder = self._home_of(request.kernel_id)
                content = await asyncio.to_thread(folder.read, request.path, bytes_max=request.bytes_max)
                return rpc.ReadFileReply(content=content)
            case rpc.ListFiles():
                folder = self._home_of(request.kernel_id)
                return await asyncio.to_thread(folder.list, request.path)
            case rpc.GetLogs():
                return await self._logs(request)

    async def stream(self, request: rpc.StreamRequest, accept: Accept) -> None:
        """Serves one stream into a kernel, from its opening to its end."""
        runner = self._runner_of(request.kernel_id)
        match request:
            case rpc.Commit():
                await self._commits.serve(request, self._driver_of(request.kernel_id), accept)
                return
            case rpc.Connect():
                pipe = await runner.connect(request.port)
            case rpc.OpenTerminal():
                pipe = await runner.terminal(request.rows, request.columns)
        with pipe:
            await relay(pipe, accept())

    def _sync(self, sync: rpc.Sync) -> rpc.SyncReply:
        """The whole desired set. Older generations are refused; the same one again does no harm."""
        if sync.generation < self._generation:
            return rpc.SyncReply(accepted=False, generation=self._generation)
        if sync.generation > self._generation:
            self._generation = sync.generation
            self._remember()
        listed = {kernel.kernel_id: kernel for kernel in sync.kernels}
        for kernel_id in [
            k for k, d in self._kernels.items() if k not in listed and d.state is State.TERMINATED
        ]:
            # The manager has taken in its end: this is the moment to forget.
            del self._kernels[kernel_id]
            self._journal.forget(kernel_id)
        for kernel_id in self._kernels.keys() - listed.keys():
            self._kernels[kernel_id].happened(Event.UNLISTED)
        for desired in listed.values():
            driver = self._kernels.get(desired.kernel_id)
            if driver is None:
                driver = self._kernels[desired.kernel_id] = Driver(self._around, desired, self._uid())
            driver.want(desired)
        # The reply has told the generation; the next report repeats it for a manager that has started meanwhile.
        asyncio.get_running_loop().call_later(STEP_TOLD_AFTER_S, self._news.set)
        return rpc.SyncReply(accepted=True, generation=self._generation)

    def _driver_of(self, kernel_id: UUID) -> Driver:
        driver = self._kernels.get(kernel_id)
        if driver is None or driver.state is State.TERMINATED:
            raise NoSuchKernel("the session has no container here", hint="It may have just ended.")
        return driver

    def _runner_of(self, kernel_id: UUID) -> Runner:
        driver = self._driver_of(kernel_id)
        if driver.runner is None:
            raise NoSuchKernel(
                "the session's container is not running", hint="It is being ended or restarted."
            )
        return driver.runner

    def _home_of(self, kernel_id: UUID) -> HomeFolder:
        driver = self._driver_of(kernel_id)
        return HomeFolder(driver.scratch.work, driver.uid)

    async def _logs(self, request: rpc.GetLogs) -> rpc.GetLogsReply:
        driver = self._kernels.get(request.kernel_id)
        if driver is None:
            raise NoSuchKernel("this agent has no record of that kernel")
        if driver.state is State.TERMINATED:
            content = await asyncio.to_thread(self._journal.logs, request.kernel_id)
        else:
            content = await self.backend.logs(driver.name, max_bytes=request.bytes_max)
        return rpc.GetLogsReply(text=content[-request.bytes_max :].decode(errors="replace"))

    # -- what is -----------------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Looks at containers when the backend says that something happened, and at all of them whenever the watch was renewed."""
        while True:
            try:
                async for _ in self.backend.events(self._on_container):
                    await self._refresh()
                    await self._find_strangers()
                    if self._sweeping is None or self._sweeping.done():
                        self._sweeping = self._spawn(self._networks.sweep(retry_s=RETRY_S))
                    for driver in list(self._kernels.values()):
                        await driver.look()
            except BackendError as exc:
                self._set_problem(exc.message)
            await asyncio.sleep(RECONNECT_S)

    def _on_container(self, name: str) -> None:
        for driver in self._kernels.values():
            if driver.name == name:
                self._spawn(driver.look())
                return

    async def _refresh(self) -> None:
        """The backend's health and images, and the disk."""
        try:
            self._images = await self.backend.images()
        except BackendError as exc:
            self._set_problem(exc.message)
            return
        free, least = free_bytes(self._scratch_dir), parse_size(self.config.scratch_free_min)
        self._set_problem(
            "" if free >= least else f"only {free >> 20} MiB are free where sessions' folders are"
        )

    async def _tell_images(self) -> None:
        """There is a new one."""
        await self._refresh()
        self._news.set()

    def _set_problem(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("agent-health", problem=problem or "none")
            self._problem = problem
            self._news.set()

    async def _report_forever(self, ready: asyncio.Event) -> None:
        """At every heartbeat, and at once when something changed; changes of one moment go out together."""
        await self._refresh()
        next_beat_s = self._clock.monotonic() + self.config.heartbeat_s
        while True:
            self._news.clear()
            await self._bus.report(self._report())
            ready.set()
            try:
                async with asyncio.timeout(max(0.0, next_beat_s - self._clock.monotonic())):
                    await self._news.wait()
                    continue
            except TimeoutError:
                next_beat_s = self._clock.monotonic() + self.config.heartbeat_s
            await self._refresh()
            if await self._devices.refresh():
                log.warning("devices-changed", capacity=self._devices.capacity)
            for driver in list(self._kernels.values()):
                if driver.unsure:
                    await driver.look()
                await driver.measure()

    def _report(self, *, leaving: bool = False) -> rpc.AgentReport:
        self._sequence += 1
        return rpc.AgentReport(
            agent_id=self.id,
            started_at_us=self._started_at_us,
            sequence=self._sequence,
            generation=self._generation,
            version=VERSION,
            backend=self.backend.kind,
            architecture=self._architecture,
            address="",
            capacity=self._capacity | self._devices.capacity,
            images=[
                rpc.ImageReport(
                    name=image.name,
                    digest=image.digest,
                    architecture=image.architecture,
                    size_bytes=image.size_bytes,
                    labels=image.labels,
                )
                for image in self._images
            ],
            kernels=[driver.report() for driver in self._kernels.values()],
            devices=self._devices.reports(),
            accelerators=self._devices.plugins(),
            usage=self._devices.usage,
            healthy=not self._problem,
            problem=self._problem,
            leaving=leaving,
        )
