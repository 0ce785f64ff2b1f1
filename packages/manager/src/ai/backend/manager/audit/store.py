"""The audit log: rows are only added, each in the transaction of the change that it tells."""

import sqlalchemy as sa

from ..db.schema import audit_logs
from .model import Note, Record, RecordPage


def write(conn: sa.Connection, note: Note) -> None:
    conn.execute(
        sa.insert(audit_logs),
        {
            "created_at": note.created_at,
            "user_id": note.user_id,
            "access_key": note.access_key,
            "action": note.action,
            "target": note.target,
            "request_id": note.request_id,
            "detail": note.detail,
        },
    )


def page(
    conn: sa.Connection, *, action: str | None, target: str | None, limit: int, offset: int
) -> RecordPage:
    """Newest first. `action` and `target` are beginnings of what is wanted."""
    where = [
        column.startswith(text, autoescape=True)
        for column, text in ((audit_logs.c.action, action), (audit_logs.c.target, target))
        if text
    ]
    total = conn.execute(sa.select(sa.func.count()).select_from(audit_logs).where(*where)).scalar_one()
    query = sa.select(audit_logs).where(*where).order_by(audit_logs.c.id.desc()).limit(limit).offset(offset)
    items = tuple(
        Record(
            id=row.id,
            note=Note(
                created_at=row.created_at,
                user_id=row.user_id,
                access_key=row.access_key,
                action=row.action,
                target=row.target,
                request_id=row.request_id,
                detail=row.detail,
            ),
        )
        for row in conn.execute(query)
    )
    return RecordPage(items=items, total_count=total)
