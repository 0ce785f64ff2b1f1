"""The directory: what administrators make, change, close and purge, and that a refusal leaves nothing half done."""

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from ai.backend.common.clock import SystemClock
from ai.backend.common.errors import BackendError, Conflict, Forbidden, InvalidInput, NotFound
from ai.backend.common.ids import UserId
from ai.backend.manager.access.model import Principal, Role
from ai.backend.manager.audit import store as audit_store
from ai.backend.manager.db import schema as t
from ai.backend.manager.db.database import Database
from ai.backend.manager.directory.model import Listing
from ai.backend.manager.directory.service import Directory
from ai.backend.manager.identity.model import UserDraft
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.resource.service import ResourceService
from ai.backend.manager.secret import FileSecrets

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PASSWORD = "correct horse"
LIVE, ENDED, STRANGER = UUID(int=101), UUID(int=102), UUID(int=999)
Dump = Mapping[str, list[tuple[Any, ...]]]


@dataclass
class World:
    """A superadministrator, a user with a live session, an administrator of the domain, and another domain with an idle user."""

    directory: Directory
    database: Database
    identity: IdentityService
    root: Principal
    user: Principal
    admin: Principal
    idle: Principal
    project_id: UUID
    other_id: UUID
    woken: list[None] = field(default_factory=list)

    @property
    def d(self) -> Directory:
        """Short, for the table of refusals."""
        return self.directory

    async def dump(self) -> Dump:
        """All rows of all tables."""

        def op(conn: sa.Connection) -> Dump:
            return {
                table.name: sorted(tuple(map(repr, row)) for row in conn.execute(sa.select(table)))
                for table in t.metadata.sorted_tables
            }

        return await self.database.read(op)

    async def rows(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> list[Mapping[str, Any]]:
        return await self.database.read(
            lambda conn: [dict(row._mapping) for row in conn.execute(sa.select(table).where(*where))]
        )

    async def row(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> Mapping[str, Any]:
        (found,) = await self.rows(table, *where)
        return found


async def _account(identity: IdentityService, name: str, role: Role, domain: str, project: UUID) -> Principal:
    made = await identity.create_user(
        UserDraft(
            email=f"{name}@example.com", username=f"the-{name}", password=PASSWORD, role=role, domain_name=domain,
            project_ids=(project,),  # type: ignore[arg-type]
        )
    )  # fmt: skip
    return (await identity.authenticate(made.access_key))[0]


def _session(conn: sa.Connection, session_id: UUID, status: str, user: Principal, project_id: UUID) -> None:
    conn.execute(
        sa.insert(t.sessions).values(
            id=session_id, name=f"s{session_id.int}", session_type="interactive", status=status, status_changed_at=NOW,
            domain_name=user.domain_name, project_id=project_id, user_id=user.user_id, access_key=user.access_key,
            resource_group="default", requested_slots={}, created_at=NOW,
        )
    )  # fmt: skip
    conn.execute(
        sa.insert(t.kernels).values(
            id=UUID(int=session_id.int + 1000), session_id=session_id, status=status, image_name="x", architecture="x86_64",
            requested_slots={}, shm_bytes=0, status_changed_at=NOW,
        )
    )  # fmt: skip


@pytest.fixture
async def world(migrated: Database, tmp_path: Path) -> AsyncIterator[World]:
    rng = random.SystemRandom()
    identity = IdentityService(migrated, FileSecrets(tmp_path / "key", rng), clock=SystemClock(), rng=rng)
    seeded = await identity.seed(rng, NOW)
    other_id = UUID(int=77)

    def op(conn: sa.Connection) -> None:
        conn.execute(sa.insert(t.domains).values(name="other", created_at=NOW))
        conn.execute(
            sa.insert(t.projects).values(id=other_id, name="theirs", domain_name="other", created_at=NOW)
        )

    await migrated.run(op)
    admin = await _account(identity, "admin", Role.ADMIN, "default", seeded.project_id)
    idle = await _account(identity, "idle", Role.USER, "other", other_id)
    root, _ = await identity.authenticate(seeded.admin.access_key)
    user, _ = await identity.authenticate(seeded.user.access_key)

    def sessions(conn: sa.Connection) -> None:
        _session(conn, LIVE, "RUNNING", user, seeded.project_id)
        _session(conn, ENDED, "TERMINATED", idle, other_id)
        conn.execute(
            sa.insert(t.agents).values(
                id="a1", status="ALIVE", status_changed_at=NOW, resource_group="default", last_seen_at=NOW, first_contact_at=NOW,
                architecture="x86_64", backend="fake", version="1",
            )
        )  # fmt: skip
        for scope, owner in (
            ("user", idle.access_key),
            ("project", str(other_id)),
            ("domain", "other"),
            ("user", user.access_key),
        ):
            conn.execute(
                sa.insert(t.dotfiles).values(scope=scope, owner=owner, path=".x", permission="644", data="")
            )

    await migrated.run(sessions)
    made = World(
        directory=None,  # type: ignore[arg-type]
        database=migrated,
        identity=identity,
        root=root,
        user=user,
        admin=admin,
        idle=idle,
        project_id=seeded.project_id,
        other_id=other_id,
    )
    made.directory = Directory(migrated, SystemClock(), rng, identity, wake=lambda: made.woken.append(None))
    yield made


# -- what works ---------------------------------------------------------------------------------------------------------------


async def test_a_domain_from_its_making_to_its_end(world: World) -> None:
    directory, root = world.directory, world.root
    await directory.create_domain(root, "fresh", {"description": "x", "total_resource_slots": '{"cpu": 2}'})
    made = await directory.domain(root, "fresh")
    assert made is not None
    assert (made.description, made.is_active, made.total_resource_slots.texts()) == ("x", True, {"cpu": "2"})
    await directory.modify_domain(root, "fresh", {"description": "y", "name": "fresh"})
    await directory.modify_domain(root, "fresh", {"allowed_docker_registries": ["a", "b"]})
    changed = await directory.domain(root, "fresh")
    assert changed is not None
    assert (changed.description, changed.allowed_docker_registries) == ("y", ["a", "b"])
    assert changed.modified_at is not None
    await directory.delete_domain(root, "fresh")
    assert [one.name for one in await directory.domains(root, is_active=False)] == ["fresh"]
    await directory.purge_domain(root, "fresh")
    assert await directory.domain(root, "fresh") is None


async def test_a_renamed_domain_keeps_what_it_has(world: World) -> None:
    await world.directory.modify_domain(world.root, "other", {"name": "newer", "description": "x"})
    assert [row["name"] for row in await world.rows(t.projects, t.projects.c.domain_name == "newer")] == [
        "theirs"
    ]
    row = await world.row(t.domains, t.domains.c.name == "newer")
    assert row["description"] == "x"
    assert not await world.rows(t.domains, t.domains.c.name == "other")
    principal, _ = await world.identity.authenticate(world.idle.access_key)
    assert principal.domain_name == "newer"
    assert await world.rows(t.dotfiles, t.dotfiles.c.owner == "newer")


async def test_a_project_from_its_making_to_its_end(world: World) -> None:
    directory, admin = world.directory, world.admin
    project_id = await directory.create_project(admin, "fresh", {"domain_name": "default"})
    members = [str(world.user.user_id), str(admin.user_id)]
    await directory.modify_project(
        admin, project_id, {"name": "newer", "user_update_mode": "add", "user_uuids": members}
    )
    await directory.modify_project(admin, project_id, {"user_update_mode": "add", "user_uuids": members})
    assert {
        name for _, name in (await directory.projects_of(admin, [world.user.user_id]))[world.user.user_id]
    } == {
        "default",
        "newer",
    }
    await directory.modify_project(
        admin, project_id, {"user_update_mode": "remove", "user_uuids": [*members[:1], str(STRANGER)]}
    )
    left = await world.rows(t.project_members, t.project_members.c.project_id == project_id)
    assert [row["user_id"] for row in left] == [admin.user_id]
    await directory.delete_project(admin, project_id)
    assert not (await world.row(t.projects, t.projects.c.id == project_id))["is_active"]
    await directory.purge_project(admin, project_id)
    assert not await world.rows(t.projects, t.projects.c.id == project_id)
    assert not await world.rows(t.project_members, t.project_members.c.project_id == project_id)


async def test_purging_takes_what_belonged_to_it_and_nothing_else(world: World) -> None:
    before = await world.dump()
    await world.directory.purge_user(world.root, world.idle.email)
    await world.directory.purge_project(world.root, world.other_id)
    await world.directory.purge_domain(world.root, "other")
    after = await world.dump()
    gone = {
        name: sorted(set(before[name]) - set(after[name]))
        for name in before
        if before[name] != after[name] and name != "audit_logs"
    }
    assert {name: len(rows) for name, rows in gone.items()} == {
        "users": 1, "keypairs": 1, "project_members": 1, "sessions": 1, "kernels": 1, "projects": 1, "domains": 1, "dotfiles": 3,
    }  # fmt: skip
    assert all(set(after[name]) <= set(before[name]) for name in after if name != "audit_logs")


async def test_a_user_from_its_making_to_its_end(world: World) -> None:
    directory, root = world.directory, world.root
    made = await directory.create_user(
        root,
        "fresh@example.com",
        {
            "username": "fresh", "password": PASSWORD, "role": "admin", "domain_name": "default", "full_name": "F",
            "need_password_change": True, "group_ids": [str(world.project_id)], "allowed_client_ip": ["10.0.0.1/8"],
            "main_access_key": world.idle.access_key,
        },
    )  # fmt: skip
    assert (made.role, made.full_name, made.need_password_change, made.allowed_client_ip) == (
        "admin", "F", True, ["10.0.0.0/8"],
    )  # fmt: skip
    keypair = await world.row(t.keypairs, t.keypairs.c.user_id == made.id)
    assert made.main_access_key in (None, keypair["access_key"]), "it is somebody else's"
    assert keypair["is_admin"]
    old = (await world.row(t.users, t.users.c.id == made.id))["password_hash"]
    changed = await directory.modify_user(
        root, made.email, {"role": "user", "password": "another horse", "username": "newer", "group_ids": []}
    )
    assert (changed.role, changed.username, changed.full_name) == ("user", "newer", "F")
    row = await world.row(t.users, t.users.c.id == made.id)
    assert row["password_hash"] != old
    assert row["password_changed_at"] is not None
    assert not (await world.row(t.keypairs, t.keypairs.c.user_id == made.id))["is_admin"]
    assert (await directory.projects_of(root, [made.id]))[made.id] == []
    await directory.modify_user(root, made.email, {"is_active": False})
    with pytest.raises(BackendError):
        await world.identity.authenticate(keypair["access_key"])
    await directory.modify_user(root, made.email, {"is_active": True})
    await world.identity.authenticate(keypair["access_key"])
    await directory.delete_user(root, made.email)
    with pytest.raises(BackendError):
        await world.identity.authenticate(keypair["access_key"])
    assert (await world.row(t.users, t.users.c.id == made.id))["status"] == "deleted"
    await directory.purge_user(root, made.email)
    assert not await world.rows(t.keypairs, t.keypairs.c.user_id == made.id)


async def test_moving_a_user_to_another_domain_asks_for_projects_there(world: World) -> None:
    props = {"domain_name": "default", "group_ids": [str(world.project_id)]}
    changed = await world.directory.modify_user(world.root, world.idle.email, props)
    assert changed.domain_name == "default"
    assert (await world.directory.projects_of(world.root, [changed.id]))[changed.id] == [
        (world.project_id, "default")
    ]


async def test_a_keypair_from_its_making_to_its_end(world: World) -> None:
    directory, root = world.directory, world.root
    access_key, secret_key = await directory.create_keypair(
        root, world.idle.email, {"resource_policy": "default", "rate_limit": 7}
    )
    principal, known = await world.identity.authenticate(access_key)
    assert (known, principal.rate_limit, principal.user_id) == (secret_key, 7, world.idle.user_id)
    await directory.modify_keypair(root, access_key, {"is_active": False, "rate_limit": None})
    with pytest.raises(BackendError):
        await world.identity.authenticate(access_key)
    row = await world.row(t.keypairs, t.keypairs.c.access_key == access_key)
    assert (row["rate_limit"], row["is_active"]) == (7, False)
    await directory.delete_keypair(root, access_key)
    assert not await world.rows(t.keypairs, t.keypairs.c.access_key == access_key)


@pytest.mark.parametrize("kind", ["keypair", "user", "project"])
async def test_a_policy_from_its_making_to_its_end(world: World, kind: str) -> None:
    directory, root = world.directory, world.root
    table = {"keypair": t.keypair_policies, "user": t.user_policies, "project": t.project_policies}[kind]
    await directory.create_policy(root, kind, "fresh", {"max_vfolder_count": 3})
    await directory.modify_policy(root, kind, "fresh", {"max_quota_scope_size": 2**40})
    row = await world.row(table, table.c.name == "fresh")
    assert (row["max_vfolder_count"], row["max_quota_scope_bytes"]) == (3, 2**40)
    await directory.delete_policy(root, kind, "fresh")
    assert not await world.rows(table, table.c.name == "fresh")


async def test_a_resource_group_from_its_making_to_its_end(world: World) -> None:
    directory, root = world.directory, world.root
    await directory.create_resource_group(root, "fresh", {"is_public": False})
    for who, value in (
        ("domain_name", "other"),
        ("project_id", world.project_id),
        ("access_key", world.user.access_key),
    ):
        for _ in range(2):  # once more changes nothing
            await directory.associate(root, "fresh", add=True, **{who: value})
    assert await directory.resource_group_names(root, domain_name="other") == ["fresh"]
    assert await directory.resource_group_names(root, project_id=world.project_id) == ["fresh"]
    assert await directory.resource_group_names(root, domain_name="default") == ["default"]
    # One that is not public is nobody's business but administrators'.
    assert await directory.resource_group_names(world.user, domain_name="other") == []
    assert await directory.resource_group_names(world.admin, domain_name="other") == ["fresh"]
    for who, expected in ((world.user, ["default"]), (root, ["default", "fresh"])):
        found = await directory.resource_groups_for(who, domain_name="default", project_id=world.project_id)
        assert [one.name for one in found] == expected
    await directory.associate(root, "fresh", add=False, domain_name="other")
    assert await directory.resource_group_names(root, domain_name="other") == []
    await directory.disassociate_all(root, project_id=world.project_id)
    assert await directory.resource_group_names(root, project_id=world.project_id) == []
    await directory.modify_resource_group(root, "fresh", {"is_active": False, "wsproxy_api_token": "x"})
    assert world.woken
    await directory.delete_resource_group(root, "fresh")
    assert not await world.rows(t.resource_group_keypairs)


async def test_presets_and_agents(world: World) -> None:
    directory, root = world.directory, world.root
    await directory.create_preset(root, "p", {"resource_slots": {"cpu": 1}, "shared_memory": "1g"})
    await directory.modify_preset(root, "p", {"resource_slots": '{"cpu": 2}', "shared_memory": None})
    resources = ResourceService(world.database, SystemClock())
    (preset,) = await resources.presets(name="p")
    assert (preset.slots.texts(), preset.shared_memory_bytes) == ({"cpu": "2"}, 1 << 30)
    await directory.delete_preset(root, "p")
    assert await resources.presets(name="p") == []
    await directory.create_resource_group(root, "fresh", {})
    await directory.modify_agent(root, "a1", {"schedulable": False, "scaling_group": "fresh"})
    row = await world.row(t.agents)
    assert (row["schedulable"], row["resource_group"]) == (False, "fresh")


async def test_who_sees_secret_keys(world: World) -> None:
    """The owner, and who may write keypairs; not the administrator who may look at them."""
    (keypair,) = (await world.directory.keypairs(world.root, Listing(), email=world.user.email)).items
    _, secret = await world.identity.authenticate(world.user.access_key)
    assert world.directory.secret_key(world.root, keypair) == secret
    assert world.directory.secret_key(world.user, keypair) == secret
    assert world.directory.secret_key(world.admin, keypair) is None
    monitor = replace(world.admin, role=Role.MONITOR, user_id=UserId(STRANGER))
    assert world.directory.secret_key(monitor, keypair) is None
    assert secret not in repr(keypair)
    assert repr(keypair.secret_key_sealed) not in repr(keypair)


async def test_a_user_is_made_whole_or_not_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the process dies between its first and its last row: here, the note in the audit log."""

    def die(conn: sa.Connection, told: object) -> None:
        made = conn.execute(sa.select(t.users.c.full_name).where(t.users.c.username == "fresh")).scalars()
        assert list(made) == ["F"], "its further fields are there already"
        raise RuntimeError("the disk is gone")

    before = await world.dump()
    with monkeypatch.context() as patched:
        patched.setattr(audit_store, "write", die)
        with pytest.raises(RuntimeError):
            await world.d.create_user(world.root, "n@example.com", user_props(full_name="F"))
    assert await world.dump() == before
    assert (
        await world.d.create_user(world.root, "n@example.com", user_props(full_name="F"))
    ).full_name == "F"
    (told,) = await world.rows(t.audit_logs, t.audit_logs.c.action == "user:create")
    assert told["target"] == "n@example.com"


# -- what is refused ----------------------------------------------------------------------------------------------------------

Call = Callable[[World], Awaitable[Any]]


def refused(kind: type[BackendError], call: Call, name: str) -> tuple[type[BackendError], Call, str]:
    return kind, call, name


def user_props(**more: Any) -> dict[str, Any]:
    return {"username": "fresh", "password": PASSWORD, "domain_name": "default", **more}


ABSENT = str(STRANGER)
REFUSALS = [
    # Names that are taken.
    refused(Conflict, lambda w: w.d.create_domain(w.root, "other", {}), "a domain's name"),
    refused(Conflict, lambda w: w.d.create_project(w.root, "default", {"domain_name": "default"}), "a project's name"),
    refused(Conflict, lambda w: w.d.create_user(w.root, w.idle.email, user_props()), "an email"),
    refused(Conflict, lambda w: w.d.create_user(w.root, "n@example.com", user_props(username="the-idle")), "a user name"),
    refused(Conflict, lambda w: w.d.modify_user(w.root, w.user.email, {"username": "the-idle", "full_name": "X"}), "a new user name"),
    refused(Conflict, lambda w: w.d.create_policy(w.root, "user", "default", {}), "a policy's name"),
    refused(Conflict, lambda w: w.d.create_resource_group(w.root, "default", {}), "a resource group's name"),
    # What is not there.
    refused(NotFound, lambda w: w.d.modify_domain(w.root, "ghost", {"description": "x"}), "change no domain"),
    refused(NotFound, lambda w: w.d.delete_domain(w.root, "ghost"), "close no domain"),
    refused(NotFound, lambda w: w.d.purge_domain(w.root, "ghost"), "purge no domain"),
    refused(NotFound, lambda w: w.d.modify_project(w.root, STRANGER, {"description": "x"}), "change no project"),
    refused(NotFound, lambda w: w.d.delete_project(w.root, STRANGER), "close no project"),
    refused(NotFound, lambda w: w.d.purge_project(w.root, STRANGER), "purge no project"),
    refused(NotFound, lambda w: w.d.modify_user(w.root, "ghost@example.com", {"full_name": "x"}), "change nobody"),
    refused(NotFound, lambda w: w.d.delete_user(w.root, "ghost@example.com"), "close nobody"),
    refused(NotFound, lambda w: w.d.purge_user(w.root, "ghost@example.com"), "purge nobody"),
    refused(NotFound, lambda w: w.d.create_keypair(w.root, "ghost@example.com", {}), "a keypair of nobody"),
    refused(NotFound, lambda w: w.d.modify_keypair(w.root, "AKIAGHOST", {"is_active": False}), "change no keypair"),
    refused(NotFound, lambda w: w.d.delete_keypair(w.root, "AKIAGHOST"), "delete no keypair"),
    refused(NotFound, lambda w: w.d.modify_policy(w.root, "user", "ghost", {"max_vfolder_count": 1}), "change no policy"),
    refused(NotFound, lambda w: w.d.delete_policy(w.root, "user", "ghost"), "delete no policy"),
    refused(NotFound, lambda w: w.d.modify_resource_group(w.root, "ghost", {"description": "x"}), "change no resource group"),
    refused(NotFound, lambda w: w.d.delete_resource_group(w.root, "ghost"), "delete no resource group"),
    refused(NotFound, lambda w: w.d.modify_preset(w.root, "ghost", {}), "change no preset"),
    refused(NotFound, lambda w: w.d.delete_preset(w.root, "ghost"), "delete no preset"),
    refused(NotFound, lambda w: w.d.modify_agent(w.root, "ghost", {"schedulable": False}), "change no agent"),
    refused(NotFound, lambda w: w.d.associate(w.root, "default", add=True, domain_name="ghost"), "associate no domain"),
    refused(NotFound, lambda w: w.d.associate(w.root, "default", add=True, project_id=STRANGER), "associate no project"),
    refused(NotFound, lambda w: w.d.associate(w.root, "default", add=True, access_key="AKIAGHOST"), "associate no keypair"),
    # References to what is not there, or not here.
    refused(InvalidInput, lambda w: w.d.create_project(w.root, "fresh", {"domain_name": "ghost"}), "a project of no domain"),
    refused(InvalidInput, lambda w: w.d.create_project(w.root, "fresh", {"resource_policy": "ghost"}), "a project of no policy"),
    refused(InvalidInput, lambda w: w.d.modify_project(w.root, w.project_id, {"resource_policy": "ghost", "description": "x"}),
            "a project's new policy"),
    refused(InvalidInput, lambda w: w.d.modify_project(
        w.root, w.project_id, {"description": "x", "user_update_mode": "add", "user_uuids": [str(w.user.user_id), ABSENT]}),
            "an unknown member"),
    refused(InvalidInput, lambda w: w.d.modify_project(
        w.root, w.project_id, {"description": "x", "user_update_mode": "add", "user_uuids": [str(w.idle.user_id)]}),
            "a member of another domain"),
    refused(InvalidInput, lambda w: w.d.modify_project(w.root, w.project_id, {"user_update_mode": "swap"}), "a strange mode"),
    refused(InvalidInput, lambda w: w.d.modify_project(w.root, w.project_id, {"user_uuids": ["x"]}), "an id that is none"),
    refused(BackendError, lambda w: w.d.create_user(w.root, "n@example.com", user_props(domain_name="ghost")), "a user of no domain"),
    refused(BackendError, lambda w: w.d.create_user(w.root, "n@example.com", user_props(group_ids=[ABSENT])), "a user of no project"),
    refused(BackendError, lambda w: w.d.create_user(w.root, "n@example.com", user_props(group_ids=[str(w.other_id)])),
            "a user of another domain's project"),
    refused(InvalidInput, lambda w: w.d.create_user(w.root, "n@example.com", user_props(group_ids=["x"])), "a user of nonsense"),
    refused(InvalidInput, lambda w: w.d.create_user(w.root, "n@example.com", user_props(resource_policy="ghost")), "a user of no policy"),
    refused(InvalidInput, lambda w: w.d.create_user(w.root, "n@example.com", user_props(role="king")), "a user of no role"),
    refused(InvalidInput, lambda w: w.d.create_user(w.root, "n@example.com", user_props(password="x")), "a short password"),
    refused(InvalidInput, lambda w: w.d.create_user(w.root, "no address", user_props()), "an email that is none"),
    refused(InvalidInput, lambda w: w.d.modify_user(w.root, w.user.email, {"full_name": "X", "domain_name": "ghost"}), "move to no domain"),
    refused(InvalidInput, lambda w: w.d.modify_user(w.root, w.user.email, {"full_name": "X", "resource_policy": "ghost"}), "to no policy"),
    refused(InvalidInput, lambda w: w.d.modify_user(w.root, w.user.email, {"full_name": "X", "group_ids": [ABSENT]}), "to no project"),
    refused(InvalidInput, lambda w: w.d.modify_user(w.root, w.user.email, {"full_name": "X", "group_ids": [str(w.other_id)]}),
            "to another domain's project"),
    refused(InvalidInput, lambda w: w.d.modify_user(w.root, w.user.email, {"full_name": "X", "main_access_key": w.idle.access_key}),
            "another's main key"),
    refused(InvalidInput, lambda w: w.d.modify_user(w.root, w.user.email, {"full_name": "X", "password": "short"}), "a bad new password"),
    refused(InvalidInput, lambda w: w.d.modify_user(w.root, w.user.email, {"full_name": "X", "username": "a b"}), "no user name"),
    refused(InvalidInput, lambda w: w.d.create_keypair(w.root, w.user.email, {"resource_policy": "ghost"}), "a keypair of no policy"),
    refused(InvalidInput, lambda w: w.d.modify_keypair(w.root, w.user.access_key, {"rate_limit": 5, "resource_policy": "ghost"}),
            "a keypair's new policy"),
    refused(InvalidInput, lambda w: w.d.associate(w.root, "ghost", add=True, domain_name="other"), "associate no resource group"),
    refused(InvalidInput, lambda w: w.d.modify_agent(w.root, "a1", {"schedulable": False, "scaling_group": "ghost"}),
            "an agent to no resource group"),
    # What is no value.
    refused(InvalidInput, lambda w: w.d.create_domain(w.root, "a b", {}), "a name with a space"),
    refused(InvalidInput, lambda w: w.d.create_domain(w.root, "", {}), "no name"),
    refused(InvalidInput, lambda w: w.d.modify_domain(w.root, "other", {"description": "x", "name": "a b"}), "a domain's bad new name"),
    refused(Conflict, lambda w: w.d.modify_domain(w.root, "other", {"description": "x", "name": "default"}), "a domain's taken name"),
    refused(NotFound, lambda w: w.d.modify_domain(w.root, "ghost", {"name": "fresh"}), "a new name of no domain"),
    refused(InvalidInput, lambda w: w.d.create_domain(w.root, "fresh", {"total_resource_slots": "[1]"}), "slots that are none"),
    refused(InvalidInput, lambda w: w.d.create_domain(w.root, "fresh", {"description": "x" * 513}), "a long description"),
    refused(InvalidInput, lambda w: w.d.modify_keypair(w.root, w.user.access_key, {"is_active": False, "rate_limit": 0}), "no rate"),
    refused(InvalidInput, lambda w: w.d.modify_policy(w.root, "keypair", "default", {"max_vfolder_count": -1}), "a negative number"),
    refused(InvalidInput, lambda w: w.d.create_preset(w.root, "p", {}), "a preset without amounts"),
    # What would take too much with it.
    refused(Conflict, lambda w: w.d.purge_domain(w.root, "other"), "a domain with users"),
    refused(Conflict, lambda w: w.d.purge_project(w.root, w.project_id), "a project with live sessions"),
    refused(Conflict, lambda w: w.d.purge_user(w.root, w.user.email), "a user with live sessions"),
    refused(Conflict, lambda w: w.d.delete_keypair(w.root, w.user.access_key), "a keypair with live sessions"),
    refused(Conflict, lambda w: w.d.delete_policy(w.root, "keypair", "default"), "a keypair policy in use"),
    refused(Conflict, lambda w: w.d.delete_policy(w.root, "user", "default"), "a user policy in use"),
    refused(Conflict, lambda w: w.d.delete_policy(w.root, "project", "default"), "a project policy in use"),
    refused(Conflict, lambda w: w.d.delete_resource_group(w.root, "default"), "a resource group in use"),
    refused(InvalidInput, lambda w: w.d.delete_user(w.root, w.root.email), "oneself"),
    refused(InvalidInput, lambda w: w.d.purge_user(w.root, w.root.email), "oneself, wholly"),
    refused(InvalidInput, lambda w: w.d.delete_keypair(w.root, w.root.access_key), "the key in one's hand"),
    # What is not for this administrator.
    refused(Forbidden, lambda w: w.d.create_domain(w.admin, "fresh", {}), "a domain, by its administrator"),
    refused(Forbidden, lambda w: w.d.create_project(w.admin, "fresh", {"domain_name": "other"}), "another domain's project"),
    refused(NotFound, lambda w: w.d.modify_project(w.admin, w.other_id, {"description": "x"}), "change another domain's project"),
    refused(NotFound, lambda w: w.d.purge_project(w.admin, w.other_id), "purge another domain's project"),
    refused(Forbidden, lambda w: w.d.modify_project(w.user, w.project_id, {"description": "x"}), "a project, by a member"),
    refused(Forbidden, lambda w: w.d.purge_project(w.user, w.project_id), "purge a project, by a member"),
    refused(Forbidden, lambda w: w.d.modify_user(w.admin, w.user.email, {"role": "superadmin"}), "a role, by an administrator"),
    refused(Forbidden, lambda w: w.d.create_keypair(w.user, w.user.email, {}), "one's own second keypair"),
    refused(Forbidden, lambda w: w.d.disassociate_all(w.admin, domain_name="default"), "associations, by an administrator"),
]  # fmt: skip


async def test_a_refusal_leaves_nothing_half_done(world: World) -> None:
    before, wrong = await world.dump(), []
    for kind, call, name in REFUSALS:
        try:
            await call(world)
            wrong.append(f"{name}: not refused")
        except BackendError as told:
            if not isinstance(told, kind) or not told.message:
                wrong.append(f"{name}: {told!r}")
            json.dumps(told.detail)
        after = await world.dump()
        changed = [table for table in after if after[table] != before[table]]
        if changed:
            wrong.append(f"{name}: changed {changed}")
        before = after
    assert not wrong, "\n".join(wrong)


async def test_a_session_that_others_wait_for_goes_with_its_owner(world: World) -> None:
    """Ended sessions are forgotten with their user, also where another session once depended on one."""

    def op(conn: sa.Connection) -> None:
        conn.execute(sa.insert(t.session_dependencies).values(session_id=LIVE, depends_on=ENDED))

    await world.database.run(op)
    await world.directory.purge_user(world.root, world.idle.email)
    assert not await world.rows(t.session_dependencies)
    assert [row["id"] for row in await world.rows(t.sessions)] == [LIVE]


async def test_a_user_who_kept_things_elsewhere_can_be_purged(world: World) -> None:
    """Templates, tasks, error logs and web sessions go too; a session in another's project is theirs."""

    def op(conn: sa.Connection) -> None:
        mine = {"user_id": world.idle.user_id}
        conn.execute(
            sa.insert(t.templates).values(
                id=UUID(int=1), template_type="task", name="x", body={}, domain_name="other", project_id=world.other_id,
                created_at=NOW, **mine,
            )
        )  # fmt: skip
        conn.execute(
            sa.insert(t.tasks).values(id=UUID(int=2), name="x", status="done", created_at=NOW, **mine)
        )
        conn.execute(
            sa.insert(t.error_logs).values(
                id=UUID(int=3), created_at=NOW, severity="error", source="", message="x", **mine
            )
        )
        conn.execute(
            sa.insert(t.web_sessions).values(
                id_hash="x", access_key=world.idle.access_key, created_at=NOW, expires_at=NOW
            )
        )

    await world.database.run(op)
    await world.directory.purge_user(world.root, world.idle.email)
    for table in (t.templates, t.tasks, t.error_logs, t.web_sessions):
        assert not await world.rows(table), table.name
