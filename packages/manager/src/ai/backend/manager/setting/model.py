"""What administrators set at run time."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Tree: TypeAlias = str | Mapping[str, "Tree"]
"""A text, or texts by name, nested."""


class ManagerState(enum.StrEnum):
    """The published words."""

    RUNNING = "running"
    FROZEN = "frozen"
    """For maintenance: what changes things is refused; what runs, runs on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What everybody is told, at most a second old."""

    state: ManagerState
    active_sessions: int
    """All that have not ended."""
    announcement: str
    """Empty: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStatus:
    pending_sessions: int
    schedulable_agents: int
    runs: dict[str, int]
    """How often each loop of it ran since this manager was started."""
    failures: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotDetail:
    """How a kind of resource is shown to people."""

    slot_name: str
    description: str
    human_readable_name: str
    display_unit: str
    binary: bool
    round_length: int
    display_icon: str
