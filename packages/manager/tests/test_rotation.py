"""A new key for what is sealed: all of it or nothing, any number of times, and after a kill in the middle."""

import asyncio
import random
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ai.backend.common.clock import SystemClock
from ai.backend.manager.access.model import Principal
from ai.backend.manager.account.service import AccountService, ssh_context
from ai.backend.manager.config import LoginConfig
from ai.backend.manager.db import schema as t
from ai.backend.manager.db.database import Database, SchemaUnknown
from ai.backend.manager.db.migration import downgrade, migrate, require_newest
from ai.backend.manager.db.opening import open_database
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.login.service import LoginService, totp_context
from ai.backend.manager.rotation import store
from ai.backend.manager.rotation.service import CONTEXTS, KeyMissing, Resealed, Rotation
from ai.backend.manager.secret import KEY_BYTES, FileSecrets, SecretUnreadable

RNG = random.SystemRandom()
CLOCK = SystemClock()


def key_file(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(RNG.randbytes(KEY_BYTES))
    path.chmod(0o600)
    return path


async def fill(database: Database, secrets: FileSecrets) -> Principal:
    """Two keypairs; the administrator's has an SSH key, and a key of one-time codes."""
    identity = IdentityService(database, secrets, clock=CLOCK, rng=RNG)
    seeded = await identity.seed(RNG, CLOCK.now())
    admin, _ = await identity.authenticate(seeded.admin.access_key)
    logins = LoginService(database, secrets, identity, LoginConfig(), clock=CLOCK, rng=RNG)
    accounts = AccountService(database, secrets, identity, logins, LoginConfig(), clock=CLOCK, rng=RNG)
    await accounts.renew_ssh_keypair(admin)
    await logins.prepare_totp(admin)
    return admin


async def sealed(database: Database) -> Mapping[tuple[str, Any], bytes]:
    found = {}
    for place in CONTEXTS:
        for key, value in await database.read(lambda conn, place=place: store.page(conn, place, None, 1000)):
            found[place.name, key] = value
    return found


async def opened(database: Database, secrets: FileSecrets) -> set[str]:
    plain = set()
    for place, context in CONTEXTS.items():
        for key, value in await database.read(lambda conn, place=place: store.page(conn, place, None, 1000)):
            plain.add(secrets.unseal(value, context=context(key)))
    return plain


def test_nothing_that_is_sealed_is_forgotten() -> None:
    columns = {c for table in t.metadata.sorted_tables for c in table.c if c.name.endswith("_sealed")}
    assert {place.column for place in CONTEXTS} == columns


async def test_everything_opens_with_the_new_key_alone(migrated: Database, tmp_path: Path) -> None:
    old, new = key_file(tmp_path, "old"), key_file(tmp_path, "new")
    await fill(migrated, FileSecrets(old, RNG))
    before = await opened(migrated, FileSecrets(old, RNG))
    assert len(before) == 4
    assert await Rotation(migrated, FileSecrets(new, RNG, older=[old])).reseal() == Resealed(
        resealed=4, already=0
    )
    assert await opened(migrated, FileSecrets(new, RNG)) == before
    with pytest.raises(SecretUnreadable):
        await opened(migrated, FileSecrets(old, RNG))
    done = await sealed(migrated)
    for older in ([old], []):
        again = await Rotation(migrated, FileSecrets(new, RNG, older=older)).reseal()
        assert again == Resealed(resealed=0, already=4)
    assert await sealed(migrated) == done, "what has the newest key is left as it is"


async def test_more_rows_than_are_read_at_once(
    migrated: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ai.backend.manager.rotation.service.BATCH", 1)
    path = key_file(tmp_path, "key")
    await fill(migrated, FileSecrets(path, RNG))
    path.write_bytes(RNG.randbytes(KEY_BYTES) + path.read_bytes())
    assert (await Rotation(migrated, FileSecrets(path, RNG)).reseal()).resealed == 4
    path.write_bytes(path.read_bytes()[:KEY_BYTES])
    assert len(await opened(migrated, FileSecrets(path, RNG))) == 4


@pytest.mark.parametrize("place", list(CONTEXTS), ids=lambda place: place.name)
async def test_with_one_row_that_does_not_open_nothing_is_changed(
    migrated: Database, tmp_path: Path, place: store.Place
) -> None:
    old, new, third = (key_file(tmp_path, name) for name in ("old", "new", "third"))
    admin = await fill(migrated, FileSecrets(old, RNG))
    key: Any = admin.user_id if place is store.TOTP_KEYS else admin.access_key
    stranger = FileSecrets(third, RNG).seal("x", context=CONTEXTS[place](key))
    await migrated.run(
        lambda conn: conn.execute(
            sa.update(place.column.table).where(place.key == key).values({place.column.name: stranger})
        ).close()
    )
    before = await sealed(migrated)
    with pytest.raises(KeyMissing, match=f"1 of 4 .*{place.name} of {key}") as told:
        await Rotation(migrated, FileSecrets(new, RNG, older=[old])).reseal()
    assert "Nothing was changed" in told.value.message
    assert await sealed(migrated) == before
    # Its key file is found again.
    done = await Rotation(migrated, FileSecrets(new, RNG, older=[old, third])).reseal()
    assert done == Resealed(resealed=4, already=0)


async def test_what_somebody_changes_meanwhile_stays(migrated: Database, tmp_path: Path) -> None:
    secrets = FileSecrets(key_file(tmp_path, "key"), RNG)
    admin = await fill(migrated, secrets)
    stale = [(admin.access_key, b"not what is there", b"new")]
    before = await sealed(migrated)
    assert await migrated.run(lambda conn: store.replace(conn, store.SECRET_KEYS, stale)) == 0
    assert await sealed(migrated) == before


KILLED = """
import asyncio, random, sys
from pathlib import Path
from ai.backend.manager.db.opening import open_database
from ai.backend.manager.rotation import service, store
from ai.backend.manager.secret import FileSecrets

service.BATCH = 1
replace = store.replace


def slowly(conn, place, changes):
    done = replace(conn, place, changes)
    print(place.name, flush=True)
    if COUNT[0] == 2:
        import time
        time.sleep(600)  # in the middle of the third transaction
    COUNT[0] += 1
    return done


COUNT = [0]
store.replace = slowly


async def main(url, new, old):
    rng = random.SystemRandom()
    database = await open_database(url, rng=rng)
    await service.Rotation(database, FileSecrets(Path(new), rng, older=[Path(old)])).reseal()


asyncio.run(main(*sys.argv[1:]))
"""


async def test_killed_in_the_middle_the_next_run_goes_on(tmp_path: Path) -> None:
    old, new = key_file(tmp_path, "old"), key_file(tmp_path, "new")
    url = f"sqlite:///{tmp_path / 'test.db'}"
    database = await open_database(url, rng=RNG)
    await migrate(database)
    await fill(database, FileSecrets(old, RNG))
    before = await opened(database, FileSecrets(old, RNG))
    await database.close()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, url, str(new), str(old), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(3):
        assert await process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    database = await open_database(url, rng=RNG)
    try:
        both = FileSecrets(new, RNG, older=[old])
        assert await opened(database, both) == before, "it can be used as it is"
        assert await Rotation(database, both).reseal() == Resealed(resealed=2, already=2)
        assert await opened(database, FileSecrets(new, RNG)) == before
    finally:
        await database.close()


async def test_older_tables_are_left_to_their_version(migrated: Database) -> None:
    await require_newest(migrated)
    await downgrade(migrated, "-1")
    with pytest.raises(SchemaUnknown):
        await require_newest(migrated)


def test_each_secret_is_sealed_for_its_owner_alone() -> None:
    assert CONTEXTS[store.SSH_KEYS]("A") == ssh_context("A") != CONTEXTS[store.SECRET_KEYS]("A") == "A"
    assert CONTEXTS[store.TOTP_KEYS]("A") == totp_context("A")  # type: ignore[arg-type] # any text will do
