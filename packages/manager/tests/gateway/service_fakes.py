"""Services and task logs of the small in-memory sessions; the real ones have tests of their own in `tests/rest`."""

from dataclasses import dataclass
from typing import Any

from ai.backend.manager.access.model import Principal
from ai.backend.manager.coordinator.model import NoCoordinator, Opened


@dataclass
class FakeTaskLogs:
    sessions: Any

    async def read(self, principal: Principal, ref: str, /) -> str:
        return await self.sessions.logs(principal, ref)


@dataclass
class FakeCoordinators:
    """The session `faraway` has none."""

    sessions: Any

    async def start_service(
        self,
        principal: Principal,
        ref: str,
        app: str,
        /,
        *,
        port: int | None = None,
        login_session_token: str | None = None,
    ) -> Opened:
        if (await self.sessions.get(principal, ref)).name == "faraway":
            raise NoCoordinator("the resource group has no app proxy")
        return Opened(token="token", url="https://apps.example.com")

    async def shutdown_service(self, principal: Principal, ref: str, app: str, /) -> None:
        await self.sessions.get(principal, ref)
