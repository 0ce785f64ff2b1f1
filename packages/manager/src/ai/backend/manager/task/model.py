"""Background tasks: what goes on after the call that began it was answered."""

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from ai.backend.common.ids import UserId


class TaskStatus(enum.StrEnum):
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self is not TaskStatus.STARTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    id: UUID
    name: str
    user_id: UserId
    status: TaskStatus
    current: int
    total: int
    """0: not known yet."""
    message: str
    created_at: datetime
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """Where a task is. `first`: it had ended before anybody asked."""

    task: Task
    first: bool


class Reporter(Protocol):
    """What a task's work is given to say how far it is; cheap to call often."""

    def update(self, current: int, total: int, message: str = "") -> None: ...


Work = Callable[[Reporter], Awaitable[str]]
"""Returns what is said of it in the end. A BackendError that it raises is told to the user; anything else is logged."""
