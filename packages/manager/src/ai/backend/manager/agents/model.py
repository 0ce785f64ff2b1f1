"""Agents as the manager knows them."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ai.backend.common.ids import AgentId
from ai.backend.common.quantity import ResourceSlots


class AgentStatus(enum.StrEnum):
    """The published words."""

    ALIVE = "ALIVE"
    LOST = "LOST"
    """Silent for too long. What runs there may well run on: it is left alone until the agent tells."""
    TERMINATED = "TERMINATED"
    """It said goodbye."""


WHOLE = 1000
"""Of a device, in milli."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An accelerator of an agent."""

    id: str
    slot: str
    """What sessions ask for to get it: `cuda.device`, `cuda.shares`, ..."""
    model: str
    memory_bytes: int
    units: int
    numa_node: int
    location: str
    problem: str
    """Why it can't be given; empty: it can."""
    held: int
    """In milli, by kernels, as their rows say."""
    percent: float | None
    used_bytes: int | None
    """How busy it was lately; None: not known."""

    @property
    def free(self) -> int:
        return max(0, WHOLE - self.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotInfo:
    """In which steps, in milli, a slot of devices is given; `shared`: also as shares of one."""

    slot: str
    shared: bool
    quantum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A kind of device that an agent has a plugin for."""

    key: str
    version: str
    facts: Mapping[str, str]
    slots: tuple[SlotInfo, ...]
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    id: AgentId
    status: AgentStatus
    resource_group: str
    schedulable: bool
    """An administrator's wish."""
    generation: int
    started_at_us: int
    sequence: int
    last_seen_at: datetime
    first_contact_at: datetime
    status_changed_at: datetime
    lost_at: datetime | None
    region: str
    capacity: ResourceSlots
    occupied: ResourceSlots
    architecture: str
    backend: str
    version: str
    address: str
    healthy: bool
    problem: str
    images: frozenset[str]
    start_failures: int = 0
    """In a row; see `rotation`."""
    rests_until: datetime | None = None
    devices: tuple[Device, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()

    @property
    def takes_sessions(self) -> bool:
        return self.status is AgentStatus.ALIVE and self.schedulable and self.healthy

    @property
    def device_slots(self) -> frozenset[str]:
        """That it has devices of, whether they can be used now or not."""
        return frozenset(device.slot for device in self.devices)

    @property
    def why_not(self) -> str:
        """Why it takes no sessions, in words; empty when it does."""
        if self.status is not AgentStatus.ALIVE:
            return f"is {self.status.value.lower()} (last heard of {self.last_seen_at:%Y-%m-%d %H:%M:%S} UTC)"
        if not self.schedulable:
            return "is excluded from scheduling by an administrator"
        return "" if self.healthy else self.problem
