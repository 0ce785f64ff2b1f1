"""Drives one kernel: feeds its machine with what happens, performs the effect that each state asks for, and remembers all of it.

One effect is performed at a time; entering another state cancels it. Every undo is idempotent and may run without its do, so RELEASE is
the same for a kernel that never started, one that half started and one that ran.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar
from uuid import UUID

from msgspec import structs

from ai.backend.common.errors import BackendError
from ai.backend.common.log import get_logger
from ai.backend.common.quantity import CPU, MEM, ResourceSlots, format_size
from ai.backend.common.wire.rpc import DesiredKernel, Execute, KernelReport, KernelState
from ai.backend.kernel.protocol import ONCE

from ..config import AgentConfig
from ..container.backend import CONFIG_DIR, KERNEL_DIR, WORK_DIR, ContainerBackend
from ..container.errors import BackendUnavailable, ImageNotFound
from ..container.model import Container, ContainerSpec, ContainerStatus, ExitCause, Limits, Mount, Network
from ..resource.device import NOTHING, Devices, Grant, Held
from ..resource.numa import cores_near
from ..runner.client import KILLED, Runner
from ..runner.link import OnMessage, RunnerLink
from ..runner.stream import Streams
from ..runner.volume import RUNNER_COMMAND
from .journal import Entry, Journal
from .machine import Effect, Event, State, handle
from .network import SessionNetworks, has_network
from .scratch import Scratch, environment_of

log = get_logger(__name__)

T = TypeVar("T")

LABEL_KERNEL, LABEL_SESSION, LABEL_INCARNATION, LABEL_UID, LABEL_HOSTS, LABEL_DEVICES = (
    "ai.backend.kernel-id",
    "ai.backend.session-id",
    "ai.backend.incarnation",
    "ai.backend.uid",
    "ai.backend.local-hosts",
    "ai.backend.devices",
)
LOG_BYTES_KEPT = 1 << 20
LOG_BYTES_SHOWN = 2000
RETRY_S = 1.0
COMMAND_RUN = f"{ONCE}command"
COMMAND_FLUSH_S = 3600.0
STEP_TOLD_AFTER_S = 0.5

_REPORTED = {
    State.NEW: KernelState.PREPARING,
    State.PREPARING: KernelState.PREPARING,
    State.STARTING: KernelState.PREPARING,
    State.RECREATING: KernelState.PREPARING,
    State.RUNNING: KernelState.RUNNING,
    State.STOPPING: KernelState.STOPPING,
    State.TERMINATED: KernelState.TERMINATED,
    State.QUARANTINED: KernelState.UNKNOWN,
}


class LinkFactory(Protocol):
    """Makes the link to one kernel's runner: a socket in its run folder, or the simulator's."""

    def __call__(self, kernel_id: UUID, scratch: Scratch, uid: int, on_message: OnMessage) -> RunnerLink: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all drivers of an agent share."""

    config: AgentConfig
    backend: ContainerBackend
    journal: Journal
    scratch_root: "ScratchRoot"
    networks: SessionNetworks
    devices: Devices
    numa: "Numa"
    runner_volume: Mount
    link: LinkFactory
    spawn: Callable[[object], asyncio.Task[None]]
    """Starts a coroutine in the agent's task group."""
    changed: Callable[[], None]
    """Something that reports tell of has changed."""


@dataclass(frozen=True, slots=True)
class Numa:
    """Cores by NUMA node, and those that kernels may run on."""

    nodes: Mapping[int, frozenset[int]] = field(default_factory=dict)
    usable: frozenset[int] = frozenset()


class ScratchRoot(Protocol):
    def __call__(self, kernel_id: UUID) -> Scratch: ...


