"""The database contract on every adapter, and what is one engine's own."""

import asyncio
import random
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.util import await_only

from ai.backend.common.errors import ConfigError
from ai.backend.manager.db.database import DatabaseBusy, DatabaseFull, DatabaseUnavailable
from ai.backend.manager.db.opening import open_database
from ai.backend.manager.db.postgres import PostgresDatabase
from ai.backend.manager.db.sqlite import SqliteDatabase, constraint_of, driver_of
from ai.backend.manager.db.statement import Query
from ai.backend.testkit.database_contract import DatabaseContract
from ai.backend.testkit.postgres import PrivatePostgres


class TestContract(DatabaseContract):
    pass


def count(conn: sa.Connection) -> int:
    found: int = conn.exec_driver_sql("SELECT count(*) FROM t").scalar_one()
    return found


def insert(conn: sa.Connection) -> None:
    conn.exec_driver_sql("INSERT INTO t VALUES (1)")


def create(conn: sa.Connection) -> None:
    conn.exec_driver_sql("CREATE TABLE t (a INTEGER)")


async def test_sqlite_reads_a_snapshot_and_waits_for_no_writer(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "t.db", lock_timeout_s=0.05)
    await database.open()
    await database.run(create)
    other = sqlite3.connect(tmp_path / "t.db", isolation_level=None)

    def twice(conn: sa.Connection) -> tuple[int, int]:
        before = count(conn)
        other.execute("INSERT INTO t VALUES (1)")
        return before, count(conn)

    assert await database.read(twice) == (0, 0)
    assert await database.read(count) == 1
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM t")
    assert await database.read(count) == 1
    with pytest.raises(DatabaseBusy):
        await database.run(insert)
    other.execute("ROLLBACK")
    await database.run(insert)
    assert await database.read(count) == 2
    other.close()
    await database.close()


async def test_sqlite_is_not_asked_again_while_nothing_changes(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "t.db")
    await database.open()
    await database.run(create)
    await database.run(insert)
    table = sa.table("t", sa.column("a"))
    query = Query(sa.select(table.c.a).where(table.c.a >= sa.bindparam("least", 0)))
    asked: list[str] = []

    def op(conn: sa.Connection) -> tuple[int, int]:
        driver_of(conn).set_trace_callback(asked.append)
        return len(query(conn, least=1)), len(query(conn, least=2))

    async def answers() -> tuple[tuple[int, int], int]:
        asked.clear()
        found = await database.read(op)
        return found, sum("FROM t" in text for text in asked)

    assert await answers() == ((1, 0), 2)
    assert await answers() == ((1, 0), 0)
    await database.run(insert)
    assert await answers() == ((2, 0), 2), "our own writer changed it"
    other = sqlite3.connect(tmp_path / "t.db", isolation_level=None)
    other.execute("INSERT INTO t VALUES (3)")
    other.close()
    assert await answers() == ((3, 1), 2), "another program did"
    assert await answers() == ((3, 1), 0)

    def changing(conn: sa.Connection) -> list[int]:
        before = len(query(conn, least=1))
        conn.exec_driver_sql("DELETE FROM t")
        return [before, len(query(conn, least=1))]

    assert await database.run(changing) == [3, 0], "whoever writes sees their own changes"
    await database.close()


async def test_what_was_kept_of_one_database_is_not_told_of_another(tmp_path: Path) -> None:
    """One process may open many, one after the other, and what it asks is the same."""
    query = Query(sa.select(sa.table("t", sa.column("a")).c.a))
    for number in range(40):
        database = SqliteDatabase(tmp_path / f"{number}.db")
        await database.open()
        await database.run(create)
        for _ in range(number % 3):
            await database.run(insert)
        assert len(await database.read(query)) == number % 3
        await database.close()


async def test_sqlite_is_one_private_file_when_closed(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "t.db")
    await database.open()
    await database.run(create)
    assert (tmp_path / "t.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "t.db-wal").stat().st_mode & 0o777 == 0o600
    await database.close()
    assert [path.name for path in tmp_path.iterdir()] == ["t.db"]


async def test_sqlite_waits_for_what_a_cancelled_caller_began(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "t.db")
    await database.open()
    await database.run(create)
    tasks = [asyncio.create_task(database.run(insert)) for _ in range(50)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await database.close()
    await database_is_sound(tmp_path / "t.db")


async def database_is_sound(path: Path) -> None:
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    other.close()


async def test_a_full_disk_is_told(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "t.db")
    await database.open()
    await database.run(create)

    def grow(conn: sa.Connection) -> None:
        conn.exec_driver_sql("PRAGMA max_page_count=10")
        conn.exec_driver_sql("INSERT INTO t VALUES (zeroblob(1000000))")

    with pytest.raises(DatabaseFull):
        await database.run(grow)
    await database.run(insert)
    assert await database.read(count) == 1
    await database.close()


async def test_files_that_are_no_database_are_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be looked at" * 100)
    (tmp_path / "folder").mkdir()
    for name in ("text", "folder", "missing/t.db"):
        with pytest.raises(DatabaseUnavailable):
            await SqliteDatabase(tmp_path / name).open()


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("UNIQUE constraint failed: sessions.access_key, sessions.name", "uq_sessions_live_name"),
        ("UNIQUE constraint failed: projects.domain_name, projects.name", "uq_projects_domain_name_name"),
        ("UNIQUE constraint failed: agent_images.agent_id, agent_images.image_name", "pk_agent_images"),
        ("UNIQUE constraint failed: index 'uq_lower'", "uq_lower"),
        ("UNIQUE constraint failed: later.a, later.b", "uq_later_a_b"),
    ],
)
def test_sqlite_names_constraints_as_the_schema_does(message: str, name: str) -> None:
    assert constraint_of(message) == name


