"""Runs background tasks and tells whoever waits for them.

While a task runs, this process knows best how far it is; watchers are woken from memory, and the row is written at its start, once in
a while, and at its end. Whoever runs a task says so in its row every SEEN_EVERY_S. Of whose task nothing was said for GONE_AFTER is gone:
the loop of any manager on the database marks such tasks.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from uuid import UUID

from ai.backend.common.clock import Clock
from ai.backend.common.errors import BackendError, TaskNotFound, Unavailable
from ai.backend.common.ids import Random, new_uuid
from ai.backend.common.log import bound_request, get_logger

from ..access.model import Principal
from ..db.database import Database
from ..loop import Loop
from . import store
from .model import Task, TaskEvent, TaskStatus, Work
from .policy import ABANDONED, GONE_AFTER, KEPT, SEEN_EVERY_S, advanced, ended, may_watch

log = get_logger(__name__)

RUNNING_MAX = 64
WRITTEN_EVERY_S = 1.0


class _Running:
    """A task that runs here: its newest state, and who is to be woken by the next. Work reports through it."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._watchers: set[asyncio.Event] = set()
        self.changed = asyncio.Event()
        """For the writer of the row."""

    def update(self, current: int, total: int, message: str = "") -> None:
        self.show(advanced(self.task, current, total, message))

    def show(self, task: Task) -> None:
        self.task = task
        for watcher in (self.changed, *self._watchers):
            watcher.set()

    async def states(self) -> AsyncIterator[Task]:
        """Its state now and after each change, until it has ended; what changes quickly is told once."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            while True:
                changed.clear()
                task = self.task
                yield task
                if task.status.terminal:
                    return
                await changed.wait()
        finally:
            self._watchers.discard(changed)


class TaskService:
    def __init__(self, database: Database, clock: Clock, rng: Random) -> None:
        self._database = database
        self._clock = clock
        self._rng = rng
        self._running: dict[UUID, _Running] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self.loop = Loop("tasks", self._tidy, period_s=SEEN_EVERY_S)

    async def start(self, principal: Principal, name: str, work: Work) -> UUID:
        """Begins the work and returns the task's id. Raises Unavailable when too much is going on already."""
        if len(self._running) >= RUNNING_MAX:
            raise Unavailable(
                f"{len(self._running)} background tasks are running", hint="Try again when some have ended."
            )
        task = Task(
            id=new_uuid(self._rng),
            name=name,
            user_id=principal.user_id,
            status=TaskStatus.STARTED,
            current=0,
            total=0,
            message="",
            created_at=self._clock.now(),
        )
        running = self._running[task.id] = _Running(task)
        try:
            await self._database.run(lambda conn: store.insert(conn, task))
        except BaseException:
            del self._running[task.id]
            raise
        job = asyncio.create_task(self._run(running, work), name=f"task-{name}")
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return task.id

    async def _run(self, running: _Running, work: Work) -> None:
        name = running.task.name
        writer = asyncio.create_task(self._write(running), name=f"task-{name}-progress")
        with bound_request(f"task-{running.task.id}"):
            log.info("task-started", task=str(running.task.id), name=name)
            result: str | BaseException
            try:
                result = await work(running)
            except BackendError as exc:
                result = exc
            except Exception as exc:
                log.error("task-crashed", task=str(running.task.id), name=name, exc_info=exc)
                result = exc
            except asyncio.CancelledError as exc:
                result = exc
            writer.cancel()
            last = ended(running.task, result, self._clock.now())
            log.info("task-ended", task=str(last.id), name=name, status=last.status.value)
            try:
                await self._database.run(lambda conn: store.update(conn, last))
            except BackendError as exc:
                log.error("task-not-written", task=str(last.id), error=str(exc))
            finally:
                self._running.pop(last.id, None)
                running.show(last)

    async def _write(self, running: _Running) -> None:
        """Keeps the row not far behind, for whoever asks after a crash of this process."""
        while True:
            await running.changed.wait()
            running.changed.clear()
            task = running.task
            try:
                await self._database.run(partial(store.update, task=task))
            except BackendError as exc:
                log.warning("task-not-written", task=str(task.id), error=str(exc))
            await asyncio.sleep(WRITTEN_EVERY_S)

    async def watch(self, principal: Principal, task_id: UUID) -> AsyncIterator[TaskEvent]:
        """Its state now and each change of it, to its end. Raises TaskNotFound, also for somebody else's, before the first event."""
        running = self._running.get(task_id)
        if running is not None:
            if not may_watch(principal, running.task):
                raise _unknown(task_id)
            async for task in running.states():
                yield TaskEvent(task=task, first=False)
            return
        found = await self._database.read(lambda conn: store.get(conn, task_id))
        if found is None or not may_watch(principal, found):
            raise _unknown(task_id)
        yield TaskEvent(task=found, first=True)

    async def _tidy(self) -> None:
        now = self._clock.now()
        if self._running:
            mine = list(self._running)
            await self._database.run(lambda conn: store.seen(conn, mine, now))
        # Seldom is anything to do: look without keeping others from writing.
        gone, old = now - GONE_AFTER, now - KEPT
        if not await self._database.read(lambda conn: store.is_untidy(conn, gone, old)):
            return
        lost = await self._database.run(lambda conn: store.abandon(conn, gone, ABANDONED, now))
        if lost:
            log.warning("tasks-abandoned", count=lost)
        await self._database.run(lambda conn: store.forget_before(conn, old))

    async def close(self) -> None:
        """Breaks off what runs and writes that it was."""
        jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


def _unknown(task_id: UUID) -> TaskNotFound:
    return TaskNotFound(f"no background task {task_id}", hint="Finished ones are kept for a day.")
