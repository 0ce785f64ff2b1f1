"""What administrators ask about agents, and the loop that notices silence."""

from collections.abc import Callable, Sequence
from datetime import timedelta

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.errors import AgentNotFound, Forbidden
from ai.backend.common.ids import AgentId
from ai.backend.common.log import get_logger

from ..access.model import Principal
from ..access.policy import Action, Reach, demand, reach
from ..config import ManagerConfig
from ..db.database import Database
from ..directory.model import Listing, Page
from ..loop import Loop
from ..session import store as session_store
from . import store
from .model import Agent

log = get_logger(__name__)


class AgentService:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        config: ManagerConfig,
        *,
        wake: Callable[[], None],
        wake_sync: Callable[[], None],
    ) -> None:
        """`wake`: where sessions may be placed has changed; `wake_sync`: an agent is to be sent what it should have."""
        self._database = database
        self._clock = clock
        self._config = config
        self._wake = wake
        self._wake_sync = wake_sync
        self.loop = Loop("agent-liveness", self._run, period_s=config.agent_lost_after_s / 3)

    async def list(self, principal: Principal) -> list[Agent]:
        if reach(principal, Action.AGENT_READ) is Reach.NOTHING:
            raise Forbidden("only administrators may list agents")
        return await self._database.read(store.all_agents)

    async def narrowed(self, agents: Sequence[Agent], asked: Listing) -> Page[Agent]:
        """Those of the agents that pass the filter, in the order asked for. Raises InvalidInput."""
        ids = [agent.id for agent in agents]
        found, total = await self._database.read(lambda conn: store.narrow(conn, ids, asked))
        by_id = {agent.id: agent for agent in agents}
        return Page(items=[by_id[agent_id] for agent_id in found], total_count=total)

    async def sync(self, principal: Principal, agent_id: str) -> None:
        """Has the agent sent its whole desired set anew, which makes it report; what differs is set right. Returns at once.
        Raises NotPrivileged or AgentNotFound."""
        demand(principal, Action.AGENT_WRITE)

        def op(conn: sa.Connection) -> bool:
            if store.order_of(conn, AgentId(agent_id)) is None:
                return False
            session_store.touch_agents(conn, [AgentId(agent_id)])
            return True

        if not await self._database.run(op):
            raise AgentNotFound(f"no agent {agent_id[:64]!r}", hint="See 'backend.ai agent ls'.")
        self._wake_sync()

    async def count_alive(self) -> int:
        agents = await self._database.read(store.all_agents)
        return sum(1 for agent in agents if agent.takes_sessions)

    async def _run(self) -> None:
        now = self._clock.now()
        horizon = now - timedelta(seconds=self._config.agent_lost_after_s)
        lost = await self._database.run(lambda conn: store.mark_lost(conn, horizon, now))
        for agent_id in lost:
            log.warning("agent-lost", agent=agent_id, silent_s=self._config.agent_lost_after_s)
        if lost:
            self._wake()
