"""The port to whatever runs containers on this node: Docker, the sandbox, or a fake.

Every adapter passes the same contract suite (`ai.backend.testkit.container_contract`). Rules that hold for all of them:

- The backend's own records (labels and state on disk) are the truth about containers; an adapter object may be thrown away and a
  new one made at any moment, also after `kill -9`, and `list` must show the same containers.
- `stop` and `remove` are idempotent and may be called without `create` or `start` having succeeded; for an unknown name they do
  nothing. After `remove` nothing is left: no process, cgroup, mount, network device or file of the backend's.
- A network is made before its first container and removed after its last one; whoever calls sees to that. It outlives the agent as
  containers do, and a container without a network costs nothing for it.
- Nothing polls where it can be woken: `events` tells of exits as they happen.
- Foreign exceptions are mapped here, once: `ContainerError` subclasses of `ai.backend.agent.container.errors` are all that leaves.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path, PurePosixPath
from typing import Protocol

from .model import CommitSpec, Container, ContainerSpec, Image, Network, NetworkSpec, Usage


class ContainerBackend(Protocol):
    """See the module's docstring for the rules that every adapter keeps.

    Attributes:
        kind: "docker", "sandbox" or "fake"; shown to users.
        adopts: whether containers survive the death of the agent process and are found again by `list`.
        has_engine: whether there is an engine that attaches devices by itself when asked.
    """

    kind: str
    adopts: bool
    has_engine: bool

    async def open(self) -> None:
        """Connects and checks that the backend works here. Raises BackendUnavailable with what is missing and what to do."""

    async def close(self) -> None:
        """Lets go of the backend. Containers keep running."""

    async def ping(self) -> None:
        """Returns if the backend answers now; raises BackendUnavailable if not."""

    async def images(self) -> list[Image]:
        """The images that carry the `ai.backend.kernelspec` label."""

    async def commit(
        self, name: str, spec: CommitSpec, *, room: Callable[[int], None], tell: Callable[[int, int], None]
    ) -> Image:
        """Makes an image of a running container, which goes on meanwhile; at most it is paused while its own files are read.

        `room` is called with how many bytes the result may take, before anything large is written; what it raises ends the call.
        `tell(done_bytes, total_bytes)` is called as it goes on. The container's environment is not in the image. Cancelled or failed it
        leaves nothing behind but unfinished files at `archive` and in `scratch`. Raises ContainerNotFound, ImageNotFound (its own image
        is gone), NoSpace, BackendUnavailable or ContainerFailed.
        """

    async def remove_image(self, name: str, digest: str) -> None:
        """Removes an image that `commit` kept. Idempotent; another image that has the name by now is left alone."""

    async def unpack_home(self, image: str, folder: Path) -> None:
        """Copies what the image has in its home folder into `folder`, with whoever owns it there. Nothing to do when it has none.

        Raises ImageNotFound, NoSpace, BackendUnavailable or ContainerFailed."""

    async def create(self, spec: ContainerSpec) -> str:
        """Creates the container, not yet started, and returns its id.

        Raises ImageNotFound, ContainerExists, BackendUnavailable, NoSpace or ContainerFailed.
        """

    async def start(self, name: str) -> None:
        """Starts the main process. Raises ContainerNotFound, ContainerFailed (the reason says what the runtime said)."""

    async def stop(self, name: str, *, grace_s: float) -> None:
        """Ends all processes: SIGTERM, then after `grace_s` seconds SIGKILL. `grace_s=0` kills at once. Returns when they are gone."""

    async def remove(self, name: str) -> None:
        """Kills what still runs and erases the container."""

    async def ensure_network(self, spec: NetworkSpec) -> Network:
        """The network of that name, made if there is none that works. One with other hosts is replaced.

        Its containers reach each other by their host names, and nothing else. Raises AddressesExhausted, BackendUnavailable, NoSpace
        or ContainerFailed.
        """

    async def remove_network(self, name: str) -> None:
        """Takes the network away, and whatever is still attached to it loses it. Idempotent; nothing to do for an unknown name."""

    async def networks(self) -> list[str]:
        """The names of all networks that this backend instance owns, also of those that are broken or half made."""

    async def inspect(self, name: str) -> Container | None:
        """The container, or None when there is none of that name."""

    async def list(self) -> list[Container]:
        """All containers that this backend instance owns (by its owner label or its own state folder), running or not."""

    async def logs(self, name: str, *, max_bytes: int) -> bytes:
        """The last `max_bytes` of what the main process wrote to stdout and stderr. Works until `remove`; empty for an unknown name."""

    async def usage(self, name: str) -> Usage | None:
        """Counters now; None when the container is not running."""

    def events(self, on_change: Callable[[str], None]) -> AsyncIterator[None]:
        """Watches: calls `on_change(name)` whenever a container's status or `oom_kills` may have changed.

        An asynchronous generator that yields once when the watch is established and again whenever it had to be re-established
        (after which the caller re-lists, for events may have been missed); it ends only when closed.
        """


RUNNER_DIR = PurePosixPath("/opt/backend.ai")
"""Where the runner volume (its own Python, libraries and the kernel package) is mounted read-only in every container."""
KERNEL_DIR = PurePosixPath("/opt/kernel")
"""Where the per-kernel folder with the runner's unix sockets is mounted read-write."""
CONFIG_DIR = PurePosixPath("/home/config")
"""Read-only: environ.txt and resource.txt of this kernel."""
WORK_DIR = PurePosixPath("/home/work")
"""The user's home: read-write scratch."""
