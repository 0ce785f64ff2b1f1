"""A container backend without containers: the same contract, in memory, on whatever clock the event loop has.

A `FakeWorld` is the node: its containers, images, disk and the faults to come. A `FakeBackend` is one adapter
object over it; like a real one it may be thrown away and made anew, and finds the same containers. Whoever
drives the world (a test, the simulator) decides what happens inside a container: `exit`, `oom`, `write_log`,
and a callback at each start, to which it can attach something that speaks the kernel protocol. Every call
waits for a seeded delay, so that calls interleave in virtual time, the same each run.
"""

import asyncio
import contextlib
import io
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import Path
from random import Random

from ai.backend.agent.container import network
from ai.backend.agent.container.errors import (
    BackendUnavailable,
    ContainerError,
    ContainerExists,
    ContainerFailed,
    ContainerNotFound,
    ImageNotFound,
    NoSpace,
)
from ai.backend.agent.container.model import (
    CommitSpec,
    Container,
    ContainerSpec,
    ContainerStatus,
    ExitCause,
    ExitInfo,
    Image,
    Network,
    NetworkSpec,
    Usage,
)
from ai.backend.agent.image.archive import ArchiveWriter

_FIRST_PID = 1000
_SIGTERM_CODE, _SIGKILL_CODE = 143, 137

FAKE_IMAGE = Image(
    name="local/python:3.11",
    digest="sha256:" + "0" * 64,
    architecture="x86_64",
    size_bytes=50_000_000,
    labels={"ai.backend.kernelspec": "1", "ai.backend.runtime-type": "python"},
)


@dataclass(slots=True)
class FakeContainer:
    """One container of the world. `on_sigterm` is what its process does at SIGTERM: None is to die at once; a
    function may end the container by `FakeWorld.exit`, now or later, or do nothing and be killed after the
    grace."""

    spec: ContainerSpec
    status: ContainerStatus = ContainerStatus.CREATED
    pid: int | None = None
    exit: ExitInfo | None = None
    oom_kills: int = 0
    log: bytes = b""
    on_sigterm: Callable[[], None] | None = None
    exited: asyncio.Event = field(default_factory=asyncio.Event)

    def snapshot(self) -> Container:
        return Container(
            id=self.spec.name,
            name=self.spec.name,
            image=self.spec.image,
            status=self.status,
            labels=dict(self.spec.labels),
            pid=self.pid if self.status is ContainerStatus.RUNNING else None,
            exit=self.exit,
            oom_kills=self.oom_kills,
        )


