"""Request rates: a sliding window for each key, in memory. Several managers count separately."""

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from ai.backend.common.errors import RateLimited

from .limits import LOGIN_FAILURES_MAX, LOGIN_WINDOW_S, RATE_WINDOW_S


class RateLimiter:
    def __init__(self) -> None:
        self._window = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._login = RateLimitItemPerSecond(LOGIN_FAILURES_MAX, LOGIN_WINDOW_S, namespace="login")

    async def request(self, access_key: str, limit: int) -> int:
        """Counts a request; returns how many are left in the window. -1 is RateLimited: the caller still has to tell the numbers."""
        item = RateLimitItemPerSecond(max(limit, 1), RATE_WINDOW_S)
        if not await self._window.hit(item, access_key):
            return -1
        _, remaining = await self._window.get_window_stats(item, access_key)
        return max(int(remaining), 0)

    async def check_login(self, who: str) -> None:
        """Raises RateLimited after too many failed logins."""
        if not await self._window.test(self._login, who):
            raise RateLimited(
                "Too many failed logins.",
                hint=f"Wait up to {LOGIN_WINDOW_S // 60} minutes.",
                limit=LOGIN_FAILURES_MAX,
                window_s=LOGIN_WINDOW_S,
            )

    async def login_failed(self, who: str) -> None:
        await self._window.hit(self._login, who)
