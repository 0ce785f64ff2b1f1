"""Background work on sessions: what is over its deadline is moved on, and the logs of ended kernels are brought home."""

import asyncio
from collections.abc import Callable

import sqlalchemy as sa

from ai.backend.common.bus import ManagerBus
from ai.backend.common.clock import Clock
from ai.backend.common.errors import AgentUnreachable, BackendError
from ai.backend.common.ids import AgentId, KernelId
from ai.backend.common.log import get_logger
from ai.backend.common.wire.rpc import GetLogs, GetLogsReply

from ..config import ManagerConfig
from ..db.database import Database
from ..loop import Loop
from . import store
from .machine import EXPIRED_REASONS, expiry
from .model import Session, SessionResult, SessionStatus
from .transition import advance, agents_to_blame, end_kernels, stop_kernels

log = get_logger(__name__)


class SessionLoops:
    def __init__(
        self,
        database: Database,
        bus: ManagerBus,
        clock: Clock,
        config: ManagerConfig,
        *,
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._config = config
        self._wake = wake
        self.deadlines = Loop("deadlines", self._expire, period_s=5.0)
        self.logs = Loop("logs", self._collect, period_s=10.0)

    async def _expire(self) -> float | None:
        """Returns the seconds until the next deadline."""
        now = self._clock.now()
        late, next_at = await self._database.read(
            lambda conn: (store.expired(conn, now), store.next_deadline(conn, now))
        )
        if late:
            await self._expire_all(late)
        return (next_at - now).total_seconds() if next_at is not None else None

    async def _expire_all(self, late: list[Session]) -> None:

        def op(conn: sa.Connection) -> None:
            for session in late:
                self._expire_one(conn, session)

        await self._database.run(op)
        self._wake()

    def _expire_one(self, conn: sa.Connection, session: Session) -> None:
        now = self._clock.now()
        reason, message = EXPIRED_REASONS[session.status]
        timed_out = session.status is SessionStatus.RUNNING
        blamed = {
            kernel.agent_id
            for kernel in session.kernels
            if kernel.agent_id is not None and kernel.status is not SessionStatus.RUNNING
        }
        moved = advance(
            conn,
            session,
            expiry(session),
            now=now,
            config=self._config,
            reason=reason,
            detail={"message": message},
            result=SessionResult.FAILURE if timed_out else None,
            requeue=agents_to_blame(conn, session, reason, blamed),
        )
        if moved is None:
            return
        log.warning(
            "session-expired", session=str(session.id), was=session.status.value, now=moved.status.value
        )
        if moved.status is SessionStatus.TERMINATING:
            stop_kernels(conn, moved, reason=reason, forced=not timed_out, now=now)
        elif moved.status.terminal:
            end_kernels(conn, moved, now)

    async def _collect(self) -> None:
        """An agent forgets an ended kernel only after this, so nothing is lost when it is away for a while."""
        waiting = await self._database.read(store.without_logs)
        async with asyncio.TaskGroup() as group:
            for kernel_id, agent_id in waiting:
                group.create_task(self._collect_one(kernel_id, agent_id))

    async def _collect_one(self, kernel_id: KernelId, agent_id: AgentId) -> None:
        request = GetLogs(kernel_id=kernel_id, bytes_max=self._config.logs_bytes_max)
        try:
            reply = await self._bus.call(
                agent_id, request, GetLogsReply, timeout_s=self._config.call_timeout_s
            )
            text = reply.text
        except AgentUnreachable:
            return
        except BackendError as exc:
            log.warning("logs-lost", kernel=str(kernel_id), error=str(exc))
            text = ""

        def op(conn: sa.Connection) -> None:
            # PostgreSQL takes no NUL in text.
            store.update_kernel(conn, kernel_id, {"logs": text.replace("\0", "\ufffd")})
            store.touch_agents(conn, [agent_id])

        await self._database.run(op)
        self._wake()