class FakeWorld:
    """One node, shared by all its adapter objects.

    Args:
        random: where delays come from.
        latency_s: shortest and longest delay of a call.
        images: what the node has.
        disk_bytes: room for containers, None for no limit; each takes `container_bytes` from creation to
            removal.
    """

    def __init__(
        self,
        random: Random,
        *,
        latency_s: tuple[float, float] = (0.001, 0.01),
        images: tuple[Image, ...] = (FAKE_IMAGE,),
        disk_bytes: int | None = None,
        container_bytes: int = 1 << 20,
        network_range: str = network.DEFAULT_RANGE,
    ) -> None:
        self.containers: dict[str, FakeContainer] = {}
        self.networks: dict[str, Network] = {}
        self.network_range = network.parse_range(network_range)
        self.images = [*images]
        self.homes: dict[str, bytes] = {}
        """Of images that were made of containers: the home folder, packed."""
        self.disk_bytes = disk_bytes
        self.container_bytes = container_bytes
        self.latency_s = latency_s
        self.available = True
        """False: every call but `close` raises BackendUnavailable."""
        self.on_start: list[Callable[[FakeContainer], None]] = []
        """Called, in order, each time a container has begun to run."""
        self.on_gone: list[Callable[[FakeContainer], None]] = []
        """Called when a container's process is gone, before anybody is told."""
        self.on_networks: list[Callable[[], None]] = []
        """Called when a network was made or taken away."""
        self.commits = asyncio.Event()
        """Cleared: images of containers are begun, and not finished."""
        self.commits.set()
        self._random = random
        self._faults: dict[str, list[ContainerError]] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._next_pid = _FIRST_PID

    # What the driver of the world does.

    def fail_next(self, call: str, error: ContainerError) -> None:
        """The next call of that name ("create", "start", "stop", ...) raises `error`, having done nothing.
        Calls queue up."""
        self._faults.setdefault(call, []).append(error)

    def exit(self, name: str, exit_info: ExitInfo) -> None:
        """The container's main process is gone."""
        container = self._running(name)
        container.status, container.exit = ContainerStatus.EXITED, exit_info
        container.exited.set()
        for callback in [*self.on_gone]:
            callback(container)
        self.tell(name)

    def oom(self, name: str, *, main: bool = True) -> None:
        """The out-of-memory killer takes the main process, or only a child of it."""
        self._running(name).oom_kills += 1
        if main:
            self.exit(name, ExitInfo(cause=ExitCause.OUT_OF_MEMORY, exit_code=_SIGKILL_CODE))
        else:
            self.tell(name)

    def reboot(self) -> None:
        """The node restarts: what ran is lost, what was created or had exited stays, and so do networks."""
        for name, container in self.containers.items():
            if container.status is ContainerStatus.RUNNING:
                self.exit(name, ExitInfo(cause=ExitCause.LOST, exit_code=None))

    def write_log(self, name: str, data: bytes) -> None:
        self.containers[name].log += data

    def tell(self, name: str) -> None:
        for listener in [*self._listeners]:
            listener(name)

    def _running(self, name: str) -> FakeContainer:
        container = self.containers[name]
        if container.status is not ContainerStatus.RUNNING:
            raise ValueError(f"{name} is not running")
        return container

    # What the adapters ask of it.

    async def pass_by(self, call: str) -> None:
        """The delay, and then the fault, of one call."""
        await asyncio.sleep(self._random.uniform(*self.latency_s))
        if not self.available:
            raise BackendUnavailable("the fake backend is down")
        if faults := self._faults.get(call):
            raise faults.pop(0)

    def begin(self, container: FakeContainer) -> None:
        container.status, container.pid = ContainerStatus.RUNNING, self._next_pid
        self._next_pid += 1
        for callback in [*self.on_start]:
            callback(container)
        self.tell(container.spec.name)

    def add_network(self, spec: NetworkSpec) -> Network:
        made = self.networks.get(spec.name)
        if made is None or tuple(host for host, _ in made.addresses) != spec.hosts:
            self.networks.pop(spec.name, None)
            taken = [IPv4Network(one.subnet) for one in self.networks.values()]
            subnet = network.choose_subnet(self.network_range, len(spec.hosts), taken)
            made = self.networks[spec.name] = network.network_of(spec, subnet)
            for callback in [*self.on_networks]:
                callback()
        return made

    def take_network(self, name: str) -> None:
        if self.networks.pop(name, None) is not None:
            for callback in [*self.on_networks]:
                callback()

    def listen(self, on_change: Callable[[str], None]) -> Callable[[], None]:
        """Returns the function that ends the listening."""
        self._listeners.append(on_change)
        return lambda: self._listeners.remove(on_change)


