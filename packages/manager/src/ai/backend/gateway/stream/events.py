"""Events of sessions as a server-sent event stream.

Each event has an id; a reader that reconnects with Last-Event-ID goes on from there. Asked for one session, the stream says `server_close`
after that session's end, so that published clients stop instead of reconnecting for ever.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Response, get
from litestar.response import Stream
from litestar.types import ControllerRouterHandler

from ai.backend.common.errors import BackendError, InvalidInput
from ai.backend.common.ids import parse_uuid
from ai.backend.common.log import get_logger
from ai.backend.common.wire.rest.session import WatchEvents
from ai.backend.manager.event.model import Event

from ..call import AnyRequest, begin
from ..limits import HEARTBEAT_S
from ..openapi import Operation

log = get_logger(__name__)

TERMINAL = frozenset({"session_terminated", "session_cancelled"})
REPLAY_S = 1.0
"""How long to wait for what is replayed of a session that had ended already."""
_DATA = ("reason", "sessionName", "ownerAccessKey", "sessionId", "exitCode")
_OPTIONAL = (
    "kernelId",
    "clusterRole",
    "clusterIdx",
    "message",
    "status",
    "hint",
    "position",
    "slots",
    "unblock",
)
CLOSE = b"event: server_close\ndata: {}\n\n"
PING = b": ping\n\n"


def encode(event: Event) -> bytes:
    """Published fields always, null when unknown; no line without a colon; data is JSON."""
    data: dict[str, Any] = {key: event.payload.get(key) for key in _DATA}
    data["sessionId"] = str(event.session_id)
    data["reason"] = data["reason"] or ""
    data.update({key: event.payload[key] for key in _OPTIONAL if key in event.payload})
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.id, event.name.encode(), msgspec.json.encode(data))


def last_event_id(text: str) -> int | None:
    """Raises InvalidInput."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidInput("Last-Event-ID is a number", field="Last-Event-ID")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What to send. `single`: of one session only, so there is an end. `quiet_s`: that end has come already, and after so much silence
    nothing more is to be told of it."""

    events: AsyncIterator[Event]
    single: bool
    quiet_s: float | None = None


async def frames(feed: Feed, first: "asyncio.Task[Event]") -> AsyncGenerator[bytes, None]:
    """The body. `first` is the wait for the first event: it was begun before the headers were sent, so that nothing is missed."""
    pending = first
    yield PING
    try:
        while True:
            await asyncio.wait({pending}, timeout=HEARTBEAT_S if feed.quiet_s is None else feed.quiet_s)
            if not pending.done():
                if feed.quiet_s is not None:
                    yield CLOSE
                    return
                yield PING
                continue
            try:
                event = pending.result()
            except StopAsyncIteration:
                return
            except BackendError as lagged:
                yield b": %b\n\n" % lagged.code.encode()
                return
            yield encode(event)
            if feed.single and event.name in TERMINAL:
                yield CLOSE
                return
            pending = _next(feed.events)
    finally:
        pending.cancel()
        with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, BackendError):
            await pending


def _next(events: AsyncIterator[Event]) -> "asyncio.Task[Event]":
    async def wait() -> Event:
        return await anext(events)

    return asyncio.create_task(wait(), name="event-stream")


@get(
    "/events/session",
    opt={
        "operation": Operation(
            summary="Watch events of sessions",
            description="Server-sent events, from now on or from after `Last-Event-ID`. Comments (`: ping`) keep the connection alive. "
            "Asked for one session, the stream ends with `server_close` after the session's end.",
            tag="events",
            form=WatchEvents,
            media_type="text/event-stream",
            refusals=(403, 404),
        )
    },
)
async def watch_events(request: AnyRequest) -> Response[Any]:
    manager, principal, form = await begin(request, WatchEvents)
    after = last_event_id(request.headers.get("last-event-id", ""))
    name = form.session_name
    session_id = parse_uuid(form.session_id) if form.session_id else None
    if form.session_id and session_id is None:
        name = form.session_id
    events = manager.events.watch(
        principal,
        session_id=session_id,
        session_name=name,
        access_key=principal.access_key if name != "*" or form.owner_access_key else None,
        scope=frozenset(word.strip() for word in form.scope.split(",")),
        after=after,
    )
    first = _next(events)
    try:
        await asyncio.sleep(0)
        quiet_s = None
        if session_id is not None:
            session = await manager.sessions.get(principal, str(session_id), live_only=False)
            if session.status.terminal:
                quiet_s = 0.0 if after is None else REPLAY_S
    except BaseException:
        first.cancel()
        raise
    feed = Feed(events=events, single=session_id is not None or name != "*", quiet_s=quiet_s)
    return Stream(frames(feed, first), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


ROUTES: tuple[ControllerRouterHandler, ...] = (watch_events,)
