"""Background tasks and their streams."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from ai.backend.common.errors import InvalidInput, NotPrivileged, Unavailable
from ai.backend.manager.db.schema import images, tasks
from ai.backend.manager.task import service as task_service
from ai.backend.manager.task import store
from ai.backend.manager.task.policy import ABANDONED, UNEXPECTED

STREAM = "/events/background-task?task_id="


class Steps:
    """Work that goes on when the test says so."""

    def __init__(self, *, then=None):
        self.began, self.go, self.then = asyncio.Event(), asyncio.Event(), then

    async def __call__(self, reporter):
        reporter.update(1, 3, "one")
        self.began.set()
        await self.go.wait()
        reporter.update(2, 3, "two")
        if self.then is not None:
            raise self.then
        return "all three"


async def watched(world, task_id, readers):
    running = world.manager.tasks._running[task_id]
    while len(running._watchers) < readers or running.task.current == 0:
        await asyncio.sleep(0.01)


async def settled(world, task_id):
    while True:
        row = await world.database.read(lambda conn: store.get(conn, task_id))
        if row.status.terminal:
            return row
        await asyncio.sleep(0.01)


async def test_a_watcher_is_told_of_progress_and_of_the_end(world):
    work = Steps()
    task_id = await world.manager.tasks.start(world.who["user"], "steps", work)
    watching = [asyncio.create_task(world.events(f"{STREAM}{task_id}")) for _ in range(2)]
    await watched(world, task_id, 2)
    work.go.set()
    for watcher in watching:
        told = await watcher
        assert told[0] == (
            "bgtask_updated",
            {"task_id": str(task_id), "message": "one", "current_progress": 1, "total_progress": 3},
        )
        assert {data["message"] for name, data in told if name == "bgtask_updated"} <= {"one", "two"}
        assert told[-2:] == [
            ("bgtask_done", {"task_id": str(task_id), "message": "all three"}),
            ("server_close", {}),
        ]
    after = await world.events(f"/events/background-task?taskId={task_id.hex}")
    assert after == [
        (
            "bgtask_done",
            {
                "task_id": str(task_id),
                "status": "done",
                "current_progress": 3,
                "total_progress": 3,
                "message": "all three",
            },
        ),
        ("server_close", {}),
    ]


@pytest.mark.parametrize(
    ("error", "message"),
    [(InvalidInput("that is wrong"), "that is wrong"), (RuntimeError("geheim"), UNEXPECTED)],
)
async def test_failures_are_told_without_the_inside(world, error, message):
    work = Steps(then=error)
    task_id = await world.manager.tasks.start(world.who["user"], "steps", work)
    watching = asyncio.create_task(world.events(f"{STREAM}{task_id}"))
    await watched(world, task_id, 1)
    work.go.set()
    told = await watching
    assert told[-2][0] == "bgtask_failed" and told[-2][1]["message"] == message
    row = await settled(world, task_id)
    assert (row.status, row.current, row.message) == ("failed", 2, message)


async def test_only_for_whoever_began_it(world):
    work = Steps()
    task_id = await world.manager.tasks.start(world.who["user"], "steps", work)
    for running in (True, False):
        for key in ("peer", "admin", "root", "stranger"):
            answer = await world.call("GET", f"{STREAM}{task_id}", key=key)
            assert (answer.status, answer.json["title"]) == (404, "No such background task.")
        if running:
            work.go.set()
            await settled(world, task_id)
    assert (await world.call("GET", f"{STREAM}{UUID(int=5)}")).status == 404
    assert (await world.call("GET", f"{STREAM}nonsense")).status == 400
    assert (await world.call("GET", "/events/background-task")).status == 400
    assert (await world.call("GET", f"{STREAM}{task_id}", key=None)).status == 401


async def test_what_a_dead_manager_left_is_failed(world):
    old = await world.manager.tasks.start(world.who["user"], "steps", Steps())
    running = world.manager.tasks._running
    left = replace(running[old].task, id=UUID(int=9), created_at=datetime.now(UTC) - timedelta(hours=1))
    await world.database.run(lambda conn: store.insert(conn, left))
    world.manager.tasks.loop.wake()
    assert (await settled(world, left.id)).message == ABANDONED
    assert not (await world.database.read(lambda conn: store.get(conn, old))).status.terminal
    told = await world.events(f"{STREAM}{left.id}")
    assert [name for name, _ in told] == ["bgtask_failed", "server_close"]


async def test_finished_ones_are_forgotten_after_a_day(world):
    async def work(reporter):
        return "done"

    task_id = await world.manager.tasks.start(world.who["user"], "quick", work)
    await settled(world, task_id)
    day_ago = datetime.now(UTC) - timedelta(hours=25)
    await world.database.run(lambda conn: conn.execute(sa.update(tasks).values(finished_at=day_ago)))
    await world.manager.tasks._tidy()
    assert (await world.call("GET", f"{STREAM}{task_id}")).status == 404


async def test_closing_breaks_off_what_runs_and_writes_it(world):
    work = Steps()
    task_id = await world.manager.tasks.start(world.who["user"], "steps", work)
    watching = asyncio.create_task(world.events(f"{STREAM}{task_id}"))
    await watched(world, task_id, 1)
    await world.manager.tasks.close()
    assert [name for name, _ in await watching][-2:] == ["bgtask_cancelled", "server_close"]
    assert (await settled(world, task_id)).status == "cancelled"


async def test_not_too_many_at_once(world, monkeypatch):
    monkeypatch.setattr(task_service, "RUNNING_MAX", 1)
    await world.manager.tasks.start(world.who["user"], "steps", Steps())
    with pytest.raises(Unavailable):
        await world.manager.tasks.start(world.who["user"], "steps", Steps())


async def test_rescan_reads_what_agents_hold(world):
    await world.database.run(lambda conn: conn.execute(sa.update(images).values(size_bytes=999)))
    task_id = await world.manager.images.rescan(world.who["admin"])
    told = await world.events(f"{STREAM}{task_id}", key="admin")
    assert told[-1] == ("server_close", {})
    assert told[-2][1]["message"] == "1 images on 1 agents"
    sizes = await world.database.read(
        lambda conn: conn.execute(sa.select(images.c.size_bytes)).scalars().all()
    )
    assert sizes == [1]
    for key in ("user", "monitor"):
        with pytest.raises(NotPrivileged):
            await world.manager.images.rescan(world.who[key])