class FakeBackend:
    """One adapter object over a world."""

    kind = "fake"
    adopts = True
    has_engine = False

    def __init__(self, world: FakeWorld) -> None:
        self.world = world
        self._opened = False

    async def open(self) -> None:
        await self.world.pass_by("open")
        self._opened = True

    async def close(self) -> None:
        self._opened = False

    async def ping(self) -> None:
        await self.world.pass_by("ping")
        if not self._opened:
            raise BackendUnavailable("the fake backend is not open")

    async def images(self) -> list[Image]:
        await self.world.pass_by("images")
        return [image for image in self.world.images if "ai.backend.kernelspec" in image.labels]

    async def commit(
        self, name: str, spec: CommitSpec, *, room: Callable[[int], None], tell: Callable[[int, int], None]
    ) -> Image:
        """Its root has nothing in it, so the home folder is the only layer."""
        await self.world.pass_by("commit")
        container = self.world.containers.get(name)
        if container is None:
            raise ContainerNotFound(f"no container named {name}", name=name)
        if container.status is not ContainerStatus.RUNNING:
            raise ContainerFailed(f"container {name} does not run")
        base = next((one for one in self.world.images if one.name == container.spec.image), None)
        if base is None:
            raise ImageNotFound(f"this node has no image {container.spec.image}")
        home = spec.home.read_bytes()
        room(len(home))
        target = spec.archive or spec.scratch / "image.tar"
        labels = base.labels | dict(spec.labels)
        with ArchiveWriter(target, compress=True, tell=lambda done: tell(done, len(home))) as writer:
            layer = writer.add_layer(io.BytesIO(home), len(home))
            digest = writer.describe(
                spec.name, [layer], architecture="amd64", configuration={"Labels": labels}
            )
        await self.world.commits.wait()
        image = replace(base, name=spec.name, digest=digest, size_bytes=len(home), labels=labels)
        if spec.archive is None:
            self.world.images.append(image)
            self.world.homes[spec.name] = home
        return image

    async def remove_image(self, name: str, digest: str) -> None:
        await self.world.pass_by("remove_image")
        self.world.images[:] = [one for one in self.world.images if (one.name, one.digest) != (name, digest)]

    async def unpack_home(self, image: str, folder: Path) -> None:
        await self.world.pass_by("unpack_home")
        if all(one.name != image for one in self.world.images):
            raise ImageNotFound(f"this node has no image {image}", image=image)
        if image in self.world.homes:
            with tarfile.open(fileobj=io.BytesIO(self.world.homes[image])) as tar:
                for member in tar:
                    member.name = member.name.removeprefix("home/work").lstrip("/")
                    if member.name and member.name != "home":
                        tar.extract(member, folder, filter="data")

    async def create(self, spec: ContainerSpec) -> str:
        await self.world.pass_by("create")
        world = self.world
        if spec.name in world.containers:
            raise ContainerExists(f"a container named {spec.name} exists", name=spec.name)
        if all(image.name != spec.image for image in world.images):
            raise ImageNotFound(f"this node has no image {spec.image}", image=spec.image)
        if spec.network is not None and world.networks.get(spec.network.name) != spec.network:
            raise ContainerFailed(f"there is no network {spec.network.name}")
        if world.disk_bytes is not None:
            used = len(world.containers) * world.container_bytes
            if used + world.container_bytes > world.disk_bytes:
                raise NoSpace("the disk of this node is full")
        world.containers[spec.name] = FakeContainer(spec)
        return spec.name

    async def start(self, name: str) -> None:
        await self.world.pass_by("start")
        container = self.world.containers.get(name)
        if container is None:
            raise ContainerNotFound(f"no container named {name}", name=name)
        if container.status is ContainerStatus.EXITED:
            raise ContainerFailed(f"container {name} has already run")
        if container.status is ContainerStatus.CREATED:
            self.world.begin(container)

    async def stop(self, name: str, *, grace_s: float) -> None:
        await self.world.pass_by("stop")
        container = self.world.containers.get(name)
        if container is None or container.status is not ContainerStatus.RUNNING:
            return
        code = _SIGKILL_CODE
        if grace_s > 0 and container.on_sigterm is None:
            code = _SIGTERM_CODE
        elif grace_s > 0 and container.on_sigterm is not None:
            container.on_sigterm()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await container.exited.wait()
        if container.status is ContainerStatus.RUNNING:
            self.world.exit(name, ExitInfo(cause=ExitCause.KILLED, exit_code=code))

    async def remove(self, name: str) -> None:
        await self.world.pass_by("remove")
        container = self.world.containers.get(name)
        if container is None:
            return
        if container.status is ContainerStatus.RUNNING:
            self.world.exit(name, ExitInfo(cause=ExitCause.KILLED, exit_code=_SIGKILL_CODE))
        self.world.containers.pop(name, None)

    async def ensure_network(self, spec: NetworkSpec) -> Network:
        await self.world.pass_by("ensure_network")
        network.check(spec)
        return self.world.add_network(spec)

    async def remove_network(self, name: str) -> None:
        await self.world.pass_by("remove_network")
        self.world.take_network(name)

    async def networks(self) -> list[str]:
        await self.world.pass_by("networks")
        return sorted(self.world.networks)

    async def inspect(self, name: str) -> Container | None:
        await self.world.pass_by("inspect")
        container = self.world.containers.get(name)
        return None if container is None else container.snapshot()

    async def list(self) -> list[Container]:
        await self.world.pass_by("list")
        return [container.snapshot() for _, container in sorted(self.world.containers.items())]

    async def logs(self, name: str, *, max_bytes: int) -> bytes:
        await self.world.pass_by("logs")
        container = self.world.containers.get(name)
        return container.log[-max_bytes:] if container is not None and max_bytes > 0 else b""

    async def usage(self, name: str) -> Usage | None:
        await self.world.pass_by("usage")
        container = self.world.containers.get(name)
        if container is None or container.status is not ContainerStatus.RUNNING:
            return None
        memory = container.spec.limits.memory_bytes // 4
        return Usage(memory_bytes=memory, memory_peak_bytes=memory, cpu_used_us=1000, pids=1)

    async def events(self, on_change: Callable[[str], None]) -> AsyncIterator[None]:
        unlisten = self.world.listen(on_change)
        try:
            yield
            await asyncio.get_running_loop().create_future()
        finally:
            unlisten()
