"""The agent's settings."""

from pathlib import Path
from typing import Any

import msgspec

from ai.backend.common.quantity import parse_size

from .container.network import DEFAULT_RANGE, parse_range
from .resource.alloc import Strategy

CORES_MAX = 65_536


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    id: str = ""
    """Empty: made once and kept in the state folder."""
    backend: str = "auto"
    """auto, docker or sandbox. auto: Docker when an engine answers that has an image for sessions, else the sandbox."""
    docker_host: str = ""
    """URL of the engine, such as unix:///var/run/docker.sock. Empty: DOCKER_HOST, else the default socket."""
    node_root: str = ""
    """Runner volume and scratch folders. Every folder above must be traversable by the containers' users, so the default for root is
    /var/lib/backend.ai, and for other users a folder of their own."""
    heartbeat_s: float = 3.0
    start_timeout_s: float = 60.0
    """From the start of a container until its runner is ready."""
    stop_grace_s: float = 3.0
    """Between SIGTERM and SIGKILL."""
    uid_base: int = 200_000
    """As root, each kernel runs as a user id of its own from here on."""
    pids_max: int = 1024
    """Processes and threads of one container."""
    network_range: str = DEFAULT_RANGE
    """Private addresses, in CIDR notation, for the networks of sessions of several containers. Parts of it that the machine has routes
    to, or another network of its container engine uses, are left alone."""
    cores: int = 0
    """How many are offered to sessions; more than there are lets sessions share them. 0: those that the agent may use."""
    reserved_mem: str = "1g"
    """Memory that is not offered to sessions."""
    scratch_free_min: str = "64m"
    """With less free disk the agent says that it is unhealthy and takes nothing new."""

    accelerators: dict[str, dict[str, Any]] = {}
    """Options of accelerator plugins, by name: [agent.accelerators.cuda]. What they are stands with each plugin."""
    accelerators_disabled: tuple[str, ...] = ()
    """Names of accelerator plugins that are not loaded."""
    device_strategy: str = "fill"
    """Which of its devices a share is taken of when the scheduler's choice is not free: fill (those in use first) or even."""

    commit_dir: str = ""
    """Where archives of sessions are written. Empty: the folder commits in the agent's home."""
    commit_size_max: str = "32g"
    """The largest archive or image that is made of a session, before it is compressed."""
    commit_user_max: str = "64g"
    """How much the archives of one user may take here."""

    def __post_init__(self) -> None:
        if self.backend not in ("auto", "docker", "sandbox"):
            raise ValueError(f"backend is auto, docker or sandbox, not {self.backend!r}")
        if not 0 <= self.cores <= CORES_MAX:
            raise ValueError(f"cores is a number from 0 to {CORES_MAX}")
        if self.device_strategy not in tuple(Strategy):
            raise ValueError(f"device-strategy is fill or even, not {self.device_strategy!r}")
        parse_size(self.reserved_mem)
        parse_size(self.scratch_free_min)
        parse_size(self.commit_size_max)
        parse_size(self.commit_user_max)
        parse_range(self.network_range)

    def node_root_path(self, *, is_root: bool, data_home: Path) -> Path:
        if self.node_root:
            return Path(self.node_root)
        return Path("/var/lib/backend.ai") if is_root else data_home / "backend.ai"
