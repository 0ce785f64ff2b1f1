"""Rows of sessions and kernels."""

from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.ids import AccessKey, AgentId, KernelId, SessionId
from ai.backend.common.quantity import ResourceSlots

from ..access.model import Principal
from ..access.policy import Action, Reach, administered, reach
from ..agents.model import AgentStatus
from ..db.schema import agents, kernels, projects, session_dependencies, sessions, users
from ..db.statement import Query, one_of, update_row, update_rows
from .model import Attempt, ClusterMode, Dependency, Kernel, KernelStatus, Session, SessionStatus, SessionType
from .port import ServicePort

TERMINAL = tuple(status.value for status in SessionStatus if status.terminal)
OCCUPYING = tuple(status.value for status in SessionStatus if status.occupying)


def _kernel(row: Any) -> Kernel:
    return Kernel(
        id=row.id,
        session_id=row.session_id,
        cluster_role=row.cluster_role,
        cluster_idx=row.cluster_idx,
        status=KernelStatus(row.status),
        agent_id=row.agent_id,
        image_name=row.image_name,
        image_digest=row.image_digest,
        architecture=row.architecture,
        image_labels=row.image_labels,
        requested_slots=ResourceSlots(row.requested_slots),
        shm_bytes=row.shm_bytes,
        incarnation=row.incarnation,
        stop_reason=row.stop_reason,
        stop_forced=row.stop_forced,
        container_id=row.container_id,
        step=row.step,
        exit_code=row.exit_code,
        stats=row.stats,
        devices=row.devices,
        preopen_ports=tuple(row.preopen_ports),
        service_ports=tuple(map(ServicePort.of_row, row.service_ports)),
    )


def _session(row: Any, members: Sequence[Kernel]) -> Session:
    return Session(
        id=row.id,
        name=row.name,
        session_type=SessionType(row.session_type),
        status=SessionStatus(row.status),
        status_changed_at=row.status_changed_at,
        status_history=row.status_history,
        deadline_at=row.deadline_at,
        reason=row.reason,
        reason_detail=row.reason_detail,
        version=row.version,
        domain_name=row.domain_name,
        project_id=row.project_id,
        user_id=row.user_id,
        access_key=AccessKey(row.access_key),
        resource_group=row.resource_group,
        priority=row.priority,
        tag=row.tag,
        requested_slots=ResourceSlots(row.requested_slots),
        resource_opts=row.resource_opts,
        environ=row.environ,
        startup_command=row.startup_command,
        bootstrap_script=row.bootstrap_script,
        result=row.result,
        created_at=row.created_at,
        terminated_at=row.terminated_at,
        batch_timeout_s=row.batch_timeout_s,
        starts_at=row.starts_at,
        callback_url=row.callback_url,
        cluster_mode=ClusterMode(row.cluster_mode),
        agent_list=tuple(row.agent_list),
        num_queries=row.num_queries,
        job_priority=row.job_priority,
        preemptible=row.preemptible,
        attempts=tuple(map(_attempt, row.attempts)),
        requeue=None if row.requeue is None else frozenset(map(AgentId, row.requeue)),
        kernels=tuple(members),
    )


def _attempt(row: Mapping[str, Any]) -> Attempt:
    return Attempt(
        number=row["number"],
        reason=row["reason"],
        message=row["message"],
        agents=tuple(map(AgentId, row["agents"])),
        blamed=tuple(map(AgentId, row["blamed"])),
        history=row["history"],
        ended_at=datetime.fromisoformat(row["ended_at"]),
        failed=row["failed"],
    )


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "reason": attempt.reason,
        "message": attempt.message,
        "agents": list(attempt.agents),
        "blamed": list(attempt.blamed),
        "history": dict(attempt.history),
        "ended_at": attempt.ended_at.isoformat(),
        "failed": attempt.failed,
    }


# Everything but `logs`, which may be a megabyte.
_KERNEL_COLUMNS = [column for column in kernels.c if column.name != "logs"]


