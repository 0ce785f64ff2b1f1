"""Background tasks of several managers on one database: each leaves alone what another one runs, and one that is gone is noticed."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from ai.backend.common.clock import Clock, SystemClock
from ai.backend.manager.access.model import Principal
from ai.backend.manager.db.database import Database
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.secret import FileSecrets
from ai.backend.manager.task import store
from ai.backend.manager.task.model import Reporter, TaskStatus
from ai.backend.manager.task.policy import ABANDONED, GONE_AFTER, SEEN_EVERY_S
from ai.backend.manager.task.service import TaskService

RNG = random.SystemRandom()
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Moved(SystemClock):
    """Goes on when the test says so."""

    def __init__(self) -> None:
        self.passed = timedelta()

    def now(self) -> datetime:
        return BEGIN + self.passed


async def forever(reporter: Reporter) -> str:
    await asyncio.get_running_loop().create_future()
    return ""


async def somebody(database: Database, folder: Path, clock: Clock) -> Principal:
    identity = IdentityService(database, FileSecrets(folder / "key", RNG), clock=clock, rng=RNG)
    seeded = await identity.seed(RNG, clock.now())
    principal, _ = await identity.authenticate(seeded.user.access_key)
    return principal


async def status(database: Database, task_id: UUID) -> tuple[TaskStatus, str]:
    found = await database.read(lambda conn: store.get(conn, task_id))
    assert found is not None
    return found.status, found.message


async def test_a_manager_that_starts_leaves_alone_what_another_one_runs(
    migrated: Database, tmp_path: Path
) -> None:
    clock = Moved()
    who = await somebody(migrated, tmp_path, clock)
    first = TaskService(migrated, clock, RNG)
    task_id = await first.start(who, "steps", forever)
    for _ in range(10):
        clock.passed += timedelta(seconds=SEEN_EVERY_S)
        await first._tidy()
        second = TaskService(migrated, clock, RNG)
        await second._tidy()
        assert await status(migrated, task_id) == (TaskStatus.STARTED, "")
    assert timedelta(seconds=10 * SEEN_EVERY_S) > GONE_AFTER, "or nothing was shown"
    await first.close()
    assert (await status(migrated, task_id))[0] is TaskStatus.CANCELLED


async def test_what_a_manager_ran_that_is_gone_is_marked_by_any_other(
    migrated: Database, tmp_path: Path
) -> None:
    clock = Moved()
    who = await somebody(migrated, tmp_path, clock)
    dead, other = TaskService(migrated, clock, RNG), TaskService(migrated, clock, RNG)
    lost = await dead.start(who, "lost", forever)
    clock.passed += GONE_AFTER  # dead says nothing more
    alive = await other.start(who, "alive", forever)
    await other._tidy()
    assert (await status(migrated, lost))[0] is TaskStatus.STARTED, "its last word may still be on its way"
    clock.passed += timedelta(seconds=1)
    await other._tidy()
    assert await status(migrated, lost) == (TaskStatus.FAILED, ABANDONED)
    assert (await status(migrated, alive))[0] is TaskStatus.STARTED
    # It was only asleep: what it says now comes too late.
    await dead.close()
    assert await status(migrated, lost) == (TaskStatus.FAILED, ABANDONED)
    await other.close()
