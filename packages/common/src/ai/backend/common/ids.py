"""Identifiers. Entities carry UUIDs; agents and slots carry names. Chance is an argument: the simulator passes a seeded one."""

import re
from typing import NewType, Protocol
from uuid import UUID

from .errors import InvalidInput

SessionId = NewType("SessionId", UUID)
KernelId = NewType("KernelId", UUID)
UserId = NewType("UserId", UUID)
ProjectId = NewType("ProjectId", UUID)
ImageId = NewType("ImageId", UUID)
AgentId = NewType("AgentId", str)
AccessKey = NewType("AccessKey", str)
RequestId = NewType("RequestId", str)

_SESSION_NAME = re.compile(r"(?=.{4,64}\Z)[A-Za-z0-9_][A-Za-z0-9_.-]*[A-Za-z0-9_]")
_UUID = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}", re.IGNORECASE)
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Random(Protocol):
    """The part of `random.Random` that we use. Production passes `secrets.SystemRandom()`."""

    def getrandbits(self, k: int, /) -> int: ...


def new_uuid(rng: Random) -> UUID:
    """A version 4 UUID from the given source."""
    return UUID(int=rng.getrandbits(128), version=4)


def new_access_key(rng: Random) -> AccessKey:
    """ "AKIA" and 16 base32 characters, as the published clients expect."""
    return AccessKey("AKIA" + "".join(_BASE32[rng.getrandbits(5)] for _ in range(16)))


def new_secret_key(rng: Random) -> str:
    """40 URL-safe base64 characters (240 bits)."""
    return "".join(_BASE64URL[rng.getrandbits(6)] for _ in range(40))


def parse_uuid(text: str) -> UUID | None:
    """The UUID that the text spells (with or without dashes), or None."""
    return UUID(text) if _UUID.fullmatch(text) else None


def check_session_name(name: str) -> str:
    """Returns the name. Raises InvalidInput when it is not 4 to 64 ASCII word characters, dots and dashes."""
    if not _SESSION_NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is no session name",
            hint="Use 4 to 64 letters, digits, '_', '.', '-', not starting or ending with '.' or '-'.",
            field="name",
        )
    return name
