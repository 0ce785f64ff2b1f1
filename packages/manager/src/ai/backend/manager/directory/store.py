"""Rows of the directory. One `Table` for each kind: how a row becomes a value, and by which names lists may be filtered and ordered."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.quantity import ResourceSlots

from ..access.model import Principal
from ..access.policy import Action, Reach, reach
from ..db import schema as t
from ..db.statement import one_of
from ..listing.statement import Field, Fields, condition, ordering
from ..session.store import TERMINAL
from . import model
from .model import Listing, Page

R = TypeVar("R")
_SLOTS = frozenset({"total_resource_slots", "resource_slots", "max_pending_session_resource_slots"})


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
        wanted = [field.name for field in fields(record)]  # type: ignore[arg-type]
        self._record = record
        self._select = sa.select(*(columns[name].label(name) for name in wanted)).select_from(source)
        self._count = sa.select(sa.func.count()).select_from(source)
        self._key = key
        self._newest = newest
        self.names = names

    def _made(self, row: Any) -> R:
        values = {
            name: ResourceSlots(value) if name in _SLOTS and value is not None else value
            for name, value in row._mapping.items()
        }
        return self._record(**values)

    def find(self, conn: sa.Connection, *where: sa.ColumnElement[bool]) -> list[R]:
        return [self._made(row) for row in conn.execute(self._select.where(*where).order_by(self._key))]

    def one(self, conn: sa.Connection, *where: sa.ColumnElement[bool]) -> R | None:
        found = self.find(conn, *where)
        return found[0] if found else None

    def page(self, conn: sa.Connection, where: Sequence[sa.ColumnElement[bool]], asked: Listing) -> Page[R]:
        """Raises InvalidInput for a filter or an order that is none."""
        wanted = condition(asked.filter, self.names)
        conditions = [*where, *([wanted] if wanted is not None else [])]
        order = ordering(asked.order, self.names) or (
            [self._newest.desc()] if self._newest is not None else []
        )
        query = self._select.where(*conditions).order_by(*order, self._key)
        rows = conn.execute(query.limit(asked.limit).offset(asked.offset))
        total = conn.execute(self._count.where(*conditions)).scalar_one()
        return Page(items=[self._made(row) for row in rows], total_count=total)


def _columns(table: sa.Table, **others: sa.ColumnElement[Any]) -> dict[str, sa.ColumnElement[Any]]:
    return {**{column.name: column for column in table.c}, **others}


domains = Table(model.Domain, _columns(t.domains), t.domains, t.domains.c.name, _columns(t.domains))
projects = Table(model.Project, _columns(t.projects), t.projects, t.projects.c.name, _columns(t.projects))
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
        "status": Field(t.users.c.status, lower=True),
        "status_info": t.users.c.status_info,
        "created_at": t.users.c.created_at,
        "modified_at": t.users.c.modified_at,
        "domain_name": t.users.c.domain_name,
        "role": Field(t.users.c.role, lower=True),
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
presets = _plain(model.Preset, t.resource_presets)

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


def visible_users(principal: Principal) -> list[sa.ColumnElement[bool]]:
    match reach(principal, Action.USER_READ):
        case Reach.ALL:
            return []
        case Reach.DOMAIN:
            return [t.users.c.domain_name == principal.domain_name]
    return [t.users.c.id == principal.user_id]


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


def projects_of(conn: sa.Connection, user_ids: Iterable[UUID]) -> dict[UUID, list[tuple[UUID, str]]]:
    """(id, name) of the projects of each user."""
    found: dict[UUID, list[tuple[UUID, str]]] = {user_id: [] for user_id in user_ids}
    rows = conn.execute(
        sa.select(t.project_members.c.user_id, t.projects.c.id, t.projects.c.name)
        .join(t.projects, t.projects.c.id == t.project_members.c.project_id)
        .where(t.project_members.c.user_id.in_(list(found)))
        .order_by(t.projects.c.name)
    )
    for row in rows:
        found[row.user_id].append((row.id, row.name))
    return found


def groups_allowed(conn: sa.Connection, domain_name: str | None, project_id: UUID | None) -> list[str]:
    """Active resource groups that are associated with the domain or the project."""
    group = t.resource_groups.c
    for_domain = sa.select(t.resource_group_domains.c.resource_group).where(
        t.resource_group_domains.c.domain_name == domain_name
    )
    for_project = sa.select(t.resource_group_projects.c.resource_group).where(
        t.resource_group_projects.c.project_id == project_id
    )
    query = sa.select(group.name).where(
        group.is_active, sa.or_(group.name.in_(for_domain), group.name.in_(for_project))
    )
    return list(conn.execute(query.order_by(group.name)).scalars())


def names_of(
    conn: sa.Connection, project_ids: Iterable[UUID], user_ids: Iterable[UUID]
) -> tuple[dict[UUID, str], dict[UUID, tuple[str, str]]]:
    """Projects' names, and users' (email, full name)."""
    projects_found = conn.execute(
        sa.select(t.projects.c.id, t.projects.c.name).where(t.projects.c.id.in_(list(project_ids)))
    )
    users_found = conn.execute(
        sa.select(t.users.c.id, t.users.c.email, t.users.c.full_name).where(t.users.c.id.in_(list(user_ids)))
    )
    return {row.id: row.name for row in projects_found}, {
        row.id: (row.email, row.full_name) for row in users_found
    }


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
