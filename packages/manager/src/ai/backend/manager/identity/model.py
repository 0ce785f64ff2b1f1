"""Domains, projects, users and keypairs."""

from dataclasses import dataclass, field

from ai.backend.common.ids import AccessKey, ProjectId, UserId

from ..access.model import Principal, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    id: UserId
    email: str
    role: Role
    status: str
    domain_name: str
    password_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserDraft:
    """A user to be made, with one keypair."""

    email: str
    username: str
    password: str = field(repr=False)
    """8 to 1024 characters."""
    role: Role = Role.USER
    domain_name: str = "default"
    project_ids: tuple[ProjectId, ...] = ()
    policy_name: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """All that is drawn and hashed for a user before the transaction that writes it."""

    draft: UserDraft
    user_id: UserId
    password_hash: str = field(repr=False)
    access_key: AccessKey
    secret_key: str = field(repr=False)
    secret_key_sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A keypair with its owner, as authentication needs it."""

    principal: Principal
    secret_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """A made account. `password` is known only in the call that made it, and is kept by whoever asked for it."""

    email: str
    access_key: AccessKey
    secret_key: str = field(repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResult:
    admin: Seeded
    user: Seeded
    project_id: ProjectId
