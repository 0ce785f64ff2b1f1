"""One-time passwords from the time (RFC 6238: SHA-1, 30 seconds, 6 digits, as authenticator apps have it). Pure."""

import base64
import hashlib
import hmac
from datetime import datetime
from urllib.parse import quote

from ai.backend.common.ids import Random

PERIOD_S = 30
DIGITS = 6
DRIFT_STEPS = 1
"""How far a phone's clock may be off, in periods, either way."""
KEY_BYTES = 20
ISSUER = "Backend.AI"


def new_key(rng: Random) -> str:
    """A shared key, in base32 as apps take it."""
    return base64.b32encode(rng.getrandbits(KEY_BYTES * 8).to_bytes(KEY_BYTES, "big")).decode()


def step_of(now: datetime) -> int:
    return int(now.timestamp()) // PERIOD_S


def code_at(key: str, step: int) -> str:
    """The code of one period."""
    digest = hmac.digest(base64.b32decode(key), step.to_bytes(8, "big"), hashlib.sha1)
    offset = digest[-1] & 15
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return str(number % 10**DIGITS).zfill(DIGITS)


def matching_step(key: str, code: str, now: datetime, last_step: int) -> int | None:
    """The period whose code this is; only periods after `last_step` count, so that no code is good twice."""
    given = "".join(code.split())
    if len(given) != DIGITS or not (given.isascii() and given.isdigit()):
        return None
    present = step_of(now)
    found = None
    for step in range(present - DRIFT_STEPS, present + DRIFT_STEPS + 1):
        # All are compared, so that the time it takes does not tell which was near.
        if hmac.compare_digest(code_at(key, step), given) and step > last_step:
            found = step
    return found


def uri(key: str, email: str) -> str:
    """What an app reads from a QR code."""
    issuer = quote(ISSUER, safe="")
    return (
        f"otpauth://totp/{issuer}:{quote(email, safe='@')}?secret={key}&issuer={issuer}"
        f"&algorithm=SHA1&digits={DIGITS}&period={PERIOD_S}"
    )
