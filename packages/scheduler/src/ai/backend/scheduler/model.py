"""What the scheduler sees and says: immutable snapshots in, immutable plans out. It knows no SQL, HTTP, clock or agent protocol."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ai.backend.common.quantity import ResourceSlots, Shortfall

from .demand import Mix

if TYPE_CHECKING:
    from .queue import Factory


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator of an agent. Sessions hold it whole, or shares of it."""

    family: str
    model: str
    free: int
    """In milli: 1000 is all of it."""
    id: str = ""
    numa_node: int = -1
    """Near which part of the node's memory it is; -1: near none, or not known."""


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
    keypair: str = ""
    user: str = ""
    project: str = ""
    domain: str = ""
    """Whose it is, for queues that are fair and for limits."""
    job_priority: int = 0
    """Whom it may preempt: those of a lower one. Another axis than `priority`, which is the place in the queue."""
    run_time_s: int | None = None
    """How long it runs at most, as declared, or as it will probably run, as learned; None: nothing is known."""
    avoid: frozenset[str] = frozenset()
    """Agents on which it failed to start before: it gets them only if no other will do."""
    preempting: bool = False
    """Others were told to make room for it: what gets free is its own, whoever stands before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What one kernel holds on an agent."""

    agent_id: str
    slots: ResourceSlots
    devices: tuple[tuple[str, int], ...] = ()
    """(id, milli) of the agent's devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A session that holds what it was given: from the moment that it is placed until its last kernel is gone."""

    id: UUID
    version: int
    resource_group: str
    held: tuple[Held, ...]
    started_at: datetime
    ends_at: datetime | None = None
    """When it will be over at the latest, or probably; None: nothing is known."""
    ending: bool = False
    """It has been told to end, and will in a moment."""
    preemptible: bool = False
    job_priority: int = 0
    keypair: str = ""
    user: str = ""
    project: str = ""
    domain: str = ""


class Selection(enum.StrEnum):
    """Which of the agents that could take a workload gets it."""

    CONCENTRATED = "concentrated"
    DISPERSED = "dispersed"
    ROUND_ROBIN = "roundrobin"
    FRAGMENTATION = "fragmentation"


class PreemptionMode(enum.StrEnum):
    """What becomes of a victim."""

    TERMINATE = "terminate"
    RESCHEDULE = "reschedule"
    """It waits in the queue again, under the same id."""


