"""The stream of a background task. Its fields are snake_case on the wire."""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from .form import Form


class WatchTask(Form, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"task": "task_id"}

    task_id: Annotated[str, Meta(description="As it was given by the call that began it.")] = msgspec.field(
        name="task_id"
    )


class TaskProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Data of `bgtask_updated`."""

    task_id: str
    message: str
    current_progress: int
    total_progress: int


class TaskEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Data of `bgtask_done`, `bgtask_failed` and `bgtask_cancelled`."""

    task_id: str
    message: str


class TaskEnded(msgspec.Struct, frozen=True, kw_only=True):
    """Data of the only event of a task that had ended before."""

    task_id: str
    status: str
    current_progress: int
    total_progress: int
    message: str
