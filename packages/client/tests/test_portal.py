"""The blocking client's event loop: who runs it, and that nothing is left waiting."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from ai.backend.client.portal import Portal


@pytest.fixture
def portal() -> Iterator[Portal]:
    made = Portal()
    yield made
    made.close()


async def _where() -> int:
    await asyncio.sleep(0)
    return threading.get_ident()


def test_a_call_runs_in_the_thread_of_its_caller(portal: Portal) -> None:
    assert portal.run(_where()) == threading.get_ident()


def test_what_it_raises_is_raised(portal: Portal) -> None:
    async def fail() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        portal.run(fail())
    assert portal.run(_where()) == threading.get_ident(), "and the next call goes on as before"


def test_the_loop_goes_on_while_nobody_calls(portal: Portal) -> None:
    ticks = threading.Semaphore(0)

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.001)
            ticks.release()

    async def start() -> "asyncio.Task[None]":
        return asyncio.create_task(tick())

    ticking = portal.run(start())
    for _ in range(100):
        assert ticks.acquire(timeout=30)
    assert portal.run(_where()) == threading.get_ident(), "the keeper gives way"
    for _ in range(100):
        assert ticks.acquire(timeout=30)
    portal.run(_cancel(ticking))


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_many_threads_call_at_once(portal: Portal) -> None:
    done: list[int] = []

    async def add(number: int) -> None:
        await asyncio.sleep(0.0005 * (number % 3))
        done.append(number)

    def call(first: int) -> None:
        for number in range(first, first + 50):
            portal.run(add(number))

    threads = [threading.Thread(target=call, args=(first,)) for first in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == list(range(400))


def test_a_call_that_outlives_whoever_ran_the_loop_ends(portal: Portal) -> None:
    """The main thread runs the loop and leaves; a guest that had come meanwhile still waits for something."""
    begun, answered = threading.Event(), threading.Event()

    async def guest() -> None:
        begun.set()
        await asyncio.sleep(0.2)

    def call() -> None:
        portal.run(guest())
        answered.set()

    async def host() -> None:
        thread.start()
        while not begun.is_set():
            await asyncio.sleep(0.001)

    thread = threading.Thread(target=call)
    portal.run(host())
    assert answered.wait(30)
    thread.join()


def test_inside_an_event_loop(portal: Portal) -> None:
    async def main() -> int:
        return portal.run(_where())

    assert asyncio.run(main()) != threading.get_ident(), "a thread runs one loop at a time"


def test_ctrl_c_breaks_a_call_off_and_cancels_it(portal: Portal) -> None:
    cancelled = threading.Event()

    async def sleep() -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    with pytest.raises(KeyboardInterrupt):
        portal.run(sleep())
    assert cancelled.is_set()
    assert portal.run(_where()) == threading.get_ident()