class PreemptionOrder(enum.StrEnum):
    """Which victims of the same job priority go first."""

    OLDEST = "oldest"
    NEWEST = "newest"
    SMALLEST = "smallest-resources"
    """Those that hold the least, by the largest fraction of any slot of the group."""
    FEWEST = "fewest-sessions"
    """Those that hold the most, so that as few as possible have to go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preemption:
    """How a group lets workloads take the place of running ones of a lower job priority."""

    mode: PreemptionMode = PreemptionMode.TERMINATE
    order: PreemptionOrder = PreemptionOrder.NEWEST
    scope: "Scope | None" = None
    """Victims are of the same keypair, user, project or domain; None: of anybody in the group."""
    min_run_time_s: int = 0
    """Nobody is a victim before having run this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """How a resource group schedules."""

    name: str
    order: str = "fifo"
    """The name of its queue: in which order its workloads are looked at, within a priority."""
    queue: "Factory | None" = None
    """The queue itself; None: the scheduler's own one of that name."""
    queue_options: Mapping[str, Any] = field(default_factory=dict)
    selection: Selection = Selection.DISPERSED
    slot_priority: tuple[str, ...] = ("cuda", "rocm", "tpu", "cpu", "mem")
    """Families of slots, the scarcest first."""
    last_agent_id: str = ""
    """Of round robin: whose turn it was last."""
    preemption: Preemption | None = None
    """None: nobody is preempted."""
    mix: Mix = Mix()
    """What is usually asked for there, by which strategies that look ahead measure."""
    reserve_after_s: int = 60
    """A workload that has waited this long gets a reservation, which those behind it may not delay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a user holds in a resource group now, and what they and theirs have used of it lately."""

    user: str
    resource_group: str
    held: ResourceSlots = ResourceSlots()
    factors: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Fair-share factors of domain, project and user: 1 has used nothing, 0 more than enough."""


class Scope(enum.StrEnum):
    """Whose sessions a limit counts together; from the narrowest to the widest."""

    KEYPAIR = "keypair"
    USER = "user"
    PROJECT = "project"
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What all that runs in one scope may hold together, and holds now. A scope that may hold anything has none."""

    scope: Scope
    name: str
    """As workloads name it; `label` as people do."""
    label: str = ""
    sessions: int | None = None
    """How many at a time; None: any number."""
    slots: Mapping[str, int] = field(default_factory=dict)
    rest: int | None = None
    """Of each slot that `slots` does not name; None: any amount."""
    sessions_used: int = 0
    slots_used: ResourceSlots = ResourceSlots()
    hidden: bool = False
    """Its numbers are not for everybody who may read why a workload waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """One number by which a limit would be exceeded."""

    limit: Limit
    what: str
    """A slot, or the number of "sessions" or "containers"."""
    asked: int
    used: int
    allowed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    agents: tuple[AgentView, ...]
    workloads: tuple[Workload, ...]
    groups: tuple[Group, ...] = ()
    shares: tuple[Share, ...] = ()
    limits: tuple[Limit, ...] = ()
    running: tuple[Running, ...] = ()
    now: datetime = datetime.min.replace(tzinfo=UTC)


class Rule(enum.StrEnum):
    """Every reason for which an agent, or (`LIMIT`) a workload by itself, can be refused, in one place; stable words of the API."""

    CHOSEN = "other-agent-chosen"
    NOT_SCHEDULABLE = "agent-not-schedulable"
    RESOURCE_GROUP = "other-resource-group"
    ARCHITECTURE = "other-architecture"
    IMAGE = "image-not-on-agent"
    MODEL = "other-device-model"
    HELD = "held-for-another"
    PREEMPTING = "waits-for-preempted"
    SLOTS = "not-enough-free-slots"
    DEVICES = "devices-in-pieces"
    NO_AGENT = "no-agent"
    LIMIT = "limit-reached"


class Remedy(enum.StrEnum):
    """Kinds of what would let a workload start; stable words of the API."""

    AGENT = "agent"
    """An agent that suits has to join."""
    SCHEDULABLE = "schedulable"
    """An agent has to take new sessions again."""
    IMAGE = "image"
    """An agent has to get an image."""
    FREE = "free"
    """Amounts have to get free on an agent."""
    LIMIT = "limit"
    """Sessions of whoever reached a limit have to end, or the limit has to be raised."""
    DEVICES = "devices"
    """Devices that are free in pieces have to get free whole, or one of them by a larger share."""
    TURN = "turn"
    """Another workload, which what is free is held for, has to start before."""
    TIME = "time"
    """Its time has to come."""
    SESSIONS = "sessions"
    """Others have to end with success. No plan says these last two: such workloads are not handed to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One thing that has to become true. `slots`: what has to get free on the agent, or what an agent that joins has to have free."""

    remedy: Remedy
    text: str
    """Goes on after "It starts when"."""
    agent_id: str = ""
    resource_group: str = ""
    architecture: str = ""
    images: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    slots: ResourceSlots = ResourceSlots()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a workload stays pending: the rule that refused the most promising agent, with numbers.

    `unblock`: what has to become true, all of it, for the workload, or for the first of its kernels that was not placed, to find that
    agent. `considered`: how many of the cluster's agents each rule refused, an agent counting for the first one.
    """

    workload_id: UUID
    rule: Rule
    message: str
    position: int
    """1 is the head of its queue."""
    shortfalls: tuple[Shortfall, ...] = ()
    excesses: tuple[Excess, ...] = ()
    """Of every limit that it would exceed."""
    unblock: tuple[Need, ...] = ()
    considered: tuple[tuple[Rule, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    kernel_id: UUID
    agent_id: str
    devices: tuple[tuple[str, int], ...] = ()
    """(id, milli) of the agent's devices; of a reservation none is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One workload that starts now, with every kernel placed."""

    workload_id: UUID
    version: int
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A running session that makes room. `workload_id`: for whom; that one starts when the room is there."""

    session_id: UUID
    version: int
    mode: PreemptionMode
    workload_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A workload that waits has its place from `at`: nobody behind it may delay that. None: as soon as certain sessions have ended, of
    which it is not known when; their number never grows."""

    workload_id: UUID
    placements: tuple[Placement, ...]
    at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A group's queue is not followed in this plan, and why."""

    group: str
    queue: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    starts: tuple[Start, ...]
    refusals: tuple[Refusal, ...]
    victims: tuple[Victim, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    faults: tuple[Fault, ...] = ()
