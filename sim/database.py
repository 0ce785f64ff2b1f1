"""The manager's database as one process sees it: it yields before and after each unit of work, and dies with its process.

The rows live in the inner database, which outlives processes as a disk does. Each committed unit of work is shown to `on_commit` as the
checkers' rows, read in the same transaction. Some units are rolled back at their end and run again, as after a serialization failure.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import TypeVar

import sqlalchemy as sa

from ai.backend.manager.db.database import Database
from ai.backend.manager.db.schema import agents, kernels, session_dependencies, sessions

from .checkers import KernelRow, Rows, SessionRow

T = TypeVar("T")
Operation = Callable[[sa.Connection], T]

_SESSIONS = sa.select(
    sessions.c.id,
    sessions.c.name,
    sessions.c.access_key,
    sessions.c.status,
    sessions.c.version,
    sessions.c.deadline_at,
    sessions.c.reason,
    sessions.c.result,
    sessions.c.cluster_mode,
).order_by(sessions.c.created_at, sessions.c.id)
_KERNELS = sa.select(
    kernels.c.id,
    kernels.c.session_id,
    kernels.c.status,
    kernels.c.agent_id,
    kernels.c.requested_slots,
    kernels.c.devices,
    kernels.c.attempt,
)
_DEPENDENCIES = sa.select(session_dependencies.c.session_id, session_dependencies.c.depends_on)
_AGENTS = sa.select(agents.c.id, agents.c.capacity)


class _RolledBack(Exception):
    """Ends a transaction that shall be run again."""


def rows_of(conn: sa.Connection) -> Rows:
    """Everything that the checkers look at."""
    return Rows(
        sessions=tuple(
            SessionRow(
                id=str(row.id),
                name=row.name,
                access_key=row.access_key,
                status=row.status,
                version=row.version,
                has_deadline=row.deadline_at is not None,
                reason=row.reason,
                result=row.result,
                single_node=row.cluster_mode == "single-node",
            )
            for row in conn.execute(_SESSIONS)
        ),
        kernels=tuple(
            KernelRow(
                id=str(row.id),
                session_id=str(row.session_id),
                status=row.status,
                agent_id=row.agent_id,
                slots=row.requested_slots,
                devices=row.devices,
                attempt=row.attempt,
            )
            for row in conn.execute(_KERNELS)
        ),
        dependencies=tuple((str(row.session_id), str(row.depends_on)) for row in conn.execute(_DEPENDENCIES)),
        capacities={row.id: row.capacity for row in conn.execute(_AGENTS)},
    )


class MortalDatabase:
    """A `Database`. `on_commit` is called right after each commit, before the caller can act on it; it may kill the process."""

    def __init__(
        self, inner: Database, rng: Random, on_commit: Callable[[Rows], None], *, retry_share: float = 0.02
    ) -> None:
        self._inner = inner
        self._rng = rng
        self._on_commit = on_commit
        self._retry_share = retry_share
        self._writing = asyncio.Lock()
        self.dead = False

    async def open(self) -> None:
        """It is open already: opening and closing are the simulator's."""

    async def close(self) -> None:
        """See `open`."""

    async def run(self, op: Operation[T]) -> T:
        async with self._writing:
            await self._pass_by()
            if self._rng.random() < self._retry_share:
                await self._try_in_vain(op)
            result, rows = await self._inner.run(lambda conn: (op(conn), rows_of(conn)))
            self._on_commit(rows)
        await self._pass_by()
        return result

    async def read(self, op: Operation[T]) -> T:
        await self._pass_by()
        result = await self._inner.read(op)
        await self._pass_by()
        return result

    async def alter(self, op: Operation[T]) -> T:
        return await self._inner.alter(op)

    async def _try_in_vain(self, op: Operation[T]) -> None:
        def attempt(conn: sa.Connection) -> None:
            op(conn)
            raise _RolledBack

        try:
            await self._inner.run(attempt)
        except _RolledBack:
            await self._pass_by()

    async def _pass_by(self) -> None:
        if self.dead:
            raise asyncio.CancelledError
        await asyncio.sleep(self._rng.uniform(0.0001, 0.002))
        if self.dead:
            raise asyncio.CancelledError
