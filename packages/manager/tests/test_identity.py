"""Who calls, and for whom."""

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import pytest
import sqlalchemy as sa

from ai.backend.common.clock import SystemClock
from ai.backend.common.errors import (
    Conflict,
    DomainNotFound,
    Forbidden,
    InvalidInput,
    ProjectNotFound,
    Unauthenticated,
)
from ai.backend.common.ids import AccessKey, ProjectId, UserId
from ai.backend.manager.access.model import Principal, Role
from ai.backend.manager.access.policy import Action, may
from ai.backend.manager.db.database import Database, Operation
from ai.backend.manager.db.schema import keypairs, users
from ai.backend.manager.identity.model import UserDraft
from ai.backend.manager.identity.policy import refuse_delegation
from ai.backend.manager.identity.service import CACHED_S, NOBODY, IdentityService, _hasher, _Recent
from ai.backend.manager.secret import FileSecrets


def service(migrated: Database, tmp_path: Path) -> IdentityService:
    rng = random.SystemRandom()
    return IdentityService(migrated, FileSecrets(tmp_path / "key", rng), clock=SystemClock(), rng=rng)


async def test_seeding_twice_changes_nothing_and_tells_passwords_once(
    migrated: Database, tmp_path: Path
) -> None:
    first = await service(migrated, tmp_path).seed(random.SystemRandom(), SystemClock().now())
    again = await service(migrated, tmp_path).seed(random.SystemRandom(), SystemClock().now())
    assert first.admin.password and first.user.password and again.admin.password is None
    for one, other in ((first.admin, again.admin), (first.user, again.user)):
        assert (one.email, one.access_key, one.secret_key) == (
            other.email,
            other.access_key,
            other.secret_key,
        )
        assert len(one.access_key) == 20 and len(one.secret_key) == 40
    assert first.admin.secret_key not in repr(first)


async def test_secrets_are_not_in_the_database(migrated: Database, tmp_path: Path) -> None:
    seeded = await service(migrated, tmp_path).seed(random.SystemRandom(), SystemClock().now())
    rows = await migrated.read(
        lambda conn: str(conn.execute(sa.select(keypairs)).all() + conn.execute(sa.select(users)).all())
    )
    assert seeded.admin.secret_key not in rows and str(seeded.admin.password) not in rows
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


async def test_authentication_and_deactivation(migrated: Database, tmp_path: Path) -> None:
    identity = service(migrated, tmp_path)
    seeded = await identity.seed(random.SystemRandom(), SystemClock().now())
    principal, secret_key = await identity.authenticate(seeded.user.access_key)
    assert secret_key == seeded.user.secret_key and principal.role is Role.USER
    with pytest.raises(Unauthenticated):
        await identity.authenticate("AKIANOBODY")
    assert await identity.deactivate_keypair(seeded.user.access_key)
    with pytest.raises(Unauthenticated):
        await identity.authenticate(seeded.user.access_key)


async def test_passwords(migrated: Database, tmp_path: Path) -> None:
    identity = service(migrated, tmp_path)
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


async def test_projects_are_for_members(migrated: Database, tmp_path: Path) -> None:
    identity = service(migrated, tmp_path)
    seeded = await identity.seed(random.SystemRandom(), SystemClock().now())
    user, _ = await identity.authenticate(seeded.user.access_key)
    assert await identity.project("default", "default", user) == seeded.project_id
    assert await identity.project("default", str(seeded.project_id), user) == seeded.project_id
    stranger = replace(user, user_id=UserId(UUID(int=1)))
    for principal, project in ((stranger, "default"), (user, "other")):
        with pytest.raises(ProjectNotFound):
            await identity.project("default", project, principal)


async def test_acting_for_others(migrated: Database, tmp_path: Path) -> None:
    identity = service(migrated, tmp_path)
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


# What is kept in memory.

T = TypeVar("T")
DRAFT = UserDraft(email="eve@example.com", username="eve", password="correct horse")


class HandClock:
    """Time that a test moves."""

    seconds = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds


class Counted:
    """A real database that counts its reads, and can hold one back after it has read."""

    def __init__(self, inner: Database) -> None:
        self.inner = inner
        self.reads = 0
        self.gate: asyncio.Event | None = None
        self.held = asyncio.Event()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def run(self, op: Operation[T]) -> T:
        return await self.inner.run(op)

    async def alter(self, op: Operation[T]) -> T:
        return await self.inner.alter(op)

    async def read(self, op: Operation[T]) -> T:
        self.reads += 1
        result = await self.inner.read(op)
        if self.gate is not None:
            gate, self.gate = self.gate, None
            self.held.set()
            await gate.wait()
        return result


