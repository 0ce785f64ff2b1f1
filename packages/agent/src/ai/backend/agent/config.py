"""The agent's settings. Every one has a default that works on a single machine; each carries its unit in the name."""

from typing import Literal

import msgspec


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    id: str = ""
    """Unique in the cluster and stable across restarts; empty: "i-" and the host's name."""
    resource_group: str = "default"
    address: str = "127.0.0.1"
    backend: Literal["auto", "docker", "sandbox"] = "auto"
    """auto: Docker when an engine answers, else the sandbox."""
    docker_host: str = ""
    """unix:///path or tcp://host:port; empty: $DOCKER_HOST, else the default socket."""
    node_root: str = ""
    """Where images, containers and scratch folders live; session users must be able to walk there. Empty: chosen at start."""
    state_dir: str = ""
    """Where the journal lives, private to the agent; empty: below the home folder."""
    scratch_dir: str = ""
    """Empty: below the node root."""
    heartbeat_s: float = 3.0
    check_s: float = 15.0
    """How often the backend is asked whether it is well and which images it has (while it is not well: every heartbeat)."""
    start_timeout_s: float = 60.0
    stop_grace_s: float = 3.0
    reserved_memory_bytes: int = 0
    reserved_cpu_milli: int = 0
    pids_max: int = 1024
    uid_first: int = 200_000
    """Containers of an agent that runs as root get uids of their own, from here on."""
    stop_kernels_on_exit: bool = False
    """Ends all kernels at a clean shutdown, instead of leaving them for the next start to adopt."""
