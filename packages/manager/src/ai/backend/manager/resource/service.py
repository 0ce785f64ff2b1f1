"""What users and administrators ask about resources: groups, presets, what is left, what was used."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.errors import (
    AgentNotFound,
    InvalidInput,
    NotServed,
    ProjectNotFound,
    ResourceGroupNotFound,
)
from ai.backend.common.ids import ProjectId, parse_uuid
from ai.backend.common.quantity import CPU, MEM

from ..access.model import Principal
from ..access.policy import Action, Reach, administered, demand, may, reach
from ..agents import store as agent_store
from ..db.database import Database
from ..identity import store as identity_store
from ..setting import store as setting_store
from . import store
from .model import Bin, Check, KernelUse, Preset, ProjectUse, Room
from .policy import VISIBILITY_KEY, bins_before, check, in_bins, month, per_project, period, usable

WATCHER_VERBS = ("status", "start", "stop", "restart")


class ResourceService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def groups(self, principal: Principal, project: str) -> list[str]:
        """Names of the resource groups where the principal's sessions of a project may run. Raises ProjectNotFound or InvalidInput."""

        def op(conn: sa.Connection) -> frozenset[str]:
            project_id, domain_name = _project(conn, principal, project)
            return store.usable_groups(conn, principal, domain_name, project_id)

        return sorted(await self._database.read(op))

    async def proxy_version(self, principal: Principal, group: str, project: str) -> str:
        """ "v2" where a proxy of its own serves a resource group's applications, "v1" where clients tunnel through this API."""

        def op(conn: sa.Connection) -> str:
            project_id, domain_name = _project(conn, principal, project)
            found = store.groups(conn, domain_name, project_id, principal.access_key)
            if group not in usable(found, principal):
                raise ResourceGroupNotFound(f"no resource group {group[:64]!r} of yours")
            return "v2" if any(g.wsproxy_addr for g in found if g.name == group) else "v1"

        return await self._database.read(op)

    async def presets(self, resource_group: str | None = None, name: str | None = None) -> list[Preset]:
        return await self._database.read(lambda conn: store.presets(conn, resource_group, name))

    async def check_presets(self, principal: Principal, project: str, resource_group: str | None) -> Check:
        """What is left for the principal in a project. Raises ProjectNotFound or ResourceGroupNotFound."""

        def op(conn: sa.Connection) -> Check:
            project_id, domain_name = _project(conn, principal, project)
            groups = store.usable_groups(conn, principal, domain_name, project_id)
            if resource_group:
                if resource_group not in groups:
                    raise ResourceGroupNotFound(f"no resource group {resource_group[:64]!r} of yours")
                groups = frozenset({resource_group})
            agents = agent_store.all_agents(conn)
            sees = may(principal, Action.PROJECT_MANAGE, domain_name=domain_name, project_id=project_id)
            return check(
                names=frozenset({CPU, MEM} | {str(name) for agent in agents for name in agent.capacity}),
                principal=principal,
                project_id=project_id,
                groups=groups,
                keypair_limit=store.keypair_limit(conn, principal.policy_name),
                project_limit=store.project_limit(conn, project_id),
                domain_limit=store.domain_limit(conn, domain_name),
                holdings=store.holdings(conn, domain_name),
                rooms=[
                    Room(resource_group=agent.resource_group, slots=agent.capacity - agent.occupied)
                    for agent in agents
                    if agent.takes_sessions
                ],
                presets=store.presets(conn, resource_group or None),
                project_visible=sees or setting_store.get(conn, VISIBILITY_KEY) != "false",
            )

        return await self._database.read(op)

    async def recalculate(self, principal: Principal) -> None:
        """There is nothing to recalculate: use is summed from rows whenever it is asked for. Raises NotPrivileged."""
        demand(principal, Action.AGENT_WRITE)

    async def month_use(
        self, principal: Principal, text: str, project_ids: Sequence[str] | None
    ) -> list[ProjectUse]:
        """Raises NotPrivileged or InvalidInput."""
        reported = _reported(principal, project_ids)
        return per_project(await self._use(*month(text), reported))

    async def period_use(
        self, principal: Principal, start: str, end: str, project_id: str | None
    ) -> list[ProjectUse]:
        """Raises NotPrivileged or InvalidInput."""
        reported = _reported(principal, [project_id] if project_id else None)
        return per_project(await self._use(*period(start, end), reported))

    async def _use(
        self, begin: datetime, end: datetime, project_ids: Collection[UUID] | None
    ) -> list[KernelUse]:
        return await self._database.read(lambda conn: store.use(conn, begin, end, project_ids=project_ids))

    async def my_month(self, principal: Principal) -> list[Bin]:
        """The last 30 days of the user."""
        return await self._month_of(principal.user_id)

    async def everyones_month(self, principal: Principal) -> list[Bin]:
        """Raises NotPrivileged."""
        demand(principal, Action.USAGE_READ)
        return await self._month_of(None)

    async def _month_of(self, user_id: UUID | None) -> list[Bin]:
        now = self._clock.now()
        begin, end = bins_before(now)
        used = await self._database.read(lambda conn: store.use(conn, begin, end, user_id=user_id))
        return in_bins(used, begin, now)

    async def watch_agent(self, principal: Principal, agent_id: str, verb: str) -> None:
        """Agents have no watcher beside them that could start or stop them. Raises NotPrivileged, AgentNotFound, or NotServed."""
        assert verb in WATCHER_VERBS
        demand(principal, Action.AGENT_WRITE)
        if not await self._database.read(lambda conn: store.agent_exists(conn, agent_id)):
            raise AgentNotFound(f"no agent {agent_id[:64]!r}", hint="See 'backend.ai agent ls'.")
        raise NotServed(
            f"the agent {agent_id!r} has no watcher",
            hint="Its machine's service manager starts and stops it; exclude-agents keeps sessions away from it.",
        )


def _project(conn: sa.Connection, principal: Principal, project: str) -> tuple[ProjectId, str]:
    """A project of the principal's, or any for whoever may read them. Raises ProjectNotFound or InvalidInput."""
    if not project:
        raise InvalidInput("which group?", hint="Give its name or id as 'group'.", field="group")
    found = identity_store.find_project(conn, project, principal.domain_name, principal.user_id)
    if found is not None:
        project_id, domain_name, member = found
        if member or may(principal, Action.PROJECT_READ, domain_name=domain_name):
            return project_id, domain_name
    raise ProjectNotFound(f"no project {project[:64]!r} of yours")


def _reported(principal: Principal, asked: Sequence[str] | None) -> Collection[UUID] | None:
    """The projects whose use is told: those asked for, or all (None); to a project's administrator, its own. Raises NotPrivileged."""
    theirs = administered(principal, Action.USAGE_READ)
    if not theirs:
        demand(principal, Action.USAGE_READ)
    wanted = _ids(asked)
    if reach(principal, Action.USAGE_READ) is Reach.ALL:
        return wanted
    if wanted is not None and not theirs.issuperset(wanted):
        demand(principal, Action.USAGE_READ)
    return theirs if wanted is None else wanted


def _ids(texts: Sequence[str] | None) -> list[UUID] | None:
    if texts is None:
        return None
    found = []
    for text in texts:
        project_id = parse_uuid(text)
        if project_id is None:
            raise InvalidInput(f"{text[:40]!r} is no id of a project", field="group_ids")
        found.append(project_id)
    return found
