"""Decisions about logins, passwords, one-time codes and names."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.common.errors import InvalidInput, Unauthenticated
from ai.backend.common.ids import AccessKey, ProjectId, UserId
from ai.backend.manager.access.model import Principal, Role
from ai.backend.manager.account import sshkey
from ai.backend.manager.account.policy import roles_of, username_from
from ai.backend.manager.config import LoginConfig
from ai.backend.manager.identity.model import UserDraft
from ai.backend.manager.identity.policy import check_user
from ai.backend.manager.login import policy, token, totp
from ai.backend.manager.login.model import Account, TooManyLogins

NOW = datetime(2026, 5, 1, tzinfo=UTC)
CONFIG = LoginConfig()


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


# Throttling.


def test_nine_failures_are_looked_at_and_ten_are_not() -> None:
    nine = [ago(60 - n) for n in range(9)]
    assert policy.admit_attempt(nine, NOW, CONFIG) == NOW
    refused = policy.admit_attempt([ago(100), *nine], NOW, CONFIG)
    assert isinstance(refused, TooManyLogins)
    # The oldest of the ten leaves the window 1200 seconds after it happened.
    assert refused.detail["retry_after_s"] == 1100


def test_notes_of_one_moment_are_apart() -> None:
    first = policy.admit_attempt([], NOW, CONFIG)
    assert first == NOW
    assert policy.admit_attempt([NOW], NOW, CONFIG) == NOW + policy.TICK


@given(st.lists(st.integers(0, 1199), max_size=40), st.integers(0, 2000))
def test_never_more_than_ten_in_any_window(seconds: list[int], later: int) -> None:
    """Whatever happens when: attempts that are admitted one after the other stay within ten for each window."""
    window = timedelta(seconds=CONFIG.failures_window_s)
    noted: list[datetime] = []
    for second in sorted([*seconds, *(s + later for s in seconds)]):
        now = NOW + timedelta(seconds=second)
        inside = [at for at in noted if at > now - window]
        decided = policy.admit_attempt(inside, now, CONFIG)
        if isinstance(decided, datetime):
            noted.append(decided)
        else:
            after = now + timedelta(seconds=decided.detail["retry_after_s"])
            still = [at for at in noted if at > after - window]
            assert isinstance(policy.admit_attempt(still, after, CONFIG), datetime)
    for start in noted:
        assert sum(start <= at < start + window for at in noted) <= CONFIG.failures_max


def test_counting_does_not_ask_who_there_is() -> None:
    assert policy.throttle_key("default", "Admin@X") == policy.throttle_key("default", "admin@x")
    assert policy.throttle_key("a", "x") != policy.throttle_key("b", "x")
    assert len(policy.throttle_key("d" * 1000, "x" * 10_000)) == 320


# Passwords.


def account(**changes: object) -> Account:
    values = {
        "user_id": UserId(UUID(int=1)),
        "domain_name": "default",
        "email": "eve@example.com",
        "need_password_change": False,
        "password_changed_at": ago(86400),
        "totp_key_sealed": None,
        "totp_active": False,
        "totp_last_step": 0,
    }
    return Account(**(values | changes))  # type: ignore[arg-type]


def test_password_age() -> None:
    daily = LoginConfig(max_password_age_s=86400)
    assert policy.password_expired(account(), NOW, CONFIG) is None
    assert policy.password_expired(account(), NOW, daily) is None
    assert policy.password_expired(account(), NOW + timedelta(seconds=1), daily) is not None
    assert policy.password_expired(account(need_password_change=True), NOW, CONFIG) is not None
    assert not policy.may_change_expired(account(), CONFIG)
    assert policy.may_change_expired(account(), daily)
    assert policy.may_change_expired(account(need_password_change=True), CONFIG)


@pytest.mark.parametrize(
    ("new", "right"),
    [
        ("longer one", True),
        ("7 chars", False),
        ("old pass", False),
        ("x" * 1025, False),
        ("Eve@example.com", False),
    ],
)
def test_new_passwords(new: str, right: bool) -> None:
    assert (policy.check_new_password(new, "old pass", "eve@example.com") is None) is right


# Addresses.


@pytest.mark.parametrize(
    ("address", "allowed", "may"),
    [
        ("10.1.2.3", (), True),
        ("", (), True),
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("10.1.2.3", ("10.1.2.3",), True),
        ("11.1.2.3", ("10.0.0.0/8", "192.168.0.1"), False),
        ("::ffff:10.1.2.3", ("10.0.0.0/8",), True),
        ("fd00::1", ("10.0.0.0/8", "fd00::/8"), True),
        ("", ("10.0.0.0/8",), False),
        ("unknown", ("0.0.0.0/0",), False),
        ("10.1.2.3", ("nonsense",), False),
    ],
)
def test_addresses(address: str, allowed: tuple[str, ...], may: bool) -> None:
    assert policy.address_allowed(address, allowed) is may


# One-time codes.

RFC_KEY = base64.b32encode(b"12345678901234567890").decode()


@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ],
)
def test_vectors_of_rfc_6238(seconds: int, code: str) -> None:
    """The RFC prints eight digits; six are the last six of them."""
    assert totp.code_at(RFC_KEY, seconds // 30) == code[2:]


def test_codes_of_neighbours_count_and_each_once() -> None:
    step = totp.step_of(NOW)
    for near in (-1, 0, 1):
        assert totp.matching_step(RFC_KEY, totp.code_at(RFC_KEY, step + near), NOW, 0) == step + near
    for far in (-2, 2):
        assert totp.matching_step(RFC_KEY, totp.code_at(RFC_KEY, step + far), NOW, 0) is None
    code = totp.code_at(RFC_KEY, step)
    assert totp.matching_step(RFC_KEY, f" {code[:3]} {code[3:]} ", NOW, step - 1) == step
    assert totp.matching_step(RFC_KEY, code, NOW, step) is None
    for nonsense in ("", "12345", "1234567", "12345x", "١٢٣٤٥٦"):
        assert totp.matching_step(RFC_KEY, nonsense, NOW, 0) is None


def test_what_an_app_reads() -> None:
    assert totp.uri("ABC", "eve+x@example.com") == (
        "otpauth://totp/Backend.AI:eve%2Bx@example.com?secret=ABC&issuer=Backend.AI&algorithm=SHA1&digits=6&period=30"
    )


# Tokens of trusted sites.


def login_token(secret: str = "s" * 32, header: str = "HS256", **claims: object) -> str:
    from joserfc import jwt
    from joserfc.jwk import OctKey

    said = {"email": "eve@example.com", "jti": "1", "exp": int(NOW.timestamp()) + 60} | claims
    said = {name: value for name, value in said.items() if value is not None}
    return jwt.encode({"alg": header}, said, OctKey.import_key(secret), algorithms=["HS256", "HS512"])


def test_a_good_token() -> None:
    told = token.read(login_token(), "s" * 32, NOW)
    assert (told.id, told.email, told.expires_at) == ("1", "eve@example.com", NOW + timedelta(seconds=60))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 5000,
        "a.b.c",
        login_token("t" * 32),
        login_token(header="HS512"),
        login_token(exp=int(NOW.timestamp())),
        login_token(exp=int(NOW.timestamp()) + 3600),
        login_token(exp=None),
        login_token(jti=None),
        login_token(email=None),
        login_token(email=["eve@example.com"]),
        login_token().rsplit(".", 1)[0] + ".",
    ],
)
def test_bad_tokens(text: str) -> None:
    with pytest.raises(Unauthenticated):
        token.read(text, "s" * 32, NOW)


# Accounts.


@given(st.emails(), st.integers(0, 1 << 20))
def test_names_made_of_addresses_are_names(email: str, number: int) -> None:
    name = username_from(email, number)
    assert (
        check_user(UserDraft(email=email, username=name, password="long enough")) is None or len(email) > 250
    )


@pytest.mark.parametrize(
    ("role", "told"),
    [
        (Role.SUPERADMIN, ("superadmin", "admin", "user")),
        (Role.ADMIN, ("user", "admin", "user")),
        (Role.USER, ("user", "user", "user")),
        (Role.MONITOR, ("user", "user", "user")),
    ],
)
def test_roles_in_published_words(role: Role, told: tuple[str, str, str]) -> None:
    who = Principal(
        user_id=UserId(UUID(int=1)),
        email="x",
        role=role,
        domain_name="default",
        access_key=AccessKey("A"),
        is_admin=False,
        rate_limit=1,
    )
    project_id = ProjectId(UUID(int=2))
    roles = roles_of(who, project_id)
    assert (roles.global_role, roles.domain_role, roles.group_role) == told
    assert roles_of(who, None).group_role is None
    assert roles_of(replace(who, administers=frozenset({project_id})), project_id).group_role == "admin"


def test_ssh_keys_are_pairs() -> None:
    one, other = sshkey.generate(), sshkey.generate()
    assert one.public.startswith("ssh-rsa ") and "BEGIN RSA PRIVATE KEY" in one.private
    assert one.private not in repr(one)
    assert sshkey.check(one.public.strip() + " me@here", one.private).private == one.private
    for public, private in (
        (other.public, one.private),
        ("", one.private),
        (one.public, "x"),
        (one.public, "x" * 20_000),
    ):
        with pytest.raises(InvalidInput) as refused:
            sshkey.check(public, private)
        assert "PRIVATE" not in str(refused.value)
