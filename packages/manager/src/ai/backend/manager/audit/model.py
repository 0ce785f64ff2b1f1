"""What administrators changed, and who they were."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from ai.backend.common.log import request_id

from ..access.model import Principal

TARGET_MAX = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One change, to be written in its transaction. It never holds a secret: neither the value of a setting nor a key."""

    created_at: datetime
    user_id: UUID
    access_key: str
    action: str
    """Thing and verb: "setting:set", "manager:freeze"."""
    target: str
    request_id: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A note as it is in the database."""

    id: int
    note: Note


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPage:
    items: tuple[Record, ...]
    total_count: int


def note(principal: Principal, action: str, target: str, now: datetime, **detail: Any) -> Note:
    """Call it before the transaction: the request's id is known to the caller's task only."""
    return Note(
        created_at=now,
        user_id=principal.user_id,
        access_key=principal.access_key,
        action=action,
        target=target[:TARGET_MAX],
        request_id=request_id.get()[:64],
        detail=detail,
    )
