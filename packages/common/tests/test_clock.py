"""Clocks: aware, UTC, and the loop's own time where asked."""

import asyncio
from datetime import UTC, datetime, timedelta

from ai.backend.common.clock import LoopClock, SystemClock


def test_the_system_clock_is_aware() -> None:
    clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    assert clock.monotonic() <= clock.monotonic()


async def test_the_loop_clock_is_the_loops() -> None:
    epoch = datetime(2030, 1, 1, tzinfo=UTC)
    clock = LoopClock(epoch)
    before = asyncio.get_running_loop().time()
    passed_s = (clock.now() - epoch).total_seconds()
    assert before - 1e-3 <= passed_s <= asyncio.get_running_loop().time() + 1e-3
    assert clock.now().tzinfo is UTC
