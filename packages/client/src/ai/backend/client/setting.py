"""What administrators set and see: the announcement, the manager's state, the scheduler, settings, and logs."""

from collections.abc import Sequence
from typing import Any

import msgspec

from ai.backend.common.wire.rest.errorlog import AuditList, ErrorList
from ai.backend.common.wire.rest.root import Announcement, ManagerStatus
from ai.backend.common.wire.rest.scheduler import DryAgent, DryResult, DryRun, DrySnapshot, DryWorkload
from ai.backend.common.wire.rest.setting import SettingFound

from .request import Requester


class AsyncSettings:
    """Everybody may read the announcement, the status and error logs; the rest is for superadministrators."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def announcement(self) -> Announcement:
        return (await self._requester.call("GET", "/manager/announcement")).decode(Announcement)

    async def announce(self, message: str) -> None:
        """An empty message takes it down."""
        body = {"enabled": bool(message), "message": message}
        await self._requester.call("POST", "/manager/announcement", json=body)

    async def status(self) -> ManagerStatus:
        return (await self._requester.call("GET", "/manager/status")).decode(ManagerStatus)

    async def freeze(self, *, force_kill: bool = False) -> None:
        """Changes are refused from now on; `force_kill` ends every session, and waits for that."""
        body = {"status": "frozen", "force_kill": force_kill}
        await self._requester.call("PUT", "/manager/status", json=body)

    async def unfreeze(self) -> None:
        await self._requester.call("PUT", "/manager/status", json={"status": "running"})

    async def include_agents(self, agent_ids: Sequence[str]) -> None:
        """They take new sessions again. Raises ApiError (404) when one is unknown; then nothing is changed."""
        await self._operate("include-agents", agent_ids)

    async def exclude_agents(self, agent_ids: Sequence[str]) -> None:
        """They take no new sessions; what runs there goes on."""
        await self._operate("exclude-agents", agent_ids)

    async def _operate(self, operation: str, agent_ids: Sequence[str]) -> None:
        body = {"op": operation, "args": list(agent_ids)}
        await self._requester.call("POST", "/manager/scheduler/operation", json=body)

    async def dry_run(
        self,
        workloads: Sequence[DryWorkload],
        *,
        resource_group: str = "default",
        agents: Sequence[DryAgent] | None = None,
    ) -> DryResult:
        """Where these sessions would start now, and why not; nothing is written. `agents`: instead of the live cluster."""
        form = DryRun(
            workloads=list(workloads),
            resource_group=resource_group,
            snapshot=None if agents is None else DrySnapshot(agents=list(agents)),
        )
        answer = await self._requester.call("POST", "/scheduler/dry-run", json=msgspec.to_builtins(form))
        return answer.decode(DryResult)

    async def get(self, key: str, *, prefix: bool = False) -> Any:
        """A text, or None; with `prefix` a nested dict of what is below the key."""
        answer = await self._requester.call("POST", "/config/get", json={"key": key, "prefix": prefix})
        return answer.decode(SettingFound).result

    async def set(self, key: str, value: Any) -> None:
        """A text, or a nested dict of at most 16 texts."""
        await self._requester.call("POST", "/config/set", json={"key": key, "value": value})

    async def delete(self, key: str, *, prefix: bool = False) -> None:
        await self._requester.call("POST", "/config/delete", json={"key": key, "prefix": prefix})

    async def registries(self) -> dict[str, str]:
        return (await self._requester.call("GET", "/config/docker-registries")).decode(dict[str, str])

    async def error_logs(
        self, *, mark_read: bool = False, page_size: int = 20, page_no: int = 1
    ) -> ErrorList:
        """Errors that clients reported: yours, or those that you administrate."""
        query = {"mark_read": mark_read, "page_size": page_size, "page_no": page_no}
        return (await self._requester.call("GET", "/logs/error", query=query)).decode(ErrorList)

    async def audit_logs(
        self, *, action: str = "", target: str = "", limit: int = 50, offset: int = 0
    ) -> AuditList:
        """What administrators changed, newest first; `action` and `target` are beginnings of what is wanted."""
        query = {"action": action or None, "target": target or None, "limit": limit, "offset": offset}
        return (await self._requester.call("GET", "/audit-logs", query=query)).decode(AuditList)
