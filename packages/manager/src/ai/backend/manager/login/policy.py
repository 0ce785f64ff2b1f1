"""Decisions about logins. Pure."""

import ipaddress
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from ai.backend.common.errors import BackendError, InvalidInput

from ..config import LoginConfig
from .model import Account, PasswordExpired, TooManyLogins

THROTTLE_KEY_CHARACTERS = 320
TICK = timedelta(microseconds=1)


def throttle_key(domain_name: str, login: str) -> str:
    """Under what failures are counted: what was typed, whether or not there is such a user, so that counting tells nobody who there is."""
    return f"{domain_name} {login.lower()}"[:THROTTLE_KEY_CHARACTERS]


def admit_attempt(
    failed_at: Sequence[datetime], now: datetime, config: LoginConfig
) -> datetime | TooManyLogins:
    """When to note the attempt as failed, which it is until it has succeeded; or why it is not even looked at.

    `failed_at` are the failures of the window, oldest first. No two have the same time, because the time is their key.
    """
    window = timedelta(seconds=config.failures_window_s)
    if len(failed_at) < config.failures_max:
        return max(now, failed_at[-1] + TICK) if failed_at else now
    wait = failed_at[-config.failures_max] + window - now
    retry_after_s = max(1, -(-wait // timedelta(seconds=1)))
    return TooManyLogins(
        "Too many failed login attempts.",
        hint=f"Wait {-(-retry_after_s // 60)} minutes, or ask an administrator.",
        limit=config.failures_max,
        window_s=config.failures_window_s,
        retry_after_s=retry_after_s,
    )


def password_expired(account: Account, now: datetime, config: LoginConfig) -> PasswordExpired | None:
    """Why the account's password must be changed before it lets anybody in, or None."""
    age = now - account.password_changed_at
    too_old = config.max_password_age_s > 0 and age > timedelta(seconds=config.max_password_age_s)
    if not (account.need_password_change or too_old):
        return None
    return PasswordExpired("Password has expired.", hint="Change it with update-password-no-auth.")


def may_change_expired(account: Account, config: LoginConfig) -> bool:
    """Whether the password may be changed without being logged in."""
    return account.need_password_change or config.max_password_age_s > 0


def check_new_password(new: str, old: str, email: str) -> BackendError | None:
    """What is wrong with a password that is to replace `old`, or None. Length is what matters; rules about kinds of characters make
    passwords worse, so there are none."""
    if not 8 <= len(new) <= 1024:
        return InvalidInput("a password has 8 to 1024 characters", field="new_password")
    if new == old:
        return InvalidInput("the new password is the old one", field="new_password")
    if new.lower() == email.lower():
        return InvalidInput("the password is the e-mail address", field="new_password")
    return None


def address_allowed(address: str, allowed: Collection[str]) -> bool:
    """Whether a request may come from this address; an empty list allows all. What is no address or network allows nothing."""
    if not allowed:
        return True
    try:
        client = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(client, ipaddress.IPv6Address) and client.ipv4_mapped is not None:
        client = client.ipv4_mapped
    for text in allowed:
        try:
            if client in ipaddress.ip_network(text, strict=False):
                return True
        except ValueError:
            continue
    return False