@pytest.mark.postgres
class TestPostgres:
    @pytest.fixture
    async def url(self, postgres: PrivatePostgres) -> str:
        return postgres.create()

    async def test_reads_a_snapshot_and_waits_for_no_writer(self, url: str) -> None:
        database, other = (PostgresDatabase(url, rng=random.Random(n)) for n in (1, 2))
        await database.run(create)

        def twice(conn: sa.Connection) -> tuple[int, int]:
            before = count(conn)
            await_only(other.run(insert))
            return before, count(conn)

        assert await database.read(twice) == (0, 0)

        def meanwhile(conn: sa.Connection) -> int:
            conn.exec_driver_sql("UPDATE t SET a = 2")
            found: int = await_only(other.read(count))
            return found

        assert await database.run(meanwhile) == 1
        await database.close()
        await other.close()

    async def test_a_transaction_that_conflicts_for_ever_is_given_up(self, url: str) -> None:
        database, other = (PostgresDatabase(url, rng=random.Random(n)) for n in (1, 2))
        await database.run(create)
        await database.run(insert)
        tries = 0

        def bump(conn: sa.Connection) -> None:
            conn.exec_driver_sql("UPDATE t SET a = a + 1")

        def beaten(conn: sa.Connection) -> None:
            nonlocal tries
            tries += 1
            count(conn)
            await_only(other.run(bump))
            bump(conn)

        with pytest.raises(DatabaseBusy):
            await database.run(beaten)
        assert tries == 12
        assert await database.read(lambda conn: conn.exec_driver_sql("SELECT a FROM t").scalar_one()) == 13
        await database.close()
        await other.close()

    async def test_a_lost_connection_is_told_and_replaced(self, url: str) -> None:
        database = PostgresDatabase(url, rng=random.Random(1))
        await database.run(create)

        def die(conn: sa.Connection) -> None:
            insert(conn)
            conn.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

        with pytest.raises(DatabaseUnavailable):
            await database.run(die)
        assert await database.read(count) == 0
        await database.close()

    async def test_a_server_that_restarts(self, postgres: PrivatePostgres, url: str) -> None:
        database = PostgresDatabase(url, rng=random.Random(1))
        await database.run(create)
        await asyncio.to_thread(postgres.stop)
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await database.run(insert)
        # In this thread: the server ends with the thread that started it.
        postgres.start()
        await database.run(insert)
        assert await database.read(count) == 1
        await database.close()

    @pytest.mark.parametrize("part", ["nobody@/postgres", "postgres@/nothing"])
    async def test_wrong_users_and_names_are_told(self, postgres: PrivatePostgres, part: str) -> None:
        with pytest.raises(DatabaseUnavailable):
            await open_database(f"postgresql://{part}?host={postgres.root}", rng=random.Random(1))

    async def test_sslmode_is_understood(self, url: str) -> None:
        await (await open_database(f"{url}&sslmode=disable", rng=random.Random(1))).close()


async def test_servers_that_are_not_there_are_told() -> None:
    for address in ("nobody@/nothing?host=/nonexistent", "nobody@127.0.0.1:1/nothing"):
        with pytest.raises(DatabaseUnavailable):
            await open_database(f"postgresql://{address}", rng=random.Random(1))


@pytest.mark.parametrize(
    "url", ["mysql://x/y", "postgresql://u:hush@h:port/x", "postgresql://u:hush@h/x?pool=1"]
)
async def test_malformed_urls_are_told_without_their_password(url: str) -> None:
    with pytest.raises(ConfigError) as told:
        await open_database(url, rng=random.Random(1))
    assert "hush" not in str(told.value) and told.value.__cause__ is None


async def test_sqlite_enforces_foreign_keys_on_every_connection(tmp_path: Path) -> None:
    first, again = (SqliteDatabase(tmp_path / "t.db") for _ in range(2))
    await first.open()
    await first.run(create)
    await first.run(lambda conn: conn.exec_driver_sql("CREATE TABLE c (t INTEGER REFERENCES t (a))").close())
    await first.close()
    await again.open()
    # The parent's column is no key: only an enforced reference is looked at, and found wanting.
    with pytest.raises(sa.exc.DBAPIError):
        await again.run(lambda conn: conn.exec_driver_sql("INSERT INTO c VALUES (7)").close())
    await again.close()
