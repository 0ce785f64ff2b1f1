"""Who may log in, and what a login leaves behind: a web session, of which only a hash is kept.

Each attempt is noted as failed before the password is looked at and forgiven when it has succeeded, in the database, so that no
number of attempts at the same time, nor of managers, gets more tries than one.
"""

import hashlib
from datetime import datetime, timedelta

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.errors import (
    BackendError,
    ConfigError,
    Forbidden,
    InvalidInput,
    Unauthenticated,
    UserNotFound,
)
from ai.backend.common.ids import Random, UserId
from ai.backend.common.log import get_logger

from ..access.model import Principal, Role
from ..config import LoginConfig
from ..db.database import Database
from ..identity import store as identities
from ..identity.policy import refuse_delegation
from ..identity.service import IdentityService
from ..secret import Secrets
from . import policy, store, token, totp
from .model import Account, Attempt, LoggedInAlready, OtpMissing, WebSession

log = get_logger(__name__)

ID_BYTES = 32
ID_CHARACTERS_MAX = 128


def id_hash(session_id: str) -> str:
    """Under what a web session is kept. The prefix keeps ids apart from what `spend` notes."""
    return hashlib.sha256(b"session " + session_id.encode("utf-8", "replace")).hexdigest()


def totp_context(user_id: UserId) -> str:
    return f"totp {user_id}"