async def _whole(call: Coroutine[Any, Any, T]) -> T:
    """Lets a call to the engine end even when its caller is cancelled: a container that appears after its undo would stay."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise


class Driver:
    def __init__(self, around: Surroundings, desired: DesiredKernel, uid: int) -> None:
        self._around = around
        self.desired = desired
        self.uid = uid
        self.state = State.NEW
        self.step = ""
        self.reason = ""
        self.message = ""
        self.exit_code: int | None = None
        self.container_id = ""
        self.stats: dict[str, int] = {}
        self.devices: Held = {}
        self.cores: tuple[int, ...] = ()
        self.ran = False
        """This incarnation has been ready once: whatever ends it then, it is no failure to start."""
        self.runner: Runner | None = None
        self.leaving = False
        """The agent shuts down: what runs is left running."""
        self.unsure = False
        """The container may have changed, but the engine did not answer when it was asked: the next heartbeat asks again."""
        self.companions: set[asyncio.Task[Any]] = set()
        """What others do with it while it runs: cancelled as soon as it does not."""
        self._without_container = False
        self._oom_seen = 0
        self._effect: asyncio.Task[None] | None = None

    # -- what others see -------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> UUID:
        return self.desired.kernel_id

    @property
    def name(self) -> str:
        """The container's."""
        return str(self.id)

    @property
    def scratch(self) -> Scratch:
        return self._around.scratch_root(self.id)

    @property
    def uses_network(self) -> bool:
        """Until its container is gone for good."""
        return not (self._without_container or self.state is State.TERMINATED)

    def report(self) -> KernelReport:
        return KernelReport(
            kernel_id=self.id,
            session_id=self.desired.session_id,
            incarnation=self.desired.incarnation,
            state=_REPORTED[self.state],
            step=self.step,
            reason=self.reason,
            message=self.message,
            exit_code=self.exit_code,
            container_id=self.container_id,
            cores=list(self.cores),
            devices={name: milli for given in self.devices.values() for name, milli in given.items()},
            stats=self.stats,
        )

    # -- what happens ----------------------------------------------------------------------------------------------------------

    def want(self, desired: DesiredKernel) -> None:
        """The manager's newest wish. An older incarnation than the present one is late news."""
        if desired.incarnation > self.desired.incarnation and self.state in (
            State.STOPPING,
            State.TERMINATED,
        ):
            # It ended before the wish to restart it was heard: what ended is, to whoever wished so, the new incarnation.
            self.desired = structs.replace(self.desired, incarnation=desired.incarnation)
            self._around.changed()
        if desired.target == "stop":
            if self.state in (
                State.NEW,
                State.PREPARING,
                State.STARTING,
                State.RUNNING,
                State.RECREATING,
                State.QUARANTINED,
            ):
                self.desired = desired
                self._because(desired.stop_reason or "user-requested", "")
            self.happened(Event.STOP_WANTED)
        elif desired.incarnation > self.desired.incarnation:
            self.desired = desired
            self.happened(Event.RESTART_WANTED)
        elif desired.incarnation == self.desired.incarnation:
            if self.state is State.QUARANTINED or desired.startup_command != self.desired.startup_command:
                self.desired = desired
            self.happened(Event.RUN_WANTED)
            if self.state is State.RUNNING and self._effect is None and desired.startup_command:
                # A cluster's command comes when all its kernels run.
                self._effect = self._around.spawn(self._perform(Effect.COMMAND, None))

    def happened(self, event: Event) -> None:
        """The one door: the machine decides, the journal remembers, the effect is performed."""
        step = handle(self.state, event)
        if not step.changed:
            return
        told = _REPORTED[self.state]
        self.state = step.state
        if self.state is State.RUNNING:
            self.ran = True
        elif self.state is State.RECREATING:
            self.ran = False
        if self.state is not State.RUNNING:
            for companion in self.companions:
                companion.cancel()
        before, self._effect = self._effect, None
        if before is not None:
            before.cancel()
        try:
            self.remember()
        except BackendError as exc:
            # The disk is full: what is on disk is older, and the next start repairs it from the container's labels.
            log.error("journal-not-written", kernel=self.name, error=str(exc))
        if step.effect is not None and (step.effect is not Effect.COMMAND or self.desired.startup_command):
            self._effect = self._around.spawn(self._perform(step.effect, before))
        # That it is being prepared is told by its steps (`_at`), if they last.
        if _REPORTED[self.state] not in (told, KernelState.PREPARING):
            self._around.changed()

    def remember(self) -> None:
        self._around.journal.write(
            Entry(
                desired=self.desired,
                state=self.state.value,
                uid=self.uid,
                reason=self.reason,
                message=self.message,
                exit_code=self.exit_code,
                container_id=self.container_id,
                stats=self.stats,
                ran=self.ran,
                devices=self.devices,
            )
        )

    def _because(self, reason: str, message: str) -> None:
        """The first reason is the true one."""
        if not self.reason:
            self.reason, self.message = reason, message

    # -- effects ---------------------------------------------------------------------------------------------------------------

    async def _perform(self, effect: Effect, before: asyncio.Task[None] | None) -> None:
        """`before`: the effect that this one replaces; what it had begun must have ended, or its undo would come too early."""
        if before is not None:
            await asyncio.wait({before})
        try:
            match effect:
                case Effect.PREPARE:
                    await self._prepare()
                case Effect.WAIT_READY:
                    await self._wait_ready()
                case Effect.COMMAND:
                    await self._run_command()
                case Effect.CLEAR:
                    await self._until_done(self._clear_container)
                    self._effect = None
                    self.happened(Event.CLEARED)
                case Effect.RELEASE:
                    await self._release()
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            self._fail("failed-to-start", exc)

    def _fail(self, reason: str, exc: Exception) -> None:
        known = isinstance(exc, BackendError)
        log.warning("kernel-failed", kernel=self.name, step=self.step, error=str(exc), exc_info=not known)
        text = (
            f"{exc.message} {exc.hint}".strip()
            if isinstance(exc, BackendError)
            else "The agent failed; see its log."
        )
        self._because(reason, text)
        self._effect = None
        self.happened(Event.FAILED)

    async def _prepare(self) -> None:
        try:
            grant = await self._take_devices()
            self._at("scratch")
            if self.desired.home_from_image:
                await self._fill_home()
            self.scratch.make(
                self.desired, self.uid, grant
            )  # a handful of small files: a thread would cost more
            self._at("socket")
            self.connect()
            network = None
            if has_network(self.desired):
                self._at("network")
                network = await _whole(self._around.networks.join(self.desired))
            self._at("create")
            self.container_id = await _whole(self._around.backend.create(self._spec(network, grant)))
            self._at("start")
            await _whole(self._around.backend.start(self.name))
        except ImageNotFound as exc:
            self._fail("image-not-found", exc)
            return
        except BackendError as exc:
            self._fail("failed-to-create", exc)
            return
        self._effect = None
        self.happened(Event.PREPARED)

    async def _take_devices(self) -> Grant:
        """What it holds is in the journal before its container is made. Raises DevicesUnavailable or NoSpace."""
        devices = self._around.devices
        held = devices.give(self.id, self.desired.slots, self.desired.devices)
        if not held:
            return NOTHING
        self._at("devices")
        if held != self.devices:
            self.devices = held
            self.remember()
        grant = await devices.grant(held, engine=self._around.backend.has_engine)
        cpu = ResourceSlots(self.desired.slots)[CPU]
        self.cores = cores_near(self._around.numa.nodes, grant.numa_nodes, self._around.numa.usable, cpu)
        return grant

    async def _fill_home(self) -> None:
        """Before the folder is there: whole or not at all, also when this agent dies meanwhile."""
        if self.scratch.work.exists():
            return  # it was filled, or belongs to an older incarnation
        fresh = await asyncio.to_thread(self.scratch.make_fresh)
        await _whole(self._around.backend.unpack_home(self.desired.image, fresh))
        await asyncio.to_thread(self.scratch.take_fresh, self.uid)

    def _at(self, step: str) -> None:
        self.step = step
        log.debug("kernel-step", kernel=self.name, step=step)
        # Told only if it lasts: a start of 40 ms should not send five reports.
        asyncio.get_running_loop().call_later(STEP_TOLD_AFTER_S, self._tell_if_still, step)

    def _tell_if_still(self, step: str) -> None:
        if self.step == step and not self.leaving:
            self._around.changed()

    def connect(self) -> None:
        """Binds the socket that the runner connects to; an older one is closed."""
        if self.runner is not None:
            self.runner.close()
        self.runner = Runner(
            lambda on_message: self._around.link(self.id, self.scratch, self.uid, on_message),
            on_killed=self._language_killed,
            on_dying=lambda text: self._because("failed-to-start", text),
            streams_of=lambda send: Streams(self.scratch.run, self.uid, send),
        )

    def _spec(self, network: Network | None, grant: Grant) -> ContainerSpec:
        slots = ResourceSlots(self.desired.slots)
        scratch = self.scratch
        hosts = () if network is None else ((LABEL_HOSTS, ",".join(self.desired.local_hosts)),)
        devices = ((LABEL_DEVICES, json.dumps(self.devices)),) if self.devices else ()
        return ContainerSpec(
            name=self.name,
            image=self.desired.image,
            command=RUNNER_COMMAND(self.desired.runtime_type, self.desired.runtime_path),
            environ=tuple(sorted(environment_of(self.desired, grant).items())),
            labels=(
                (LABEL_KERNEL, str(self.id)),
                (LABEL_SESSION, str(self.desired.session_id)),
                (LABEL_INCARNATION, str(self.desired.incarnation)),
                (LABEL_UID, str(self.uid)),
                *hosts,
                *devices,
            ),
            mounts=(
                self._around.runner_volume,
                Mount(source=scratch.run, target=KERNEL_DIR, read_only=True),
                Mount(source=scratch.config, target=CONFIG_DIR, read_only=True),
                Mount(source=scratch.work, target=WORK_DIR, read_only=False),
                *grant.mounts,
            ),
            limits=Limits(
                memory_bytes=slots[MEM],
                cpu_milli=slots[CPU],
                pids=self._around.config.pids_max,
                shm_bytes=self.desired.shm_bytes,
            ),
            uid=self.uid,
            gid=self.uid,
            hostname=self.desired.hostname,
            workdir=WORK_DIR,
            cpuset=self.cores,
            device_files=grant.device_files,
            engine_requests=grant.engine_requests,
            network=network,
        )

    async def _wait_ready(self) -> None:
        """Until the runner says that it is ready; a container that ends earlier ends this through EXITED."""
        self._at("wait-ready")
        if self.runner is None:
            self.connect()
        assert self.runner is not None, "connected above"
        self.runner.greet()
        limit_s = self._around.config.start_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self.runner.ready.wait()
        except TimeoutError:
            if self.ran:
                self._because(
                    "anomaly-detected", f"Its runner did not answer its restarted agent within {limit_s:g} s."
                )
            else:
                said = await self._last_words()
                self._because("failed-to-start", f"Its runner was not ready within {limit_s:g} s.{said}")
            self._effect = None
            self.happened(Event.FAILED)
            return
        self._at("running")
        self._effect = None
        self.happened(Event.READY)

    async def _run_command(self) -> None:
        """Runs the command to its end, once: the runner in the container remembers it, so that after a restart of this agent asking
        again only tells how far it is. That it may have begun is in the journal before it begins: from then on its container is
        never made anew."""
        runner = self.runner
        assert runner is not None, "a running kernel has a runner"
        try:
            self.remember()
            mode: Literal["batch", "continue", "input"] = (
                "continue" if runner.goes_on(COMMAND_RUN) else "batch"
            )
            while True:
                reply = await runner.execute(
                    Execute(
                        kernel_id=self.id,
                        run_id=COMMAND_RUN,
                        mode=mode,
                        exec=self.desired.startup_command,
                        flush_s=COMMAND_FLUSH_S,
                    )
                )
                if reply.status == "finished":
                    break
                # Nobody is there to answer a question of a command that runs unattended: it gets an empty line.
                mode = "input" if reply.status == "waiting-input" else "continue"
        except BackendError as exc:
            self._fail("task-failed", exc)
            return
        if self.leaving or runner is not self.runner:
            return
        self.exit_code = reply.exit_code
        self._because("task-finished", f"Its command ended with exit code {reply.exit_code}.")
        self._effect = None
        self.happened(Event.EXITED)

    async def _last_words(self) -> str:
        with contextlib.suppress(BackendError):
            text = await self._around.backend.logs(self.name, max_bytes=LOG_BYTES_SHOWN)
            if text.strip():
                return f" It last said: {text.decode(errors='replace').strip()}"
        return ""

    async def _clear_container(self) -> None:
        await self._around.backend.stop(self.name, grace_s=self._around.config.stop_grace_s)
        await self._around.backend.remove(self.name)
        if self.runner is not None:
            self.runner.end("The session is restarted.\n")
            self.runner = None

    async def _release(self) -> None:
        """Undoes everything that PREPARE may have done. An engine that does not answer is waited for: nothing is left behind."""
        self.step = "stop"
        if self.runner is not None and not self.reason.startswith("out-of"):
            self.runner.end("")
        await self._until_done(self._take_down)
        self._around.devices.take_back(self.id)
        self.devices = {}
        if self.runner is not None:
            self.runner.end("")
            self.runner = None
        await asyncio.to_thread(self.scratch.erase)
        self.step = "released"
        self._effect = None
        self.happened(Event.RELEASED)

    async def _take_down(self) -> None:
        backend = self._around.backend
        if (container := await backend.inspect(self.name)) is not None:
            await self._note_usage()
            grace_s = 0.0 if self.desired.forced else self._around.config.stop_grace_s
            await backend.stop(self.name, grace_s=grace_s)
            if container.exit is not None and self.exit_code is None:
                self.exit_code = container.exit.exit_code
            logs = await backend.logs(self.name, max_bytes=LOG_BYTES_KEPT)
            await asyncio.to_thread(self._around.journal.write_logs, self.id, logs)
        await backend.remove(self.name)
        self._without_container = True
        if has_network(self.desired):
            await self._around.networks.leave(self.desired)

    async def _until_done(self, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await act()
                return
            except BackendUnavailable as exc:
                log.warning("engine-silent", kernel=self.name, error=str(exc), retry_s=RETRY_S)
            except BackendError as exc:
                log.error("cleanup-failed", kernel=self.name, error=str(exc), retry_s=RETRY_S)
            await asyncio.sleep(RETRY_S)

    # -- looking at the container ----------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Compares the container with the state: called whenever the backend says that it may have changed."""
        if (
            self.state in (State.NEW, State.PREPARING, State.RECREATING, State.STOPPING, State.TERMINATED)
            or self.leaving
        ):
            return
        try:
            container = await self._around.backend.inspect(self.name)
        except BackendError:
            self.unsure = True  # an engine that does not answer proves nothing about the container
            return
        self.unsure = False
        if self.state in (State.PREPARING, State.STOPPING, State.TERMINATED, State.RECREATING):
            return
        if container is not None and container.labels.get(LABEL_INCARNATION) != str(self.desired.incarnation):
            return  # it was asked for before a restart, and answered after
        if container is None:
            self._because("container-not-found", "The node no longer has its container.")
            self._gone(container)
        elif container.status is not ContainerStatus.RUNNING:
            await self._explain_exit(container)
            self._gone(container)

    def _gone(self, container: Container | None) -> None:
        if self.state in (State.STOPPING, State.TERMINATED):
            return
        if container is not None and container.exit is not None:
            self.exit_code = container.exit.exit_code
        out_of_memory = self.reason == "out-of-memory"
        if self.runner is not None:
            note = self.message + "\n" if out_of_memory else ""
            self.runner.end(note, KILLED if out_of_memory else 130)
        self.happened(Event.EXITED)

    async def _explain_exit(self, container: Container) -> None:
        if container.exit is None:
            return
        code = container.exit.exit_code
        if container.exit.cause is ExitCause.OUT_OF_MEMORY or (code == KILLED and container.oom_kills > 0):
            self._because("out-of-memory", self._memory_message())
        elif container.exit.cause is ExitCause.LOST:
            self._because(
                "container-not-found",
                "Its container ended while nobody watched, for example at a restart of the node.",
            )
        elif not self.ran:
            said = await self._last_words()
            self._because(
                "failed-to-start", f"Its container ended with exit code {code} before it was ready.{said}"
            )
        else:
            self._because("self-terminated", f"Its main process ended with exit code {code}.")

    def _memory_message(self) -> str:
        limit = format_size(ResourceSlots(self.desired.slots)[MEM])
        return (
            f"Out of memory: the session's processes needed more than its {limit} of memory, so the kernel killed them. "
            "Create it with more, for example -r mem=1g."
        )

    def _language_killed(self, run_id: str) -> None:
        self._around.spawn(self._find_killer(run_id))

    async def _find_killer(self, run_id: str) -> None:
        """The runner lives, but its language process was killed. If that was the out-of-memory killer the session ends: its state is
        gone, and whoever looks later should read why."""
        kills = 0
        with contextlib.suppress(BackendError):
            container = await self._around.backend.inspect(self.name)
            kills = container.oom_kills if container else 0
        runner = self.runner
        if kills <= self._oom_seen:
            if runner is not None:
                runner.settle(run_id, "")
            return
        self._oom_seen = kills
        self._because("out-of-memory", self._memory_message())
        if runner is not None:
            runner.settle(run_id, self.message + "\n")
        self.exit_code = KILLED
        self.happened(Event.FAILED)

    async def _note_usage(self) -> None:
        with contextlib.suppress(BackendError):
            usage = await self._around.backend.usage(self.name)
            if usage is not None:
                values = {
                    "memory_bytes": usage.memory_bytes,
                    "memory_peak_bytes": usage.memory_peak_bytes,
                    "cpu_used_us": usage.cpu_used_us,
                    "pids": usage.pids,
                }
                self.stats = {key: value for key, value in values.items() if value is not None}

    async def measure(self) -> None:
        if self.state is State.RUNNING:
            await self._note_usage()
