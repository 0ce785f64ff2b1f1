"""A database without threads, for the simulator: SQLite in memory, run inline, so that nothing depends on the machine's scheduling."""

import asyncio
from typing import TypeVar

import sqlalchemy as sa

from ai.backend.manager.db.database import Operation
from ai.backend.manager.db.sqlite import perform, sqlite_engine

T = TypeVar("T")


class InlineDatabase:
    """`commits` counts; `on_commit` lets the simulator crash a manager right after a write reached the disk."""

    def __init__(self) -> None:
        self._engine = sqlite_engine("sqlite://", poolclass=sa.pool.StaticPool)
        self._connection: sa.Connection | None = None
        self.commits = 0

    async def open(self) -> None:
        if self._connection is None:
            self._connection = self._engine.connect()

    async def close(self) -> None:
        """Keeps what is in memory: the next `open` finds it, as after a restart."""

    async def run(self, op: Operation[T]) -> T:
        await asyncio.sleep(0)
        result = self._perform(op, "BEGIN IMMEDIATE")
        self.commits += 1
        await asyncio.sleep(0)
        return result

    async def read(self, op: Operation[T]) -> T:
        await asyncio.sleep(0)
        result = self._perform(op, "BEGIN")
        await asyncio.sleep(0)
        return result

    async def alter(self, op: Operation[T]) -> T:
        assert self._connection is not None, "the database is not open"
        driver = self._connection.connection.driver_connection
        assert driver is not None, "an open connection has its driver's"
        driver.execute("PRAGMA foreign_keys=OFF")
        try:
            return self._perform(op, "BEGIN IMMEDIATE")
        finally:
            driver.execute("PRAGMA foreign_keys=ON")

    def _perform(self, op: Operation[T], begin: str) -> T:
        assert self._connection is not None, "the database is not open"
        return perform(self._connection, op, begin)
