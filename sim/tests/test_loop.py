"""The virtual loop: time jumps, order is seeded, the outside is refused, and what can't end is told."""

import asyncio
from random import Random
from typing import Any

import pytest

from sim.loop import Deadlock, OutsideWorld, StepsExceeded, VirtualTimeLoop


def run(main: Any, seed: int = 0, **kwargs: Any) -> Any:
    return VirtualTimeLoop(Random(seed), **kwargs).run(main)


def test_time_jumps_to_the_next_timer() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        await asyncio.sleep(0.25)
        return asyncio.get_running_loop().time()

    assert run(main()) == 3600.25


def test_time_stands_still_while_something_is_ready() -> None:
    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run(main()) == 0.0


def test_timeouts_are_virtual() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.get_running_loop().create_future()
        return asyncio.get_running_loop().time()

    assert run(main()) == 30


async def interleave(names: str, rounds: int = 5) -> str:
    trace: list[str] = []

    async def one(name: str) -> None:
        for _ in range(rounds):
            trace.append(name)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(one(name))
    return "".join(trace)


def test_a_seed_is_an_interleaving() -> None:
    traces = {seed: run(interleave("abc"), seed) for seed in range(20)}
    assert all(run(interleave("abc"), seed) == trace for seed, trace in traces.items())
    assert len(set(traces.values())) > 15


def test_plain_callbacks_keep_their_order() -> None:
    async def main() -> list[int]:
        seen: list[int] = []
        for number in range(50):
            asyncio.get_running_loop().call_soon(seen.append, number)
        noise = [asyncio.create_task(asyncio.sleep(0)) for _ in range(5)]
        await asyncio.gather(*noise)
        await asyncio.sleep(1)
        return seen

    for seed in range(10):
        assert run(main(), seed) == list(range(50))


def test_the_order_of_sets_of_tasks_does_not_leak() -> None:
    """A task group cancels its members in the order of a set, that is, of addresses."""

    async def main() -> list[str]:
        ends: list[str] = []

        async def one(name: str) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                ends.append(name)

        async def broken() -> None:
            await asyncio.sleep(1)
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for number in range(10):
                    group.create_task(one(str(number)))
                group.create_task(broken())
        return ends

    keep = [object() for _ in range(1000)]
    first = run(main(), 3)
    keep = [bytearray(n) for n in range(2000)]
    assert run(main(), 3) == first
    assert keep


def test_a_deadlock_names_who_waits_where() -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(stuck(), name="the-stuck-one")

    with pytest.raises(Deadlock, match=r"the-stuck-one waits at .*test_loop\.py"):
        run(main())


def test_a_livelock_ends() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(StepsExceeded):
        run(main(), steps_max=1000)


def test_no_threads_no_sockets_no_processes() -> None:
    async def thread() -> None:
        await asyncio.to_thread(print)

    async def server() -> None:
        await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)

    async def process() -> None:
        await asyncio.create_subprocess_exec("true")

    for main in (thread(), server(), process()):
        with pytest.raises(OutsideWorld):
            run(main)


def test_threads_can_be_played_on_the_loop() -> None:
    async def main() -> list[str]:
        done: list[str] = []

        def work(name: str) -> str:
            done.append(name)
            return name

        assert await asyncio.to_thread(work, "a") == "a"
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        cancelled = [asyncio.create_task(asyncio.to_thread(work, "b")) for _ in range(20)]
        await asyncio.sleep(0.0001)  # all have asked, none has its answer
        for task in cancelled:
            task.cancel()
        await asyncio.sleep(1)
        return done

    done = run(main(), 1, threads=True)
    assert done[0] == "a"
    assert 0 < done.count("b") < 20, "some had begun, some had not"


def test_leftovers_are_cancelled() -> None:
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(10**9)
        finally:
            ended.append("yes")

    async def main() -> None:
        task = asyncio.create_task(forever())
        await asyncio.sleep(1)
        assert not task.done()

    run(main())
    assert ended == ["yes"]


def test_cancelled_timers_are_skipped() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        for _ in range(500):
            loop.call_later(5, print, "never").cancel()
        await asyncio.sleep(10)
        return loop.time()

    assert run(main()) == 10


def test_steps_are_counted_and_watched() -> None:
    loop = VirtualTimeLoop(Random(0))
    seen: list[int] = []
    loop.after_step = lambda: seen.append(loop.steps)
    loop.run(asyncio.sleep(1))
    assert seen == list(range(1, loop.steps + 1))
