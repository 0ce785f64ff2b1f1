"""Errors that clients report: kept for 90 days, and the newest thousand of each user."""

from typing import Any

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.ids import Random, new_uuid, parse_uuid

from ..access.model import Principal
from ..access.policy import Action, Reach, reach
from ..db.database import Database
from ..loop import Loop
from . import store
from .model import ErrorDraft, ErrorLog, ErrorLogNotFound, ErrorPage, Severity
from .policy import KEPT, PER_USER_MAX, admit, page_of


class ErrorLogService:
    def __init__(self, database: Database, clock: Clock, rng: Random) -> None:
        self._database = database
        self._clock = clock
        self._rng = rng
        self.loop = Loop("error-log-retention", self._forget, period_s=3600.0)

    async def report(self, principal: Principal, draft: ErrorDraft) -> None:
        """Raises InvalidInput."""
        log = admit(draft, principal, new_uuid(self._rng), self._clock.now())
        await self._database.run(lambda conn: store.insert(conn, log, per_user_max=PER_USER_MAX))

    async def tell(self, message: str, **context: Any) -> None:
        """Something that administrators should look at, found by the manager itself."""
        log = ErrorLog(
            id=new_uuid(self._rng),
            created_at=self._clock.now(),
            severity=Severity.ERROR,
            source="manager",
            user_id=None,
            message=message,
            context_env=context,
        )
        await self._database.run(lambda conn: store.insert(conn, log, per_user_max=PER_USER_MAX))

    async def list(self, principal: Principal, *, mark_read: bool, page_no: int, page_size: int) -> ErrorPage:
        """A user's own, an administrator's domain's, or all; cleared ones only for whoever sees all. Raises InvalidInput."""
        limit, offset = page_of(page_no, page_size)
        with_cleared = reach(principal, Action.ERROR_LOG_READ) is Reach.ALL

        def op(conn: sa.Connection) -> ErrorPage:
            found = store.page(conn, principal, with_cleared=with_cleared, limit=limit, offset=offset)
            if mark_read:
                store.mark_read(conn, found)
            return found

        return await (self._database.run(op) if mark_read else self._database.read(op))

    async def clear(self, principal: Principal, log_id: str) -> None:
        """Raises ErrorLogNotFound, also for one that the principal may not clear."""
        wanted = parse_uuid(log_id)
        if wanted is None or not await self._database.run(lambda conn: store.clear(conn, principal, wanted)):
            raise ErrorLogNotFound(f"no error log {log_id[:40]!r}")

    async def _forget(self) -> None:
        horizon = self._clock.now() - KEPT
        await self._database.run(lambda conn: store.forget_before(conn, horizon))
