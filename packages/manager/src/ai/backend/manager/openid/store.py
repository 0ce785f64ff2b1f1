"""Which user a provider's subject is."""

import sqlalchemy as sa

from ai.backend.common.ids import UserId

from ..db.schema import users


def user_by_subject(conn: sa.Connection, subject: str) -> UserId | None:
    found = conn.execute(
        sa.select(users.c.id).where(users.c.oidc_subject == subject, users.c.status == "active")
    ).scalar_one_or_none()
    return UserId(found) if found else None


def known_subject(conn: sa.Connection, subject: str) -> bool:
    """Of any user, active or not."""
    return conn.execute(sa.select(users.c.id).where(users.c.oidc_subject == subject)).first() is not None


def link(conn: sa.Connection, domain_name: str, email: str, subject: str) -> UserId | None:
    """Gives the subject to the active user of that address who has none yet."""
    fitting = (
        sa.func.lower(users.c.email) == email.lower(),
        users.c.domain_name == domain_name,
        users.c.status == "active",
        users.c.oidc_subject.is_(None),
    )
    found = conn.execute(sa.select(users.c.id).where(*fitting)).scalars().all()
    # Two addresses that differ in case only are two people: neither is taken for the other.
    if len(found) != 1:
        return None
    conn.execute(sa.update(users).where(users.c.id == found[0], *fitting).values(oidc_subject=subject))
    return UserId(found[0])