_MEMBERS = (
    sa.select(*_KERNEL_COLUMNS)
    .where(kernels.c.attempt == sa.literal_column("0"))
    .order_by(sa.case((kernels.c.cluster_role == "main", 0), else_=1), kernels.c.cluster_idx)
)
_BY_AGE = (sessions.c.created_at, sessions.c.id)


def _row_type(columns: Iterable[sa.ColumnElement[Any]]) -> Any:
    return namedtuple("_row_type", [column.key for column in columns])  # type: ignore[misc]


_session_row = _row_type(sessions.c)._make
_kernel_row = _row_type(_KERNEL_COLUMNS)._make


class _Prepared:
    """A search for sessions that is made once; its conditions may hold bind parameters."""

    def __init__(self, *where: sa.ColumnElement[bool]) -> None:
        self._sessions = Query(sa.select(sessions).where(*where).order_by(*_BY_AGE))
        self._members = Query(
            _MEMBERS.where(kernels.c.session_id.in_(sa.select(sessions.c.id).where(*where)))
        )

    def __call__(self, conn: sa.Connection, **parameters: Any) -> list[Session]:
        rows = [_session_row(row) for row in self._sessions(conn, **parameters)]
        if not rows:
            return []
        members: dict[Any, list[Kernel]] = {row.id: [] for row in rows}
        for row in map(_kernel_row, self._members(conn, **parameters)):
            members[row.session_id].append(_kernel(row))
        return [_session(row, members[row.id]) for row in rows]


_FINGERPRINTS = sa.select(
    sa.type_coerce(sessions.c.id, sa.String).label(
        "key"
    ),  # as the database has it: converting costs as much as finding
    sessions.c.version,
    sa.select(sa.func.sum(kernels.c.revision))
    .where(kernels.c.session_id == sessions.c.id)
    .correlate(sessions)
    .scalar_subquery()
    .label("revision"),
)
_fingerprint_by_id = Query(
    _FINGERPRINTS.where(sessions.c.id == sa.bindparam("session_id", UUID(int=0), sessions.c.id.type))
)


class Memo:
    """Sessions as they were last read, by what tells that their rows have changed. Decoding a session costs ten times what finding it
    does, and most sessions of a list are as they were at the last look.

    Safe, as sessions are frozen and fingerprints are read in the transaction that uses what is remembered.
    """

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._known: dict[Any, tuple[int, int, Session]] = {}

    def find(self, conn: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Session]:
        """Like `find`."""
        return self.read(conn, conn.execute(_FINGERPRINTS.where(*where).order_by(*_BY_AGE)).all())

    def get(self, conn: sa.Connection, session_id: SessionId) -> Session | None:
        """Like `get`."""
        return next(iter(self.read(conn, _fingerprint_by_id(conn, session_id=session_id))), None)

    def read(self, conn: sa.Connection, prints: Sequence[Sequence[Any]]) -> list[Session]:
        """The sessions of rows that begin with a fingerprint: key, version, revision."""
        found: dict[Any, Session] = {}
        missing: dict[Any, tuple[int, int]] = {}
        for key, version, revision, *_ in prints:
            known = self._known.get(key)
            if known is not None and known[0] == version and known[1] == revision:
                found[key] = known[2]
            else:
                missing[key] = (version, revision)
        keys = {UUID(str(key)): key for key in missing}
        ids = list(keys)
        for start in range(0, len(ids), 500):
            for session in find(conn, sessions.c.id.in_(ids[start : start + 500])):
                key = keys[session.id]
                found[key] = session
                if len(self._known) >= self._size:
                    del self._known[next(iter(self._known))]
                self._known[key] = (*missing[key], session)
        return [found[row[0]] for row in prints]


