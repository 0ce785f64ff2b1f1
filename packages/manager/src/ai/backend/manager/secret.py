"""Secret keys at rest: sealed with AES-256-GCM under a key that is not in the database.

Request signatures need the secret key itself, so a hash will not do. The sealed form starts with a version byte; the access key is bound
in as associated data, so that a sealed key cannot be moved to another row.
"""

import os
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ai.backend.common.errors import BackendError, ConfigError
from ai.backend.common.ids import Random

VERSION = b"\x01"
NONCE_BYTES = 12
KEY_BYTES = 32


class SecretUnreadable(BackendError):
    """A sealed value does not open with this installation's key."""

    code = "secret.unreadable"


class Secrets(Protocol):
    def seal(self, plain: str, *, context: str) -> bytes: ...

    def unseal(self, sealed: bytes, *, context: str) -> str:
        """Raises SecretUnreadable."""


class FileSecrets:
    """The key is a file of 32 random bytes, made on first use with mode 0600."""

    def __init__(self, path: Path, rng: Random) -> None:
        self._rng = rng
        self._key = AESGCM(_key_of(path, rng))

    def seal(self, plain: str, *, context: str) -> bytes:
        nonce = self._rng.getrandbits(NONCE_BYTES * 8).to_bytes(NONCE_BYTES, "big")
        return VERSION + nonce + self._key.encrypt(nonce, plain.encode(), context.encode())

    def unseal(self, sealed: bytes, *, context: str) -> str:
        nonce, body = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            if sealed[:1] != VERSION:
                raise InvalidTag
            return self._key.decrypt(nonce, body, context.encode()).decode()
        except InvalidTag as exc:
            raise SecretUnreadable(
                "a stored secret does not open with this key",
                hint="The key file and the database belong together: restore the key file that was there when it was written.",
            ) from exc


def _key_of(path: Path, rng: Random) -> bytes:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise ConfigError(f"{path} is no key file: it must hold {KEY_BYTES} bytes") from None
        return key
    with os.fdopen(handle, "wb") as file:
        key = rng.getrandbits(KEY_BYTES * 8).to_bytes(KEY_BYTES, "big")
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    return key
