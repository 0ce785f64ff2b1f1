"""The asynchronous client: `async with AsyncClient(config) as api: ...`. Its blocking twin is `sync.Client`."""

from collections.abc import Mapping
from typing import Any

from ai.backend.common.clock import Clock
from ai.backend.common.wire.rest.auth import WebLoginReply
from ai.backend.common.wire.rest.root import AgentItem, AgentList, Health, ImageItem, ImageList, Version

from .config import ClientConfig
from .dotfile import AsyncDotfiles
from .error import OTP_NEEDED, LoginRefused, OtpNeeded
from .project import AsyncProjects
from .request import Requester
from .resource import AsyncResources
from .session import AsyncSessions
from .setting import AsyncSettings
from .template import AsyncTemplates


class AsyncClient:
    """One identity at one cluster. `sessions` is where most of it is."""

    def __init__(self, config: ClientConfig, clock: Clock | None = None) -> None:
        self._requester = Requester(config, clock)
        self.sessions = AsyncSessions(self._requester)
        self.dotfiles = AsyncDotfiles(self._requester)
        self.settings = AsyncSettings(self._requester)
        self.projects = AsyncProjects(self._requester)
        self.resources = AsyncResources(self._requester)
        self.templates = AsyncTemplates(self._requester)

    async def __aenter__(self) -> "AsyncClient":
        await self._requester.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._requester.close()

    async def log_in(self, username: str, password: str, otp: str = "") -> str:
        """Session mode: the id of a new login, for `ClientConfig.session_id`. Raises LoginRefused, or OtpNeeded."""
        form = {"username": username, "password": password} | ({"otp": otp} if otp else {})
        answer = await self._requester.call("POST", "/server/login", json=form)
        told = answer.decode(WebLoginReply)
        if not told.authenticated or not answer.session_id:
            details = str((told.data or {}).get("details", "")) if isinstance(told.data, dict) else ""
            raise (OtpNeeded if details == OTP_NEEDED else LoginRefused)(
                details or "the server did not let you in",
                hint="" if otp else "Check user name and password.",
            )
        return answer.session_id

    async def log_out(self) -> None:
        """Session mode: ends the login."""
        await self._requester.call("POST", "/server/logout")

    async def version(self) -> Version:
        return await self._requester.version()

    async def health(self) -> Health:
        return (await self._requester.call("GET", "/health")).decode(Health)

    async def images(self) -> list[ImageItem]:
        return (await self._requester.call("GET", "/images")).decode(ImageList).items

    async def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The data of a GraphQL query; raises ApiError when it has errors."""
        return await self._requester.graphql(query, variables)

    async def agents(self) -> list[AgentItem]:
        """Superadministrators only."""
        return (await self._requester.call("GET", "/agents")).decode(AgentList).items

    async def sync_agent(self, agent_id: str) -> None:
        """Has an agent sent anew what it should run; what differs is set right after the answer. Superadministrators only."""
        await self._requester.call("POST", "/session/_/sync-agent-registry", json={"agent": agent_id})
