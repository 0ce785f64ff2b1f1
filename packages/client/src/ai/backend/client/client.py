"""The asynchronous client: `async with AsyncClient(config) as api: ...`. Its blocking twin is `sync.Client`."""

from ai.backend.common.clock import Clock
from ai.backend.common.wire.rest.root import AgentItem, AgentList, Health, ImageItem, ImageList, Version

from .config import ClientConfig
from .request import Requester
from .session import AsyncSessions


class AsyncClient:
    """One identity at one cluster. `sessions` is where most of it is."""

    def __init__(self, config: ClientConfig, clock: Clock | None = None) -> None:
        self._requester = Requester(config, clock)
        self.sessions = AsyncSessions(self._requester)

    async def __aenter__(self) -> "AsyncClient":
        await self._requester.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._requester.close()

    async def version(self) -> Version:
        return await self._requester.version()

    async def health(self) -> Health:
        return (await self._requester.call("GET", "/health")).decode(Health)

    async def images(self) -> list[ImageItem]:
        return (await self._requester.call("GET", "/images")).decode(ImageList).items

    async def agents(self) -> list[AgentItem]:
        """Superadministrators only."""
        return (await self._requester.call("GET", "/agents")).decode(AgentList).items
