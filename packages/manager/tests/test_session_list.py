"""Lists of sessions: prepared statements tell what ordinary ones do, on both engines, and what is remembered is never old."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from ai.backend.common.clock import SystemClock
from ai.backend.common.ids import ProjectId
from ai.backend.manager.access.model import Principal
from ai.backend.manager.db.database import Database
from ai.backend.manager.db.schema import kernels, sessions
from ai.backend.manager.db.statement import Query
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.secret import FileSecrets
from ai.backend.manager.session import store

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def rows(user: Principal, project_id: UUID, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    common = {"id": uuid4(), "status_changed_at": NOW, "requested_slots": {"cpu": 1000}}
    session = {
        **common,
        "name": f"s{number}",
        "session_type": "interactive",
        "status": ("RUNNING", "TERMINATED", "PENDING")[number % 3],
        "domain_name": user.domain_name,
        "project_id": project_id,
        "user_id": user.user_id,
        "access_key": user.access_key,
        "resource_group": "default",
        "created_at": NOW + timedelta(seconds=number // 2),
    }
    kernel = {
        **common,
        "id": uuid4(),
        "session_id": session["id"],
        "cluster_role": "main",
        "cluster_idx": 1,
        "status": "RUNNING",
        "image_name": "python:3.11",
        "image_digest": "",
        "architecture": "x86_64",
        "shm_bytes": 0,
    }
    return session, kernel


class World:
    def __init__(self, database: Database, root: Principal, user: Principal, project_id: ProjectId) -> None:
        self.database, self.root, self.user, self.project_id = database, root, user, project_id

    async def page(
        self, principal: Principal, memo: store.Memo, limit: int = 100, offset: int = 0, **chosen: Any
    ) -> tuple[list[str], int]:
        selection = store.Selection(**chosen)
        found, total = await self.database.read(
            lambda conn: store.page(conn, principal, selection, memo=memo, limit=limit, offset=offset)
        )
        return [session.name for session in found], total


@pytest.fixture
async def world(migrated: Database, tmp_path: Path) -> World:
    rng = random.Random(3)
    identity = IdentityService(migrated, FileSecrets(tmp_path / "key", rng), clock=SystemClock(), rng=rng)
    seeded = await identity.seed(rng, NOW)
    root, _ = await identity.authenticate(seeded.admin.access_key)
    user, _ = await identity.authenticate(seeded.user.access_key)

    def op(conn: sa.Connection) -> None:
        made = [rows((root, user)[number % 2], seeded.project_id, number) for number in range(12)]
        conn.execute(sa.insert(sessions), [session for session, _ in made])
        conn.execute(sa.insert(kernels), [kernel for _, kernel in made])

    await migrated.run(op)
    return World(migrated, root, user, seeded.project_id)


async def test_pages_of_what_one_may_see(world: World) -> None:
    memo = store.Memo()
    names, total = await world.page(world.root, memo)
    assert total == 12 and [int(name[1:]) // 2 for name in names] == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0]
    paged = [(await world.page(world.root, memo, 5, offset))[0] for offset in (0, 5, 10, 15)]
    assert [name for names_of in paged for name in names_of] == names and paged[3] == []
    assert await world.page(world.user, memo) == (["s11", "s9", "s7", "s5", "s3", "s1"], 6)
    assert await world.page(world.user, memo, statuses=frozenset({"RUNNING"})) == (["s9", "s3"], 2)
    assert await world.page(world.root, memo, access_key=world.user.access_key, limit=1) == (["s11"], 6)
    assert await world.page(world.root, memo, domain_name="elsewhere") == ([], 0)
    assert await world.page(world.root, memo, statuses=frozenset()) == ([], 0)
    led = replace(world.user, administers=frozenset({world.project_id}))
    assert (await world.page(led, memo))[1] == 12


async def test_what_changed_is_read_anew(world: World) -> None:
    memo = store.Memo(size=4)  # smaller than a page: what is thrown out is read again
    assert (await world.page(world.root, memo))[1] == 12

    def rename(conn: sa.Connection) -> None:
        session = store.find(conn, sessions.c.name == "s7")[0]
        assert store.rename(conn, session, "renamed")
        store.update_kernel(conn, store.find(conn, sessions.c.name == "s6")[0].main.id, {"step": "pulling"})

    await world.database.run(rename)
    assert "renamed" in (await world.page(world.root, memo))[0]
    selection = store.Selection(access_key=world.root.access_key)
    found, _ = await world.database.read(
        lambda conn: store.page(conn, world.root, selection, memo=memo, limit=9, offset=0)
    )
    assert {session.name: session.main.step for session in found}["s6"] == "pulling"


async def test_a_prepared_query_tells_what_an_ordinary_statement_does(world: World) -> None:
    ids = await world.database.read(lambda conn: conn.execute(sa.select(sessions.c.id)).scalars().all())
    statement = (
        sa.select(sessions.c.id, sessions.c.created_at, sessions.c.requested_slots, sa.null())
        .where(
            sessions.c.id.in_(ids[:8]),
            sessions.c.created_at >= sa.bindparam("since", NOW, sessions.c.created_at.type),
            sessions.c.status != "TERMINATED",
        )
        .order_by(sessions.c.id)
    )
    query = Query(statement)
    for since in (NOW, NOW + timedelta(seconds=2), NOW + timedelta(days=1)):

        def op(conn: sa.Connection, since: datetime = since) -> tuple[list[Any], list[Any]]:
            ordinary = conn.execute(statement, {"since": since}).all()
            return [tuple(row) for row in query(conn, since=since)], [tuple(row) for row in ordinary]

        prepared, ordinary = await world.database.read(op)
        assert prepared == ordinary
        assert bool(ordinary) == (since < NOW + timedelta(days=1))
