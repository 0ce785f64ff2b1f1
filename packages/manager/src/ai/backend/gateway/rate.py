"""Request rates: a sliding window for each key, in memory. Several managers count separately."""

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from .limits import RATE_WINDOW_S


class RateLimiter:
    def __init__(self) -> None:
        self._window = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def request(self, access_key: str, limit: int) -> int:
        """Counts a request; returns how many are left in the window. -1 is RateLimited: the caller still has to tell the numbers."""
        item = RateLimitItemPerSecond(max(limit, 1), RATE_WINDOW_S)
        if not await self._window.hit(item, access_key):
            return -1
        _, remaining = await self._window.get_window_stats(item, access_key)
        return max(int(remaining), 0)
