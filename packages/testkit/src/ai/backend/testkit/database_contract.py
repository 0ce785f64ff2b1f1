"""What every database adapter must do: the traps that lose updates, times and types without saying so."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from ai.backend.manager.db.column import JsonDocument, UtcDateTime
from ai.backend.manager.db.database import Database, UniqueViolation

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


class DatabaseContract:
    """Subclass with a fixture `database`: open, empty."""

    @pytest.fixture(autouse=True)
    async def _tables(self, database: Database) -> None:
        await database.alter(_metadata.create_all)
        await database.run(
            lambda conn: conn.execute(
                sa.insert(counters), [{"id": n, "value": 0} for n in range(1, 3)]
            ).close()
        )

    async def test_no_update_is_lost(self, database: Database) -> None:
        def increment(conn: sa.Connection) -> None:
            value = conn.execute(sa.select(counters.c.value).where(counters.c.id == 1)).scalar_one()
            conn.execute(sa.update(counters).where(counters.c.id == 1).values(value=value + 1))

        async def many() -> None:
            for _ in range(20):
                await database.run(increment)

        await asyncio.gather(*(many() for _ in range(6)))
        value = await database.read(
            lambda conn: conn.execute(sa.select(counters.c.value).where(counters.c.id == 1)).scalar_one()
        )
        assert value == 120

    async def test_claims_are_unique(self, database: Database) -> None:
        def fill(conn: sa.Connection) -> None:
            conn.execute(sa.insert(counters), [{"id": n, "value": -1} for n in range(100, 220)])

        def claim(conn: sa.Connection) -> int | None:
            free = sa.select(counters.c.id).where(counters.c.value == -1).order_by(counters.c.id).limit(1)
            done = conn.execute(
                sa.update(counters)
                .where(counters.c.id == free.scalar_subquery(), counters.c.value == -1)
                .values(value=1)
                .returning(counters.c.id)
            )
            return done.scalar_one_or_none()

        await database.run(fill)
        claimed: list[int] = []

        async def worker() -> None:
            while (found := await database.run(claim)) is not None:
                claimed.append(found)

        await asyncio.gather(*(worker() for _ in range(6)))
        assert sorted(claimed) == list(range(100, 220))

    async def test_times_come_back_aware_and_equal(self, database: Database) -> None:
        moment = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
        await database.run(
            lambda conn: conn.execute(sa.update(counters).where(counters.c.id == 1).values(at=moment)).close()
        )
        back = await database.read(
            lambda conn: conn.execute(sa.select(counters.c.at).where(counters.c.id == 1)).scalar_one()
        )
        assert back == moment and back.tzinfo is UTC

    async def test_documents_round_trip(self, database: Database) -> None:
        document = {"mem": 1 << 40, "nested": {"list": [1, None, "é"]}}
        await database.run(
            lambda conn: conn.execute(
                sa.update(counters).where(counters.c.id == 1).values(document=document)
            ).close()
        )
        back = await database.read(
            lambda conn: conn.execute(sa.select(counters.c.document).where(counters.c.id == 1)).scalar_one()
        )
        assert back == document

    async def test_foreign_keys_and_unique_keys_are_enforced(self, database: Database) -> None:
        with pytest.raises(sa.exc.IntegrityError):
            await database.run(
                lambda conn: conn.execute(sa.insert(children).values(id=1, parent=999)).close()
            )
        with pytest.raises(UniqueViolation):
            await database.run(lambda conn: conn.execute(sa.insert(counters).values(id=1, value=0)).close())

    async def test_a_failing_unit_leaves_nothing(self, database: Database) -> None:
        class OwnError(Exception):
            pass

        def op(conn: sa.Connection) -> None:
            conn.execute(sa.update(counters).values(value=77))
            raise OwnError

        with pytest.raises(OwnError):
            await database.run(op)
        values = await database.read(lambda conn: conn.execute(sa.select(counters.c.value)).scalars().all())
        assert 77 not in values

    async def test_savepoints_roll_back_alone(self, database: Database) -> None:
        def op(conn: sa.Connection) -> None:
            conn.execute(sa.update(counters).where(counters.c.id == 1).values(value=5))
            with conn.begin_nested() as savepoint:
                conn.execute(sa.update(counters).where(counters.c.id == 2).values(value=6))
                savepoint.rollback()

        await database.run(op)
        values = await database.read(
            lambda conn: conn.execute(sa.select(counters.c.value).order_by(counters.c.id)).scalars().all()
        )
        assert list(values) == [5, 0]

    async def test_a_cancelled_wait_breaks_nothing(self, database: Database) -> None:
        async def waiting() -> None:
            while True:
                await database.run(
                    lambda conn: conn.execute(sa.update(counters).values(value=counters.c.value + 1)).close()
                )

        task = asyncio.create_task(waiting())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        first, second = await database.read(
            lambda conn: list(conn.execute(sa.select(counters.c.value).order_by(counters.c.id)).scalars())
        )
        assert first == second
        await database.run(lambda conn: conn.execute(sa.update(counters).values(value=0)).close())
