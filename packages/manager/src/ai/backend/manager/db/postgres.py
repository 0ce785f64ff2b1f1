"""PostgreSQL through asyncpg.

Writes are SERIALIZABLE and tried again when the server finds a conflict, so that quotas are exact however many calls race; reads are
REPEATABLE READ snapshots.
"""

import asyncio
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from ai.backend.common.ids import Random

from .database import DatabaseFull, DatabaseUnavailable, Operation, UniqueViolation

T = TypeVar("T")

POOL = 8
TRIES = 12
PAUSE_S = 0.005
CONFLICTS = frozenset({"40001", "40P01"})
"""Serialization failure, deadlock: the same work may well succeed when it is run again."""


class PostgresDatabase:
    """`url` is postgresql://user:password@host:port/name."""

    def __init__(self, url: str, *, rng: Random) -> None:
        parsed = sa.make_url(url).set(drivername="postgresql+asyncpg")
        self._rng = rng
        self._engine = create_async_engine(parsed, pool_size=POOL, max_overflow=0, pool_pre_ping=True)
        self._writer = self._engine.execution_options(isolation_level="SERIALIZABLE")
        self._reader = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )

    async def open(self) -> None:
        await self.read(lambda conn: conn.exec_driver_sql("SELECT 1").scalar())

    async def close(self) -> None:
        await self._engine.dispose()

    async def run(self, op: Operation[T]) -> T:
        for attempt in range(TRIES):
            try:
                return await self._once(self._writer, op)
            except sa.exc.DBAPIError as exc:
                if _sqlstate(exc) not in CONFLICTS or attempt == TRIES - 1:
                    raise _mapped(exc) from exc
            # Jitter, so that those who collided do not collide again.
            await asyncio.sleep(PAUSE_S * (1 << min(attempt, 5)) * (1 + self._rng.getrandbits(8) / 256))
        raise AssertionError("unreachable")

    async def read(self, op: Operation[T]) -> T:
        try:
            return await self._once(self._reader, op)
        except sa.exc.DBAPIError as exc:
            raise _mapped(exc) from exc

    async def alter(self, op: Operation[T]) -> T:
        return await self.run(op)

    @staticmethod
    async def _once(engine: Any, op: Operation[T]) -> T:
        try:
            async with engine.begin() as connection:
                result: T = await connection.run_sync(op)
                return result
        except OSError as exc:
            raise DatabaseUnavailable(
                f"PostgreSQL does not answer: {exc}", hint="Check that it runs."
            ) from exc


def _sqlstate(exc: sa.exc.DBAPIError) -> str:
    return getattr(exc.orig, "sqlstate", None) or getattr(exc.orig, "pgcode", None) or ""


def _mapped(exc: sa.exc.DBAPIError) -> Exception:
    state = _sqlstate(exc)
    if state == "23505":
        return UniqueViolation(str(exc.orig))
    if state == "53100":
        return DatabaseFull("the disk of the database is full", hint="Free some space; nothing was lost.")
    if exc.connection_invalidated or state.startswith(("08", "57P")):
        return DatabaseUnavailable(
            f"PostgreSQL: {exc.orig}", hint="Check that it runs; calls go on by themselves when it answers."
        )
    return exc
