"""Login tokens of a trusted site: short-lived JWTs signed with a secret that both sides hold. Pure but for the library."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ai.backend.common.errors import Unauthenticated

LIFETIME_S_MAX = 300
ALGORITHM = "HS256"
CHARACTERS_MAX = 4096
SECRET_CHARACTERS_MIN = 32
REFUSAL = "The login token is not valid."


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginToken:
    id: str
    email: str
    expires_at: datetime


def read(text: str, secret: str, now: datetime) -> LoginToken:
    """What a token says: `email`, `jti` and `exp`, at most five minutes ahead. Raises Unauthenticated; never says why."""
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import OctKey

    try:
        if len(text) > CHARACTERS_MAX:
            raise ValueError
        claims: dict[str, Any] = jwt.decode(text, OctKey.import_key(secret), algorithms=[ALGORITHM]).claims
        jwt.JWTClaimsRegistry(
            now=int(now.timestamp()),
            exp={"essential": True},
            jti={"essential": True},
            email={"essential": True},
        ).validate(claims)
        email, number = claims["email"], claims["jti"]
        if not isinstance(email, str) or claims["exp"] > now.timestamp() + LIFETIME_S_MAX:
            raise ValueError
        return LoginToken(id=number, email=email, expires_at=datetime.fromtimestamp(claims["exp"], UTC))
    except (JoseError, ValueError, OverflowError) as exc:
        raise Unauthenticated(REFUSAL) from exc
