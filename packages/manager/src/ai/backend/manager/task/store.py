"""Rows of background tasks."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.ids import UserId

from ..db.schema import tasks
from ..db.statement import update_row
from .model import Task, TaskStatus


def insert(conn: sa.Connection, task: Task) -> None:
    conn.execute(
        sa.insert(tasks),
        {
            "id": task.id,
            "name": task.name,
            "user_id": task.user_id,
            "status": task.status.value,
            "current_progress": task.current,
            "total_progress": task.total,
            "message": task.message,
            "created_at": task.created_at,
            "seen_at": task.created_at,
        },
    )


def get(conn: sa.Connection, task_id: UUID) -> Task | None:
    row = conn.execute(sa.select(tasks).where(tasks.c.id == task_id)).first()
    if row is None:
        return None
    return Task(
        id=row.id,
        name=row.name,
        user_id=UserId(row.user_id),
        status=TaskStatus(row.status),
        current=row.current_progress,
        total=row.total_progress,
        message=row.message,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


def update(conn: sa.Connection, task: Task) -> None:
    """What has ended stays so: progress that is written late changes nothing."""
    update_row(
        conn,
        tasks,
        {"id": task.id, "status": TaskStatus.STARTED.value},
        {
            "status": task.status.value,
            "current_progress": task.current,
            "total_progress": task.total,
            "message": task.message,
            "finished_at": task.finished_at,
        },
    )


def seen(conn: sa.Connection, task_ids: Collection[UUID], now: datetime) -> None:
    """Whoever runs these says that it does."""
    conn.execute(sa.update(tasks).where(tasks.c.id.in_(task_ids)).values(seen_at=now))


def _unseen_since(when: datetime) -> sa.ColumnElement[bool]:
    # Rows of an older release have no word but their beginning.
    last = sa.func.coalesce(tasks.c.seen_at, tasks.c.created_at)
    return sa.and_(tasks.c.status == TaskStatus.STARTED.value, last < when)


def is_untidy(conn: sa.Connection, seen_before: datetime, finished_before: datetime) -> bool:
    """Whether `abandon` or `forget_before` would find anything."""
    any_such = sa.or_(_unseen_since(seen_before), tasks.c.finished_at < finished_before)
    return conn.execute(sa.select(tasks.c.id).where(any_such).limit(1)).first() is not None


def abandon(conn: sa.Connection, seen_before: datetime, message: str, now: datetime) -> int:
    """Marks tasks as failed that nobody has said to run since that time; returns how many there were."""
    return conn.execute(
        sa.update(tasks)
        .where(_unseen_since(seen_before))
        .values(status=TaskStatus.FAILED.value, message=message, finished_at=now)
    ).rowcount


def forget_before(conn: sa.Connection, when: datetime) -> int:
    return conn.execute(sa.delete(tasks).where(tasks.c.finished_at < when)).rowcount
