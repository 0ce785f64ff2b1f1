"""SQLite: one writer thread; reads run where they are asked for, on the event loop; write-ahead log.

A read of an embedded cluster takes a fraction of a millisecond and, with the write-ahead log, waits for nobody; handing it to a thread and
back costs more than the read, and made a session's start a third slower. Whoever has more rows than that uses PostgreSQL.

The driver's own transaction handling is switched off and BEGIN IMMEDIATE is sent for writes: with the defaults two tasks that read and
then write lose updates without any error, and `busy_timeout` does not help an upgrade from a read to a write lock.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from .column import JSON_CODEC
from .database import DatabaseBusy, DatabaseFull, DatabaseUnavailable, Operation, UniqueViolation
from .schema import metadata
from .statement import KEPT, Kept

T = TypeVar("T")

PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")
LOCK_TIMEOUT_S = 5.0
_UNIQUE = (
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_ROWID,
)
_GONE = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
)


def sqlite_engine(url: str, *, lock_timeout_s: float = LOCK_TIMEOUT_S, **options: Any) -> sa.Engine:
    """An engine that begins no transaction by itself: use its connections through `write`, `read` and `alter`."""
    engine = sa.create_engine(url, hide_parameters=True, **JSON_CODEC, **options)

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in (f"busy_timeout={round(lock_timeout_s * 1000)}", *PRAGMAS):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def connect(engine: sa.Engine) -> sa.Connection:
    """Raises DatabaseUnavailable."""
    try:
        return engine.connect()
    except (sa.exc.DBAPIError, sqlite3.Error) as exc:
        raise _mapped(exc) from exc


def driver_of(connection: sa.Connection) -> sqlite3.Connection:
    return cast("sqlite3.Connection", connection.connection.driver_connection)


def write(connection: sa.Connection, op: Operation[T]) -> T:
    return _perform(connection, op, "BEGIN IMMEDIATE")


def read(connection: sa.Connection, op: Operation[T]) -> T:
    """The connection should have `PRAGMA query_only` on."""
    return _perform(connection, op, "BEGIN")


def read_others(connection: sa.Connection, op: Operation[T]) -> T:
    """`read` by a connection that never writes, so that what it sees changes with its number for what others have committed, and answers
    may be kept as long as that stays."""

    def reading(connection: sa.Connection) -> T:
        # The first statement fixes what the transaction sees.
        (version,) = driver_of(connection).execute("PRAGMA data_version").fetchone()
        connection.connection.info.setdefault(KEPT, Kept()).begin(version)
        return op(connection)

    return _perform(connection, reading, "BEGIN")


def alter(connection: sa.Connection, op: Operation[T]) -> T:
    """Copying a table that others refer to needs foreign keys off, and they cannot be switched inside a transaction."""

    def checked(connection: sa.Connection) -> T:
        result = op(connection)
        broken = driver_of(connection).execute("PRAGMA foreign_key_check").fetchone()
        if broken is not None:
            raise AssertionError(f"a row of {broken[0]} refers to no row of {broken[2]}")
        return result

    driver_of(connection).execute("PRAGMA foreign_keys=OFF")
    try:
        return write(connection, checked)
    finally:
        driver_of(connection).execute("PRAGMA foreign_keys=ON")


def _perform(connection: sa.Connection, op: Operation[T], begin: str) -> T:
    try:
        with connection.begin():
            driver_of(connection).execute(begin)
            return op(connection)
    except (sa.exc.DBAPIError, sqlite3.Error) as exc:
        mapped = _mapped(exc)
        if mapped is exc:
            raise
        raise mapped from exc


def _mapped(exc: sa.exc.DBAPIError | sqlite3.Error) -> Exception:
    """Our error for a driver's; the error itself when it tells of a mistake in the unit of work."""
    own = exc.orig if isinstance(exc, sa.exc.DBAPIError) else exc
    extended: int = getattr(own, "sqlite_errorcode", 0)
    if extended in _UNIQUE:
        return UniqueViolation(constraint_of(str(own)))
    code = extended & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DatabaseFull("the disk of the database is full", hint="Free some space; nothing was lost.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseBusy("another program holds the database's lock", hint="End it, or wait for it.")
    # A write that `read` refuses has the code of a read-only file, but only for the latter does BEGIN itself fail.
    if code in _GONE and (code != sqlite3.SQLITE_READONLY or own is exc):
        return DatabaseUnavailable(f"SQLite: {own}", hint="Check the file, its folder and its disk.")
    return exc


def constraint_of(message: str) -> str:
    """The schema's name of the key in SQLite's "UNIQUE constraint failed: t.a, t.b", which names the columns only."""
    failed = message.partition("failed: ")[2]
    if failed.startswith("index '"):
        return failed.removeprefix("index '").removesuffix("'")
    table_name = failed.partition(".")[0]
    columns = [column.strip().partition(".")[2] for column in failed.split(",")]
    for name, key in _keys(table_name):
        if key == columns:
            return name
    return f"uq_{table_name}_{'_'.join(columns)}"


def _keys(table_name: str) -> Iterator[tuple[str, list[str]]]:
    table = metadata.tables.get(table_name)
    if table is None:
        return
    for constraint in table.constraints:
        if isinstance(constraint, sa.UniqueConstraint | sa.PrimaryKeyConstraint):
            yield str(constraint.name), [column.name for column in constraint.columns]
    for index in table.indexes:
        if index.unique:
            yield str(index.name), [column.name for column in index.columns]


class SqliteDatabase:
    """One file. `path` is made when missing, readable by its owner alone."""

    def __init__(self, path: Path, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self._path = path
        self._lock_timeout_s = lock_timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="db-writer")
        self._writer: sa.Connection | None = None
        self._reader: sa.Connection | None = None

    async def open(self) -> None:
        try:
            self._path.touch(mode=0o600)
        except OSError as exc:
            raise DatabaseUnavailable(f"{self._path}: {exc.strerror}") from exc
        engine = sqlite_engine(
            f"sqlite:///{self._path}", lock_timeout_s=self._lock_timeout_s, poolclass=sa.pool.NullPool
        )
        self._writer = await asyncio.get_running_loop().run_in_executor(self._thread, connect, engine)
        self._reader = connect(engine)
        driver_of(self._reader).execute("PRAGMA query_only=ON")

    async def close(self) -> None:
        reader, writer = self._reader, self._writer
        self._reader = self._writer = None
        if reader is not None:
            reader.close()
        if writer is not None:
            # The last connection to close takes the write-ahead log into the file.
            await asyncio.get_running_loop().run_in_executor(self._thread, writer.close)
        self._thread.shutdown()

    async def run(self, op: Operation[T]) -> T:
        return await self._in_thread(write, op)

    async def read(self, op: Operation[T]) -> T:
        assert self._reader is not None, "the database is not open"
        return read_others(self._reader, op)

    async def alter(self, op: Operation[T]) -> T:
        return await self._in_thread(alter, op)

    async def _in_thread(self, how: Callable[[sa.Connection, Operation[T]], T], op: Operation[T]) -> T:
        # Once begun in its thread, a unit of work ends there, whole, also when whoever waits for it is cancelled.
        assert self._writer is not None, "the database is not open"
        return await asyncio.get_running_loop().run_in_executor(self._thread, how, self._writer, op)
