"""Databases for the manager's tests: each test has its own."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ai.backend.manager.db.database import Database
from ai.backend.manager.db.migration import migrate
from ai.backend.manager.db.opening import open_database
from ai.backend.testkit.inline_database import InlineDatabase
from ai.backend.testkit.postgres import PrivatePostgres, postgres  # noqa: F401 (a fixture)

pytest.register_assert_rewrite("ai.backend.testkit.database_contract")

POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)


@pytest.fixture(params=["sqlite", "inline", POSTGRES])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """Open and empty, by every adapter."""
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


@pytest.fixture(params=["sqlite", POSTGRES])
async def migrated(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """Open, with the newest schema, on both engines."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    if request.param == "postgres":
        server: PrivatePostgres = request.getfixturevalue("postgres")
        url = await server.create_migrated()
    made = await open_database(url, rng=random.Random(1))
    if request.param == "sqlite":
        await migrate(made)
    yield made
    await made.close()
