"""Who calls, for whom, and what is kept of secrets."""

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from ai.backend.common.clock import SystemClock
from ai.backend.common.errors import ConfigError, Forbidden, InvalidInput, ProjectNotFound, Unauthenticated
from ai.backend.common.ids import AccessKey, UserId
from ai.backend.manager.access.model import Principal, Role
from ai.backend.manager.access.policy import Action, may
from ai.backend.manager.db.migration import migrate
from ai.backend.manager.db.schema import keypairs, users
from ai.backend.manager.db.sqlite import SqliteDatabase
from ai.backend.manager.identity.policy import refuse_delegation
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.secret import FileSecrets, SecretUnreadable


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    made = SqliteDatabase(tmp_path / "test.db")
    await made.open()
    await migrate(made)
    yield made
    await made.close()


def service(database: SqliteDatabase, tmp_path: Path) -> IdentityService:
    rng = random.SystemRandom()
    return IdentityService(database, FileSecrets(tmp_path / "key", rng), clock=SystemClock(), rng=rng)


async def test_seeding_twice_changes_nothing_and_tells_passwords_once(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    first = await service(database, tmp_path).seed(random.SystemRandom(), SystemClock().now())
    again = await service(database, tmp_path).seed(random.SystemRandom(), SystemClock().now())
    assert first.admin.password and first.user.password and again.admin.password is None
    for one, other in ((first.admin, again.admin), (first.user, again.user)):
        assert (one.email, one.access_key, one.secret_key) == (
            other.email,
            other.access_key,
            other.secret_key,
        )
        assert len(one.access_key) == 20 and len(one.secret_key) == 40
    assert first.admin.secret_key not in repr(first)


async def test_secrets_are_not_in_the_database(database: SqliteDatabase, tmp_path: Path) -> None:
    seeded = await service(database, tmp_path).seed(random.SystemRandom(), SystemClock().now())
    rows = await database.read(
        lambda conn: str(conn.execute(sa.select(keypairs)).all() + conn.execute(sa.select(users)).all())
    )
    assert seeded.admin.secret_key not in rows and str(seeded.admin.password) not in rows
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


async def test_authentication_and_deactivation(database: SqliteDatabase, tmp_path: Path) -> None:
    identity = service(database, tmp_path)
    seeded = await identity.seed(random.SystemRandom(), SystemClock().now())
    principal, secret_key = await identity.authenticate(seeded.user.access_key)
    assert secret_key == seeded.user.secret_key and principal.role is Role.USER
    with pytest.raises(Unauthenticated):
        await identity.authenticate("AKIANOBODY")
    assert await identity.deactivate_keypair(seeded.user.access_key)
    with pytest.raises(Unauthenticated):
        await identity.authenticate(seeded.user.access_key)


async def test_passwords(database: SqliteDatabase, tmp_path: Path) -> None:
    identity = service(database, tmp_path)
    seeded = await identity.seed(random.SystemRandom(), SystemClock().now())
    found = await identity.verify_password("default", seeded.admin.email, str(seeded.admin.password))
    assert found.role is Role.SUPERADMIN
    for domain, login, password in (
        ("default", seeded.admin.email, "wrong"),
        ("default", "nobody", str(seeded.admin.password)),
        ("other", seeded.admin.email, str(seeded.admin.password)),
    ):
        with pytest.raises(Unauthenticated) as told:
            await identity.verify_password(domain, login, password)
        assert told.value.message == "User credential mismatch."


async def test_projects_are_for_members(database: SqliteDatabase, tmp_path: Path) -> None:
    identity = service(database, tmp_path)
    seeded = await identity.seed(random.SystemRandom(), SystemClock().now())
    user, _ = await identity.authenticate(seeded.user.access_key)
    assert await identity.project("default", "default", user) == seeded.project_id
    assert await identity.project("default", str(seeded.project_id), user) == seeded.project_id
    stranger = replace(user, user_id=UserId(UUID(int=1)))
    for principal, project in ((stranger, "default"), (user, "other")):
        with pytest.raises(ProjectNotFound):
            await identity.project("default", project, principal)


async def test_acting_for_others(database: SqliteDatabase, tmp_path: Path) -> None:
    identity = service(database, tmp_path)
    seeded = await identity.seed(random.SystemRandom(), SystemClock().now())
    user, _ = await identity.authenticate(seeded.user.access_key)
    admin, _ = await identity.authenticate(seeded.admin.access_key)
    assert await identity.delegate(admin, user.access_key) == user
    assert await identity.delegate(user, None) == user
    with pytest.raises(Forbidden):
        await identity.delegate(user, admin.access_key)
    with pytest.raises(InvalidInput):
        await identity.delegate(admin, "AKIANOBODY")


def person(role: Role, domain: str = "default", key: str = "AKIAX") -> Principal:
    return Principal(
        user_id=UserId(UUID(int=5)),
        email="x",
        role=role,
        domain_name=domain,
        access_key=AccessKey(key),
        is_admin=False,
        rate_limit=1,
    )


@pytest.mark.parametrize(
    ("asking", "owner", "allowed"),
    [
        (person(Role.SUPERADMIN), person(Role.SUPERADMIN, "d2", "B"), True),
        (person(Role.ADMIN), person(Role.USER, key="B"), True),
        (person(Role.ADMIN), person(Role.USER, "d2", "B"), False),
        (person(Role.ADMIN), person(Role.SUPERADMIN, key="B"), False),
        (person(Role.USER), person(Role.USER, key="B"), False),
        (person(Role.MONITOR), person(Role.USER, key="B"), False),
    ],
)
def test_delegation_table(asking: Principal, owner: Principal, allowed: bool) -> None:
    assert (refuse_delegation(asking, owner) is None) is allowed


def test_access_table() -> None:
    mine, other = UUID(int=5), UUID(int=6)
    reads = {
        role: tuple(
            may(person(role), Action.SESSION_READ, user_id=user, domain_name=domain)
            for user, domain in ((mine, "default"), (other, "default"), (other, "d2"))
        )
        for role in Role
    }
    assert reads == {
        Role.SUPERADMIN: (True, True, True),
        Role.ADMIN: (True, True, False),
        Role.USER: (True, False, False),
        Role.MONITOR: (True, True, True),
    }
    assert not may(person(Role.MONITOR), Action.SESSION_USE, user_id=mine, domain_name="default")
    assert not may(person(Role.USER), Action.AGENT_READ)


def test_sealing(tmp_path: Path) -> None:
    secrets = FileSecrets(tmp_path / "key", random.SystemRandom())
    sealed = secrets.seal("secret", context="AKIA1")
    assert (
        b"secret" not in sealed
        and FileSecrets(tmp_path / "key", random.SystemRandom()).unseal(sealed, context="AKIA1") == "secret"
    )
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for broken, context in (
        (sealed, "AKIA2"),
        (flipped, "AKIA1"),
        (b"", "AKIA1"),
        (b"\x02" + sealed[1:], "AKIA1"),
    ):
        with pytest.raises(SecretUnreadable):
            secrets.unseal(broken, context=context)
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(ConfigError):
        FileSecrets(tmp_path / "short", random.SystemRandom())
