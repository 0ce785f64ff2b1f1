"""Statements that are built once.

Building a statement costs SQLAlchemy more than SQLite needs to run it, and most of a session's start is such small statements: the ones
on that path are made at import, or here once for each set of columns, and get their values as parameters.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import sqlalchemy as sa


def one_of(column: sa.ColumnElement[Any], texts: Iterable[str]) -> sa.ColumnElement[bool]:
    """`column IN (...)` of constants of ours, written into the statement; never for what anybody sent."""
    return column.in_([sa.literal_column(f"'{text}'") for text in texts])


def update_row(
    conn: sa.Connection,
    table: sa.Table,
    where: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    counting: str = "",
) -> int:
    """Sets columns of the rows whose columns `where` have these values, and adds one to the column `counting`; returns how many rows
    there were."""
    statement = _update(table, tuple(where), tuple(values), counting)
    parameters = {f"where_{name}": value for name, value in where.items()}
    parameters |= {f"set_{name}": value for name, value in values.items()}
    return conn.execute(statement, parameters).rowcount


@lru_cache(maxsize=256)
def _update(table: sa.Table, where: tuple[str, ...], columns: tuple[str, ...], counting: str) -> sa.Update:
    counted: dict[str, Any] = {counting: table.c[counting] + 1} if counting else {}
    return (
        sa.update(table)
        .where(*(table.c[name] == sa.bindparam(f"where_{name}", type_=table.c[name].type) for name in where))
        .values({name: sa.bindparam(f"set_{name}", type_=table.c[name].type) for name in columns} | counted)
    )
