"""The log of a batch session's command, as the published call for it names it: by a task, which is a session or its main container."""

import sqlalchemy as sa

from ai.backend.common.errors import Forbidden, SessionNotFound, TaskLogNotFound
from ai.backend.common.ids import KernelId, SessionId, parse_uuid

from ..access.model import Principal
from ..access.policy import Action, may
from ..db.database import Database
from . import store
from .model import Session
from .service import SessionService


class TaskLogs:
    def __init__(self, database: Database, sessions: SessionService) -> None:
        self._database = database
        self._sessions = sessions

    async def read(self, principal: Principal, ref: str) -> str:
        """What the command has printed so far; `ref` is a session's id or name, or the id of its main kernel.

        Raises TaskLogNotFound when that is no batch session that one may see, or one that was never begun; Forbidden; AgentUnreachable.
        """
        session = await self._find(principal, ref)
        usable = may(
            principal,
            Action.SESSION_USE,
            user_id=session.user_id,
            domain_name=session.domain_name,
            project_id=session.project_id,
        )
        if not usable:
            raise Forbidden(f"your role may look at the session {session.name!r}, but no more")
        if not session.is_batch:
            raise TaskLogNotFound(
                f"the session {session.name!r} is {session.session_type.value}: it has no task",
                hint="See what it printed with 'backend.ai session logs'.",
            )
        if session.main.agent_id is None:
            raise TaskLogNotFound(
                f"the task {session.name!r} was not begun: its session is {session.status.value}",
                hint="" if session.status.terminal else "Wait until it runs.",
            )
        return await self._sessions.logs(principal, str(session.id))

    async def _find(self, principal: Principal, ref: str) -> Session:
        try:
            return await self._sessions.get(principal, await self._session_ref(ref), live_only=False)
        except SessionNotFound as exc:
            raise TaskLogNotFound(f"no task {ref[:80]!r}", hint="Give the id of a batch session.") from exc

    async def _session_ref(self, ref: str) -> str:
        known = parse_uuid(ref)
        if known is None:
            return ref

        def op(conn: sa.Connection) -> SessionId | None:
            return store.of_main_kernel(conn, KernelId(known))

        return str(await self._database.read(op) or ref)
