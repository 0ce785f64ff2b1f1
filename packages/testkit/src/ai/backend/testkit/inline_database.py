"""A database without threads, for the simulator: SQLite in memory, run inline, so that nothing depends on the machine's scheduling.

It yields to the event loop before and after each unit of work, as a real one does.
"""

import asyncio
from typing import TypeVar

import sqlalchemy as sa

from ai.backend.manager.db.database import Operation
from ai.backend.manager.db.sqlite import alter, connect, driver_of, read, sqlite_engine, write

T = TypeVar("T")


class InlineDatabase:
    """Closing keeps what is in memory: the next `open` finds it, as after a restart."""

    def __init__(self) -> None:
        self._engine = sqlite_engine("sqlite://", poolclass=sa.pool.StaticPool)
        self._kept: sa.Connection | None = None

    async def open(self) -> None:
        if self._kept is None:
            self._kept = connect(self._engine)

    async def close(self) -> None:
        """Nothing to release: see the class."""

    async def run(self, op: Operation[T]) -> T:
        await asyncio.sleep(0)
        result = write(self._connection, op)
        await asyncio.sleep(0)
        return result

    async def read(self, op: Operation[T]) -> T:
        await asyncio.sleep(0)
        # One connection for both, since the memory is the connection's.
        driver = driver_of(self._connection)
        driver.execute("PRAGMA query_only=ON")
        try:
            result = read(self._connection, op)
        finally:
            driver.execute("PRAGMA query_only=OFF")
        await asyncio.sleep(0)
        return result

    async def alter(self, op: Operation[T]) -> T:
        return alter(self._connection, op)

    @property
    def _connection(self) -> sa.Connection:
        assert self._kept is not None, "the database is not open"
        return self._kept
