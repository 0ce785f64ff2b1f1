"""Rows of domains, projects, users and keypairs."""

from datetime import datetime

import sqlalchemy as sa

from ai.backend.common.errors import Conflict
from ai.backend.common.ids import AccessKey, ProjectId, UserId, parse_uuid

from ..access.model import Principal, Role
from ..db.schema import (
    domains,
    keypair_policies,
    keypairs,
    project_members,
    project_policies,
    projects,
    resource_group_domains,
    resource_groups,
    user_policies,
    users,
)
from ..db.upsert import upsert
from .model import NewUser, User

RATE_LIMIT = 10_000
"""Of a new keypair: requests in 15 minutes."""


def credential(conn: sa.Connection, access_key: str) -> tuple[Principal, bytes] | None:
    """The active keypair of an active user, with its sealed secret key."""
    row = conn.execute(
        sa.select(keypairs, users.c.email, users.c.role, users.c.domain_name, users.c.allowed_client_ip)
        .join(users, users.c.id == keypairs.c.user_id)
        .where(keypairs.c.access_key == access_key, keypairs.c.is_active, users.c.status == "active")
    ).first()
    if row is None:
        return None
    administers = (
        sa.select(projects.c.id)
        .join(project_members, project_members.c.project_id == projects.c.id)
        .where(
            project_members.c.user_id == row.user_id,
            project_members.c.is_admin,
            projects.c.domain_name == row.domain_name,
        )
    )
    principal = Principal(
        user_id=UserId(row.user_id),
        email=row.email,
        role=Role(row.role),
        domain_name=row.domain_name,
        access_key=AccessKey(row.access_key),
        is_admin=row.is_admin,
        rate_limit=row.rate_limit,
        policy_name=row.policy_name,
        allowed_client_ip=tuple(row.allowed_client_ip or ()),
        administers=frozenset(map(ProjectId, conn.execute(administers).scalars())),
    )
    return principal, row.secret_key_sealed


def access_key_of(conn: sa.Connection, user_id: UserId) -> AccessKey | None:
    """The user's active keypair; administrators' ones first."""
    query = sa.select(keypairs.c.access_key).where(keypairs.c.user_id == user_id, keypairs.c.is_active)
    found = conn.execute(query.order_by(keypairs.c.is_admin.desc(), keypairs.c.created_at)).scalars().first()
    return AccessKey(found) if found else None


def user_by_login(conn: sa.Connection, domain_name: str, login: str) -> User | None:
    named = sa.select(users).where(
        users.c.domain_name == domain_name, sa.or_(users.c.email == login, users.c.username == login)
    )
    # Should a name be somebody else's e-mail after all, the e-mail counts.
    row = conn.execute(named.order_by(sa.case((users.c.email == login, 0), else_=1))).first()
    if row is None:
        return None
    return User(
        id=UserId(row.id),
        email=row.email,
        role=Role(row.role),
        status=row.status,
        domain_name=row.domain_name,
        password_hash=row.password_hash,
    )


def set_password(conn: sa.Connection, user_id: UserId, password_hash: str) -> None:
    conn.execute(sa.update(users).where(users.c.id == user_id).values(password_hash=password_hash))


def project(
    conn: sa.Connection, domain_name: str, name_or_id: str, member: UserId | None
) -> ProjectId | None:
    """An active project by name or id; with `member`, only one that the user belongs to."""
    query = sa.select(projects.c.id).where(projects.c.domain_name == domain_name, projects.c.is_active)
    project_id = parse_uuid(name_or_id)
    query = query.where(projects.c.id == project_id if project_id else projects.c.name == name_or_id)
    if member is not None:
        mine = sa.select(project_members.c.project_id).where(project_members.c.user_id == member)
        query = query.where(projects.c.id.in_(mine))
    found = conn.execute(query).scalar_one_or_none()
    return ProjectId(found) if found else None


def domain_exists(conn: sa.Connection, name: str) -> bool:
    return conn.execute(sa.select(domains.c.name).where(domains.c.name == name)).first() is not None


def ensure_defaults(conn: sa.Connection, project_id: ProjectId, now: datetime) -> None:
    """Domain, project, resource group and policy "default", where they are missing; `project_id` is for a new project."""
    named = {"name": "default", "created_at": now}
    limits = {"max_concurrent_sessions": 30, "max_containers_per_session": 1}
    upsert(conn, domains, named, key=["name"])
    fresh = not conn.execute(
        sa.select(resource_groups.c.name).where(resource_groups.c.name == "default")
    ).first()
    upsert(conn, resource_groups, named, key=["name"])
    if fresh:
        conn.execute(
            sa.insert(resource_group_domains).values(resource_group="default", domain_name="default")
        )
    upsert(conn, keypair_policies, named | limits, key=["name"])
    upsert(conn, user_policies, named, key=["name"])
    upsert(conn, project_policies, named, key=["name"])
    upsert(
        conn,
        projects,
        named | {"id": project_id, "domain_name": "default"},
        key=["domain_name", "name"],
    )


def insert_user(conn: sa.Connection, new: NewUser, now: datetime) -> None:
    """With its keypair and its memberships."""
    draft = new.draft
    crossed = sa.or_(users.c.username == draft.email, users.c.email == draft.username)
    if conn.execute(sa.select(users.c.id).where(crossed)).first() is not None:
        raise Conflict("somebody else logs in by that email or name", hint="Choose another name.")
    conn.execute(
        sa.insert(users).values(
            id=new.user_id,
            email=draft.email,
            username=draft.username,
            password_hash=new.password_hash,
            role=draft.role.value,
            domain_name=draft.domain_name,
            created_at=now,
        )
    )
    conn.execute(
        sa.insert(keypairs).values(
            access_key=new.access_key,
            secret_key_sealed=new.secret_key_sealed,
            user_id=new.user_id,
            is_admin=draft.role in (Role.SUPERADMIN, Role.ADMIN),
            policy_name=draft.policy_name,
            rate_limit=RATE_LIMIT,
            created_at=now,
        )
    )
    for project_id in draft.project_ids:
        join_project(conn, project_id, new.user_id)


def deactivate_keypair(conn: sa.Connection, access_key: str) -> bool:
    done = conn.execute(
        sa.update(keypairs).where(keypairs.c.access_key == access_key).values(is_active=False)
    )
    return done.rowcount == 1


def join_project(conn: sa.Connection, project_id: ProjectId, user_id: UserId) -> None:
    member = {"project_id": project_id, "user_id": user_id}
    upsert(conn, project_members, member, key=["project_id", "user_id"])


def find_project(
    conn: sa.Connection, name_or_id: str, domain_name: str, user_id: UserId
) -> tuple[ProjectId, str, bool] | None:
    """An active project by id anywhere, or by name within a domain: its id, its domain, and whether the user is a member."""
    project_id = parse_uuid(name_or_id)
    query = sa.select(projects.c.id, projects.c.domain_name).where(projects.c.is_active)
    if project_id is not None:
        query = query.where(projects.c.id == project_id)
    else:
        query = query.where(projects.c.name == name_or_id, projects.c.domain_name == domain_name)
    row = conn.execute(query).first()
    if row is None:
        return None
    membership = sa.select(project_members.c.user_id).where(
        project_members.c.project_id == row.id, project_members.c.user_id == user_id
    )
    return ProjectId(row.id), row.domain_name, conn.execute(membership).first() is not None
