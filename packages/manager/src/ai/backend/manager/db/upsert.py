"""Insert, or update what is there: one call for both dialects, whose statements are alike but live in different modules."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

PARAMETERS_MAX = 30_000
"""Both engines take 32 thousand in one statement."""


def upsert(
    conn: sa.Connection,
    table: sa.Table,
    rows: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    key: Sequence[str],
    update: Sequence[str] = (),
) -> int:
    """Inserts rows (all of the same columns, no key twice); where a row of that `key` is there, sets its `update` columns, if any.

    `key` names the columns of a primary key or a unique constraint. Returns how many rows were made or set. A violation of any other
    key is UniqueViolation, as always.
    """
    given = [rows] if isinstance(rows, Mapping) else rows
    insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    at_once = max(1, PARAMETERS_MAX // len(table.columns))
    done = 0
    for start in range(0, len(given), at_once):
        statement = insert(table).values(list(given[start : start + at_once]))
        if update:
            new = {name: statement.excluded[name] for name in update}
            statement = statement.on_conflict_do_update(index_elements=list(key), set_=new)
        else:
            statement = statement.on_conflict_do_nothing(index_elements=list(key))
        done += conn.execute(statement).rowcount
    return done
