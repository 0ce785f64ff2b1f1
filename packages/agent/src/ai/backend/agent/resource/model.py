"""What a node has, and what one kernel holds of it. Plain values; nothing here looks at the machine."""

from dataclasses import dataclass, field

from ai.backend.common.errors import Unavailable


class InsufficientResources(Unavailable):
    """The node has not enough left. `detail` names the slot, what was asked and what is left."""

    code = "node.insufficient-resources"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What may be given to kernels: reserves are taken off already."""

    cores: tuple[int, ...]
    cpu_milli: int
    memory_bytes: int
    uid_first: int
    gid_first: int
    uids_shared: bool = False
    """The agent is not root: every kernel runs as the agent's own user, `uid_first`."""

    def slots(self) -> dict[str, int]:
        return {"cpu": self.cpu_milli, "mem": self.memory_bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Held from before the first effect of a kernel until its container and scratch folder are gone."""

    cpu_milli: int
    memory_bytes: int
    uid: int
    gid: int
    cores: tuple[int, ...] = field(default=())
    """The cores it is bound to; empty: all of the node's."""
