"""Brings a database to the newest schema, from any older one. Alembic, run from code on the database's own connection.

A migration is one transaction, on both engines: it is there whole or not at all. Processes that start together migrate one after another
(`Database.alter`), and the later ones find nothing to do.
"""

from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from .database import Database, SchemaUnknown

SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"


def configuration(connection: sa.Connection | None = None) -> Config:
    """Alembic's configuration, with the connection that env.py shall use."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def migrate(database: Database, revision: str = "head") -> None:
    """Upgrades to `revision`; does nothing when the database is there already.

    Raises SchemaUnknown for a database that a newer version of this program has migrated.
    """
    await database.alter(_with_alembic(command.upgrade, revision))


async def downgrade(database: Database, revision: str) -> None:
    """Goes back to an older `revision` ("base" for none), and drops what came after it."""
    await database.alter(_with_alembic(command.downgrade, revision))


async def require_newest(database: Database) -> None:
    """For whoever works on the tables without being the one who changes them. Raises SchemaUnknown."""

    def op(connection: sa.Connection) -> bool:
        newest = ScriptDirectory.from_config(configuration()).get_current_head()
        return MigrationContext.configure(connection).get_current_revision() == newest

    if not await database.read(op):
        raise SchemaUnknown(
            "the database's tables are not those of this version",
            hint="Start the cluster with this version once: that brings them up to date.",
        )


def _with_alembic(step: Callable[[Config, str], None], revision: str) -> Callable[[sa.Connection], None]:
    def op(connection: sa.Connection) -> None:
        try:
            step(configuration(connection), revision)
        except CommandError as exc:
            raise SchemaUnknown(
                "this version does not know the state of the database's tables",
                hint="Use the version that ran last, or restore the copy made before the upgrade.",
            ) from exc

    return op
