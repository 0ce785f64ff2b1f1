"""Rows of the directory. One `Table` for each kind: how a row becomes a value, and by which names lists may be filtered and ordered."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.quantity import SlotLimits

from ..access.model import Principal, Role
from ..access.policy import Action, Reach, administered, reach
from ..db import schema as t
from ..db.statement import one_of
from ..listing.statement import Field, Fields, condition, ordering
from ..session.store import TERMINAL
from . import model
from .model import Listing, Page
from .policy import USER_STATUSES

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")
_SLOTS = frozenset({"total_resource_slots", "max_pending_session_resource_slots"})


class Table(Generic[R]):
    def __init__(
        self,
        record: type[R],
        columns: Mapping[str, sa.ColumnElement[Any]],
        source: sa.FromClause,
        key: sa.ColumnElement[Any],
        names: Fields,
        newest: sa.ColumnElement[Any] | None = None,
    ) -> None:
        wanted = [field.name for field in fields(record)]
        self._record = record
        self._select = sa.select(*(columns[name].label(name) for name in wanted)).select_from(source)
        self._count = sa.select(sa.func.count()).select_from(source)
        self._key = key
        self._newest = newest
        self.names = names

    def _made(self, row: Any) -> R:
        values = {
            name: SlotLimits(value) if name in _SLOTS and value is not None else value
            for name, value in row._mapping.items()
        }
        return self._record(**values)

    def find(self, conn: sa.Connection, *where: sa.ColumnElement[bool]) -> list[R]:
        return [self._made(row) for row in conn.execute(self._select.where(*where).order_by(self._key))]

    def one(self, conn: sa.Connection, *where: sa.ColumnElement[bool]) -> R | None:
        found = self.find(conn, *where)
        return found[0] if found else None

    def page(
        self,
        conn: sa.Connection,
        where: Sequence[sa.ColumnElement[bool]],
        asked: Listing,
        names: Collection[str] | None = None,
    ) -> Page[R]:
        """`names`: those by which whoever asks may filter and order; without it, all. Raises InvalidInput for a filter or an order that
        is none."""
        known = self.names if names is None else {name: self.names[name] for name in names}
        wanted = condition(asked.filter, known)
        conditions = [*where, *([wanted] if wanted is not None else [])]
        order = ordering(asked.order, known) or ([self._newest.desc()] if self._newest is not None else [])
        query = self._select.where(*conditions).order_by(*order, self._key)
        rows = conn.execute(query.limit(asked.limit).offset(asked.offset))
        total = conn.execute(self._count.where(*conditions)).scalar_one()
        return Page(items=[self._made(row) for row in rows], total_count=total)


def _columns(table: sa.Table, **others: sa.ColumnElement[Any]) -> dict[str, sa.ColumnElement[Any]]:
    return {**{column.name: column for column in table.c}, **others}


def _named(table: sa.Table, *names: str, **others: sa.ColumnElement[Any]) -> dict[str, sa.ColumnElement[Any]]:
    return {**{name: table.c[name] for name in names}, **others}


_COMMON = ("name", "description", "is_active", "created_at", "modified_at", "integration_id")
domains = Table(model.Domain, _columns(t.domains), t.domains, t.domains.c.name, _named(t.domains, *_COMMON))
projects = Table(
    model.Project,
    _columns(t.projects),
    t.projects,
    t.projects.c.name,
    _named(
        t.projects,
        *_COMMON,
        "id",
        "domain_name",
        row_id=t.projects.c.id,
        resource_policy=t.projects.c.policy_name,
    ),
)
_FIRST_KEY = (
    sa.select(t.keypairs.c.access_key)
    .where(t.keypairs.c.user_id == t.users.c.id)
    .order_by(t.keypairs.c.is_admin.desc(), t.keypairs.c.created_at)
    .limit(1)
    .correlate(t.users)
    .scalar_subquery()
)
users = Table(
    model.Account,
    _columns(t.users, main_access_key=sa.func.coalesce(t.users.c.main_access_key, _FIRST_KEY)),
    t.users,
    t.users.c.id,
    {
        "uuid": t.users.c.id,
        "username": t.users.c.username,
        "email": t.users.c.email,
        "need_password_change": t.users.c.need_password_change,
        "full_name": t.users.c.full_name,
        "description": t.users.c.description,
        "is_active": sa.type_coerce(t.users.c.status == "active", sa.Boolean),
        "status": Field(t.users.c.status, lower=True, words=USER_STATUSES),
        "status_info": t.users.c.status_info,
        "created_at": t.users.c.created_at,
        "modified_at": t.users.c.modified_at,
        "domain_name": t.users.c.domain_name,
        "role": Field(t.users.c.role, lower=True, words={*Role}),
        "resource_policy": t.users.c.policy_name,
        "totp_activated": sa.type_coerce(t.users.c.totp_activated_at.is_not(None), sa.Boolean),
        "totp_activated_at": t.users.c.totp_activated_at,
        "sudo_session_enabled": t.users.c.sudo_session_enabled,
        "main_access_key": t.users.c.main_access_key,
    },
    newest=t.users.c.created_at,
)
_LIVE = (
    sa.select(sa.func.count())
    .select_from(t.sessions)
    .where(t.sessions.c.access_key == t.keypairs.c.access_key, ~one_of(t.sessions.c.status, TERMINAL))
    .scalar_subquery()
)
_OWNED = t.keypairs.join(t.users, t.users.c.id == t.keypairs.c.user_id)
keypairs = Table(
    model.Keypair,
    _columns(
        t.keypairs,
        email=t.users.c.email,
        full_name=t.users.c.full_name,
        domain_name=t.users.c.domain_name,
        live_sessions=_LIVE,
    ),
    _OWNED,
    t.keypairs.c.access_key,
    {
        "access_key": t.keypairs.c.access_key,
        "user_id": t.users.c.email,
        "email": t.users.c.email,
        "full_name": t.users.c.full_name,
        "is_active": t.keypairs.c.is_active,
        "is_admin": t.keypairs.c.is_admin,
        "resource_policy": t.keypairs.c.policy_name,
        "created_at": t.keypairs.c.created_at,
        "last_used": t.keypairs.c.last_used_at,
        "rate_limit": t.keypairs.c.rate_limit,
        "num_queries": t.keypairs.c.num_queries,
        "ssh_public_key": t.keypairs.c.ssh_public_key,
    },
    newest=t.keypairs.c.created_at,
)


def _plain(record: type[R], table: sa.Table, key: sa.ColumnElement[Any] | None = None) -> Table[R]:
    return Table(record, _columns(table), table, table.c.name if key is None else key, _columns(table))


keypair_policies = _plain(model.KeypairPolicy, t.keypair_policies)
user_policies = _plain(model.UserPolicy, t.user_policies)
project_policies = _plain(model.ProjectPolicy, t.project_policies)
resource_groups = _plain(model.ResourceGroup, t.resource_groups)

# What a principal may see of each.


def _mine(principal: Principal) -> sa.Select[Any]:
    return sa.select(t.project_members.c.project_id).where(t.project_members.c.user_id == principal.user_id)


def visible_domains(principal: Principal) -> list[sa.ColumnElement[bool]]:
    return (
        []
        if reach(principal, Action.DOMAIN_READ) is Reach.ALL
        else [t.domains.c.name == principal.domain_name]
    )


def visible_projects(principal: Principal) -> list[sa.ColumnElement[bool]]:
    match reach(principal, Action.PROJECT_READ):
        case Reach.ALL:
            return []
        case Reach.DOMAIN:
            return [t.projects.c.domain_name == principal.domain_name]
    return [t.projects.c.id.in_(_mine(principal))]


def _members(project_ids: Collection[UUID]) -> sa.ColumnElement[bool]:
    members = t.project_members.c
    return t.users.c.id.in_(sa.select(members.user_id).where(members.project_id.in_(project_ids)))


def visible_users(principal: Principal, project_id: UUID | None = None) -> list[sa.ColumnElement[bool]]:
    """With `project_id`, of its members. To others than administrators of the domain, a user is there as a member of their projects:
    what else it belongs to they must not learn by asking for that."""
    within = [] if project_id is None else [_members([project_id])]
    match reach(principal, Action.USER_READ):
        case Reach.ALL:
            return within
        case Reach.DOMAIN:
            return [t.users.c.domain_name == principal.domain_name, *within]
    seen = t.users.c.id == principal.user_id
    projects = administered(principal, Action.USER_READ)
    theirs = projects if project_id is None else projects & {project_id}
    if theirs:
        members = sa.and_(_members(theirs), t.users.c.domain_name == principal.domain_name)
        seen = sa.or_(seen, members)
    return [seen, *within]


def visible_keypairs(principal: Principal) -> list[sa.ColumnElement[bool]]:
    match reach(principal, Action.KEYPAIR_READ):
        case Reach.ALL:
            return []
        case Reach.DOMAIN:
            return [t.users.c.domain_name == principal.domain_name]
    return [t.keypairs.c.user_id == principal.user_id]


def visible_keypair_policies(principal: Principal) -> list[sa.ColumnElement[bool]]:
    if reach(principal, Action.POLICY_READ) is Reach.ALL:
        return []
    named = sa.select(t.keypairs.c.policy_name).where(t.keypairs.c.user_id == principal.user_id)
    return [t.keypair_policies.c.name.in_(named)]


# Who belongs to what.


def projects_of(
    conn: sa.Connection, principal: Principal, user_ids: Iterable[UUID]
) -> dict[UUID, list[tuple[UUID, str]]]:
    """(id, name) of the projects of each user, as far as the principal sees who is in them."""
    found: dict[UUID, list[tuple[UUID, str]]] = {user_id: [] for user_id in user_ids}
    query = (
        sa.select(t.project_members.c.user_id, t.projects.c.id, t.projects.c.name)
        .join(t.projects, t.projects.c.id == t.project_members.c.project_id)
        .where(t.project_members.c.user_id.in_(list(found)))
        .order_by(t.projects.c.name)
    )
    if reach(principal, Action.USER_READ) is Reach.OWN:
        own = t.project_members.c.user_id == principal.user_id
        theirs = t.projects.c.id.in_(administered(principal, Action.USER_READ))
        query = query.where(sa.or_(own, theirs))
    for row in conn.execute(query):
        found[row.user_id].append((row.id, row.name))
    return found


def administrators(conn: sa.Connection, project_id: UUID) -> list[UUID]:
    """Ids of the users who administer a project."""
    members = t.project_members.c
    query = sa.select(members.user_id).where(members.project_id == project_id, members.is_admin)
    return list(conn.execute(query.order_by(members.user_id)).scalars())


def join(conn: sa.Connection, project_id: UUID, user_ids: Collection[UUID], *, as_admin: bool) -> None:
    """Makes them members, or, with `as_admin`, administrators; who is one already stays one."""
    members = t.project_members
    there = set(
        conn.execute(
            sa.select(members.c.user_id).where(
                members.c.project_id == project_id, members.c.user_id.in_(user_ids)
            )
        ).scalars()
    )
    rows = [{"project_id": project_id, "user_id": one, "is_admin": as_admin} for one in set(user_ids) - there]
    if rows:
        conn.execute(sa.insert(members), rows)
    if as_admin:
        set_admin(conn, project_id, there, is_admin=True)


def set_admin(conn: sa.Connection, project_id: UUID, user_ids: Collection[UUID], *, is_admin: bool) -> None:
    """Of those among them who are members."""
    members = t.project_members
    theirs = (members.c.project_id == project_id, members.c.user_id.in_(user_ids))
    conn.execute(sa.update(members).where(*theirs).values(is_admin=is_admin))


def leave(conn: sa.Connection, project_id: UUID, user_ids: Collection[UUID]) -> None:
    members = t.project_members.c
    theirs = (members.project_id == project_id, members.user_id.in_(user_ids))
    conn.execute(sa.delete(t.project_members).where(*theirs))


# Ends. Each counts what stands in the way.


def live_sessions(conn: sa.Connection, where: sa.ColumnElement[bool]) -> int:
    query = (
        sa.select(sa.func.count())
        .select_from(t.sessions)
        .where(where, ~one_of(t.sessions.c.status, TERMINAL))
    )
    return conn.execute(query).scalar_one()


def count(conn: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool]) -> int:
    return conn.execute(sa.select(sa.func.count()).select_from(table).where(where)).scalar_one()


def purge_sessions(conn: sa.Connection, where: sa.ColumnElement[bool]) -> None:
    """Forgets ended sessions, their kernels included."""
    theirs = sa.select(t.sessions.c.id).where(where)
    conn.execute(sa.delete(t.kernels).where(t.kernels.c.session_id.in_(theirs)))
    conn.execute(sa.delete(t.sessions).where(where))


def rename_domain(conn: sa.Connection, name: str, new_name: str) -> None:
    """The name is the key: a copy takes over what refers to it, then the old row goes. Raises UniqueViolation for a taken name."""
    row = conn.execute(sa.select(t.domains).where(t.domains.c.name == name)).one()
    conn.execute(sa.insert(t.domains).values({**row._mapping, "name": new_name}))
    for table in (t.projects, t.users, t.sessions, t.templates, t.resource_group_domains):
        conn.execute(sa.update(table).where(table.c.domain_name == name).values(domain_name=new_name))
    conn.execute(
        sa.update(t.dotfiles)
        .where(t.dotfiles.c.scope == "domain", t.dotfiles.c.owner == name)
        .values(owner=new_name)
    )
    conn.execute(sa.delete(t.domains).where(t.domains.c.name == name))
