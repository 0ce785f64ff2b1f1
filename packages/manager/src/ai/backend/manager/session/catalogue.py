"""Sessions as lists show them: filtered and ordered by the published mini-languages, with the names of their people and projects."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.errors import InvalidInput
from ai.backend.common.ids import SessionId

from ..access.model import Principal
from ..access.policy import Action, Reach, reach
from ..db import schema as t
from ..db.database import Database
from ..directory import store as directory
from ..directory.model import Listing, Page
from ..listing.statement import Field, Fields, condition, ordering
from . import store
from .model import Session, SessionStatus

_S = t.sessions.c
_USER = t.users.c
_PROJECT = t.projects.c


def _of_kernels(made: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists().where(t.kernels.c.session_id == _S.id, made).correlate(t.sessions)


def _named(column: sa.ColumnElement[str], key: sa.ColumnElement[bool]) -> sa.ColumnElement[str]:
    return sa.select(column).where(key).correlate(t.sessions).scalar_subquery()


_OWNER = _USER.id == _S.user_id
FIELDS: Fields = {
    "id": _S.id,
    "type": Field(_S.session_type, lower=True),
    "name": _S.name,
    "image": Field(t.kernels.c.image_name, any_of=_of_kernels),
    "agent_ids": Field(t.kernels.c.agent_id, any_of=_of_kernels),
    "agent_id": Field(t.kernels.c.agent_id, any_of=_of_kernels),
    "agents": Field(t.kernels.c.agent_id, any_of=_of_kernels),
    "domain_name": _S.domain_name,
    "group_name": _named(_PROJECT.name, _PROJECT.id == _S.project_id),
    "user_email": _named(_USER.email, _OWNER),
    "full_name": _named(_USER.full_name, _OWNER),
    "access_key": _S.access_key,
    "scaling_group": _S.resource_group,
    "cluster_mode": Field(_S.cluster_mode, lower=True),
    "cluster_size": sa.select(sa.func.count())
    .select_from(t.kernels)
    .where(t.kernels.c.session_id == _S.id)
    .correlate(t.sessions)
    .scalar_subquery(),
    "status": Field(_S.status, upper=True),
    "status_info": _S.reason,
    "result": Field(_S.result, lower=True),
    "created_at": _S.created_at,
    "terminated_at": _S.terminated_at,
    "starts_at": _S.starts_at,
    "startup_command": _S.startup_command,
    "priority": _S.priority,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    session: Session
    project_name: str
    user_email: str
    full_name: str


def statuses_of(text: str | None) -> tuple[str, ...] | None:
    """Statuses from a comma-separated list. Published statuses that this system never has are let pass. Raises InvalidInput."""
    words = tuple(word.strip().upper() for word in (text or "").split(",") if word.strip())
    known = {*SessionStatus, "PULLING", "PREPARED", "CREATING", "RUNNING_DEGRADED", "DEPRIORITIZING"}
    for word in words:
        if word not in known:
            raise InvalidInput(
                f"no session status {word[:40]!r}", hint=f"One of {', '.join(SessionStatus)}.", field="status"
            )
    return words or None


class SessionCatalogue:
    def __init__(self, database: Database, memo: store.Memo) -> None:
        self._database = database
        self._memo = memo

    @staticmethod
    def _visible(principal: Principal) -> list[sa.ColumnElement[bool]]:
        match reach(principal, Action.SESSION_READ):
            case Reach.ALL:
                return []
            case Reach.DOMAIN:
                return [_S.domain_name == principal.domain_name]
            case Reach.OWN:
                return [_S.user_id == principal.user_id]
        return [sa.false()]

    async def page(
        self,
        principal: Principal,
        asked: Listing,
        *,
        statuses: Sequence[str] | None = None,
        access_key: str | None = None,
        project_id: UUID | None = None,
        domain_name: str | None = None,
    ) -> Page[Entry]:
        """Newest first. Raises InvalidInput."""
        where = self._visible(principal)
        if statuses is not None:
            where.append(_S.status.in_(statuses))
        for column, value in (
            (_S.access_key, access_key),
            (_S.project_id, project_id),
            (_S.domain_name, domain_name),
        ):
            if value is not None:
                where.append(column == value)
        wanted = condition(asked.filter, FIELDS)
        if wanted is not None:
            where.append(wanted)
        order = [*(ordering(asked.order, FIELDS) or [_S.created_at.desc()]), _S.id]

        def op(conn: sa.Connection) -> Page[Entry]:
            total = conn.execute(
                sa.select(sa.func.count()).select_from(t.sessions).where(*where)
            ).scalar_one()
            found = self._memo.find(conn, *where, order=order, limit=asked.limit, offset=asked.offset)
            return Page(items=_entries(conn, found), total_count=total)

        return await self._database.read(op)

    async def one(self, principal: Principal, session_id: UUID) -> Entry | None:
        where = self._visible(principal)
        found = await self._database.read(
            lambda conn: _entries(conn, self._memo.find(conn, *where, _S.id == SessionId(session_id)))
        )
        return found[0] if found else None

    async def on_agents(self, principal: Principal, agent_ids: Sequence[str]) -> dict[str, list[Session]]:
        """Live sessions by the agents that hold kernels of theirs."""
        where = self._visible(principal)
        theirs = sa.select(t.kernels.c.session_id).where(t.kernels.c.agent_id.in_(list(agent_ids)))
        live = ~_S.status.in_(store.TERMINAL)
        found = await self._database.read(lambda conn: self._memo.find(conn, *where, live, _S.id.in_(theirs)))
        placed: dict[str, list[Session]] = {agent_id: [] for agent_id in agent_ids}
        for session in found:
            for agent_id in {kernel.agent_id for kernel in session.kernels}:
                if agent_id in placed:
                    placed[agent_id].append(session)
        return placed

    async def dependencies(self, session_ids: Sequence[UUID]) -> dict[UUID, list[tuple[UUID, str]]]:
        """(id, name) of what each session depends on."""
        needed = t.session_dependencies.c
        query = (
            sa.select(needed.session_id, _S.id, _S.name)
            .join_from(t.session_dependencies, t.sessions, _S.id == needed.depends_on)
            .where(needed.session_id.in_(list(session_ids)))
            .order_by(_S.name)
        )
        found: dict[UUID, list[tuple[UUID, str]]] = {session_id: [] for session_id in session_ids}
        for row in await self._database.read(lambda conn: conn.execute(query).all()):
            found[row.session_id].append((row.id, row.name))
        return found


def _entries(conn: sa.Connection, found: Sequence[Session]) -> list[Entry]:
    projects, users = directory.names_of(
        conn, {session.project_id for session in found}, {session.user_id for session in found}
    )
    return [
        Entry(
            session=session,
            project_name=projects.get(session.project_id, ""),
            user_email=users.get(session.user_id, ("", ""))[0],
            full_name=users.get(session.user_id, ("", ""))[1],
        )
        for session in found
    ]
