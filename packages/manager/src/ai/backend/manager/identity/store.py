"""Rows of domains, projects, users and keypairs."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.ids import AccessKey, ProjectId, UserId, parse_uuid
from ai.backend.common.quantity import ResourceSlots

from ..access.model import Principal, Role
from ..db.schema import keypair_policies, keypairs, project_members, projects, users
from .model import KeypairPolicy, User


def credential(conn: sa.Connection, access_key: str) -> tuple[Principal, bytes] | None:
    """The active keypair of an active user, with its sealed secret key."""
    row = conn.execute(
        sa.select(keypairs, users.c.email, users.c.role, users.c.domain_name)
        .join(users, users.c.id == keypairs.c.user_id)
        .where(keypairs.c.access_key == access_key, keypairs.c.is_active, users.c.status == "active")
    ).first()
    if row is None:
        return None
    principal = Principal(
        user_id=UserId(row.user_id),
        email=row.email,
        role=Role(row.role),
        domain_name=row.domain_name,
        access_key=AccessKey(row.access_key),
        is_admin=row.is_admin,
        rate_limit=row.rate_limit,
        policy_name=row.policy_name,
    )
    return principal, row.secret_key_sealed


def access_key_of(conn: sa.Connection, user_id: UserId) -> AccessKey | None:
    """The user's active keypair; administrators' ones first."""
    query = sa.select(keypairs.c.access_key).where(keypairs.c.user_id == user_id, keypairs.c.is_active)
    found = conn.execute(query.order_by(keypairs.c.is_admin.desc(), keypairs.c.created_at)).scalars().first()
    return AccessKey(found) if found else None


def user_by_login(conn: sa.Connection, domain_name: str, login: str) -> User | None:
    row = conn.execute(
        sa.select(users).where(
            users.c.domain_name == domain_name, sa.or_(users.c.email == login, users.c.username == login)
        )
    ).first()
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


def policy(conn: sa.Connection, name: str) -> KeypairPolicy | None:
    row = conn.execute(sa.select(keypair_policies).where(keypair_policies.c.name == name)).first()
    if row is None:
        return None
    return KeypairPolicy(
        name=row.name,
        total_resource_slots=ResourceSlots(row.total_resource_slots),
        max_concurrent_sessions=row.max_concurrent_sessions,
        max_containers_per_session=row.max_containers_per_session,
        max_session_lifetime_s=row.max_session_lifetime_s,
    )


def ensure(conn: sa.Connection, table: sa.Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Inserts unless a row of that key exists; True when it was made."""
    where = [table.c[name] == value for name, value in key.items()]
    if conn.execute(sa.select(sa.literal(1)).select_from(table).where(*where)).first():
        return False
    conn.execute(sa.insert(table).values(**key, **values))
    return True


def insert_user(conn: sa.Connection, values: Mapping[str, Any]) -> None:
    conn.execute(sa.insert(users).values(**values))


def insert_keypair(conn: sa.Connection, values: Mapping[str, Any]) -> None:
    conn.execute(sa.insert(keypairs).values(**values))


def deactivate_keypair(conn: sa.Connection, access_key: str) -> bool:
    done = conn.execute(
        sa.update(keypairs).where(keypairs.c.access_key == access_key).values(is_active=False)
    )
    return done.rowcount == 1


def join_project(conn: sa.Connection, project_id: UUID, user_id: UUID) -> None:
    ensure(conn, project_members, {"project_id": project_id, "user_id": user_id}, {})