@pytest.fixture
async def counted(migrated: Database) -> Counted:
    return Counted(migrated)


async def made(counted: Counted, tmp_path: Path, clock: HandClock) -> IdentityService:
    rng = random.SystemRandom()
    identity = IdentityService(counted, FileSecrets(tmp_path / "key", rng), clock=clock, rng=rng)
    await identity.seed(rng, clock.now())
    return identity


async def test_a_known_key_costs_no_query_until_it_is_old(counted: Counted, tmp_path: Path) -> None:
    clock = HandClock()
    identity = await made(counted, tmp_path, clock)
    key = (await identity.create_user(DRAFT)).access_key
    await identity.authenticate(key)
    counted.reads = 0
    for _ in range(5):
        await identity.authenticate(key)
    assert counted.reads == 0
    # Another manager's change is seen when the answer is old.
    await counted.inner.run(lambda conn: conn.execute(sa.update(keypairs).values(is_active=False)).close())
    await identity.authenticate(key)
    clock.seconds += CACHED_S
    with pytest.raises(Unauthenticated):
        await identity.authenticate(key)


async def test_an_answer_read_before_a_change_is_not_kept_after_it(counted: Counted, tmp_path: Path) -> None:
    identity = await made(counted, tmp_path, HandClock())
    key = (await identity.create_user(DRAFT)).access_key
    counted.gate = gate = asyncio.Event()
    slow = asyncio.create_task(identity.authenticate(key))
    await counted.held.wait()
    assert await identity.deactivate_keypair(key)
    gate.set()
    await slow
    with pytest.raises(Unauthenticated):
        await identity.authenticate(key)


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai.backend.manager.identity.service.CACHED_MAX", 3)
    recent = _Recent[int, int](HandClock())
    loads: list[int] = []

    def loader(key: int):  # type: ignore[no-untyped-def]
        async def load() -> int:
            loads.append(key)
            return key

        return load

    for key in (1, 2, 3, 4, 4, 3, 2, 1):
        assert await recent.get(key, loader(key)) == key
    assert loads == [1, 2, 3, 4, 1]


async def test_inactive_users_are_nobody(counted: Counted, tmp_path: Path) -> None:
    identity = await made(counted, tmp_path, HandClock())
    account = await identity.create_user(DRAFT)
    assert (await identity.verify_password("default", "eve", DRAFT.password)).email == DRAFT.email
    await counted.inner.run(lambda conn: conn.execute(sa.update(users).values(status="inactive")).close())
    identity.forget()
    with pytest.raises(Unauthenticated):
        await identity.authenticate(account.access_key)
    with pytest.raises(Unauthenticated):
        await identity.verify_password("default", "eve", DRAFT.password)


async def test_new_users(counted: Counted, tmp_path: Path) -> None:
    identity = await made(counted, tmp_path, HandClock())
    await identity.create_user(DRAFT)
    with pytest.raises(Conflict):
        await identity.create_user(DRAFT)
    with pytest.raises(Conflict):
        await identity.create_user(replace(DRAFT, email="other@example.com"))
    for draft, error in (
        (replace(DRAFT, domain_name="nowhere", email="o@e", username="o"), DomainNotFound),
        (replace(DRAFT, project_ids=(ProjectId(UUID(int=9)),), email="o@e", username="o"), ProjectNotFound),
        (replace(DRAFT, email="nobody"), InvalidInput),
        (replace(DRAFT, email="x@example.com", username="eve@example.com"), Conflict),
        (replace(DRAFT, password="short"), InvalidInput),
        (replace(DRAFT, password="x" * 1025), InvalidInput),
    ):
        with pytest.raises(error):
            await identity.create_user(draft)
    assert DRAFT.password not in repr(DRAFT)
    with pytest.raises(Unauthenticated):
        await identity.verify_password("default", "eve", "x" * 100_000)


async def test_unknown_users_cost_the_work_of_known_ones() -> None:
    assert not _hasher.check_needs_rehash(NOBODY)
    assert "m=19456,t=2,p=1" in _hasher.hash("x")


async def test_managers_that_seed_together_make_one_of_each(migrated: Database, tmp_path: Path) -> None:
    services = [service(migrated, tmp_path) for _ in range(3)]
    now = SystemClock().now()
    results = await asyncio.gather(*(one.seed(random.SystemRandom(), now) for one in services))
    assert len({result.admin.access_key for result in results}) == 1
    assert len({result.project_id for result in results}) == 1
    assert sum(result.admin.password is not None for result in results) == 1
