"""Who may act for whom, and who may be a user. Pure."""

import re

from ai.backend.common.errors import BackendError, Forbidden, InvalidInput

from ..access.model import Principal, Role
from .model import UserDraft

_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,189}")
_USERNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")


def refuse_delegation(asking: Principal, owner: Principal) -> BackendError | None:
    """Why `asking` may not act as `owner`, or None: itself always; superadmins for all; domain admins for their domain's users."""
    if asking.access_key == owner.access_key or asking.role is Role.SUPERADMIN:
        return None
    same_domain = asking.role is Role.ADMIN and asking.domain_name == owner.domain_name
    if same_domain and owner.role is not Role.SUPERADMIN:
        return None
    return not_theirs()


def not_theirs() -> Forbidden:
    """Told also of a key that does not exist."""
    return Forbidden("you may not act for the owner of that access key")


def check_user(draft: UserDraft) -> BackendError | None:
    """What is wrong with a new user's words, or None."""
    if not _EMAIL.fullmatch(draft.email):
        return InvalidInput("that is no email address", field="email")
    return check_username(draft.username) or check_password(draft.password)


def check_username(name: str) -> BackendError | None:
    """Why this can be nobody's user name, or None."""
    if not _USERNAME.fullmatch(name):
        return InvalidInput(
            "that is no user name",
            hint="Use 1 to 64 letters, digits, '_', '.', '@', '+' and '-'.",
            field="username",
        )
    return None


def check_password(password: str) -> BackendError | None:
    """Why this can be nobody's password, or None."""
    if not 8 <= len(password) <= 1024:
        return InvalidInput("a password has 8 to 1024 characters", field="password")
    return None
