"""Resource groups, presets and what is left; and background tasks."""

from collections.abc import AsyncIterator

from ai.backend.common.wire.rest.resource import GroupList, PresetCheck, PresetItem, PresetList

from .event import EventParser, SessionEvent
from .request import Requester


class AsyncResources:
    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def groups(self, project: str = "default") -> list[str]:
        """Names of the resource groups where your sessions of a project may run."""
        answer = await self._requester.call("GET", "/scaling-groups", query={"group": project})
        return [group.name for group in answer.decode(GroupList).scaling_groups]

    async def presets(self, resource_group: str | None = None) -> list[PresetItem]:
        query = {"scaling_group": resource_group}
        return (
            (await self._requester.call("GET", "/resource/presets", query=query)).decode(PresetList).presets
        )

    async def check(self, project: str = "default", resource_group: str | None = None) -> PresetCheck:
        """What you may hold, hold and could get in a project, and which presets could run now."""
        body = {"group": project} | ({"scaling_group": resource_group} if resource_group else {})
        return (await self._requester.call("POST", "/resource/check-presets", json=body)).decode(PresetCheck)

    async def watch_task(self, task_id: str) -> AsyncIterator[SessionEvent]:
        """Events of a background task of yours, to its end: `bgtask_updated`, then `bgtask_done`, `bgtask_failed` or
        `bgtask_cancelled`. Raises ApiError (404)."""
        parser = EventParser()
        async with self._requester.stream("/events/background-task", query={"task_id": task_id}) as lines:
            async for line in lines:
                event = parser.feed(line.decode("utf-8", "replace"))
                if event is None:
                    continue
                if event.name == "server_close":
                    return
                yield event
