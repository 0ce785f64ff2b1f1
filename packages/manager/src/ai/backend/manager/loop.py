"""Control loops: the only place where background work is driven.

A loop takes no input: it runs when it is woken and at least once a period, looks at what is (rows, reports), compares it with what should
be, and acts. A body that knows when it has something to do next returns that, in seconds from now, and is not polled for it. It is
idempotent and has no retries inside: the next run is the retry. So "normal" and "after a crash" are one path.
"""

import asyncio
from collections.abc import Awaitable, Callable

from ai.backend.common.errors import BackendError
from ai.backend.common.log import bound_request, get_logger

log = get_logger(__name__)

BACKOFF_MAX_S = 5.0


class Loop:
    """Runs `body` when woken and every `period_s` seconds. Wakes that arrive while it runs are folded into one more run."""

    def __init__(self, name: str, body: Callable[[], Awaitable[float | None]], *, period_s: float) -> None:
        self.name = name
        self._body = body
        self._period_s = period_s
        self._signal = asyncio.Event()
        self.runs = 0
        self.failures = 0

    def wake(self) -> None:
        self._signal.set()

    async def run(self) -> None:
        """Until cancelled. A failing run is logged and tried again after a growing pause (an outage must not end a loop)."""
        pause_s = 0.0
        self._signal.set()
        next_s: float | None = None
        while True:
            await self._wait(self._period_s if next_s is None else min(self._period_s, max(0.0, next_s)))
            if pause_s:
                await asyncio.sleep(pause_s)
            self._signal.clear()
            self.runs += 1
            log.debug("loop-run", loop=self.name)
            try:
                with bound_request(f"{self.name}-{self.runs}"):
                    next_s = await self._body()
                pause_s = 0.0
            except Exception as exc:
                self.failures += 1
                pause_s = min(BACKOFF_MAX_S, max(0.1, pause_s * 2))
                known = isinstance(exc, BackendError)
                log.error("loop-failed", loop=self.name, error=str(exc), retry_s=pause_s, exc_info=not known)
                self._signal.set()

    async def _wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._signal.wait()
        except TimeoutError:
            return
