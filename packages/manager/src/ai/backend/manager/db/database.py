"""The port to the database.

A unit of work is a plain function of a connection, run whole in one transaction: it cannot await, so no network call can happen inside.
It may be run again after a serialization failure, so it must keep nothing from an earlier try. Every adapter (SQLite, PostgreSQL, and the
simulator's) passes `ai.backend.testkit.database_contract`.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import sqlalchemy as sa

from ai.backend.common.errors import Conflict, Unavailable

T = TypeVar("T")
Operation = Callable[[sa.Connection], T]


class DatabaseUnavailable(Unavailable):
    code = "database.unavailable"


class DatabaseFull(Unavailable):
    code = "database.no-space"


class UniqueViolation(Conflict):
    """A row of that key exists; the cause names it."""

    code = "database.unique-violation"


class Database(Protocol):
    async def open(self) -> None:
        """Connects. Raises DatabaseUnavailable."""

    async def close(self) -> None: ...

    async def run(self, op: Operation[T]) -> T:
        """One read-write transaction. Raises UniqueViolation, DatabaseUnavailable, DatabaseFull, or what `op` raises (rolled back)."""

    async def read(self, op: Operation[T]) -> T:
        """One read-only snapshot; it never waits for a writer."""

    async def alter(self, op: Operation[T]) -> T:
        """Like `run`, for migrations: on SQLite foreign keys rest while tables are copied."""
