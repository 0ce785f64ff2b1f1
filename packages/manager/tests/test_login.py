"""Logins on a real database: throttling that holds whatever is done at the same time, second factors, web sessions, accounts."""

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from ai.backend.common.errors import (
    BackendError,
    ConfigError,
    Forbidden,
    InvalidInput,
    Unauthenticated,
    UserNotFound,
)
from ai.backend.manager.access.model import Role
from ai.backend.manager.account.model import Application, EmailTaken
from ai.backend.manager.account.service import AccountService, ssh_context
from ai.backend.manager.config import LoginConfig
from ai.backend.manager.db.database import Database
from ai.backend.manager.db.schema import keypairs, login_failures, users, web_sessions
from ai.backend.manager.identity.model import UserDraft
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.login import store, totp
from ai.backend.manager.login.model import (
    Attempt,
    LoggedInAlready,
    OtpMissing,
    PasswordExpired,
    TooManyLogins,
)
from ai.backend.manager.login.service import LoginService, id_hash
from ai.backend.manager.secret import FileSecrets

EMAIL, PASSWORD = "eve@example.com", "correct horse"


class HandClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.at = datetime(2026, 5, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)


@dataclass
class World:
    database: Database
    clock: HandClock
    identity: IdentityService
    logins: LoginService
    accounts: AccountService
    secrets: FileSecrets

    async def user(self, email: str = EMAIL, role: Role = Role.USER) -> str:
        draft = UserDraft(email=email, username=email.split("@", maxsplit=1)[0], password=PASSWORD, role=role)
        return (await self.identity.create_user(draft)).access_key

    async def set_user(self, **values: object) -> None:
        await self.database.run(lambda conn: conn.execute(sa.update(users).values(**values)).close())
        self.identity.forget()

    async def count(self, table: sa.Table) -> int:
        return await self.database.read(
            lambda conn: conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        )


def made(database: Database, folder: Path, config: LoginConfig | None = None) -> World:
    rng, clock = random.SystemRandom(), HandClock()
    secrets = FileSecrets(folder / "key", rng)
    config = config or LoginConfig(signup=True, token_secret="s" * 32)
    identity = IdentityService(database, secrets, clock=clock, rng=rng)
    logins = LoginService(database, secrets, identity, config, clock=clock, rng=rng)
    accounts = AccountService(database, secrets, identity, logins, config, clock=clock, rng=rng)
    return World(database, clock, identity, logins, accounts, secrets)


@pytest.fixture
async def world(migrated: Database, tmp_path: Path) -> World:
    found = made(migrated, tmp_path)
    await found.identity.seed(random.SystemRandom(), found.clock.now())
    return found


def attempt(password: str = PASSWORD, login: str = EMAIL, **more: str) -> Attempt:
    return Attempt(domain_name="default", login=login, password=password, **more)


async def refused(world: World, given: Attempt) -> BackendError:
    with pytest.raises(BackendError) as told:
        await world.logins.authorize(given)
    return told.value


async def test_a_password_is_traded_for_a_keypair(world: World) -> None:
    key = await world.user()
    for login in (EMAIL, "eve"):
        principal, secret_key = await world.logins.authorize(attempt(login=login))
        assert principal.access_key == key and len(secret_key) == 40
    assert (await refused(world, attempt("wrong"))).message == "User credential mismatch."


async def test_the_eleventh_guess_is_not_looked_at_and_unknown_names_are_counted_alike(world: World) -> None:
    await world.user()
    for login in (EMAIL, "nobody@example.com"):
        told = [await refused(world, attempt("wrong", login)) for _ in range(11)]
        assert [type(one) for one in told] == [Unauthenticated] * 10 + [TooManyLogins]
        assert {one.message for one in told[:10]} == {"User credential mismatch."}
        assert told[10].detail["retry_after_s"] == 1200
    assert isinstance(await refused(world, attempt()), TooManyLogins)
    world.clock.move(seconds=1199)
    assert isinstance(await refused(world, attempt()), TooManyLogins)
    world.clock.move(seconds=2)
    await world.logins.authorize(attempt())


