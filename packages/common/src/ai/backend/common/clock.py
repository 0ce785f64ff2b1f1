"""Time as an argument. Decisions are handed `now`; shells are handed a `Clock`. Only this file and main files ask the machine."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall-clock time, UTC, timezone-aware."""

    def monotonic(self) -> float:
        """Seconds that never jump; only differences mean something."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class LoopClock:
    """Time as the running event loop has it: under the simulator's virtual loop this is virtual time."""

    def __init__(self, epoch: datetime) -> None:
        self._epoch_s = epoch.timestamp()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._epoch_s + self.monotonic(), UTC)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()
