"""A background task as a server-sent event stream: how far it is, its end, and `server_close`."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
from litestar import Response, get
from litestar.response import Stream
from litestar.types import ControllerRouterHandler

from ai.backend.common.errors import InvalidInput
from ai.backend.common.ids import parse_uuid
from ai.backend.common.wire.rest.task import TaskEnd, TaskEnded, TaskProgress, WatchTask
from ai.backend.manager.task.model import TaskEvent

from ..auth import principal_of
from ..call import AnyRequest, form_of, gateway_of
from ..limits import HEARTBEAT_S
from ..openapi import Operation
from .events import CLOSE, PING

RETRY_S = 5


def encode(event: TaskEvent) -> bytes:
    """Published clients take `retry` for seconds."""
    task = event.task
    data: TaskProgress | TaskEnd | TaskEnded
    if not task.status.terminal:
        data = TaskProgress(
            task_id=str(task.id),
            message=task.message,
            current_progress=task.current,
            total_progress=task.total,
        )
        return b"event: bgtask_updated\ndata: %b\nretry: %d\n\n" % (msgspec.json.encode(data), RETRY_S)
    if event.first:
        data = TaskEnded(
            task_id=str(task.id),
            status=task.status.value,
            current_progress=task.current,
            total_progress=task.total,
            message=task.message,
        )
    else:
        data = TaskEnd(task_id=str(task.id), message=task.message)
    return b"event: bgtask_%b\ndata: %b\n\n" % (task.status.value.encode(), msgspec.json.encode(data))


async def frames(first: TaskEvent, rest: AsyncIterator[TaskEvent]) -> AsyncGenerator[bytes, None]:
    yield encode(first)
    pending = asyncio.create_task(_next(rest), name="task-stream")
    try:
        while True:
            await asyncio.wait({pending}, timeout=HEARTBEAT_S)
            if not pending.done():
                yield PING
                continue
            event = pending.result()
            if event is None:
                break
            yield encode(event)
            pending = asyncio.create_task(_next(rest), name="task-stream")
        yield CLOSE
    finally:
        pending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pending


async def _next(events: AsyncIterator[TaskEvent]) -> TaskEvent | None:
    return await anext(events, None)


@get(
    "/events/background-task",
    opt={
        "operation": Operation(
            summary="Watch a background task",
            description="Server-sent events: `bgtask_updated` while it runs, then one of `bgtask_done`, `bgtask_failed`, "
            "`bgtask_cancelled`, then `server_close`. One that ended within the last day is told by a single event. Only whoever began "
            "a task may watch it.",
            tag="events",
            form=WatchTask,
            media_type="text/event-stream",
            refusals=(404,),
        )
    },
)
async def watch_task(request: AnyRequest) -> Response[Any]:
    form = await form_of(request, WatchTask)
    task_id = parse_uuid(form.task_id)
    if task_id is None:
        raise InvalidInput("task_id is a UUID", field="task_id")
    events = gateway_of(request).manager.tasks.watch(principal_of(request), task_id)
    # The first is awaited here, so that an unknown task is a refusal and not a broken stream.
    first = await anext(events)
    return Stream(frames(first, events), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


ROUTES: tuple[ControllerRouterHandler, ...] = (watch_task,)
