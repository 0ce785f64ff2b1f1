"""Rows of failed logins, of web sessions, and the columns of a user that a login needs."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from ai.backend.common.ids import UserId

from ..db.schema import keypairs, login_failures, users, web_sessions
from .model import Account


def failures(conn: sa.Connection, key: str, since: datetime) -> Sequence[datetime]:
    """Oldest first. Forgets what is older, whoever it was."""
    conn.execute(sa.delete(login_failures).where(login_failures.c.failed_at <= since))
    query = sa.select(login_failures.c.failed_at).where(login_failures.c.login == key)
    return conn.execute(query.order_by(login_failures.c.failed_at)).scalars().all()


def insert_failure(conn: sa.Connection, key: str, at: datetime) -> None:
    conn.execute(sa.insert(login_failures).values(login=key, failed_at=at))


def forget_failure(conn: sa.Connection, key: str, at: datetime) -> None:
    conn.execute(
        sa.delete(login_failures).where(login_failures.c.login == key, login_failures.c.failed_at == at)
    )


def forget_failures(conn: sa.Connection, key: str) -> None:
    conn.execute(sa.delete(login_failures).where(login_failures.c.login == key))


def account(conn: sa.Connection, user_id: UserId) -> Account | None:
    """An active user."""
    row = conn.execute(sa.select(users).where(users.c.id == user_id, users.c.status == "active")).first()
    if row is None:
        return None
    return Account(
        user_id=UserId(row.id),
        domain_name=row.domain_name,
        email=row.email,
        need_password_change=row.need_password_change,
        password_changed_at=row.password_changed_at or row.created_at,
        totp_key_sealed=row.totp_key_sealed,
        totp_active=row.totp_activated_at is not None,
        totp_last_step=row.totp_last_step,
    )


def set_totp_key(conn: sa.Connection, user_id: UserId, sealed: bytes | None) -> bool:
    """A new key, not active yet. False when one is active."""
    done = conn.execute(
        sa.update(users)
        .where(users.c.id == user_id, users.c.totp_activated_at.is_(None))
        .values(totp_key_sealed=sealed, totp_last_step=0)
    )
    return done.rowcount == 1


def accept_step(conn: sa.Connection, user_id: UserId, sealed: bytes, step: int) -> bool:
    """Marks a code as used; False when it was, or when the key is another one by now."""
    done = conn.execute(
        sa.update(users)
        .where(users.c.id == user_id, users.c.totp_key_sealed == sealed, users.c.totp_last_step < step)
        .values(totp_last_step=step)
    )
    return done.rowcount == 1


def activate_totp(conn: sa.Connection, user_id: UserId, now: datetime) -> None:
    conn.execute(sa.update(users).where(users.c.id == user_id).values(totp_activated_at=now))


def remove_totp(conn: sa.Connection, user_id: UserId) -> None:
    conn.execute(
        sa.update(users)
        .where(users.c.id == user_id)
        .values(totp_key_sealed=None, totp_activated_at=None, totp_last_step=0)
    )


def set_password(conn: sa.Connection, user_id: UserId, password_hash: str, now: datetime) -> None:
    conn.execute(
        sa.update(users)
        .where(users.c.id == user_id)
        .values(
            password_hash=password_hash, password_changed_at=now, need_password_change=False, modified_at=now
        )
    )


def insert_web_session(
    conn: sa.Connection, id_hash: str, access_key: str, now: datetime, expires_at: datetime
) -> None:
    """Also forgets those that have expired. A hash that is there already is a UniqueViolation."""
    conn.execute(sa.delete(web_sessions).where(web_sessions.c.expires_at <= now))
    conn.execute(
        sa.insert(web_sessions).values(
            id_hash=id_hash, access_key=access_key, created_at=now, expires_at=expires_at
        )
    )


def web_session(conn: sa.Connection, id_hash: str, now: datetime) -> str | None:
    """The access key of a web session that has not expired."""
    query = sa.select(web_sessions.c.access_key)
    found = conn.execute(query.where(web_sessions.c.id_hash == id_hash, web_sessions.c.expires_at > now))
    return found.scalar_one_or_none()


def delete_web_session(conn: sa.Connection, id_hash: str) -> None:
    conn.execute(sa.delete(web_sessions).where(web_sessions.c.id_hash == id_hash))


def delete_web_sessions_of(conn: sa.Connection, user_id: UserId, *, but: str = "") -> None:
    """All of a user, except the one with the hash `but`."""
    mine = sa.select(keypairs.c.access_key).where(keypairs.c.user_id == user_id)
    conn.execute(
        sa.delete(web_sessions).where(web_sessions.c.access_key.in_(mine), web_sessions.c.id_hash != but)
    )


def user_by_email(conn: sa.Connection, email: str) -> UserId | None:
    found = conn.execute(sa.select(users.c.id).where(users.c.email == email)).scalar_one_or_none()
    return UserId(found) if found else None
