"""The database contract on every adapter, and migrations up and down on both engines."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from ai.backend.manager.db.database import Database, DatabaseUnavailable
from ai.backend.manager.db.migration import migrate
from ai.backend.manager.db.opening import open_database
from ai.backend.manager.db.schema import metadata
from ai.backend.testkit.database_contract import DatabaseContract
from ai.backend.testkit.inline_database import InlineDatabase
from ai.backend.testkit.postgres import PrivatePostgres, postgres  # noqa: F401 (a fixture)


@pytest.fixture(params=["sqlite", "inline", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    made: Database
    if request.param == "inline":
        made = InlineDatabase()
        await made.open()
    else:
        url = f"sqlite:///{tmp_path / 'test.db'}"
        if request.param == "postgres":
            server: PrivatePostgres = request.getfixturevalue("postgres")
            url = server.create()
        made = await open_database(url, rng=random.Random(1))
    yield made
    await made.close()


class TestContract(DatabaseContract):
    pass


def differences(conn: sa.Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(conn, opts={"compare_type": True}), metadata))


async def test_migrations_go_up_down_and_up_and_match_the_tables(database: Database) -> None:
    await migrate(database)
    assert await database.read(differences) == []
    await migrate(database, "base")
    left = await database.read(lambda conn: sa.inspect(conn).get_table_names())
    assert set(left) <= {"alembic_version"}
    await migrate(database)
    assert await database.read(differences) == []
    await migrate(database)


async def test_a_database_that_is_not_there_is_told() -> None:
    with pytest.raises(DatabaseUnavailable):
        await open_database("postgresql://nobody@/nothing?host=/nonexistent", rng=random.Random(1))
