"""Domains, projects, users and keypairs."""

from dataclasses import dataclass, field

from ai.backend.common.ids import AccessKey, ProjectId, UserId
from ai.backend.common.quantity import ResourceSlots

from ..access.model import Principal, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class KeypairPolicy:
    name: str
    total_resource_slots: ResourceSlots
    """Slots that it does not name are unlimited."""
    max_concurrent_sessions: int
    max_containers_per_session: int
    max_session_lifetime_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    id: UserId
    email: str
    role: Role
    status: str
    domain_name: str
    password_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A keypair with its owner, as authentication needs it."""

    principal: Principal
    secret_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """One seeded account. `password` is known only in the run that made it, and is kept by whoever asked for it."""

    email: str
    access_key: AccessKey
    secret_key: str = field(repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResult:
    admin: Seeded
    user: Seeded
    project_id: ProjectId
