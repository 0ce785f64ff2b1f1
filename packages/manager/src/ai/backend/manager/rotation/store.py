"""Rows with a sealed column, whatever table they are in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..db import schema as t


@dataclass(frozen=True, slots=True)
class Place:
    """Where something sealed is kept: a column, and the key of its table."""

    column: sa.Column[Any]
    key: sa.Column[Any]

    @property
    def name(self) -> str:
        return f"{self.column.table.name}.{self.column.name}"


SECRET_KEYS = Place(t.keypairs.c.secret_key_sealed, t.keypairs.c.access_key)
SSH_KEYS = Place(t.keypairs.c.ssh_private_key_sealed, t.keypairs.c.access_key)
TOTP_KEYS = Place(t.users.c.totp_key_sealed, t.users.c.id)


def page(conn: sa.Connection, place: Place, after: Any, limit: int) -> list[tuple[Any, bytes]]:
    """(key, sealed) of the next rows by key that have something sealed; None as `after`: the first ones."""
    query = sa.select(place.key, place.column).where(place.column.is_not(None))
    if after is not None:
        query = query.where(place.key > after)
    return [(key, bytes(sealed)) for key, sealed in conn.execute(query.order_by(place.key).limit(limit))]


def replace(conn: sa.Connection, place: Place, changes: Sequence[tuple[Any, bytes, bytes]]) -> int:
    """(key, what is there, what shall be) of each row. What has changed meanwhile is left alone. Returns how many were written."""
    written = 0
    for key, before, after in changes:
        found = sa.and_(place.key == key, place.column == before)
        written += conn.execute(
            sa.update(place.column.table).where(found).values({place.column.name: after})
        ).rowcount
    return written
