"""From a configured URL to an open database."""

from pathlib import Path

from ai.backend.common.errors import ConfigError
from ai.backend.common.ids import Random

from .database import Database
from .postgres import PostgresDatabase
from .sqlite import SqliteDatabase


async def open_database(url: str, *, rng: Random) -> Database:
    """`sqlite:///PATH` or `postgresql://...`. Raises ConfigError for other URLs, DatabaseUnavailable when it does not answer."""
    scheme, _, rest = url.partition("://")
    database: Database
    if scheme == "sqlite":
        database = SqliteDatabase(Path(rest.removeprefix("/")))
    elif scheme in ("postgresql", "postgres"):
        database = PostgresDatabase(url, rng=rng)
    else:
        raise ConfigError(
            f"no database speaks {scheme!r}",
            hint="Use sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME.",
        )
    await database.open()
    return database
