"""Events of sessions: a stream that goes on over lost connections, from the last event that was seen."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec

from .error import ApiError, Unreachable
from .request import Requester

RECONNECT_S = 1.0
RECONNECTS_MAX = 60


class SessionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """`name`: session_started, kernel_terminated, ...; `data`: sessionId, sessionName, reason, exitCode, ..."""

    id: str
    name: str
    data: dict[str, Any]


class EventParser:
    """Lines in, events out; knows nothing of connections."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry_s: float | None = None
        self._name = ""
        self._data: list[str] = []

    def feed(self, line: str) -> SessionEvent | None:
        """The event that this line completes."""
        line = line.rstrip("\r\n")
        if not line:
            return self._take()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id":
            self.last_id = value
        elif field == "retry":
            try:
                self.retry_s = min(max(float(value), 0.1), 60.0)
            except ValueError:
                self.retry_s = None
        return None

    def _take(self) -> SessionEvent | None:
        name, text = self._name, "\n".join(self._data)
        self._name, self._data = "", []
        if not name:
            return None
        try:
            data = msgspec.json.decode(text or "{}")
        except msgspec.DecodeError:
            data = {}
        return SessionEvent(id=self.last_id, name=name, data=data if isinstance(data, dict) else {})


def is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


async def watch(
    requester: Requester, ref: str = "*", *, scope: str = "*", after: str = ""
) -> AsyncIterator[SessionEvent]:
    """Events of one session (by id or name) or of all that you may see ("*"), from now on or from after an event's id.

    Ends after the end of the one session that was asked for. Reconnects by itself; gives up when the server stays away.
    """
    query = {"scope": scope, "sessionId" if is_uuid(ref) else "sessionName": ref}
    parser = EventParser()
    parser.last_id = after
    failures = 0
    while True:
        try:
            async with requester.stream(
                "/events/session", query=query, last_event_id=parser.last_id
            ) as lines:
                async for line in lines:
                    failures = 0
                    event = parser.feed(line.decode("utf-8", "replace"))
                    if event is None:
                        continue
                    if event.name == "server_close":
                        return
                    yield event
        except (Unreachable, ApiError) as exc:
            failures += 1
            if failures > RECONNECTS_MAX or (isinstance(exc, ApiError) and exc.status < 500):
                raise
        await asyncio.sleep(parser.retry_s or RECONNECT_S)
