"""`admin secrets ...`: the key that seals secrets in the database of a cluster on this machine. Works on the database itself, not through
the API: keys are named by their files, and never leave this process."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .command import State, command, home_of, home_option

if TYPE_CHECKING:
    from ai.backend.manager.rotation.service import Resealed

    from .home import Home


@click.group("secrets")
def secrets() -> None:
    """The key that seals secrets in the database."""


key_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@command("reseal", parent=secrets)
@home_option
@click.option(
    "--new-key-file", type=key_file, help="Its first key seals from now on. [default: HOME/secret.key]"
)
@click.option(
    "--old-key-file",
    "old_key_files",
    type=key_file,
    multiple=True,
    help="What some secrets are still sealed with; again for more. Older keys in the new file count too.",
)
@click.pass_obj
def reseal(
    state: State, home: str | None, new_key_file: Path | None, old_key_files: tuple[Path, ...]
) -> None:
    """Seal all secrets in the database with the newest key.

    May be repeated, also after it was broken off. When a secret opens with none of the keys, nothing is changed. See docs/admin/keys.md
    for the whole way from one key to the next.
    """
    import asyncio

    from .display import print_json
    from .home import Home

    place = Home(home_of(home))
    _check(place, new_key_file)
    done = asyncio.run(_reseal(place, new_key_file or place.secret_file, old_key_files))
    if state.json:
        print_json({"resealed": done.resealed, "already": done.already})
        return
    click.echo(f"{done.resealed} secrets were sealed anew, {done.already} had the newest key already")


def _check(home: "Home", new_key_file: Path | None) -> None:
    """Whoever runs on the home must know the new key already, or it will soon know nobody. Raises Conflict or ConfigError."""
    from ai.backend.common.errors import ConfigError, Conflict

    from .home import is_locked

    if not home.secret_file.exists():
        raise ConfigError(
            f"there is no key file in {home.path}", hint="Name the cluster's folder with --home."
        )
    if not is_locked(home):
        return
    other = new_key_file is not None and not new_key_file.samefile(home.secret_file)
    if other or not home.cluster_file.exists() or _changed_since_start(home):
        raise Conflict(
            "the cluster that runs here has not read the new key",
            hint=f"Put the key in front of {home.secret_file} and start the cluster anew; then come back.",
        )


def _changed_since_start(home: "Home") -> bool:
    return home.secret_file.stat().st_mtime_ns >= home.cluster_file.stat().st_mtime_ns


async def _reseal(home: "Home", new: Path, old: tuple[Path, ...]) -> "Resealed":
    import secrets as randomness

    from ai.backend.common import config as configuration
    from ai.backend.common.errors import ConfigError
    from ai.backend.manager.db.migration import require_newest
    from ai.backend.manager.db.opening import open_database
    from ai.backend.manager.rotation.service import Rotation
    from ai.backend.manager.secret import FileSecrets

    from .embedded import ClusterConfig

    settings = configuration.load(
        ClusterConfig, home.config_file if home.config_file.exists() else None, environ=os.environ
    )
    if not settings.database.url and not home.database_file.exists():
        raise ConfigError(f"there is no database in {home.path}", hint="Start the cluster once.")
    rng = randomness.SystemRandom()
    keys = FileSecrets(new, rng, older=old)
    database = await open_database(settings.database.url or f"sqlite:///{home.database_file}", rng=rng)
    try:
        await require_newest(database)
        return await Rotation(database, keys).reseal()
    finally:
        await database.close()
