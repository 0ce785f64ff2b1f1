"""Migrations, up and down, on both engines."""

import asyncio
import random
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations

from ai.backend.manager.db.database import Database, SchemaUnknown, UniqueViolation
from ai.backend.manager.db.migration import downgrade, migrate
from ai.backend.manager.db.postgres import PostgresDatabase
from ai.backend.manager.db.schema import domains, metadata, projects, sessions, users
from ai.backend.testkit.postgres import PrivatePostgres

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def differences(conn: sa.Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(conn, opts={"compare_type": True}), metadata))


def indexes(conn: sa.Connection) -> dict[str, tuple[list[str | None], bool]]:
    """Of sessions: autogenerate does not compare what is partial."""
    return {
        str(index["name"]): (index["column_names"], bool(index["unique"]))
        for index in sa.inspect(conn).get_indexes("sessions")
    }


async def test_up_down_and_up_again(database: Database) -> None:
    await migrate(database)
    assert await database.read(differences) == []
    await downgrade(database, "base")
    left = await database.read(lambda conn: sa.inspect(conn).get_table_names())
    assert set(left) <= {"alembic_version"}
    await migrate(database)
    assert await database.read(differences) == []
    await migrate(database)


async def test_a_difference_would_be_seen(migrated: Database) -> None:
    await migrated.alter(lambda conn: conn.exec_driver_sql("ALTER TABLE users ADD extra INTEGER").close())
    assert "extra" in str(await migrated.read(differences))


def fill(conn: sa.Connection) -> None:
    conn.execute(sa.insert(domains).values(name="d", created_at=NOW))
    conn.execute(sa.insert(projects).values(id=UUID(int=1), name="p", domain_name="d", created_at=NOW))
    conn.execute(
        sa.insert(users).values(
            id=UUID(int=1),
            email="e",
            username="u",
            password_hash="",
            role="user",
            domain_name="d",
            created_at=NOW,
        )
    )


def session(number: int, status: str, name: str = "mine") -> Any:
    row = {
        "id": UUID(int=number),
        "name": name,
        "session_type": "interactive",
        "status": status,
        "status_changed_at": NOW,
        "domain_name": "d",
        "project_id": UUID(int=1),
        "user_id": UUID(int=1),
        "access_key": "AKIA",
        "resource_group": "default",
        "requested_slots": {},
        "created_at": NOW,
    }
    return lambda conn: conn.execute(sa.insert(sessions).values(row)).close()


async def test_one_live_session_of_a_name(migrated: Database) -> None:
    await migrated.run(fill)
    # Where it was migrated: SQLite's PRAGMAs do not notice what another connection altered.
    assert (await migrated.alter(indexes))["uq_sessions_live_name"] == (["access_key", "name"], True)
    for number, status in ((1, "TERMINATED"), (2, "CANCELLED"), (3, "TERMINATED"), (4, "RUNNING")):
        await migrated.run(session(number, status))
    for status in ("PENDING", "RUNNING", "ERROR"):
        with pytest.raises(UniqueViolation) as told:
            await migrated.run(session(5, status))
        assert told.value.constraint == "uq_sessions_live_name"
    await migrated.run(session(5, "PENDING", "other"))
    with pytest.raises(UniqueViolation):
        await migrated.run(
            lambda conn: conn.execute(
                sa.update(sessions).where(sessions.c.id == UUID(int=1)).values(status="RUNNING")
            ).close()
        )


def copy_projects(conn: sa.Connection) -> None:
    """As a later migration will: on SQLite a change of a column copies the table."""
    operations = Operations(MigrationContext.configure(conn))
    with operations.batch_alter_table("projects") as batch:
        batch.alter_column("description", type_=sa.String(1024), existing_type=sa.String(512))


async def test_a_table_that_others_refer_to_can_be_changed(migrated: Database) -> None:
    await migrated.run(fill)
    await migrated.run(session(1, "RUNNING"))
    await migrated.alter(copy_projects)
    rows = sa.select(sa.func.count()).select_from(sessions.join(projects))
    assert await migrated.read(lambda conn: conn.execute(rows).scalar_one()) == 1
    with pytest.raises(sa.exc.IntegrityError):
        await migrated.run(lambda conn: conn.execute(sa.delete(projects)).close())


async def test_a_migration_that_breaks_references_is_undone(migrated: Database) -> None:
    await migrated.run(fill)
    await migrated.run(session(1, "RUNNING"))
    with pytest.raises((AssertionError, sa.exc.IntegrityError)):
        await migrated.alter(lambda conn: conn.execute(sa.delete(projects)).close())
    count = sa.select(sa.func.count()).select_from(projects)
    assert await migrated.read(lambda conn: conn.execute(count).scalar_one()) == 1


async def test_a_newer_database_is_left_alone(migrated: Database) -> None:
    await migrated.run(
        lambda conn: conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'").close()
    )
    with pytest.raises(SchemaUnknown):
        await migrate(migrated)
    assert await migrated.read(lambda conn: sa.inspect(conn).has_table("sessions"))


@pytest.mark.postgres
async def test_managers_that_start_together_migrate_once(postgres: PrivatePostgres) -> None:
    url = postgres.create()
    managers = [PostgresDatabase(url, rng=random.Random(n)) for n in range(4)]
    await asyncio.gather(*(migrate(manager) for manager in managers))
    assert await managers[0].read(differences) == []
    for manager in managers:
        await manager.close()