class LoginService:
    def __init__(
        self,
        database: Database,
        secrets: Secrets,
        identity: IdentityService,
        config: LoginConfig,
        *,
        clock: Clock,
        rng: Random,
    ) -> None:
        self._database = database
        self._secrets = secrets
        self._identity = identity
        self._config = config
        self._clock = clock
        self._rng = rng
        if 0 < len(config.token_secret) < token.SECRET_CHARACTERS_MIN:
            raise ConfigError(
                f"manager.login.token-secret has fewer than {token.SECRET_CHARACTERS_MIN} characters",
                hint="Whoever guesses it logs in as anybody: make it of random characters.",
            )

    @property
    def domain_name(self) -> str:
        """Whose users log in when they name no domain."""
        return self._config.domain

    async def authorize(self, attempt: Attempt) -> tuple[Principal, str]:
        """The keypair of whoever knows the password. Raises Unauthenticated (OtpMissing, PasswordExpired) or TooManyLogins."""
        principal, _ = await self._verified(attempt, expired_too=False)
        return await self._identity.authenticate(principal.access_key)

    async def log_in(self, attempt: Attempt, presented_id: str = "") -> WebSession:
        """A web session. Raises what `authorize` does, and LoggedInAlready when the presented id is that of a live one."""
        if presented_id and await self.find(presented_id) is not None:
            raise LoggedInAlready("You have already logged in.", hint="Log out first.")
        principal, _ = await self._verified(attempt, expired_too=False)
        return await self.open(principal)

    async def log_in_by_token(self, text: str, address: str = "") -> WebSession:
        """A web session for whom a trusted site vouches; a token works once. Raises Unauthenticated."""
        if not self._config.token_secret:
            raise Unauthenticated("Logging in by token is switched off.")
        told = token.read(text, self._config.token_secret, self._clock.now())
        user = await self._database.read(
            lambda conn: identities.user_by_login(conn, self._config.domain, told.email)
        )
        principal = await self.principal_of(user.id) if user is not None and user.status == "active" else None
        if principal is None or not policy.address_allowed(address, principal.allowed_client_ip):
            raise Unauthenticated(token.REFUSAL)
        if not await self.spend(f"token {told.id}", principal, told.expires_at):
            raise Unauthenticated(token.REFUSAL)
        return await self.open(principal)

    async def principal_of(self, user_id: UserId) -> Principal | None:
        """A user as seen through its (first) active keypair, or None without any."""
        key = await self._database.read(lambda conn: identities.access_key_of(conn, user_id))
        if key is None:
            return None
        try:
            principal, _ = await self._identity.authenticate(key)
        except Unauthenticated:
            return None
        return principal

    async def open(self, principal: Principal) -> WebSession:
        """A new web session for somebody who has proved who they are. Always a new id: an id that was there before is never promoted."""
        session_id = f"{self._rng.getrandbits(ID_BYTES * 8):0{ID_BYTES * 2}x}"
        now = self._clock.now()
        lifetime_s = self._config.web_session_s
        expires_at = now + timedelta(seconds=lifetime_s)
        await self._database.run(
            lambda conn: store.insert_web_session(
                conn, id_hash(session_id), principal.access_key, now, expires_at
            )
        )
        log.info("logged-in", user=str(principal.user_id))
        return WebSession(id=session_id, principal=principal, lifetime_s=lifetime_s)

    async def find(self, session_id: str) -> Principal | None:
        """Whose web session this is, or None."""
        if not 0 < len(session_id) <= ID_CHARACTERS_MAX:
            return None
        now = self._clock.now()
        key = await self._database.read(lambda conn: store.web_session(conn, id_hash(session_id), now))
        if key is None:
            return None
        try:
            principal, _ = await self._identity.authenticate(key)
        except Unauthenticated:
            return None
        return principal

    async def log_out(self, session_id: str) -> None:
        """Ends a web session, if there is one."""
        await self._database.run(lambda conn: store.delete_web_session(conn, id_hash(session_id)))

    async def spend(self, what: str, principal: Principal, until: datetime) -> bool:
        """Notes that something which may be used once was used; False when it was used already."""
        digest = hashlib.sha256(f"spent {what}".encode()).hexdigest()
        now = self._clock.now()

        def op(conn: sa.Connection) -> bool:
            if store.web_session(conn, digest, now) is not None:
                return False
            store.insert_web_session(conn, digest, principal.access_key, now, until)
            return True

        return await self._database.run(op)

    async def change_password(
        self, principal: Principal, old: str, new: str, *, address: str = "", kept_id: str = ""
    ) -> None:
        """Ends the user's other web sessions. Raises Unauthenticated for a wrong old one, TooManyLogins, InvalidInput for an unfit new."""
        attempt = Attempt(
            domain_name=principal.domain_name,
            login=principal.email,
            password=old,
            address=address,
        )
        _, account = await self._verified(attempt, expired_too=True, code_needed=False)
        await self._set_password(account, old, new, kept_id)

    async def change_expired_password(self, attempt: Attempt, new: str) -> datetime:
        """For who can't log in because of the password's age. Raises what `authorize` does, and InvalidInput when it is not to be changed
        this way. Returns when it was changed."""
        _, account = await self._verified(attempt, expired_too=True)
        if not policy.may_change_expired(account, self._config):
            raise InvalidInput(
                "Unsupported function: passwords do not expire here.", hint="Log in, and change it then."
            )
        if new == attempt.password:
            raise Unauthenticated("The new password is the same as the current one.")
        return await self._set_password(account, attempt.password, new, "")

    async def _set_password(self, account: Account, old: str, new: str, kept_id: str) -> datetime:
        refusal = policy.check_new_password(new, old, account.email)
        if refusal is not None:
            raise refusal
        hashed = await self._identity.hash_password(new)
        now = self._clock.now()

        def op(conn: sa.Connection) -> None:
            store.set_password(conn, account.user_id, hashed, now)
            store.delete_web_sessions_of(conn, account.user_id, but=id_hash(kept_id) if kept_id else "")

        await self._database.run(op)
        return now

    async def confirm(self, principal: Principal, password: str, *, address: str = "") -> None:
        """That it is really them, before something that can't be undone. Raises Unauthenticated or TooManyLogins."""
        attempt = Attempt(
            domain_name=principal.domain_name, login=principal.email, password=password, address=address
        )
        await self._verified(attempt, expired_too=True, code_needed=False)

    async def _verified(
        self, attempt: Attempt, *, expired_too: bool, code_needed: bool = True
    ) -> tuple[Principal, Account]:
        key = policy.throttle_key(attempt.domain_name, attempt.login)
        noted = await self._note(key)
        principal = await self._identity.verify_password(attempt.domain_name, attempt.login, attempt.password)
        account = await self._database.read(lambda conn: store.account(conn, principal.user_id))
        if account is None or not policy.address_allowed(attempt.address, principal.allowed_client_ip):
            raise Unauthenticated("User credential mismatch.")
        if code_needed and account.totp_active:
            if not attempt.otp:
                # Nothing was guessed: this attempt does not count, and forgives none.
                await self._database.run(lambda conn: store.forget_failure(conn, key, noted))
                raise OtpMissing
            await self._check_code(account, attempt.otp)
        await self._database.run(lambda conn: store.forget_failures(conn, key))
        expired = None if expired_too else policy.password_expired(account, self._clock.now(), self._config)
        if expired is not None:
            raise expired
        return principal, account

    async def _note(self, key: str) -> datetime:
        now = self._clock.now()
        since = now - timedelta(seconds=self._config.failures_window_s)

        def op(conn: sa.Connection) -> datetime | BackendError:
            decided = policy.admit_attempt(store.failures(conn, key, since), now, self._config)
            if isinstance(decided, datetime):
                store.insert_failure(conn, key, decided)
            return decided

        decided = await self._database.run(op)
        if isinstance(decided, BackendError):
            raise decided
        return decided

    async def _check_code(self, account: Account, code: str) -> None:
        """Raises Unauthenticated for a wrong code, and for one that was used."""
        sealed = account.totp_key_sealed
        assert sealed is not None, "it is active"
        key = self._secrets.unseal(sealed, context=totp_context(account.user_id))
        step = totp.matching_step(key, code, self._clock.now(), account.totp_last_step)
        if step is None or not await self._database.run(
            lambda conn: store.accept_step(conn, account.user_id, sealed, step)
        ):
            raise Unauthenticated("Invalid OTP.", hint="Codes work once; wait for the next one.")

    async def prepare_totp(self, principal: Principal) -> tuple[str, str]:
        """A new key, in base32, and its URI for a QR code. It counts once a code of it was shown. Raises InvalidInput if one is active."""
        key = totp.new_key(self._rng)
        sealed = self._secrets.seal(key, context=totp_context(principal.user_id))
        if not await self._database.run(lambda conn: store.set_totp_key(conn, principal.user_id, sealed)):
            raise InvalidInput("Two-factor authentication is active already.", hint="Remove it first.")
        return key, totp.uri(key, principal.email)

    async def activate_totp(self, principal: Principal, code: str) -> None:
        """From now on logins need a code. Raises Unauthenticated for a wrong one, InvalidInput when there is nothing to activate."""
        key = policy.throttle_key(principal.domain_name, principal.email)
        await self._note(key)
        account = await self._database.read(lambda conn: store.account(conn, principal.user_id))
        if account is None or account.totp_key_sealed is None or account.totp_active:
            raise InvalidInput("There is no key that waits for its first code.", hint="POST /totp first.")
        await self._check_code(account, code)
        now = self._clock.now()

        def op(conn: sa.Connection) -> None:
            store.activate_totp(conn, account.user_id, now)
            store.forget_failures(conn, key)

        await self._database.run(op)

    async def remove_totp(self, principal: Principal, email: str = "") -> None:
        """One's own, or as an administrator somebody else's who has lost the app. Raises UserNotFound."""
        user_id = principal.user_id
        if email and email.lower() != principal.email.lower():
            user_id = await self._administered(principal, email)
        await self._database.run(lambda conn: store.remove_totp(conn, user_id))
        log.info("second-factor-removed", user=str(user_id), by=str(principal.user_id))

    async def _administered(self, principal: Principal, email: str) -> UserId:
        """A user whom the principal administers. One that it does not see is told like one that is not there."""
        if principal.role not in (Role.SUPERADMIN, Role.ADMIN):
            raise Forbidden("You may remove only your own.")
        user_id = await self._database.read(lambda conn: store.user_by_email(conn, email))
        owner = await self.principal_of(user_id) if user_id is not None else None
        if owner is None or refuse_delegation(principal, owner) is not None:
            raise UserNotFound("no such user of yours")
        return owner.user_id
