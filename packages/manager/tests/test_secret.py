"""What is kept of secrets."""

import random
from pathlib import Path

import pytest

from ai.backend.common.errors import ConfigError
from ai.backend.manager.secret import KEY_BYTES, FileSecrets, SecretUnreadable

RNG = random.SystemRandom()


def test_sealing(tmp_path: Path) -> None:
    secrets = FileSecrets(tmp_path / "key", RNG)
    sealed = secrets.seal("secret", context="AKIA1")
    assert b"secret" not in sealed and sealed != secrets.seal("secret", context="AKIA1")
    assert FileSecrets(tmp_path / "key", RNG).unseal(sealed, context="AKIA1") == "secret"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("at", range(0, 39, 3))
def test_a_changed_byte_is_seen(tmp_path: Path, at: int) -> None:
    secrets = FileSecrets(tmp_path / "key", RNG)
    sealed = secrets.seal("secret", context="AKIA1")
    with pytest.raises(SecretUnreadable):
        secrets.unseal(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], context="AKIA1")
    with pytest.raises(SecretUnreadable):
        secrets.unseal(sealed[:at], context="AKIA1")


def test_a_sealed_secret_is_bound_to_its_context_and_its_key(tmp_path: Path) -> None:
    sealed = FileSecrets(tmp_path / "key", RNG).seal("secret", context="AKIA1")
    with pytest.raises(SecretUnreadable):
        FileSecrets(tmp_path / "key", RNG).unseal(sealed, context="AKIA2")
    with pytest.raises(SecretUnreadable) as told:
        FileSecrets(tmp_path / "other", RNG).unseal(sealed, context="AKIA1")
    assert "secret" not in told.value.hint.split()


def test_a_new_key_in_front_seals_and_old_ones_still_open(tmp_path: Path) -> None:
    path = tmp_path / "key"
    old = FileSecrets(path, RNG).seal("old", context="A")
    before = path.read_bytes()
    path.write_bytes(random.Random(1).randbytes(KEY_BYTES) + before)
    rotated = FileSecrets(path, RNG)
    new = rotated.seal("new", context="A")
    assert rotated.unseal(old, context="A") == "old" and rotated.unseal(new, context="A") == "new"
    path.write_bytes(before)
    with pytest.raises(SecretUnreadable):
        FileSecrets(path, RNG).unseal(new, context="A")


@pytest.mark.parametrize("content", [b"", b"x", bytes(KEY_BYTES + 1), bytes(KEY_BYTES * 17)])
def test_other_files_are_no_keys(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(ConfigError):
        FileSecrets(tmp_path / "key", RNG)


def test_a_key_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    FileSecrets(tmp_path / "key", RNG)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(ConfigError):
        FileSecrets(tmp_path / "key", RNG)
    with pytest.raises(ConfigError):
        FileSecrets(tmp_path / "missing" / "key", RNG)


def test_derived_bytes_are_the_same_for_a_context_and_a_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    derived = FileSecrets(path, RNG).derive("cluster-ssh 1")
    assert len(derived) == 32
    assert FileSecrets(path, RNG).derive("cluster-ssh 1") == derived
    assert FileSecrets(path, RNG).derive("cluster-ssh 2") != derived
    assert FileSecrets(tmp_path / "other", RNG).derive("cluster-ssh 1") != derived