def find(
    conn: sa.Connection,
    *where: sa.ColumnElement[bool],
    order: Sequence[sa.ColumnElement[Any]] = (),
    limit: int | None = None,
    offset: int = 0,
) -> list[Session]:
    """Sessions that match, each whole."""
    query = sa.select(sessions).where(*where).order_by(*(order or _BY_AGE))
    if limit is not None:
        query = query.limit(limit).offset(offset)
    rows = list(conn.execute(query))
    members: dict[Any, list[Kernel]] = {row.id: [] for row in rows}
    ids = list(members)
    for start in range(0, len(ids), 500):  # SQLite takes 32,766 variables, PostgreSQL 32,767
        found = conn.execute(_MEMBERS.where(kernels.c.session_id.in_(ids[start : start + 500])))
        for row in found:
            members[row.session_id].append(_kernel(row))
    return [_session(row, members[row.id]) for row in rows]


_LIVE = sessions.c.status.not_in([sa.literal_column(f"'{status}'") for status in TERMINAL])
_find_by_id = _Prepared(sessions.c.id == sa.bindparam("session_id", type_=sessions.c.id.type))
_STATUS = sa.select(sessions.c.status).where(
    sessions.c.id == sa.bindparam("session_id", type_=sessions.c.id.type)
)


def get(conn: sa.Connection, session_id: SessionId) -> Session | None:
    return next(iter(_find_by_id(conn, session_id=session_id)), None)


def status_of(conn: sa.Connection, session_id: SessionId) -> SessionStatus:
    return SessionStatus(conn.execute(_STATUS, {"session_id": session_id}).scalar_one())


_find_live_by_name = _Prepared(
    sessions.c.access_key == sa.bindparam("access_key"), sessions.c.name == sa.bindparam("name"), _LIVE
)


def by_name(conn: sa.Connection, access_key: AccessKey, name: str, *, live_only: bool) -> list[Session]:
    """Live sessions of that name; when there is none and `live_only` is false, the newest dead one."""
    live = _find_live_by_name(conn, access_key=access_key, name=name)
    if live or live_only:
        return live
    mine = (sessions.c.access_key == access_key, sessions.c.name == name)
    return find(conn, *mine, order=(sessions.c.created_at.desc(),), limit=1)


def by_ids(conn: sa.Connection, ids: Sequence[SessionId]) -> list[Session]:
    found: list[Session] = []
    for start in range(0, len(ids), 500):
        found += find(conn, sessions.c.id.in_(ids[start : start + 500]))
    return found


def of_main_kernel(conn: sa.Connection, kernel_id: KernelId) -> SessionId | None:
    """The session whose main kernel this is."""
    which = (kernels.c.id == kernel_id, kernels.c.cluster_role == "main")
    return conn.execute(sa.select(kernels.c.session_id).where(*which)).scalar_one_or_none()


def by_prefix(conn: sa.Connection, access_key: AccessKey, prefix: str) -> list[Session]:
    live = find(conn, sessions.c.access_key == access_key, _LIVE)
    return [
        session for session in live if session.name.startswith(prefix) or str(session.id).startswith(prefix)
    ]


def visible(principal: Principal) -> list[sa.ColumnElement[bool]]:
    """The condition for what the principal may read."""
    match reach(principal, Action.SESSION_READ):
        case Reach.ALL:
            return []
        case Reach.DOMAIN:
            theirs = sessions.c.domain_name == principal.domain_name
        case Reach.OWN:
            theirs = sessions.c.user_id == principal.user_id
        case Reach.NOTHING:
            theirs = sa.false()
    led = administered(principal, Action.SESSION_READ)
    return [sa.or_(theirs, sessions.c.project_id.in_(led)) if led else theirs]


