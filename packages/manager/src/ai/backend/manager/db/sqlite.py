"""SQLite: one writer thread; reads run where they are asked for, on the event loop; write-ahead log.

A read of an embedded cluster takes a fraction of a millisecond and, with the write-ahead log, waits for nobody; handing it to a thread and
back costs more than the read, and made a session's start a third slower. Whoever has more rows than that uses PostgreSQL.

The driver's own transaction handling is switched off and BEGIN IMMEDIATE is sent for writes: with the defaults two tasks that read and
then write lose updates without any error, and `busy_timeout` does not help an upgrade from a read to a write lock.
"""

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from .database import DatabaseFull, DatabaseUnavailable, Operation, UniqueViolation

T = TypeVar("T")

PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=5000", "foreign_keys=ON")


def sqlite_engine(url: str, **options: Any) -> sa.Engine:
    """An engine that begins its transactions itself; `execution_options(begin="BEGIN IMMEDIATE")` says how."""
    engine = sa.create_engine(url, **options)

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    return engine


def perform(connection: sa.Connection, op: Operation[T], begin: str) -> T:
    """Runs `op` in one transaction of this connection and maps the driver's errors, once."""
    try:
        with connection.execution_options(begin=begin).begin():
            return op(connection)
    except sa.exc.IntegrityError as exc:
        if "UNIQUE" in str(exc.orig):
            raise UniqueViolation(str(exc.orig)) from exc
        raise
    except sa.exc.OperationalError as exc:
        if (
            isinstance(exc.orig, sqlite3.OperationalError)
            and exc.orig.sqlite_errorcode == sqlite3.SQLITE_FULL
        ):
            raise DatabaseFull(
                "the disk of the database is full", hint="Free some space; nothing was lost."
            ) from exc
        raise DatabaseUnavailable(f"SQLite: {exc.orig}") from exc


class SqliteDatabase:
    """One file. `path` is made when missing, readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="db-writer")
        self._engine: sa.Engine | None = None
        self._mine = threading.local()

    async def open(self) -> None:
        try:
            self._path.touch(mode=0o600)
        except OSError as exc:
            raise DatabaseUnavailable(f"{self._path}: {exc.strerror}") from exc
        self._engine = sqlite_engine(f"sqlite:///{self._path}", poolclass=sa.pool.NullPool)
        await self.read(lambda conn: conn.exec_driver_sql("SELECT 1").scalar())

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writer, lambda: self._connection().close())
        self._writer.shutdown(wait=True)
        self._connection().close()
        if self._engine is not None:
            self._engine.dispose()

    def _connection(self) -> sa.Connection:
        """This thread's own connection, kept open."""
        assert self._engine is not None, "the database is not open"
        if not hasattr(self._mine, "connection"):
            self._mine.connection = self._engine.connect()
        connection: sa.Connection = self._mine.connection
        return connection

    async def run(self, op: Operation[T]) -> T:
        # Once begun in its thread, a unit of work ends there, whole, also when whoever waits for it is cancelled.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._writer, lambda: perform(self._connection(), op, "BEGIN IMMEDIATE")
        )

    async def read(self, op: Operation[T]) -> T:
        return perform(self._connection(), op, "BEGIN")

    async def alter(self, op: Operation[T]) -> T:
        def resting() -> T:
            connection = self._connection()
            connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")  # type: ignore[union-attr]
            try:
                return perform(connection, op, "BEGIN IMMEDIATE")
            finally:
                connection.connection.driver_connection.execute("PRAGMA foreign_keys=ON")  # type: ignore[union-attr]

        return await asyncio.get_running_loop().run_in_executor(self._writer, resting)
