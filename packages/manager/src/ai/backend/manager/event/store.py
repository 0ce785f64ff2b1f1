"""The outbox of events: rows written in the transaction of the change that they tell."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ai.backend.common.ids import SessionId

from ..db.schema import events
from .model import Event


def append(
    conn: sa.Connection, name: str, session_id: SessionId, payload: Mapping[str, Any], now: datetime
) -> None:
    conn.execute(
        sa.insert(events).values(created_at=now, name=name, session_id=session_id, payload=dict(payload))
    )


def newest_id(conn: sa.Connection) -> int:
    newest: int = conn.execute(sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))).scalar_one()
    return newest


def after(
    conn: sa.Connection,
    event_id: int,
    *,
    limit: int,
    session_id: SessionId | None = None,
    also: Sequence[int] = (),
) -> list[Event]:
    newer = sa.or_(events.c.id > event_id, events.c.id.in_(also)) if also else events.c.id > event_id
    query = sa.select(events).where(newer).order_by(events.c.id).limit(limit)
    if session_id is not None:
        query = query.where(events.c.session_id == session_id)
    return [
        Event(
            id=row.id,
            created_at=row.created_at,
            name=row.name,
            session_id=row.session_id,
            payload=row.payload,
        )
        for row in conn.execute(query)
    ]


def forget_before(conn: sa.Connection, when: datetime) -> int:
    return conn.execute(sa.delete(events).where(events.c.created_at < when)).rowcount
