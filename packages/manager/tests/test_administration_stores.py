"""The statements of settings, dotfiles, logs, tasks and resources, on SQLite and PostgreSQL alike."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from ai.backend.common.clock import SystemClock
from ai.backend.common.ids import AccessKey, ProjectId
from ai.backend.manager.access.model import Principal
from ai.backend.manager.audit import store as audit_store
from ai.backend.manager.audit.model import note
from ai.backend.manager.db.database import Database
from ai.backend.manager.db.schema import (
    resource_group_domains,
    resource_group_keypairs,
    resource_group_projects,
    resource_groups,
    resource_presets,
)
from ai.backend.manager.dotfile import store as dotfile_store
from ai.backend.manager.dotfile.model import Dotfile, Owner, Scope
from ai.backend.manager.errorlog import store as error_store
from ai.backend.manager.errorlog.model import ErrorLog, Severity
from ai.backend.manager.identity import store as identity_store
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.resource import store as resource_store
from ai.backend.manager.secret import FileSecrets
from ai.backend.manager.setting import store as setting_store
from ai.backend.manager.setting.model import ManagerState
from ai.backend.manager.task import store as task_store
from ai.backend.manager.task.model import Task, TaskStatus

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class World:
    def __init__(self, database: Database, user: Principal, project_id: ProjectId) -> None:
        self.database, self.user, self.project_id = database, user, project_id

    async def do(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.database.run(lambda conn: op(conn, *args, **kwargs))


@pytest.fixture
async def world(migrated: Database, tmp_path: Path) -> World:
    rng = random.SystemRandom()
    identity = IdentityService(migrated, FileSecrets(tmp_path / "key", rng), clock=SystemClock(), rng=rng)
    seeded = await identity.seed(random.Random(3), NOW)
    user, _ = await identity.authenticate(seeded.user.access_key)
    return World(migrated, user, seeded.project_id)


async def test_settings(world: World) -> None:
    before = await world.do(setting_store.status)
    assert (before.state, before.active_sessions, before.announcement) == (ManagerState.RUNNING, 0, "")
    await world.do(setting_store.put, {"manager/status": "frozen", "a/b": "1", "a_b": "2", "ab/c": "3"})
    await world.do(setting_store.put, {"a/b": "ü"})
    assert (await world.do(setting_store.status)).state is ManagerState.FROZEN
    assert await world.do(setting_store.get, "a/b") == "ü"
    assert await world.do(setting_store.below, "a") == {"a/b": "ü"}
    assert await world.do(setting_store.delete_below, "a") == 1
    assert set(await world.do(setting_store.below, "")) == {"manager/status", "a_b", "ab/c"}
    assert await world.do(setting_store.delete, "a_b") == 1
    assert await world.do(setting_store.set_schedulable, ["x"], schedulable=False) == ["x"]
    assert await world.do(setting_store.pending_and_schedulable) == (0, 0)
    assert await world.do(setting_store.capacity_slots, "default") == set()


async def test_dotfiles(world: World) -> None:
    key = world.user.access_key
    file = Dotfile(path=".a", permission="644", data="x")
    owners = [
        Owner(scope=Scope.USER, key=key),
        Owner(scope=Scope.PROJECT, key=str(world.project_id)),
        Owner(scope=Scope.DOMAIN, key="default"),
        Owner(scope=Scope.USER, key="SOMEBODY"),
        Owner(scope=Scope.DOMAIN, key=key),
    ]
    for owner in owners:
        await world.do(dotfile_store.put, owner, file)
        await world.do(dotfile_store.put, owner, replace(file, data=owner.scope.value))
    assert await world.do(dotfile_store.of_owner, owners[0]) == [replace(file, data="user")]
    found = await world.do(dotfile_store.for_session, key, world.project_id, "default")
    assert sorted((scope.value, f.data) for scope, f in found) == [
        ("domain", "domain"),
        ("project", "project"),
        ("user", "user"),
    ]
    assert await world.do(dotfile_store.delete, owners[0], ".a")
    assert not await world.do(dotfile_store.delete, owners[0], ".a")
    await world.do(dotfile_store.set_script, key, "echo")
    assert await world.do(dotfile_store.script, key) == "echo"
    assert await world.do(dotfile_store.script, AccessKey("NOBODY")) == ""


async def test_projects_by_name_and_by_id(world: World) -> None:
    for spelled in ("default", str(world.project_id), world.project_id.hex):
        assert await world.do(identity_store.find_project, spelled, "default", world.user.user_id) == (
            world.project_id,
            "default",
            True,
        )
    stranger = UUID(int=5)
    assert (await world.do(identity_store.find_project, "default", "default", stranger))[2] is False
    assert await world.do(identity_store.find_project, "default", "other", stranger) is None


async def test_error_logs(world: World) -> None:
    def log(number: int, minutes: int) -> ErrorLog:
        return ErrorLog(
            id=UUID(int=number),
            created_at=NOW + timedelta(minutes=minutes),
            severity=Severity.ERROR,
            source="s",
            user_id=world.user.user_id,
            message=f"m{number}",
            context_env={"a": [1]},
        )

    for number in range(1, 5):
        await world.do(error_store.insert, log(number, number), per_user_max=3)
    page = await world.do(error_store.page, world.user, with_cleared=False, limit=2, offset=0)
    assert ([item.message for item in page.items], page.total_count) == (["m4", "m3"], 3)
    assert page.items[0] == log(4, 4)
    await world.do(error_store.mark_read, page)
    assert await world.do(error_store.clear, world.user, UUID(int=3))
    assert not await world.do(error_store.clear, world.user, UUID(int=1))
    rest = await world.do(error_store.page, world.user, with_cleared=False, limit=9, offset=0)
    assert [(item.message, item.is_read) for item in rest.items] == [("m4", True), ("m2", False)]
    assert await world.do(error_store.forget_before, NOW + timedelta(minutes=4)) == 2


async def test_audit_log(world: World) -> None:
    for action, target in (("setting:set", "a%b"), ("setting:set", "axb"), ("agent:exclude", "a1")):
        await world.do(audit_store.write, note(world.user, action, target, NOW, number=1))
    page = await world.do(audit_store.page, action="setting", target="a%", limit=9, offset=0)
    assert [record.note.target for record in page.items] == ["a%b"]
    newest = await world.do(audit_store.page, action=None, target=None, limit=1, offset=0)
    assert (newest.total_count, newest.items[0].note) == (
        3,
        note(world.user, "agent:exclude", "a1", NOW, number=1),
    )


async def test_tasks(world: World) -> None:
    task = Task(
        id=UUID(int=1),
        name="t",
        user_id=world.user.user_id,
        status=TaskStatus.STARTED,
        current=0,
        total=0,
        message="",
        created_at=NOW,
    )
    await world.do(task_store.insert, task)
    await world.do(task_store.update, replace(task, current=1, total=2))
    assert (await world.do(task_store.get, task.id)).current == 1
    later, tomorrow = NOW + timedelta(seconds=1), NOW + timedelta(days=1)
    assert not await world.do(task_store.is_untidy, NOW, NOW)
    assert await world.do(task_store.is_untidy, later, NOW)
    await world.do(task_store.seen, [task.id], later)
    assert not await world.do(task_store.is_untidy, later, NOW)
    assert await world.do(task_store.abandon, later, "gone", NOW) == 0
    assert await world.do(task_store.abandon, later + timedelta(seconds=1), "gone", NOW) == 1
    assert not await world.do(task_store.is_untidy, tomorrow, NOW)
    assert await world.do(task_store.is_untidy, NOW, later)
    await world.do(task_store.update, replace(task, current=2))
    ended = await world.do(task_store.get, task.id)
    assert (ended.status, ended.message, ended.current) == (TaskStatus.FAILED, "gone", 1), (
        "what ended stays so"
    )
    assert await world.do(task_store.forget_before, NOW + timedelta(days=1)) == 1


async def test_resources(world: World) -> None:
    def fill(conn: sa.Connection) -> None:
        for name in ("d", "p", "k", "n"):
            conn.execute(sa.insert(resource_groups).values(name=name, created_at=NOW))
        conn.execute(sa.insert(resource_group_domains).values(resource_group="d", domain_name="default"))
        conn.execute(
            sa.insert(resource_group_projects).values(resource_group="p", project_id=world.project_id)
        )
        conn.execute(
            sa.insert(resource_group_keypairs).values(resource_group="k", access_key=world.user.access_key)
        )
        conn.execute(
            sa.insert(resource_presets).values(
                id=UUID(int=1), name="x", resource_slots={"cpu": 1000}, resource_group=""
            )
        )

    await world.do(fill)
    usable = await world.do(resource_store.usable_groups, world.user, "default", world.project_id)
    assert usable == {"default", "d", "p", "k"}
    elsewhere = await world.do(resource_store.usable_groups, world.user, "other", ProjectId(UUID(int=1)))
    assert elsewhere == {"k"}
    (preset,) = await world.do(resource_store.presets, "default")
    assert preset.slots.texts() == {"cpu": "1"}
    assert (await world.do(resource_store.keypair_limit, "default")).rest_is_unlimited
    assert (await world.do(resource_store.project_limit, world.project_id)).named == frozenset()
    assert (await world.do(resource_store.domain_limit, "default")).named == frozenset()
    assert await world.do(resource_store.holdings, "default") == []
    everything = {"project_ids": [world.project_id], "user_id": world.user.user_id}
    assert await world.do(resource_store.use, NOW, NOW + timedelta(days=1), **everything) == []
    assert not await world.do(resource_store.agent_exists, "a1")
