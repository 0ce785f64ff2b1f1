"""Logins: what is asked, what is known of an account, and the web session that comes of it."""

from dataclasses import dataclass, field
from datetime import datetime

from ai.backend.common.errors import InvalidInput, RateLimited, Unauthenticated
from ai.backend.common.ids import UserId

from ..access.model import Principal


class TooManyLogins(RateLimited):
    """`detail["retry_after_s"]` says when the next attempt is looked at."""

    code = "login.too-many"


class PasswordExpired(Unauthenticated):
    """The password was right, but must be changed first."""

    code = "auth.password-expired"


class OtpMissing(Unauthenticated):
    """Clients ask for the code when they read exactly this message."""

    code = "auth.otp-missing"

    def __init__(self) -> None:
        super().__init__("OTP not provided", hint="Send the code of your authenticator app as otp.")


class LoggedInAlready(InvalidInput):
    code = "login.already"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Somebody says who they are. `address` is where the request comes from."""

    domain_name: str
    login: str
    """E-mail address or user name."""
    password: str = field(repr=False)
    otp: str = field(default="", repr=False)
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What decides about a login once the password was right."""

    user_id: UserId
    domain_name: str
    email: str
    need_password_change: bool
    password_changed_at: datetime
    """When it was made, if it never changed."""
    totp_key_sealed: bytes | None = field(repr=False)
    totp_active: bool
    totp_last_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSession:
    """A login by cookie. `id` is the secret that the browser keeps; it is not stored here."""

    id: str = field(repr=False)
    principal: Principal
    lifetime_s: int
