"""Sessions as lists show them: filtered and ordered by the published mini-languages, with the names of their people and projects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.errors import InvalidInput
from ai.backend.common.ids import SessionId

from ..access.model import Principal
from ..db import schema as t
from ..db.database import Database
from ..directory.model import Listing, Page
from ..listing.statement import Field, Fields, condition, ordering
from . import store
from .model import ClusterMode, Session, SessionResult, SessionStatus, SessionType

_S = t.sessions.c
_USER = t.users.c
_PROJECT = t.projects.c


def _of_kernels(made: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists().where(t.kernels.c.session_id == _S.id, made).correlate(t.sessions)


def _named(column: sa.ColumnElement[str], key: sa.ColumnElement[bool]) -> sa.ColumnElement[str]:
    return sa.select(column).where(key).correlate(t.sessions).scalar_subquery()


_OWNER = _USER.id == _S.user_id
_STATUSES = {*SessionStatus, "PULLING", "PREPARED", "CREATING", "RUNNING_DEGRADED", "DEPRIORITIZING"}
"""With published ones that this system never has: asking for them is right, and finds nothing."""
FIELDS: Fields = {
    "id": _S.id,
    "type": Field(_S.session_type, lower=True, words={*SessionType, "system"}),
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
    "cluster_mode": Field(_S.cluster_mode, lower=True, words={*ClusterMode}),
    "cluster_size": sa.select(sa.func.count())
    .select_from(t.kernels)
    .where(t.kernels.c.session_id == _S.id)
    .correlate(t.sessions)
    .scalar_subquery(),
    "status": Field(_S.status, upper=True, words=_STATUSES),
    "status_info": _S.reason,
    "result": Field(_S.result, lower=True, words={*SessionResult}),
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
    """Statuses from a comma-separated list. Raises InvalidInput."""
    words = tuple(word.strip().upper() for word in (text or "").split(",") if word.strip())
    for word in words:
        if word not in _STATUSES:
            raise InvalidInput(
                f"no session status {word[:40]!r}", hint=f"One of {', '.join(SessionStatus)}.", field="status"
            )
    return words or None


class SessionCatalogue:
    def __init__(self, database: Database, memo: store.Memo) -> None:
        self._database = database
        self._memo = memo

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
        selection = store.Selection(
            statuses=None if statuses is None else frozenset(statuses),
            access_key=access_key,
            project_id=project_id,
            domain_name=domain_name,
        )
        wanted, order = condition(asked.filter, FIELDS), ordering(asked.order, FIELDS)
        limits = {"limit": asked.limit, "offset": asked.offset}

        def usual(conn: sa.Connection) -> Page[Entry]:
            total, rows = store.usual_lists(principal, selection, named=True)
            return self._page(conn, rows(conn, **limits), total(conn))

        def special(conn: sa.Connection) -> Page[Entry]:
            where = [*store.visible(principal), *selection.where(), *([] if wanted is None else [wanted])]
            total, rows = store.lists(where, order, named=True)
            return self._page(conn, conn.execute(rows, limits).all(), conn.execute(total).all())

        return await self._database.read(usual if wanted is None and not order else special)

    def _page(
        self, conn: sa.Connection, rows: Sequence[Sequence[Any]], total: Sequence[Sequence[Any]]
    ) -> Page[Entry]:
        entries = tuple(map(_entry, self._memo.read(conn, rows), rows))
        return Page(items=entries, total_count=total[0][0])

    async def one(self, principal: Principal, session_id: UUID) -> Entry | None:
        _, rows = store.lists([*store.visible(principal), _S.id == SessionId(session_id)], named=True)

        def op(conn: sa.Connection) -> Page[Entry]:
            return self._page(conn, conn.execute(rows, {"limit": 1}).all(), [(1,)])

        return next(iter((await self._database.read(op)).items), None)

    async def of_kernel(self, principal: Principal, kernel_id: UUID) -> Entry | None:
        """The session that the kernel is of."""
        query = sa.select(t.kernels.c.session_id).where(t.kernels.c.id == kernel_id)
        session_id = await self._database.read(lambda conn: conn.execute(query).scalar_one_or_none())
        return None if session_id is None else await self.one(principal, session_id)

    async def on_agents(self, principal: Principal, agent_ids: Sequence[str]) -> dict[str, list[Session]]:
        """Live sessions by the agents that hold kernels of theirs."""
        where = store.visible(principal)
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


def _entry(session: Session, row: Sequence[Any]) -> Entry:
    return Entry(session=session, project_name=row[3], user_email=row[4], full_name=row[5])
