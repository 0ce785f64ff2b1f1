"""Secret keys at rest: sealed with AES-256-GCM under a key that is not in the database.

Request signatures need the secret key itself, so a hash will not do. The sealed form is a version byte, four bytes that tell which key
sealed it, a nonce and the ciphertext; the access key is bound in as associated data, so that a sealed key cannot be moved to another row.

The key file holds one key of 32 bytes or several, newest first: the first one seals, each one opens what it has sealed. A key is replaced
by putting 32 new random bytes in front; the older one is needed until all is sealed anew (`rotation`).
"""

import contextlib
import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ai.backend.common.errors import BackendError, ConfigError
from ai.backend.common.ids import Random

VERSION = b"\x01"
KEY_ID_BYTES = 4
NONCE_BYTES = 12
KEY_BYTES = 32
KEYS_MAX = 16
_HEAD_BYTES = len(VERSION) + KEY_ID_BYTES


class SecretUnreadable(BackendError):
    """A sealed value does not open with this installation's keys."""

    code = "secret.unreadable"


class Secrets(Protocol):
    def seal(self, plain: str, *, context: str) -> bytes:
        """What may be stored. It opens only with the same `context`, which is not secret: whose secret it is."""

    def unseal(self, sealed: bytes, *, context: str) -> str:
        """Raises SecretUnreadable."""

    def derive(self, context: str) -> bytes:
        """32 bytes that are always the same for a `context`, and that nobody without the newest key can tell."""


class FileSecrets:
    """Keys from a file, which is made on first use with mode 0600; and, to open only, from `older` ones. Raises ConfigError when one is
    no key file, or open to everybody."""

    def __init__(self, path: Path, rng: Random, *, older: Sequence[Path] = ()) -> None:
        self._rng = rng
        self._keys: dict[bytes, AESGCM] = {}
        if not path.exists():
            _make(path, rng)
        keys = [key for file in (path, *older) for key in _keys_of(file)]
        self._derivation_key = hmac.digest(keys[0], b"backend.ai derivation", "sha256")
        for key in keys:
            self._keys.setdefault(VERSION + hashlib.sha256(key).digest()[:KEY_ID_BYTES], AESGCM(key))
        self._newest = next(iter(self._keys))

    def seal(self, plain: str, *, context: str) -> bytes:
        nonce = self._rng.getrandbits(NONCE_BYTES * 8).to_bytes(NONCE_BYTES, "big")
        body = self._keys[self._newest].encrypt(nonce, plain.encode(), context.encode())
        return self._newest + nonce + body

    def is_newest(self, sealed: bytes) -> bool:
        """Whether the key that seals has sealed this."""
        return sealed[:_HEAD_BYTES] == self._newest

    def derive(self, context: str) -> bytes:
        return hmac.digest(self._derivation_key, context.encode(), "sha256")

    def unseal(self, sealed: bytes, *, context: str) -> str:
        key = self._keys.get(sealed[:_HEAD_BYTES])
        nonce, body = sealed[_HEAD_BYTES : _HEAD_BYTES + NONCE_BYTES], sealed[_HEAD_BYTES + NONCE_BYTES :]
        try:
            if key is None or not body:
                raise InvalidTag
            return key.decrypt(nonce, body, context.encode()).decode()
        except InvalidTag as exc:
            raise SecretUnreadable(
                "a stored secret does not open with this key",
                hint="The key file and the database belong together: restore the key file that was there when it was written.",
            ) from exc


def _keys_of(path: Path) -> list[bytes]:
    try:
        if path.stat().st_mode & 0o007:
            raise ConfigError(f"everybody may use {path}", hint=f"chmod 600 {path}")
        content = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    if not content or len(content) % KEY_BYTES or len(content) > KEYS_MAX * KEY_BYTES:
        raise ConfigError(f"{path} is no key file: it must hold {KEY_BYTES} bytes for each key")
    return [content[start : start + KEY_BYTES] for start in range(0, len(content), KEY_BYTES)]


def _make(path: Path, rng: Random) -> None:
    """Written aside and linked into place: a crash leaves no half file, and of two that race one wins."""
    aside = path.with_name(f".{path.name}.{rng.getrandbits(64):016x}")
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(rng.getrandbits(KEY_BYTES * 8).to_bytes(KEY_BYTES, "big"))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(aside)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}", hint="The folder must be writable.") from exc
    finally:
        aside.unlink(missing_ok=True)
