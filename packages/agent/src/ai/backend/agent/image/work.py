"""Blocking work in a thread that ends soon after its caller was cancelled: each report of progress is where it can be broken off.

Without this a cancelled caller would leave the thread writing to files that are being removed.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
Tell = Callable[[int], None]
"""Takes a number of bytes; cheap to call often."""


class BrokenOff(Exception):
    """Raised inside the thread, and seen by nobody else."""


async def in_thread(work: Callable[[Tell], T], tell: Tell) -> T:
    """What `work` returns or raises. It is given a `tell` of its own, whose numbers reach the caller's in the event loop.

    When the caller is cancelled this returns after the thread has ended."""
    loop = asyncio.get_running_loop()
    cancelled = threading.Event()

    def report(number: int) -> None:
        if cancelled.is_set():
            raise BrokenOff
        loop.call_soon_threadsafe(tell, number)

    thread = asyncio.ensure_future(asyncio.to_thread(work, report))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait({thread})
        if not thread.cancelled():
            thread.exception()  # nobody asks for it
        raise
