"""Who asks."""

import enum
from dataclasses import dataclass

from ai.backend.common.ids import AccessKey, ProjectId, UserId


class Role(enum.StrEnum):
    SUPERADMIN = "superadmin"
    ADMIN = "admin"
    """Of one domain."""
    USER = "user"
    MONITOR = "monitor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated caller: a user, through one of its keypairs."""

    user_id: UserId
    email: str
    role: Role
    domain_name: str
    access_key: AccessKey
    is_admin: bool
    """Of the keypair."""
    rate_limit: int
    """Requests in 15 minutes."""
    policy_name: str = "default"
    allowed_client_ip: tuple[str, ...] = ()
    """Addresses and networks that the user's requests may come from; empty: any."""
    administers: frozenset[ProjectId] = frozenset()
    """Projects of its domain whose administrator it is, whatever its role is elsewhere."""
