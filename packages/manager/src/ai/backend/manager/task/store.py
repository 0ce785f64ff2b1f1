"""Rows of background tasks."""

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


def abandon(conn: sa.Connection, begun_before: datetime, message: str, now: datetime) -> int:
    """Marks running tasks of before that time as failed; returns how many there were."""
    lost = sa.update(tasks).where(
        tasks.c.status == TaskStatus.STARTED.value, tasks.c.created_at < begun_before
    )
    return conn.execute(
        lost.values(status=TaskStatus.FAILED.value, message=message, finished_at=now)
    ).rowcount


def forget_before(conn: sa.Connection, when: datetime) -> int:
    return conn.execute(sa.delete(tasks).where(tasks.c.finished_at < when)).rowcount
