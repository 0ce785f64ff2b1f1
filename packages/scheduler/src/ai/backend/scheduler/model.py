"""What the scheduler sees and says: immutable snapshots in, immutable plans out. It knows no SQL, HTTP, clock or agent protocol."""

import enum
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ai.backend.common.quantity import ResourceSlots, Shortfall

from .demand import Mix


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator of an agent. Sessions hold it whole, or shares of it."""

    family: str
    model: str
    free: int
    """In milli: 1000 is all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """One node. `occupied` is what kernels hold there by the manager's rows: the only truth about usage."""

    id: str
    resource_group: str
    architecture: str
    capacity: ResourceSlots
    occupied: ResourceSlots
    images: frozenset[str]
    devices: tuple[Device, ...] = ()
    schedulable: bool = True
    """False: cordoned, lost, or unhealthy (`problem` says which)."""
    problem: str = ""
    generation: int = 0
    """Handed back in the plan, so that it is applied only to the agent state that it was made for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRequest:
    id: UUID
    slots: ResourceSlots
    image: str
    architecture: str
    models: frozenset[str] = frozenset()
    """Of its devices, those that will do; empty: any."""
    agent_id: str = ""
    """The only agent that it may go to; empty: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A pending session as the scheduler sees it: all its kernels are placed, or none."""

    id: UUID
    resource_group: str
    priority: int
    created_at: datetime
    kernels: tuple[KernelRequest, ...]
    version: int = 0
    single_node: bool = True
    """All its kernels go to one agent."""
    user: str = ""
    project: str = ""
    domain: str = ""
    """Whose it is, for queues that are fair."""


class Order(enum.StrEnum):
    """In which order a group's workloads are looked at, within a priority."""

    FIFO = "fifo"
    LIFO = "lifo"
    DRF = "drf"
    FAIR_SHARE = "fair-share"


class Selection(enum.StrEnum):
    """Which of the agents that could take a workload gets it."""

    CONCENTRATED = "concentrated"
    DISPERSED = "dispersed"
    ROUND_ROBIN = "roundrobin"
    FRAGMENTATION = "fragmentation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """How a resource group schedules."""

    name: str
    order: Order = Order.FIFO
    selection: Selection = Selection.DISPERSED
    slot_priority: tuple[str, ...] = ("cuda", "rocm", "tpu", "cpu", "mem")
    """Families of slots, the scarcest first."""
    last_agent_id: str = ""
    """Of round robin: whose turn it was last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a user holds in a resource group now, and what they and theirs have used of it lately."""

    user: str
    resource_group: str
    held: ResourceSlots = ResourceSlots()
    factors: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Fair-share factors of domain, project and user: 1 has used nothing, 0 more than enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    agents: tuple[AgentView, ...]
    workloads: tuple[Workload, ...]
    groups: tuple[Group, ...] = ()
    shares: tuple[Share, ...] = ()
    mix: Mix = Mix()
    """What is usually asked for, by which strategies that look ahead measure."""


class Rule(enum.StrEnum):
    """Every reason for which an agent can be refused, in one place; stable words of the API."""

    CHOSEN = "other-agent-chosen"
    NOT_SCHEDULABLE = "agent-not-schedulable"
    RESOURCE_GROUP = "other-resource-group"
    ARCHITECTURE = "other-architecture"
    IMAGE = "image-not-on-agent"
    MODEL = "other-device-model"
    SLOTS = "not-enough-free-slots"
    DEVICES = "devices-in-pieces"
    NO_AGENT = "no-agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a workload stays pending: the rule that refused the most promising agent, with numbers."""

    workload_id: UUID
    rule: Rule
    message: str
    position: int
    """1 is the head of its queue."""
    shortfalls: tuple[Shortfall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    kernel_id: UUID
    agent_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One workload that starts now, with every kernel placed."""

    workload_id: UUID
    version: int
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    starts: tuple[Start, ...]
    refusals: tuple[Refusal, ...]
