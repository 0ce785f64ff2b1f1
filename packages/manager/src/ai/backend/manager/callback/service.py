"""Tells the owners of sessions what happens to them: each event of a session that has a callback URL is posted there, once.

No loop waits for a callback: each session has a task of its own while there is something to tell, so that its events arrive in order and
a slow server delays nobody else's. What is under way when the manager ends is lost, as is what cannot be delivered.
"""

import asyncio
from collections import deque
from typing import Any, Protocol

from ai.backend.common.errors import BackendError
from ai.backend.common.ids import SessionId
from ai.backend.common.log import get_logger

from ..db.database import Database
from ..event.model import Event
from ..session import store as session_store
from .policy import PREFIX, body_of

log = get_logger(__name__)

TIMEOUT_S = 30.0
AT_ONCE_MAX = 32
WAITING_MAX = 1000


class Post(Protocol):
    async def post(self, url: str, body: dict[str, Any], *, timeout_s: float) -> int: ...


class Callbacks:
    def __init__(self, database: Database, client: Post) -> None:
        self._database = database
        self._client = client
        self._waiting: dict[SessionId, deque[Event]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(AT_ONCE_MAX)
        self._count = 0
        self.dropped = 0
        """Events that were not told because too many waited."""

    def heard(self, event: Event) -> None:
        """A listener of the event hub."""
        if not event.payload.get("hasCallback") or not event.name.startswith(PREFIX):
            return
        if self._count >= WAITING_MAX:
            self.dropped += 1
            log.warning("callback-dropped", session=str(event.session_id), event_name=event.name)
            return
        self._count += 1
        known = self._waiting.get(event.session_id)
        if known is not None:
            known.append(event)
            return
        self._waiting[event.session_id] = deque([event])
        task = asyncio.get_running_loop().create_task(self._tell(event.session_id), name="callback")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, session_id: SessionId) -> None:
        waiting = self._waiting[session_id]
        try:
            url = await self._database.read(lambda conn: session_store.callback_url(conn, session_id))
            while waiting:
                event = waiting.popleft()
                self._count -= 1
                if url:
                    async with self._at_once:
                        await self._post(url, event)
        except BackendError as exc:
            log.warning("callback-lost", session=str(session_id), error=str(exc))
        finally:
            self._count -= len(waiting)
            del self._waiting[session_id]

    async def _post(self, url: str, event: Event) -> None:
        body = body_of(event.name, event.session_id, event.created_at)
        try:
            status = await self._client.post(url, body, timeout_s=TIMEOUT_S)
        except BackendError as exc:
            log.info(
                "callback-failed", session=str(event.session_id), event_name=event.name, error=exc.message
            )
            return
        log.debug("callback-sent", session=str(event.session_id), event_name=event.name, status=status)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._waiting.clear()  # one that never began to tell could not do it itself
        self._count = 0
