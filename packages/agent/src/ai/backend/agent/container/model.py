"""What the agent says to a container backend, and what it hears back.

These are plain frozen values: no backend, no I/O. A `ContainerSpec` is complete: a backend needs nothing else to create the
container, and makes no choice of its own. Amounts are integers: bytes, milli-CPUs, counts.
"""

import enum
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


def architecture_of(word: str) -> str:
    """The kernel's word for an architecture; engines and Debian have words of their own."""
    return _ARCHITECTURES.get(word, word)


class ContainerStatus(enum.StrEnum):
    """What a backend sees of one container."""

    CREATED = "created"
    """Exists, its process was never started."""
    RUNNING = "running"
    EXITED = "exited"
    """Its main process is gone; the container (its labels, its exit record and its log) is still there until removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A bind of a host path into the container. `source` must exist. Order matters: later mounts cover earlier ones."""

    source: Path
    target: PurePosixPath
    read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFile:
    """A device of the host that the container may read and write."""

    source: Path
    target: PurePosixPath
    """Below /dev."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """What a container engine attaches by itself, by a driver that it knows (`cdi`, `nvidia`, ...)."""

    driver: str
    ids: tuple[str, ...]
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the container may use. Each is enforced by the kernel (cgroups) wherever the node allows it."""

    memory_bytes: int
    cpu_milli: int
    """1000 is one full CPU."""
    pids: int
    shm_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A private network that containers of this node may join: from it nothing leads to the node, to the outside or to another
    network. `name` is unique on the node; `hosts` are the host names of all that will join. A network across nodes will be told by
    fields to come, which say where the others are."""

    name: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network that exists. `addresses`: host name and IPv4 address of each member, in the spec's order."""

    name: str
    subnet: str
    addresses: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """All that is needed to create one container.

    `name` is unique on the node and safe as a file name (`^[a-z0-9][a-z0-9_.-]{0,63}$`); creating a second container of the same
    name is an error (`container.exists`). `labels` come back unchanged from `list` and `inspect`, also after a restart of the
    agent: they are how running containers are adopted.
    """

    name: str
    image: str
    """A canonical image name as `Image.name` gives it."""
    command: tuple[str, ...]
    environ: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, str], ...]
    mounts: tuple[Mount, ...]
    limits: Limits
    uid: int
    """The user that owns the container's processes as the *host* sees it. Inside they are uid 1000, `work`, on `sandbox`, and
    this same number on `docker`."""
    gid: int
    hostname: str
    workdir: PurePosixPath = PurePosixPath("/home/work")
    cpuset: tuple[int, ...] = ()
    """Cores the container may run on; empty means all."""
    device_files: tuple[DeviceFile, ...] = ()
    engine_requests: tuple[EngineRequest, ...] = ()
    """Only for backends with an engine (`ContainerBackend.has_engine`)."""
    network: Network | None = None
    """The network that it joins, as `ensure_network` gave it, under its `hostname`; None is loopback alone."""


class ExitCause(enum.StrEnum):
    """Why a container's main process is gone, as far as the node can prove it."""

    EXITED = "exited"
    OUT_OF_MEMORY = "out-of-memory"
    """The kernel killed a process of the container because it hit its own memory limit."""
    KILLED = "killed"
    """By a signal that was not the out-of-memory killer's."""
    LOST = "lost"
    """The container's processes are gone and nobody saw how (the node was restarted, or the record was lost)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitInfo:
    cause: ExitCause
    exit_code: int | None
    """The process's exit code, 128 + signal number when a signal ended it, None when unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A snapshot of one container. `id` is the backend's own identifier (docker: 64 hex digits; sandbox: its name)."""

    id: str
    name: str
    image: str
    status: ContainerStatus
    labels: dict[str, str] = field(default_factory=dict)
    pid: int | None = None
    """Host pid of the main process while RUNNING."""
    exit: ExitInfo | None = None
    """Set when and only when EXITED."""
    oom_kills: int = 0
    """How many of its processes the out-of-memory killer took so far (the main process may have survived)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that this node can start containers from. Images without the `ai.backend.kernelspec` label are not listed."""

    name: str
    """Canonical: `[registry/]path:tag`."""
    digest: str
    architecture: str
    size_bytes: int
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counters of one container, read from its cgroup files; None where the node does not account it."""

    memory_bytes: int | None
    memory_peak_bytes: int | None
    cpu_used_us: int | None
    """CPU time used so far, microseconds."""
    pids: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitSpec:
    """An image that is made of a running container: its root as it is now, and on top of it `home` as one more layer."""

    name: str
    """Of the image: canonical."""
    labels: tuple[tuple[str, str], ...]
    """Of the image, on top of those of the container's own."""
    home: Path
    """An uncompressed tar with paths from the root on."""
    left_out: tuple[PurePosixPath, ...]
    """Folders and files of the root whose content stays out: what is mounted there is not the container's."""
    archive: Path | None
    """Where it is written, as a gzipped archive of the form of `docker save`; None: the backend keeps it and lists it among its images."""
    scratch: Path
    """A folder for what is needed meanwhile. Whoever calls erases it."""
