"""Rows of reported errors."""

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.ids import UserId

from ..access.model import Principal
from ..access.policy import Action, Reach, reach
from ..db.schema import error_logs, users
from .model import ErrorLog, ErrorPage, Severity


def _log(row: Any) -> ErrorLog:
    return ErrorLog(
        id=row.id,
        created_at=row.created_at,
        severity=Severity(row.severity),
        source=row.source,
        user_id=UserId(row.user_id) if row.user_id else None,
        message=row.message,
        context_lang=row.context_lang,
        context_env=row.context_env,
        request_url=row.request_url,
        request_status=row.request_status,
        traceback=row.traceback,
        is_read=row.is_read,
        is_cleared=row.is_cleared,
    )


def insert(conn: sa.Connection, log: ErrorLog, *, per_user_max: int) -> None:
    conn.execute(
        sa.insert(error_logs),
        {
            "id": log.id,
            "created_at": log.created_at,
            "severity": log.severity.value,
            "source": log.source,
            "user_id": log.user_id,
            "message": log.message,
            "context_lang": log.context_lang,
            "context_env": log.context_env,
            "request_url": log.request_url,
            "request_status": log.request_status,
            "traceback": log.traceback,
        },
    )
    newest = (
        sa.select(error_logs.c.id)
        .where(error_logs.c.user_id == log.user_id)
        .order_by(error_logs.c.created_at.desc(), error_logs.c.id)
        .limit(per_user_max)
    )
    conn.execute(
        sa.delete(error_logs).where(error_logs.c.user_id == log.user_id, error_logs.c.id.not_in(newest))
    )


def _within(principal: Principal, action: Action) -> list[sa.ColumnElement[bool]]:
    match reach(principal, action):
        case Reach.ALL:
            return []
        case Reach.DOMAIN:
            theirs = sa.select(users.c.id).where(users.c.domain_name == principal.domain_name)
            return [error_logs.c.user_id.in_(theirs)]
        case Reach.OWN:
            return [error_logs.c.user_id == principal.user_id]
        case Reach.NOTHING:
            return [sa.false()]


def page(
    conn: sa.Connection, principal: Principal, *, with_cleared: bool, limit: int, offset: int
) -> ErrorPage:
    """Newest first; only what the principal may read."""
    where = _within(principal, Action.ERROR_LOG_READ)
    if not with_cleared:
        where.append(sa.not_(error_logs.c.is_cleared))
    total = conn.execute(sa.select(sa.func.count()).select_from(error_logs).where(*where)).scalar_one()
    query = sa.select(error_logs).where(*where).order_by(error_logs.c.created_at.desc(), error_logs.c.id)
    items = tuple(_log(row) for row in conn.execute(query.limit(limit).offset(offset)))
    return ErrorPage(items=items, total_count=total)


def mark_read(conn: sa.Connection, page_of: ErrorPage) -> None:
    ids = [log.id for log in page_of.items if not log.is_read]
    if ids:
        conn.execute(sa.update(error_logs).where(error_logs.c.id.in_(ids)).values(is_read=True))


def clear(conn: sa.Connection, principal: Principal, log_id: UUID) -> bool:
    """False when there is none that the principal may clear."""
    where = _within(principal, Action.ERROR_LOG_WRITE)
    done = conn.execute(
        sa.update(error_logs).where(error_logs.c.id == log_id, *where).values(is_cleared=True)
    )
    return done.rowcount == 1


def forget_before(conn: sa.Connection, when: datetime) -> int:
    return conn.execute(sa.delete(error_logs).where(error_logs.c.created_at < when)).rowcount
