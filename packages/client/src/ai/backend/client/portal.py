"""Runs coroutines for callers that cannot await them: the one event loop of a blocking client.

Who calls runs the loop in their own thread meanwhile, so that a call costs no change of threads. Once nobody has called for a moment, the
*keeper*, a daemon thread, runs it: pings are answered and connections kept while the program does something else. Calls that cannot run
the loop themselves, because another thread does or because their own thread is inside an event loop, are *guests*: whoever runs it does
their work too, and the keeper goes on with it when they stop.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
KEEP_AFTER_S = 0.05


class Portal:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._turn = threading.Lock()
        """Who holds it runs the loop."""
        self._calls = 0
        self._guests = 0
        self._counting = threading.Lock()
        self._leave: asyncio.Future[None] | None = None
        """Done: the keeper, which runs the loop now, stops."""
        self._needed = threading.Event()
        self._closed = False
        self._keeper = threading.Thread(target=self._keep, name="backend.ai-client", daemon=True)
        self._keeper.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Blocks until it is done; breaking this off (Ctrl-C) cancels it."""
        self._calls += 1
        if not self._take_turn():
            return self._run_elsewhere(work)
        try:
            return self._run_here(work)
        finally:
            self._turn.release()
            if self._guests:
                self._needed.set()

    def iterate(self, stream: AsyncIterator[T]) -> Iterator[T]:
        async def step() -> tuple[bool, T | None]:
            try:
                return True, await anext(stream)
            except StopAsyncIteration:
                return False, None

        async def close() -> None:
            if (aclose := getattr(stream, "aclose", None)) is not None:
                await aclose()

        try:
            while True:
                more, item = self.run(step())
                if not more:
                    return
                yield item  # type: ignore[misc]
        finally:
            self.run(close())

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """The loop runs all the time meanwhile, not only during calls and once nobody calls."""
        with self._counting:
            self._guests += 1
        self._needed.set()
        try:
            yield
        finally:
            with self._counting:
                self._guests -= 1

    def close(self) -> None:
        self.run(self._loop.shutdown_asyncgens())
        self._closed = True
        self._needed.set()
        self._dismiss()
        self._keeper.join()
        self._loop.close()

    def _take_turn(self) -> bool:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            return False  # a thread runs one loop at a time
        if self._turn.acquire(blocking=False):
            return True
        return self._dismiss() and self._turn.acquire(timeout=KEEP_AFTER_S)

    def _dismiss(self) -> bool:
        """Asks the keeper to stop; False when it is not the keeper who runs the loop."""
        leave = self._leave
        if leave is None:
            return False
        self._loop.call_soon_threadsafe(_settle, leave)
        return True

    def _run_here(self, work: Coroutine[Any, Any, T]) -> T:
        task = self._loop.create_task(self._stopping(work))
        try:
            self._run_until_done(task)
        finally:
            task.cancel()
            self._run_until_done(task)
        return task.result()

    def _run_until_done(self, task: "asyncio.Task[Any]") -> None:
        """`run_until_complete` would take one more turn of the loop."""
        while not task.done():
            self._loop.run_forever()

    async def _stopping(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        finally:
            self._loop.stop()

    def _run_elsewhere(self, work: Coroutine[Any, Any, T]) -> T:
        with self.attended():
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            try:
                return future.result()
            except BaseException:
                future.cancel()
                raise

    def _keep(self) -> None:
        while not self._closed:
            seen = self._calls
            self._needed.wait(KEEP_AFTER_S)
            if self._calls != seen and not self._guests:
                continue
            with self._turn:
                self._needed.clear()
                if self._closed:
                    return
                self._leave = self._loop.create_future()
                self._loop.run_until_complete(self._leave)
                self._leave = None


def _settle(leave: "asyncio.Future[None]") -> None:
    if not leave.done():
        leave.set_result(None)
