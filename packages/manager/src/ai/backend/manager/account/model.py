"""What users do with their own account."""

from dataclasses import dataclass, field

from ai.backend.common.errors import InvalidInput

from ..access.model import Principal


class EmailTaken(InvalidInput):
    """400 on the wire, as published."""

    code = "account.email-taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """Somebody wants an account. An empty user name: one is made of the address."""

    domain_name: str
    email: str
    password: str = field(repr=False)
    username: str = ""
    full_name: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A new account: who it is, and its secret key."""

    principal: Principal
    secret_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SshKeypair:
    public: str
    private: str = field(repr=False)
    """PEM or OpenSSH form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    global_role: str
    domain_role: str
    group_role: str | None
