"""PostgreSQL through asyncpg.

Writes are SERIALIZABLE and tried again when the server finds a conflict, so that quotas are exact however many calls race; reads are
REPEATABLE READ snapshots (a SERIALIZABLE, DEFERRABLE one would wait for writers). Second and later tries of this process go one after
another: those who collided do not collide again, however many they are.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ai.backend.common.errors import ConfigError
from ai.backend.common.ids import Random

from .column import JSON_CODEC
from .database import DatabaseBusy, DatabaseFull, DatabaseUnavailable, Operation, UniqueViolation

T = TypeVar("T")

POOL = 8
TRIES = 12
PAUSE_S = 0.002
CONNECT_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 60.0
CONFLICTS = frozenset({"40001", "40P01"})
"""Serialization failure, deadlock: the same work may well succeed when it is run again."""
ALTERING = 0x6261636B656E64
"""The advisory lock that lets one process alter tables at a time, when several start at once."""
_GONE = ("08", "57P", "28", "3D")
"""Connection lost or refused, server starting or stopping, wrong user or password, no such database."""
_SETTINGS = {
    "application_name": "backend.ai",
    # A process that hangs inside a transaction must not hold its locks for ever.
    "idle_in_transaction_session_timeout": "60000",
    # Compiling costs more than our short statements.
    "jit": "off",
}
_QUERY = {"host", "port", "ssl", "sslmode"}
_HINT = "Use postgresql://USER:PASSWORD@HOST:PORT/NAME; options are host, port and sslmode."


def _address(url: str) -> tuple[sa.URL, dict[str, Any]]:
    """What SQLAlchemy and asyncpg are told: the driver knows libpq's `sslmode` by another name. Raises ConfigError."""
    try:
        parsed = sa.make_url(url).set(drivername="postgresql+asyncpg")
    except (sa.exc.ArgumentError, ValueError):
        # Without the cause, which quotes the URL with its password.
        raise ConfigError("the database's URL is malformed", hint=_HINT) from None
    unknown = sorted(set(parsed.query) - _QUERY)
    if unknown:
        raise ConfigError(f"the database's URL has the unknown option {unknown[0]!r}", hint=_HINT)
    tls = parsed.query.get("sslmode") or parsed.query.get("ssl")
    return parsed.difference_update_query(["sslmode", "ssl"]), {"ssl": tls} if tls else {}


class PostgresDatabase:
    """`url` is postgresql://user:password@host:port/name[?sslmode=require]. Raises ConfigError for a malformed one."""

    def __init__(self, url: str, *, rng: Random) -> None:
        address, tls = _address(url)
        arguments = {"timeout": CONNECT_TIMEOUT_S, "server_settings": _SETTINGS, **tls}
        self._rng = rng
        self._engine = create_async_engine(
            address,
            pool_size=POOL,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={**arguments, "command_timeout": COMMAND_TIMEOUT_S},
            **JSON_CODEC,
        )
        self._writer = self._engine.execution_options(isolation_level="SERIALIZABLE")
        self._reader = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        # READ COMMITTED: what another process altered while we waited for the lock must be seen. No limit of time.
        self._altering = create_async_engine(
            address,
            poolclass=sa.pool.NullPool,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            connect_args=arguments,
            **JSON_CODEC,
        )
        self._retrying = asyncio.Lock()

    async def open(self) -> None:
        await self.read(lambda conn: conn.exec_driver_sql("SELECT 1").scalar())

    async def close(self) -> None:
        await self._engine.dispose()
        await self._altering.dispose()

    async def run(self, op: Operation[T]) -> T:
        try:
            return await self._once(self._writer, op)
        except _Conflict:
            pass
        async with self._retrying:
            for attempt in range(TRIES - 1):
                try:
                    return await self._once(self._writer, op)
                except _Conflict:
                    # Other processes collide too: jitter.
                    jitter = 1 + self._rng.getrandbits(8) / 256
                    await asyncio.sleep(PAUSE_S * (1 << min(attempt, 6)) * jitter)
        raise DatabaseBusy(
            "others change the same rows all the time", hint="Nothing was changed; try again.", tries=TRIES
        )

    async def read(self, op: Operation[T]) -> T:
        return await self._once(self._reader, op)

    async def alter(self, op: Operation[T]) -> T:
        def alone(connection: sa.Connection) -> T:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ALTERING)))
            return op(connection)

        return await self._once(self._altering, alone)

    @staticmethod
    async def _once(engine: AsyncEngine, op: Operation[T]) -> T:
        async with _transaction(engine) as connection:
            return await connection.run_sync(op)


class _Conflict(DatabaseBusy):
    """The server chose us to run again."""


@asynccontextmanager
async def _transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    try:
        async with engine.begin() as connection:
            yield connection
    except sa.exc.DBAPIError as exc:
        mapped = _mapped(exc)
        if mapped is exc:
            raise
        raise mapped from exc
    except sa.exc.TimeoutError as exc:
        raise DatabaseBusy("all connections to PostgreSQL are in use", hint="Try again.") from exc
    except OSError as exc:
        raise DatabaseUnavailable(f"PostgreSQL does not answer: {exc}", hint="Check that it runs.") from exc


def _mapped(exc: sa.exc.DBAPIError) -> Exception:
    """Our error for a driver's; the error itself when it tells of a mistake in the unit of work."""
    own = exc.orig
    state: str = getattr(own, "sqlstate", None) or ""
    if state == "23505":
        return UniqueViolation(getattr(own and own.__cause__, "constraint_name", None) or "")
    if state in CONFLICTS:
        return _Conflict("PostgreSQL could not put transactions in an order", hint="Try again.")
    if state == "53100":
        return DatabaseFull("the disk of the database is full", hint="Free some space; nothing was lost.")
    if state.startswith("53") or state in ("55P03", "57014"):
        return DatabaseBusy(f"PostgreSQL: {own}", hint="Try again.")
    if exc.connection_invalidated or state.startswith(_GONE) or isinstance(exc, sa.exc.InterfaceError):
        return DatabaseUnavailable(
            f"PostgreSQL: {own}", hint="Check that it runs; calls go on by themselves when it answers."
        )
    return exc
