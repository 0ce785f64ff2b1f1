"""The outbox of events: rows written in the transaction of the change that they tell."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ai.backend.common.ids import SessionId

from ..db.schema import events
from ..db.statement import Many
from .model import Event

_NEWEST = sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))
_APPEND = Many(sa.insert(events))
_AFTER = (
    sa.select(events)
    .where(events.c.id > sa.bindparam("after"))
    .order_by(events.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)


def row(name: str, session_id: SessionId, payload: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    return {"created_at": now, "name": name, "session_id": session_id, "payload": dict(payload)}


def append_all(conn: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Appends what `row` made, in this order."""
    _APPEND(conn, rows)


def newest_id(conn: sa.Connection) -> int:
    newest: int = conn.execute(_NEWEST).scalar_one()
    return newest


def after(
    conn: sa.Connection,
    event_id: int,
    *,
    limit: int,
    session_id: SessionId | None = None,
    also: Sequence[int] = (),
) -> list[Event]:
    query = _AFTER
    if also:
        newer = sa.or_(events.c.id > sa.bindparam("after"), events.c.id.in_(also))
        query = sa.select(events).where(newer).order_by(events.c.id).limit(sa.bindparam("most"))
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
        for row in conn.execute(query, {"after": event_id, "most": limit})
    ]


def forget_before(conn: sa.Connection, when: datetime) -> int:
    return conn.execute(sa.delete(events).where(events.c.created_at < when)).rowcount