async def test_guesses_at_the_same_time_by_several_managers_are_ten(
    migrated: Database, world: World, tmp_path: Path
) -> None:
    await world.user()
    others = [world, made(migrated, tmp_path), made(migrated, tmp_path)]
    told = await asyncio.gather(*(refused(others[n % 3], attempt("wrong")) for n in range(24)))
    assert sum(isinstance(one, TooManyLogins) for one in told) == 14


async def test_success_forgives(world: World) -> None:
    await world.user()
    for _ in range(9):
        await refused(world, attempt("wrong"))
    await world.logins.authorize(attempt())
    assert await world.count(login_failures) == 0
    # What is old is forgotten, whoever it was.
    await refused(world, attempt("x", "nobody"))
    world.clock.move(seconds=1201)
    await refused(world, attempt("x", "somebody"))
    assert await world.count(login_failures) == 1


async def test_web_sessions_are_kept_as_hashes_and_end(world: World) -> None:
    await world.user()
    session = await world.logins.log_in(attempt())
    found = await world.logins.find(session.id)
    assert found is not None and found.email == EMAIL
    stored = await world.database.read(lambda conn: str(conn.execute(sa.select(web_sessions)).all()))
    assert session.id not in stored and id_hash(session.id) in stored
    assert session.id not in repr(session) and PASSWORD not in repr(attempt())
    with pytest.raises(LoggedInAlready):
        await world.logins.log_in(attempt(), session.id)
    other = await world.logins.log_in(attempt(), "f" * 64)
    assert other.id != session.id
    await world.logins.log_out(session.id)
    assert await world.logins.find(session.id) is None
    assert await world.logins.find(other.id) is not None
    world.clock.move(days=7)
    assert await world.logins.find(other.id) is None
    await world.logins.log_in(attempt())
    assert await world.count(web_sessions) == 1
    for nonsense in ("", "x", id_hash(other.id), "é" * 40, "x" * 10_000):
        assert await world.logins.find(nonsense) is None


async def test_who_is_deactivated_is_logged_out(world: World) -> None:
    key = await world.user()
    session = await world.logins.log_in(attempt())
    await world.identity.deactivate_keypair(key)
    assert await world.logins.find(session.id) is None


async def test_passwords_change_and_end_other_logins(world: World) -> None:
    await world.user()
    kept, ended = [await world.logins.log_in(attempt()) for _ in range(2)]
    who = kept.principal
    for old, new, error in (
        ("wrong", "battery staple", Unauthenticated),
        (PASSWORD, PASSWORD, InvalidInput),
        (PASSWORD, "short", InvalidInput),
    ):
        with pytest.raises(error):
            await world.logins.change_password(who, old, new)
    world.clock.move(seconds=5)
    await world.logins.change_password(who, PASSWORD, "battery staple", kept_id=kept.id)
    assert await world.logins.find(kept.id) is not None
    assert await world.logins.find(ended.id) is None
    assert isinstance(await refused(world, attempt()), Unauthenticated)
    await world.logins.authorize(attempt("battery staple"))


async def test_a_password_that_must_be_changed(world: World) -> None:
    await world.user()
    with pytest.raises(InvalidInput):
        await world.logins.change_expired_password(attempt(), "battery staple")
    await world.set_user(need_password_change=True)
    assert isinstance(await refused(world, attempt()), PasswordExpired)
    assert type(await refused(world, attempt("wrong"))) is Unauthenticated
    with pytest.raises(Unauthenticated):
        await world.logins.change_expired_password(attempt(), PASSWORD)
    changed_at = await world.logins.change_expired_password(attempt(), "battery staple")
    assert changed_at == world.clock.now()
    await world.logins.authorize(attempt("battery staple"))


async def test_old_passwords(migrated: Database, tmp_path: Path) -> None:
    world = made(migrated, tmp_path, LoginConfig(max_password_age_s=86400))
    await world.identity.seed(random.SystemRandom(), world.clock.now())
    await world.user()
    await world.logins.authorize(attempt())
    world.clock.move(days=1, seconds=1)
    assert isinstance(await refused(world, attempt()), PasswordExpired)
    await world.logins.change_expired_password(attempt(), "battery staple")
    await world.logins.authorize(attempt("battery staple"))


