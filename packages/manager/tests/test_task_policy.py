"""What becomes of a background task."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from ai.backend.common.errors import InvalidInput
from ai.backend.common.ids import UserId
from ai.backend.manager.task.model import Task, TaskStatus
from ai.backend.manager.task.policy import ABANDONED, MESSAGE_MAX, UNEXPECTED, advanced, ended

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TASK = Task(
    id=UUID(int=1),
    name="x",
    user_id=UserId(UUID(int=2)),
    status=TaskStatus.STARTED,
    current=0,
    total=0,
    message="",
    created_at=NOW,
)


@given(st.integers(-10, 100), st.integers(-10, 100), st.text())
def test_clients_can_calculate_with_progress(current, total, message):
    task = advanced(TASK, current, total, message)
    assert task.current >= 0 and task.total >= 0
    assert task.total == 0 or task.current <= task.total


def test_ends():
    half = advanced(TASK, 5, 10, "half")
    done = ended(half, "all of it", NOW)
    assert (done.status, done.current, done.total, done.message) == (TaskStatus.DONE, 10, 10, "all of it")
    failed = ended(half, InvalidInput("no"), NOW)
    assert (failed.status, failed.current, failed.message) == (TaskStatus.FAILED, 5, "no")
    crashed = ended(half, RuntimeError("secret"), NOW)
    assert (crashed.status, crashed.message) == (TaskStatus.FAILED, UNEXPECTED)
    broken_off = ended(half, asyncio.CancelledError(), NOW)
    assert (broken_off.status, broken_off.message) == (TaskStatus.CANCELLED, ABANDONED)
    assert len(ended(half, "x" * 10_000, NOW).message) == MESSAGE_MAX
    assert all(task.finished_at == NOW for task in (done, failed, crashed, broken_off))
