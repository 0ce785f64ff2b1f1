"""What a frozen manager serves: the one place where freezing is enforced, by what each route's `Operation` says of it."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler

from .port import Settings

READS = frozenset({"GET", "HEAD", "OPTIONS"})


class FreezeGuard:
    """The guard behind authentication, for every route. It reads nothing (and costs nothing) for what is served in any state."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def guard(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Raises Frozen."""
        operation = handler.opt.get("operation")
        served = operation.while_frozen if operation is not None else None
        if served is None:
            served = connection.scope.get("method", "GET") in READS
        if not served:
            await self._settings.refuse_when_frozen()
