"""Brings a database to the newest schema, from any older one. Alembic, run from code on the database's own connection."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from .database import Database

SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"


def configuration(connection: sa.Connection | None = None) -> Config:
    """Alembic's configuration, with the connection that env.py shall use."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    return config


async def migrate(database: Database, revision: str = "head") -> None:
    """Upgrades (or, to an older `revision`, downgrades) in one transaction."""

    def op(connection: sa.Connection) -> None:
        config = configuration(connection)
        if revision == "base" or revision.startswith("-"):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)

    await database.alter(op)
