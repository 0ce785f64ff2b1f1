"""What every database adapter must do: the traps that lose updates, times and types without saying so."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from ai.backend.manager.db.column import JsonDocument, UtcDateTime
from ai.backend.manager.db.database import Database, UniqueViolation
from ai.backend.manager.db.schema import domains, user_policies, users
from ai.backend.manager.db.schema import metadata as schema
from ai.backend.manager.db.upsert import upsert

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)
_metadata = sa.MetaData()
counters = sa.Table(
    "contract_counters",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("value", sa.Integer, nullable=False, default=0),
    sa.Column("owner", sa.Integer, nullable=True),
    sa.Column("at", UtcDateTime, nullable=True),
    sa.Column("document", JsonDocument, nullable=True),
)
children = sa.Table(
    "contract_children",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("parent", sa.ForeignKey("contract_counters.id"), nullable=False),
)


def increment(conn: sa.Connection) -> None:
    value = conn.execute(sa.select(counters.c.value).where(counters.c.id == 1)).scalar_one()
    conn.execute(sa.update(counters).where(counters.c.id == 1).values(value=value + 1))


def values(conn: sa.Connection) -> list[int]:
    return list(conn.execute(sa.select(counters.c.value).order_by(counters.c.id)).scalars())


async def put_and_get(database: Database, column: str, value: Any) -> Any:
    statement = sa.update(counters).where(counters.c.id == 1).values({column: value})
    await database.run(lambda conn: conn.execute(statement).close())
    return await database.read(
        lambda conn: conn.execute(sa.select(counters.c[column]).where(counters.c.id == 1)).scalar_one()
    )


class DatabaseContract:
    """Subclass with a fixture `database`: open, empty."""

    @pytest.fixture(autouse=True)
    async def _tables(self, database: Database) -> None:
        await database.alter(_metadata.create_all)
        rows = [{"id": n, "value": 0} for n in range(1, 3)]
        await database.run(lambda conn: conn.execute(sa.insert(counters), rows).close())

    async def test_no_update_is_lost(self, database: Database) -> None:
        async def many() -> None:
            for _ in range(40):
                await database.run(increment)

        await asyncio.gather(*(many() for _ in range(8)))
        assert await database.read(values) == [320, 0]

    async def test_claims_are_unique(self, database: Database) -> None:
        """SKIP LOCKED is dropped by SQLite without a word; the guard in WHERE is what makes claims unique."""
        rows = [{"id": n, "value": -1} for n in range(100, 500)]

        def claim(conn: sa.Connection) -> int | None:
            free = sa.select(counters.c.id).where(counters.c.value == -1).order_by(counters.c.id).limit(1)
            claimed = (
                sa.update(counters)
                .where(
                    counters.c.id == free.with_for_update(skip_locked=True).scalar_subquery(),
                    counters.c.value == -1,
                )
                .values(value=1)
                .returning(counters.c.id)
            )
            return conn.execute(claimed).scalar_one_or_none()

        await database.run(lambda conn: conn.execute(sa.insert(counters), rows).close())
        got: list[int] = []

        async def worker() -> None:
            while (found := await database.run(claim)) is not None:
                got.append(found)

        await asyncio.gather(*(worker() for _ in range(6)))
        assert sorted(got) == list(range(100, 500))

    async def test_times_come_back_aware_and_equal(self, database: Database) -> None:
        moment = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
        back = await put_and_get(database, "at", moment)
        assert back == moment and back.tzinfo is UTC

    async def test_naive_times_are_refused(self, database: Database) -> None:
        with pytest.raises((AssertionError, sa.exc.StatementError)):
            await put_and_get(database, "at", datetime(2026, 1, 1))  # noqa: DTZ001
        assert await database.read(values) == [0, 0]

    @pytest.mark.parametrize(
        "document", [{"mem": 1 << 60, "nested": {"list": [1, None, "é", True, 0.5]}}, {}, [], "", None, 0]
    )
    async def test_documents_round_trip(self, database: Database, document: object) -> None:
        assert await put_and_get(database, "document", document) == document

    async def test_foreign_keys_are_enforced(self, database: Database) -> None:
        with pytest.raises(sa.exc.IntegrityError):
            await database.run(
                lambda conn: conn.execute(sa.insert(children).values(id=1, parent=999)).close()
            )

    async def test_a_taken_key_is_told_by_its_name_in_the_schema(self, database: Database) -> None:
        await database.alter(schema.create_all)

        def add_domain(conn: sa.Connection) -> None:
            conn.execute(sa.insert(domains).values(name="d", created_at=NOON))

        def add_user(number: int, email: str, username: str) -> Any:
            row = {"id": UUID(int=number), "email": email, "username": username, "role": "user"}
            row |= {"password_hash": "", "domain_name": "d", "created_at": NOON}
            return lambda conn: conn.execute(sa.insert(users).values(row)).close()

        await database.run(add_domain)
        await database.run(
            lambda conn: conn.execute(
                sa.insert(user_policies).values(name="default", created_at=NOON)
            ).close()
        )
        await database.run(add_user(1, "a", "a"))
        for op, name in (
            (add_domain, "pk_domains"),
            (add_user(1, "b", "b"), "pk_users"),
            (add_user(2, "a", "b"), "uq_users_email"),
            (add_user(2, "b", "a"), "uq_users_username"),
        ):
            with pytest.raises(UniqueViolation) as told:
                await database.run(op)
            assert told.value.constraint == name

    async def test_a_failing_unit_leaves_nothing(self, database: Database) -> None:
        class OwnError(Exception):
            pass

        def op(conn: sa.Connection) -> None:
            conn.execute(sa.update(counters).values(value=77))
            raise OwnError

        for _ in range(20):  # more than any pool has connections
            with pytest.raises(OwnError):
                await database.run(op)
        assert await database.read(values) == [0, 0]
        await database.run(increment)
        assert await database.read(values) == [1, 0]

    async def test_a_mistake_in_the_statement_is_no_outage(self, database: Database) -> None:
        with pytest.raises(sa.exc.DBAPIError):
            await database.run(lambda conn: conn.exec_driver_sql("SELECT nothing FROM nowhere").scalar())

    async def test_reading_refuses_to_write(self, database: Database) -> None:
        for _ in range(2):
            with pytest.raises(sa.exc.DBAPIError):
                await database.read(increment)
        assert await database.read(values) == [0, 0]
        await database.run(increment)
        assert await database.read(values) == [1, 0]

    async def test_savepoints_roll_back_alone(self, database: Database) -> None:
        def op(conn: sa.Connection) -> None:
            conn.execute(sa.update(counters).where(counters.c.id == 1).values(value=5))
            with conn.begin_nested() as savepoint:
                conn.execute(sa.update(counters).where(counters.c.id == 2).values(value=6))
                savepoint.rollback()

        await database.run(op)
        assert await database.read(values) == [5, 0]

    async def test_a_cancelled_wait_breaks_nothing(self, database: Database) -> None:
        def both(conn: sa.Connection) -> None:
            for number in (1, 2):
                row = counters.c.id == number
                conn.execute(sa.update(counters).where(row).values(value=counters.c.value + 1))

        async def waiting() -> None:
            while True:
                await database.run(both)

        for round_ in range(25):
            tasks = [asyncio.create_task(waiting()) for _ in range(3)]
            await asyncio.sleep(0.0007 * round_)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            first, second = await database.read(values)
            assert first == second
        await asyncio.gather(*(database.run(both) for _ in range(20)))
        first, second = await database.read(values)
        assert first == second

    async def test_upsert(self, database: Database) -> None:
        rows = [{"id": n, "value": n, "owner": n} for n in range(1, 5)]
        kept = await database.run(lambda conn: upsert(conn, counters, rows, key=["id"]))
        assert kept == 2 and await database.read(values) == [0, 0, 3, 4]
        changed = await database.run(lambda conn: upsert(conn, counters, rows, key=["id"], update=["value"]))
        assert changed == 4 and await database.read(values) == [1, 2, 3, 4]
        owners = sa.select(counters.c.owner).order_by(counters.c.id)
        assert await database.read(lambda conn: list(conn.execute(owners).scalars())) == [None, None, 3, 4]
        one = {"id": 9, "value": 9}
        assert await database.run(lambda conn: upsert(conn, counters, one, key=["id"])) == 1
        assert await database.run(lambda conn: upsert(conn, counters, [], key=["id"])) == 0

    async def test_upsert_of_more_rows_than_a_statement_takes(self, database: Database) -> None:
        rows = [{"id": n, "value": 7} for n in range(1000, 9000)]
        assert await database.run(lambda conn: upsert(conn, counters, rows, key=["id"])) == 8000
