"""The port to the database.

A unit of work is a plain function of a connection, run whole in one transaction. It cannot await, so no network call can happen inside.
It must be a pure function of the connection: after a serialization failure it runs again, so it keeps nothing from an earlier try, draws
no random numbers and returns all that it has to say. It must be short, because on SQLite it holds the only writer or the event loop.

Whoever is cancelled while waiting for `run` cannot know whether it was committed; it was, whole, or nothing of it was.

Every adapter (SQLite, PostgreSQL, and the simulator's) passes `ai.backend.testkit.database_contract`. Foreign errors are mapped there,
once; what is left as SQLAlchemy's own error is a mistake in the unit of work.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import sqlalchemy as sa

from ai.backend.common.errors import BackendError, Conflict, Unavailable

T = TypeVar("T")
Operation = Callable[[sa.Connection], T]


class DatabaseUnavailable(Unavailable):
    """It does not answer, or not any more. What was running is rolled back, unless it was being committed just then."""

    code = "database.unavailable"


class DatabaseBusy(DatabaseUnavailable):
    """Others hold it, or change the same rows, for longer than we wait. Nothing was written; the same call may succeed later."""

    code = "database.busy"


class DatabaseFull(Unavailable):
    """Its disk is full. Nothing was written."""

    code = "database.no-space"


class SchemaUnknown(BackendError):
    """Another version of this program, probably a newer one, has changed the tables."""

    code = "database.schema-unknown"


class UniqueViolation(Conflict):
    """There is a row of that key already. `constraint` is the name that the schema gives the key, alike on both engines."""

    code = "database.unique-violation"

    def __init__(self, constraint: str) -> None:
        super().__init__("there is one already", constraint=constraint)
        self.constraint = constraint


class Database(Protocol):
    async def open(self) -> None:
        """Connects. Raises DatabaseUnavailable."""

    async def close(self) -> None:
        """Ends the connections; what is running ends first."""

    async def run(self, op: Operation[T]) -> T:
        """One read-write transaction, as if no other ran at the same time.

        Raises UniqueViolation, DatabaseUnavailable (DatabaseBusy), DatabaseFull, or what `op` raises; all is rolled back then.
        """

    async def read(self, op: Operation[T]) -> T:
        """One snapshot; it never waits for a writer, and refuses to write."""

    async def alter(self, op: Operation[T]) -> T:
        """Like `run`, for migrations: one at a time, with time enough; on SQLite foreign keys are checked at its end only."""
