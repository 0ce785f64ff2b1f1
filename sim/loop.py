"""An event loop in virtual time, with a seeded order of execution.

Time stands still while anything is ready and jumps to the next timer when nothing is: an hour of heartbeats costs what its callbacks cost.
Which ready callback runs next is drawn from a seeded generator, one at each step, so one seed is one interleaving and replays exactly.

What may be reordered: the steps of different tasks, for no program may rely on their order. What keeps its order: plain callbacks
(`call_soon`, `call_later`, done-callbacks) among themselves, because asyncio's own pieces and protocols do rely on it. Candidates are
sorted by their task's number before the draw, so that the order of a set of tasks, which depends on addresses, can't leak into a run.

There is no outside here: sockets and processes are refused, and so are threads, unless `threads=True`: then what would run in one runs
on the loop, at one moment of virtual time (drawn: at once, or just before its result arrives, so that a cancelled one may not run at
all). A loop with nothing ready and no timer is a deadlock, and is
reported with every waiting task and the line where it waits. It must never know what runs on it.
"""

import asyncio
import heapq
import selectors
import threading
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Any, NoReturn


class SimulationError(Exception):
    """The simulated program did something that no correct program does."""


class Deadlock(SimulationError):
    """Nothing is ready and no timer is set, but the main task has not ended."""


class StepsExceeded(SimulationError):
    """The run took more steps than allowed: most likely two callbacks wake each other forever."""


class OutsideWorld(SimulationError):
    """Something asked for a socket, a thread or a process."""


class _NoSelector(selectors.BaseSelector):
    """Knows no files. The loop never asks it to wait."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> NoReturn:
        raise OutsideWorld("no sockets or files in virtual time")

    def unregister(self, fileobj: Any) -> NoReturn:
        raise KeyError(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Use `run`. `steps` counts executed callbacks; `after_step`, when set, is called after each one, on the loop's thread."""

    def __init__(self, rng: Random, *, steps_max: int = 5_000_000, threads: bool = False) -> None:
        self._now_s = 0.0
        self._threads = threads
        self._rng = rng
        self._steps_max = steps_max
        self.steps = 0
        self.after_step: Callable[[], None] | None = None
        self._task_numbers = 0
        super().__init__(_NoSelector())
        self.set_task_factory(self._numbered)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_s

    def run(self, main: Any) -> Any:
        """Runs a coroutine to its end, then cancels what it left behind. Returns its result or raises its exception."""
        asyncio.set_event_loop(self)
        try:
            return self.run_until_complete(main)
        finally:
            try:
                self._cancel_rest()
            finally:
                asyncio.set_event_loop(None)
                self.close()

    def _cancel_rest(self) -> None:
        left = sorted(asyncio.all_tasks(self), key=_number)
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self.run_until_complete(self.shutdown_asyncgens())

    def _numbered(self, loop: Any, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """A task named `<name>#<number>`; the number orders candidates."""
        self._task_numbers += 1
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **kwargs)
        task._sim_number = self._task_numbers  # type: ignore[attr-defined]
        return task

    # asyncio calls this once for each turn; here a turn is a single callback.
    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        if not ready:
            self._advance(ready)
        self.steps += 1
        if self.steps > self._steps_max:
            raise StepsExceeded(f"{self._steps_max} steps at {self._now_s:.3f} s\n{self.waiting()}")
        handle = self._draw(ready)
        if not handle._cancelled:
            handle._run()
        if self.after_step is not None:
            self.after_step()

    def _advance(self, ready: Any) -> None:
        """Moves time to the next timer, and every timer of that moment to the ready queue."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            self._drop_timer(timers)
        if not timers:
            raise Deadlock(f"nothing is ready and no timer is set, at {self._now_s:.3f} s\n{self.waiting()}")
        self._now_s = max(self._now_s, timers[0].when())
        while timers and timers[0].when() <= self._now_s:
            handle = self._drop_timer(timers)
            if not handle.cancelled():
                ready.append(handle)

    def _drop_timer(self, timers: list[asyncio.TimerHandle]) -> asyncio.TimerHandle:
        handle = heapq.heappop(timers)
        handle._scheduled = False  # type: ignore[attr-defined]
        if handle.cancelled():
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
        return handle

    def _draw(self, ready: Any) -> Any:
        """Takes one callback out of the queue: the first plain one, or a step of any task."""
        if len(ready) == 1:
            return ready.popleft()
        plain: Any = None
        steps: list[tuple[int, Any]] = []
        for handle in ready:
            owner = getattr(handle._callback, "__self__", None)
            if isinstance(owner, asyncio.Task):
                steps.append((_number(owner), handle))
            elif plain is None:
                plain = handle
        steps.sort(key=lambda step: step[0])
        candidates = [handle for _, handle in steps]
        if plain is not None:
            candidates.append(plain)
        chosen = candidates[self._rng.randrange(len(candidates))] if len(candidates) > 1 else candidates[0]
        ready.remove(chosen)
        return chosen

    def waiting(self) -> str:
        """Every unfinished task and where it waits, one a line."""
        lines = []
        for task in sorted(asyncio.all_tasks(self), key=_number):
            frames = task.get_stack()
            where = f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "not started"
            lines.append(f"  {task.get_name()} waits at {where}")
        return "\n".join(lines)

    # The outside is refused.

    def _make_self_pipe(self) -> None:
        self._ssock = self._csock = None

    def _close_self_pipe(self) -> None:
        return

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """asyncio itself uses it on the loop's own thread (asynchronous generators); from any other it is an error."""
        if self._thread_id not in (None, threading.get_ident()):  # type: ignore[attr-defined]
            raise OutsideWorld("no threads in virtual time")
        return self.call_soon(callback, *args, context=context)

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise OutsideWorld("no processes in virtual time")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise OutsideWorld("no processes in virtual time")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        if not self._threads:
            raise OutsideWorld(f"no threads in virtual time: {func!r}")
        future = self.create_future()
        work: Callable[[], Any] = partial(func, *args)
        if self._rng.random() < 0.5:
            work = _replay(_outcome(work))
        self.call_later(self._rng.uniform(0.0, 0.005), _finish, future, work)
        return future


def _outcome(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return work(), None
    except Exception as exc:
        return None, exc


def _replay(outcome: tuple[Any, BaseException | None]) -> Callable[[], Any]:
    """A function that ends as the work did that ran before."""

    def again() -> Any:
        result, exc = outcome
        if exc is not None:
            raise exc
        return result

    return again


def _finish(future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
    if future.done():
        return
    result, exc = _outcome(work)
    if exc is not None:
        future.set_exception(exc)
    else:
        future.set_result(result)


def _number(task: asyncio.Task[Any]) -> int:
    number: int = getattr(task, "_sim_number", 0)
    return number
