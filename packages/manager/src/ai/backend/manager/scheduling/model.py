"""Explanations and simulations as values."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ai.backend.common.quantity import Shortfall
from ai.backend.scheduler.limit import texts
from ai.backend.scheduler.model import Need, Refusal, Rule

from ..session.model import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why a session is as it is. All but `session` and `message` is for sessions that wait."""

    session: Session
    rule: str
    message: str
    hint: str = ""
    position: int | None = None
    """1 is the head of its queue; None: it is not in the queue yet."""
    shortfalls: tuple[Shortfall, ...] = ()
    unblock: tuple[Need, ...] = ()
    estimated_start: datetime | None = None
    """None: it cannot be known."""
    considered: tuple[tuple[Rule, int], ...] = ()
    limits: tuple[dict[str, str], ...] = ()
    """Those that it would go over, in texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadDraft:
    """Sessions that might be asked for. `slots` are of each kernel; `image` empty: any agent has it."""

    name: str
    slots: dict[str, str | int | float]
    kernels: int = 1
    count: int = 1
    single_node: bool = True
    architecture: str = "x86_64"
    image: str = ""
    priority: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDraft:
    """An agent that might be there. `images` None: whatever is asked for."""

    id: str
    slots: dict[str, str | int | float]
    occupied: dict[str, str | int | float] = field(default_factory=dict)
    architecture: str = "x86_64"
    images: tuple[str, ...] | None = None
    schedulable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationDraft:
    """`agents` None: the live cluster, with those that wait there."""

    resource_group: str
    workloads: tuple[WorkloadDraft, ...]
    agents: tuple[AgentDraft, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """`copy` counts from 1. `agents`: of its kernels, in order."""

    name: str
    copy: int
    agents: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    name: str
    copy: int
    rule: Rule
    message: str
    hint: str
    position: int
    shortfalls: tuple[Shortfall, ...]
    unblock: tuple[Need, ...]
    considered: tuple[tuple[Rule, int], ...]
    limits: tuple[dict[str, str], ...]
    estimated_start: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """`waiting`: how many sessions that are really there stood in the same queue."""

    placements: tuple[Placed, ...]
    refusals: tuple[Refused, ...]
    agents: int
    waiting: int


def need_row(need: Need) -> dict[str, Any]:
    """As it is kept with a session and sent in events; what does not apply is left out."""
    fields = {
        "agent": need.agent_id,
        "group": need.resource_group,
        "architecture": need.architecture,
        "images": list(need.images),
        "models": list(need.models),
        "slots": need.slots.texts(),
    }
    return {"kind": need.remedy.value, "text": need.text, **{k: v for k, v in fields.items() if v}}


def limits_of(refusal: Refusal) -> tuple[dict[str, str], ...]:
    return tuple(map(texts, refusal.excesses))
