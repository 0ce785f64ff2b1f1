"""Who may watch a task, and what becomes of one. Pure."""

from dataclasses import replace
from datetime import datetime, timedelta

from ai.backend.common.errors import BackendError

from ..access.model import Principal
from .model import Task, TaskStatus

KEPT = timedelta(hours=24)
"""How long a finished task can still be asked for."""
SEEN_EVERY_S = 20.0
GONE_AFTER = timedelta(seconds=90)
"""So long without a word from whoever runs it, and it is not run any more. Several words may be late, and clocks differ."""
MESSAGE_MAX = 2000
ABANDONED = "The manager that ran it was stopped."
UNEXPECTED = "Something unexpected went wrong in the server."


def may_watch(principal: Principal, task: Task) -> bool:
    """Only whoever started it: there is nothing in it for others."""
    return task.user_id == principal.user_id


def advanced(task: Task, current: int, total: int, message: str) -> Task:
    """A running task, further on. Progress never runs backwards and never beyond its end, for clients calculate with it."""
    total = max(total, 0)
    current = min(max(current, 0), total) if total else max(current, 0)
    return replace(task, current=current, total=total, message=message[:MESSAGE_MAX])


def ended(task: Task, outcome: str | BaseException, now: datetime) -> Task:
    """The task after its work returned, or broke off."""
    if isinstance(outcome, str):
        total = task.total or task.current
        return replace(
            task,
            status=TaskStatus.DONE,
            current=total,
            total=total,
            message=outcome[:MESSAGE_MAX],
            finished_at=now,
        )
    if isinstance(outcome, BackendError):
        status, message = TaskStatus.FAILED, outcome.message or outcome.code
    elif isinstance(outcome, Exception):
        status, message = TaskStatus.FAILED, UNEXPECTED
    else:
        status, message = TaskStatus.CANCELLED, ABANDONED
    return replace(task, status=status, message=message[:MESSAGE_MAX], finished_at=now)