def lists(
    where: Sequence[sa.ColumnElement[bool]], order: Sequence[sa.ColumnElement[Any]] = (), *, named: bool
) -> tuple["sa.Select[Any]", "sa.Select[Any]"]:
    """How many sessions match; and their fingerprints, for bind parameters `limit` and `offset`, if `named` with the project's name, the
    user's email and full name. Newest first, if no order is given."""
    total = sa.select(sa.func.count()).select_from(sessions).where(*where)
    rows = _FINGERPRINTS
    if named:
        rows = rows.add_columns(projects.c.name, users.c.email, users.c.full_name)
        rows = rows.join(projects, projects.c.id == sessions.c.project_id)
        rows = rows.join(users, users.c.id == sessions.c.user_id)
    rows = rows.where(*where).order_by(*(order or [sessions.c.created_at.desc()]), sessions.c.id.desc())
    return total, rows.limit(sa.bindparam("limit", 0)).offset(sa.bindparam("offset", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Sessions by what most lists ask for."""

    statuses: frozenset[str] | None = None
    access_key: str | None = None
    project_id: UUID | None = None
    domain_name: str | None = None

    def where(self) -> list[sa.ColumnElement[bool]]:
        found: list[sa.ColumnElement[bool]] = []
        if self.statuses is not None:
            found.append(sessions.c.status.in_(sorted(self.statuses)))
        for column, value in (
            (sessions.c.access_key, self.access_key),
            (sessions.c.project_id, self.project_id),
            (sessions.c.domain_name, self.domain_name),
        ):
            if value is not None:
                found.append(column == value)
        return found


@lru_cache(maxsize=1024)
def usual_lists(principal: Principal, selection: Selection, *, named: bool) -> tuple[Query, Query]:
    """`lists` of what the principal may read."""
    total, rows = lists([*visible(principal), *selection.where()], named=named)
    return Query(total), Query(rows)


def page(
    conn: sa.Connection, principal: Principal, selection: Selection, *, memo: Memo, limit: int, offset: int
) -> tuple[list[Session], int]:
    """Newest first; only what the principal may read."""
    total, rows = usual_lists(principal, selection, named=False)
    return memo.read(conn, rows(conn, limit=limit, offset=offset)), total(conn)[0][0]


_INSERT, _INSERT_KERNELS = sa.insert(sessions), sa.insert(kernels)


def insert(conn: sa.Connection, session: Session) -> None:
    conn.execute(
        _INSERT,
        {
            "id": session.id,
            "name": session.name,
            "session_type": session.session_type.value,
            "status": session.status.value,
            "status_changed_at": session.status_changed_at,
            "status_history": session.status_history,
            "deadline_at": session.deadline_at,
            "reason": session.reason,
            "reason_detail": session.reason_detail,
            "version": 1,  # an admitted session has 0: only what is in the database has a version to guard
            "domain_name": session.domain_name,
            "project_id": session.project_id,
            "user_id": session.user_id,
            "access_key": session.access_key,
            "resource_group": session.resource_group,
            "priority": session.priority,
            "job_priority": session.job_priority,
            "preemptible": session.preemptible,
            "tag": session.tag,
            "requested_slots": session.requested_slots.amounts(),
            "resource_opts": session.resource_opts,
            "environ": session.environ,
            "startup_command": session.startup_command,
            "bootstrap_script": session.bootstrap_script,
            "result": session.result,
            "created_at": session.created_at,
            "batch_timeout_s": session.batch_timeout_s,
            "starts_at": session.starts_at,
            "callback_url": session.callback_url,
            "cluster_mode": session.cluster_mode.value,
            "agent_list": list(session.agent_list),
        },
    )
    insert_kernels(conn, session.kernels, session.created_at)


def insert_kernels(conn: sa.Connection, members: Sequence[Kernel], now: datetime) -> None:
    conn.execute(
        _INSERT_KERNELS,
        [
            {
                "id": kernel.id,
                "session_id": kernel.session_id,
                "cluster_role": kernel.cluster_role,
                "cluster_idx": kernel.cluster_idx,
                "status": kernel.status.value,
                "image_name": kernel.image_name,
                "image_digest": kernel.image_digest,
                "architecture": kernel.architecture,
                "image_labels": kernel.image_labels,
                "requested_slots": kernel.requested_slots.amounts(),
                "shm_bytes": kernel.shm_bytes,
                "incarnation": kernel.incarnation,
                "status_changed_at": now,
                "preopen_ports": list(kernel.preopen_ports),
                "service_ports": [service.as_row() for service in kernel.service_ports],
            }
            for kernel in members
        ],
    )


def callback_url(conn: sa.Connection, session_id: SessionId) -> str | None:
    query = sa.select(sessions.c.callback_url).where(sessions.c.id == session_id)
    return conn.execute(query).scalar_one_or_none()


def depend(conn: sa.Connection, session_id: SessionId, on: Iterable[SessionId]) -> None:
    rows = [{"session_id": session_id, "depends_on": one} for one in on]
    if rows:
        conn.execute(sa.insert(session_dependencies), rows)


def dependencies(conn: sa.Connection, session_ids: Sequence[SessionId]) -> dict[SessionId, list[Dependency]]:
    """What these sessions depend on."""
    found: dict[SessionId, list[Dependency]] = {one: [] for one in session_ids}
    needs = session_dependencies.c
    for start in range(0, len(session_ids), 500):
        rows = conn.execute(
            sa.select(needs.session_id, sessions.c.id, sessions.c.name, sessions.c.status, sessions.c.result)
            .join(sessions, sessions.c.id == needs.depends_on)
            .where(needs.session_id.in_(session_ids[start : start + 500]))
            .order_by(sessions.c.created_at, sessions.c.id)
        )
        for row in rows:
            found[row.session_id].append(
                Dependency(id=row.id, name=row.name, status=SessionStatus(row.status), result=row.result)
            )
    return found


def update(conn: sa.Connection, session: Session, values: Mapping[str, Any]) -> bool:
    """Writes if nobody else has since `session` was read; False means stale: drop it."""
    guard = {"id": session.id, "version": session.version}
    return update_row(conn, sessions, guard, {"version": session.version + 1, **values}) == 1


def update_kernel(conn: sa.Connection, kernel_id: KernelId, values: Mapping[str, Any]) -> None:
    update_row(conn, kernels, {"id": kernel_id}, values, counting="revision")


def versions(conn: sa.Connection, ids: Sequence[SessionId]) -> dict[SessionId, int]:
    found: dict[SessionId, int] = {}
    for start in range(0, len(ids), 500):
        some = sa.select(sessions.c.id, sessions.c.version).where(sessions.c.id.in_(ids[start : start + 500]))
        found.update((row.id, row.version) for row in conn.execute(some))
    return found


def update_all(conn: sa.Connection, changes: Sequence[tuple[Session, Mapping[str, Any]]]) -> None:
    """`update` of many, with the same columns each, whose versions were looked at in this transaction."""
    update_rows(
        conn,
        sessions,
        [
            ({"id": one.id, "version": one.version}, {"version": one.version + 1, **values})
            for one, values in changes
        ],
    )


def update_kernels(conn: sa.Connection, changes: Sequence[tuple[KernelId, Mapping[str, Any]]]) -> None:
    """`update_kernel` of many, with the same columns each."""
    update_rows(conn, kernels, [({"id": one}, values) for one, values in changes], counting="revision")


def rename(conn: sa.Connection, session: Session, name: str) -> bool:
    return update(conn, session, {"name": name})


def touch_agents(conn: sa.Connection, agent_ids: Iterable[AgentId | None]) -> None:
    """The desired sets of these agents have changed: their generation grows."""
    ids = sorted({agent_id for agent_id in agent_ids if agent_id is not None})
    if ids:
        conn.execute(sa.update(agents).where(agents.c.id.in_(ids)).values(generation=agents.c.generation + 1))


def count_queries(conn: sa.Connection, counts: Mapping[SessionId, int]) -> None:
    """Adds to what is there; no version guards it, for sums come out the same in any order."""
    for session_id, count in counts.items():
        conn.execute(
            sa.update(sessions)
            .where(sessions.c.id == session_id)
            .values(num_queries=sessions.c.num_queries + count)
        )


def dependents(conn: sa.Connection, session_id: SessionId) -> list[Session]:
    """Live sessions that wait for this one, and those that wait for them."""
    found: dict[SessionId, Session] = {}
    new = [session_id]
    while new:
        waiting = sa.select(session_dependencies.c.session_id).where(
            session_dependencies.c.depends_on.in_(new)
        )
        reached = [one for one in find(conn, sessions.c.id.in_(waiting), _LIVE) if one.id not in found]
        found |= {one.id: one for one in reached}
        new = [one.id for one in reached]
    return list(found.values())


_find_pending = _Prepared(one_of(sessions.c.status, [SessionStatus.PENDING.value]))


def pending(conn: sa.Connection) -> list[Session]:
    return _find_pending(conn)


def all_live(conn: sa.Connection) -> list[Session]:
    return find(conn, _LIVE)


def expired(conn: sa.Connection, now: datetime) -> list[Session]:
    return find(conn, sessions.c.deadline_at.is_not(None), sessions.c.deadline_at <= now)


def next_deadline(conn: sa.Connection, now: datetime) -> datetime | None:
    """The first one after now."""
    row = conn.execute(
        sa.select(sessions.c.deadline_at)
        .where(sessions.c.deadline_at > now)
        .order_by(sessions.c.deadline_at)
        .limit(1)
    ).first()
    return row.deadline_at if row else None


_ON_AGENT = sa.select(kernels.c.session_id).where(
    kernels.c.agent_id == sa.bindparam("agent_id"), one_of(kernels.c.status, OCCUPYING)
)
_find_on_agent = _Prepared(sessions.c.id.in_(_ON_AGENT))


def live_on(conn: sa.Connection, agent_id: AgentId, also: Iterable[KernelId] = ()) -> list[Session]:
    """Sessions with an occupying kernel on this agent, and those of the kernels in `also`."""
    found = _find_on_agent(conn, agent_id=agent_id)
    theirs = {kernel.id for session in found for kernel in session.kernels}
    others = [kernel_id for kernel_id in also if kernel_id not in theirs]
    if others:
        known = {session.id for session in found}
        of_others = sa.select(kernels.c.session_id).where(kernels.c.id.in_(others))
        found += [session for session in find(conn, sessions.c.id.in_(of_others)) if session.id not in known]
    return found


def suitable(conn: sa.Connection, session: Session) -> frozenset[AgentId]:
    """Agents that take sessions of this one's resource group and architecture, however much is free on them."""
    architectures = sorted({kernel.architecture for kernel in session.kernels})
    query = sa.select(agents.c.id).where(
        agents.c.resource_group == session.resource_group,
        agents.c.architecture.in_(architectures),
        agents.c.status == AgentStatus.ALIVE.value,
        agents.c.schedulable,
        agents.c.healthy,
    )
    return frozenset(conn.execute(query).scalars())


def ended_on(
    conn: sa.Connection, agent_id: AgentId, left: Sequence[KernelId]
) -> list[tuple[Session, Kernel]]:
    """Ended kernels of an agent, of earlier attempts too, whose logs it still holds, and those of `left` that have ended."""
    unfinished = sa.or_(kernels.c.id.in_(left), kernels.c.logs.is_(None))
    where = (kernels.c.agent_id == agent_id, kernels.c.status.in_(TERMINAL), unfinished)
    rows = conn.execute(sa.select(*_KERNEL_COLUMNS).where(*where)).all()
    theirs = {one.id: one for one in by_ids(conn, sorted({row.session_id for row in rows}))}
    return [(theirs[row.session_id], _kernel(row)) for row in rows]


def logs_of(conn: sa.Connection, kernel_id: KernelId) -> str | None:
    return conn.execute(sa.select(kernels.c.logs).where(kernels.c.id == kernel_id)).scalar_one_or_none()


def without_logs(conn: sa.Connection) -> list[tuple[KernelId, AgentId]]:
    """Ended kernels whose logs are still with their agent."""
    rows = conn.execute(
        sa.select(kernels.c.id, kernels.c.agent_id)
        .where(kernels.c.status.in_(TERMINAL), kernels.c.logs.is_(None), kernels.c.agent_id.is_not(None))
        .limit(100)
    )
    return [(row.id, row.agent_id) for row in rows]