async def test_addresses_that_a_user_may_come_from(world: World) -> None:
    await world.user()
    await world.set_user(allowed_client_ip=["10.0.0.0/8"])
    principal, _ = await world.logins.authorize(attempt(address="10.1.1.1"))
    assert principal.allowed_client_ip == ("10.0.0.0/8",)
    assert isinstance(await refused(world, attempt(address="192.0.2.1")), Unauthenticated)
    assert isinstance(await refused(world, attempt()), Unauthenticated)


async def with_totp(world: World) -> str:
    """An account with a second factor; returns the key."""
    await world.user()
    principal, _ = await world.logins.authorize(attempt())
    key, uri = await world.logins.prepare_totp(principal)
    assert key in uri
    # Until it is active, nobody is asked for it.
    await world.logins.authorize(attempt())
    with pytest.raises(Unauthenticated):
        await world.logins.activate_totp(principal, "000000")
    await world.logins.activate_totp(principal, totp.code_at(key, totp.step_of(world.clock.now())))
    return key


async def test_second_factor(world: World) -> None:
    key = await with_totp(world)
    stored = await world.database.read(lambda conn: str(conn.execute(sa.select(users)).all()))
    assert key not in stored
    missing = await refused(world, attempt())
    assert isinstance(missing, OtpMissing) and missing.message == "OTP not provided"
    code = totp.code_at(key, totp.step_of(world.clock.now()))
    # The code that activated it was used by that.
    assert type(await refused(world, attempt(otp=code))) is Unauthenticated
    world.clock.move(seconds=30)
    code = totp.code_at(key, totp.step_of(world.clock.now()))
    await world.logins.authorize(attempt(otp=code))
    told = await refused(world, attempt(otp=code))
    assert type(told) is Unauthenticated and code not in str(told)
    assert type(await refused(world, attempt("wrong", otp=code))) is Unauthenticated


