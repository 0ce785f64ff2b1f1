"""Columns of users and keypairs that their owners change."""

from datetime import datetime

import sqlalchemy as sa

from ai.backend.common.ids import UserId

from ..db.schema import keypairs, users


def describe_user(
    conn: sa.Connection, user_id: UserId, full_name: str, description: str, now: datetime
) -> None:
    """Of a user that was just made."""
    conn.execute(
        sa.update(users)
        .where(users.c.id == user_id)
        .values(full_name=full_name, description=description, password_changed_at=now)
    )


def set_full_name(conn: sa.Connection, user_id: UserId, full_name: str, now: datetime) -> None:
    conn.execute(sa.update(users).where(users.c.id == user_id).values(full_name=full_name, modified_at=now))


def deactivate(conn: sa.Connection, user_id: UserId, now: datetime) -> None:
    """With all its keypairs."""
    conn.execute(
        sa.update(users)
        .where(users.c.id == user_id)
        .values(status="inactive", status_info="user-signed-out", modified_at=now)
    )
    conn.execute(
        sa.update(keypairs).where(keypairs.c.user_id == user_id).values(is_active=False, modified_at=now)
    )


def ssh_public_key(conn: sa.Connection, access_key: str) -> str | None:
    query = sa.select(keypairs.c.ssh_public_key).where(keypairs.c.access_key == access_key)
    return conn.execute(query).scalar_one_or_none()


def set_ssh_keypair(
    conn: sa.Connection, access_key: str, public: str, private_sealed: bytes, now: datetime
) -> None:
    conn.execute(
        sa.update(keypairs)
        .where(keypairs.c.access_key == access_key)
        .values(ssh_public_key=public, ssh_private_key_sealed=private_sealed, modified_at=now)
    )
