"""Tells readers of events as they are committed: event streams, blocking calls and caches.

The table is the truth; this loop reads what is new whenever it is woken and hands it on. Ids may be committed out of order when several
writers race (PostgreSQL), so an id that was skipped is asked for again for a while: longer than any transaction lasts.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.errors import BackendError, Fault, Kind
from ai.backend.common.ids import SessionId, parse_uuid

from ..access.model import Principal
from ..access.policy import Action, may
from ..config import ManagerConfig
from ..db.database import Database
from ..loop import Loop
from . import store
from .model import Event

GAP_KEPT_S = 30.0
GAPS_MAX = 1000
BATCH = 1000
READER_EVENTS_MAX = 1024


class Lagged(BackendError):
    """This reader was too slow; resume after the id of the last event that it got."""

    kind = Kind.EXHAUSTED
    code = "event.lagged"
    fault = Fault.USER


class EventHub:
    def __init__(self, database: Database, clock: Clock, config: ManagerConfig) -> None:
        self._database = database
        self._clock = clock
        self._config = config
        self._newest = -1
        self._gaps: dict[int, float] = {}
        """Skipped ids, and until when (monotonic seconds) they are asked for."""
        self._readers: set[asyncio.Queue[Event | None]] = set()
        self._listeners: list[Callable[[Event], None]] = []
        self.loop = Loop("events", self._run, period_s=5.0)
        self.retention_loop = Loop("event-retention", self._forget, period_s=3600.0)

    def wake(self) -> None:
        """Call after each commit that wrote events."""
        self.loop.wake()

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Calls `listener` for each event, at once and in order; it must not block or fail."""
        self._listeners.append(listener)

    async def _run(self) -> None:
        if self._newest < 0:
            self._newest = await self._database.read(store.newest_id)
        now = self._clock.monotonic()
        self._gaps = {gap: until for gap, until in self._gaps.items() if until > now}
        while True:
            found = await self._database.read(self._news)
            for event in found:
                self._deliver(event)
            if len(found) < BATCH:
                return

    def _news(self, conn: sa.Connection) -> list[Event]:
        return store.after(conn, self._newest, limit=BATCH, also=list(self._gaps))

    def _deliver(self, event: Event) -> None:
        self._gaps.pop(event.id, None)
        until = self._clock.monotonic() + GAP_KEPT_S
        for skipped in range(max(self._newest + 1, event.id - GAPS_MAX), event.id):
            self._gaps[skipped] = until
        self._newest = max(self._newest, event.id)
        for listener in self._listeners:
            listener(event)
        for queue in list(self._readers):
            if queue.qsize() < READER_EVENTS_MAX:
                queue.put_nowait(event)
            else:
                self._readers.discard(queue)
                queue.put_nowait(None)

    async def _forget(self) -> None:
        horizon = self._clock.now() - timedelta(seconds=self._config.event_retention_s)
        await self._database.run(lambda conn: store.forget_before(conn, horizon))

    async def watch(
        self,
        principal: Principal,
        *,
        session_id: UUID | None = None,
        session_name: str | None = None,
        access_key: str | None = None,
        scope: frozenset[str] = frozenset({"*"}),
        after: int | None = None,
    ) -> AsyncIterator[Event]:
        """Events that the principal may see, from now on, or from just after the id `after`. Raises Lagged for a slow reader."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._readers.add(queue)
        seen = -1
        try:
            if after is not None:
                wanted = SessionId(session_id) if session_id else None
                for event in await self._database.read(
                    lambda conn: store.after(conn, after, limit=BATCH, session_id=wanted)
                ):
                    seen = event.id
                    if _matches(event, principal, session_id, session_name, access_key, scope):
                        yield event
            while True:
                next_event = await queue.get()
                if next_event is None:
                    raise Lagged(
                        "events came faster than this reader took them", hint="Reconnect with Last-Event-ID."
                    )
                if next_event.id > seen and _matches(
                    next_event, principal, session_id, session_name, access_key, scope
                ):
                    yield next_event
        finally:
            self._readers.discard(queue)


def _matches(
    event: Event,
    principal: Principal,
    session_id: UUID | None,
    session_name: str | None,
    access_key: str | None,
    scope: frozenset[str],
) -> bool:
    data = event.payload
    if not may(
        principal,
        Action.SESSION_READ,
        user_id=data.get("userId", ""),
        domain_name=data.get("domainName", ""),
        # Parsed for the few who need it.
        project_id=parse_uuid(data.get("projectId", "")) if principal.administers else None,
    ):
        return False
    if session_id is not None and event.session_id != session_id:
        return False
    if session_name not in (None, "*") and data.get("sessionName") != session_name:
        return False
    if access_key is not None and data.get("ownerAccessKey") != access_key:
        return False
    return "*" in scope or event.name.partition("_")[0] in scope