async def test_one_code_shown_at_the_same_time_lets_one_in(world: World) -> None:
    key = await with_totp(world)
    world.clock.move(seconds=30)
    code = totp.code_at(key, totp.step_of(world.clock.now()))
    results = await asyncio.gather(
        *(world.logins.authorize(attempt(otp=code)) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(one, tuple) for one in results) == 1


async def test_a_step_is_written_once_whoever_read_what_before(world: World) -> None:
    await with_totp(world)
    principal, _ = await world.identity.authenticate(
        await world.database.read(
            lambda conn: conn.execute(
                sa.select(keypairs.c.access_key).join(users).where(users.c.email == EMAIL)
            ).scalar_one()
        )
    )
    seen = await world.database.read(lambda conn: store.account(conn, principal.user_id))
    assert seen is not None and seen.totp_key_sealed is not None
    key, step = seen.totp_key_sealed, seen.totp_last_step + 1
    written = [
        await world.database.run(
            lambda conn, sealed=sealed, at=at: store.accept_step(conn, seen.user_id, sealed, at)
        )
        for sealed, at in ((b"another key", step), (key, step), (key, step), (key, step - 1), (key, step + 1))
    ]
    assert written == [False, True, False, False, True]


async def test_codes_can_not_be_guessed_and_asking_for_one_forgives_nothing(world: World) -> None:
    await with_totp(world)
    world.clock.move(seconds=30)
    for _ in range(10):
        assert type(await refused(world, attempt(otp="123456"))) is Unauthenticated
        if await world.count(login_failures) < 10:
            assert isinstance(await refused(world, attempt()), OtpMissing)
    assert isinstance(await refused(world, attempt()), TooManyLogins)


async def test_removing_a_second_factor(world: World) -> None:
    key = await with_totp(world)
    world.clock.move(seconds=30)
    code = totp.code_at(key, totp.step_of(world.clock.now()))
    principal, _ = await world.logins.authorize(attempt(otp=code))
    with pytest.raises(InvalidInput):
        await world.logins.prepare_totp(principal)
    await world.user("mallory@example.com")
    other = await world.logins.log_in(attempt(login="mallory@example.com"))
    with pytest.raises(Forbidden):
        await world.logins.remove_totp(other.principal, EMAIL)
    admin_key = await world.user("boss@example.com", Role.ADMIN)
    admin, _ = await world.identity.authenticate(admin_key)
    with pytest.raises(UserNotFound):
        await world.logins.remove_totp(admin, "nobody@example.com")
    with pytest.raises(UserNotFound):
        await world.logins.remove_totp(admin, "admin@localhost.localdomain")
    await world.logins.remove_totp(admin, EMAIL)
    await world.logins.authorize(attempt())


async def test_tokens_of_a_trusted_site_work_once(world: World) -> None:
    from joserfc import jwt
    from joserfc.jwk import OctKey

    await world.user()
    said = {"email": EMAIL, "jti": "7", "exp": int(world.clock.now().timestamp()) + 60}

    def text(**more: object) -> str:
        return jwt.encode({"alg": "HS256"}, said | more, OctKey.import_key("s" * 32))

    session = await world.logins.log_in_by_token(text())
    assert session.principal.email == EMAIL
    for again in (text(), text(email="nobody@example.com", jti="8"), "nonsense"):
        with pytest.raises(Unauthenticated):
            await world.logins.log_in_by_token(again)
    # What notes a used token lets nobody in.
    assert await world.logins.find("token 7") is None
    # A token that came twice at once.
    results = await asyncio.gather(
        *(world.logins.log_in_by_token(text(jti="9")) for _ in range(4)), return_exceptions=True
    )
    assert sum(not isinstance(one, BaseException) for one in results) == 1
    closed = LoginService(
        world.database,
        world.secrets,
        world.identity,
        LoginConfig(),
        clock=world.clock,
        rng=random.SystemRandom(),
    )
    with pytest.raises(Unauthenticated):
        await closed.log_in_by_token(text(jti="10"))
    with pytest.raises(ConfigError):
        LoginService(
            world.database,
            world.secrets,
            world.identity,
            LoginConfig(token_secret="short"),
            clock=world.clock,
            rng=random.SystemRandom(),
        )


async def test_signing_up_and_out(world: World) -> None:
    form = Application(domain_name="default", email=EMAIL, password=PASSWORD, full_name="Eve")
    member = await world.accounts.sign_up(form)
    who = member.principal
    assert (who.role, who.email, len(member.secret_key)) == (Role.USER, EMAIL, 40)
    assert await world.identity.project("default", "default", who)
    with pytest.raises(EmailTaken):
        await world.accounts.sign_up(form)
    # Another eve gets another user name.
    again = Application(domain_name="default", email="eve@example.org", password=PASSWORD)
    assert (await world.accounts.sign_up(again)).principal.user_id != who.user_id
    session = await world.logins.log_in(attempt())
    with pytest.raises(Forbidden):
        await world.accounts.sign_out(who, "eve@example.org", PASSWORD)
    with pytest.raises(Unauthenticated):
        await world.accounts.sign_out(who, EMAIL, "wrong password")
    await world.accounts.rename(who, EMAIL, " Eve Moneypenny ")
    with pytest.raises(Forbidden):
        await world.accounts.rename(who, "eve@example.org", "Mallory")
    await world.accounts.sign_out(who, EMAIL.upper(), PASSWORD)
    assert await world.logins.find(session.id) is None
    assert isinstance(await refused(world, attempt()), Unauthenticated)
    with pytest.raises(Unauthenticated):
        await world.identity.authenticate(who.access_key)


async def test_signing_up_where_it_is_off(migrated: Database, tmp_path: Path) -> None:
    world = made(migrated, tmp_path, LoginConfig())
    with pytest.raises(Forbidden):
        await world.accounts.sign_up(Application(domain_name="default", email=EMAIL, password=PASSWORD))


async def test_ssh_keys_are_sealed(world: World) -> None:
    who, _ = await world.identity.authenticate(await world.user())
    assert await world.accounts.ssh_public_key(who) is None
    pair = await world.accounts.renew_ssh_keypair(who)
    assert await world.accounts.ssh_public_key(who) == pair.public
    sealed = await world.database.read(
        lambda conn: conn.execute(
            sa.select(keypairs.c.ssh_private_key_sealed).where(keypairs.c.access_key == who.access_key)
        ).scalar_one()
    )
    assert b"PRIVATE" not in sealed
    assert world.secrets.unseal(sealed, context=ssh_context(who.access_key)) == pair.private
    with pytest.raises(InvalidInput):
        await world.accounts.set_ssh_keypair(who, "ssh-rsa AAAA", pair.private)
    assert await world.accounts.ssh_public_key(who) == pair.public
