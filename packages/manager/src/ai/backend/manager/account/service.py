"""A user's own account: signing up and out, names, roles, SSH keys."""

import asyncio

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.errors import Conflict, Forbidden, InvalidInput
from ai.backend.common.ids import ProjectId, Random

from ..access.model import Principal
from ..config import LoginConfig
from ..db.database import Database
from ..identity import store as identities
from ..identity.model import UserDraft
from ..identity.service import IdentityService
from ..login import store as logins
from ..login.service import LoginService
from ..secret import Secrets
from . import policy, sshkey, store
from .model import Application, EmailTaken, Member, Roles, SshKeypair

NAMES_TRIED = 5
FULL_NAME_CHARACTERS_MAX = 128
DESCRIPTION_CHARACTERS_MAX = 500


def ssh_context(access_key: str) -> str:
    """For whose private SSH key a sealed text stands."""
    return f"ssh {access_key}"


class AccountService:
    def __init__(
        self,
        database: Database,
        secrets: Secrets,
        identity: IdentityService,
        login: LoginService,
        config: LoginConfig,
        *,
        clock: Clock,
        rng: Random,
    ) -> None:
        self._database = database
        self._secrets = secrets
        self._identity = identity
        self._login = login
        self._config = config
        self._clock = clock
        self._rng = rng

    async def sign_up(self, application: Application) -> Member:
        """Raises Forbidden while that is switched off, EmailTaken, InvalidInput, DomainNotFound."""
        if not self._config.signup:
            raise Forbidden("Signing up is switched off here.", hint="Ask an administrator for an account.")
        return await self.make(application, project="default")

    async def make(self, application: Application, *, project: str) -> Member:
        """An account for somebody unknown; in `project` of its domain if there is one of that name. Raises what `sign_up` does."""
        if len(application.full_name) > FULL_NAME_CHARACTERS_MAX:
            raise InvalidInput("that name is too long", limit=FULL_NAME_CHARACTERS_MAX, field="full_name")
        if len(application.description) > DESCRIPTION_CHARACTERS_MAX:
            raise InvalidInput("that is too long", limit=DESCRIPTION_CHARACTERS_MAX, field="description")
        joined = await self._project(application.domain_name, project)
        asked = application.username if "@" not in application.username else ""
        name = asked or policy.username_from(application.email)
        for _ in range(NAMES_TRIED):
            draft = UserDraft(
                email=application.email,
                username=name,
                password=application.password,
                domain_name=application.domain_name,
                project_ids=(joined,) if joined else (),
            )
            try:
                made = await self._identity.create_user(draft)
                break
            except Conflict as exc:
                if await self._database.read(lambda conn: logins.user_by_email(conn, application.email)):
                    raise EmailTaken("Email already exists", field="email") from exc
                if asked:
                    raise InvalidInput("that user name is taken", field="username") from exc
                name = policy.username_from(application.email, 1 + self._rng.getrandbits(20))
        else:
            raise Conflict("no free user name was found", hint="Choose one.")
        principal, secret_key = await self._identity.authenticate(made.access_key)
        now = self._clock.now()
        await self._database.run(
            lambda conn: store.describe_user(
                conn, principal.user_id, application.full_name, application.description, now
            )
        )
        return Member(principal=principal, secret_key=secret_key)

    async def _project(self, domain_name: str, project: str) -> ProjectId | None:
        if not project:
            return None
        return await self._database.read(lambda conn: identities.project(conn, domain_name, project, None))

    async def sign_out(self, principal: Principal, email: str, password: str, *, address: str = "") -> None:
        """Deactivates the account and its keypairs, and ends its web sessions. Raises Forbidden for somebody else's, Unauthenticated."""
        self._refuse_others(principal, email)
        await self._login.confirm(principal, password, address=address)
        now = self._clock.now()

        def op(conn: sa.Connection) -> None:
            store.deactivate(conn, principal.user_id, now)
            logins.delete_web_sessions_of(conn, principal.user_id)

        await self._database.run(op)
        self._identity.forget()

    async def rename(self, principal: Principal, email: str, full_name: str) -> None:
        """Raises Forbidden for somebody else, InvalidInput for what is no name."""
        self._refuse_others(principal, email)
        if not 0 < len(full_name.strip()) <= FULL_NAME_CHARACTERS_MAX:
            raise InvalidInput(f"a name has 1 to {FULL_NAME_CHARACTERS_MAX} characters", field="full_name")
        now = self._clock.now()
        await self._database.run(
            lambda conn: store.set_full_name(conn, principal.user_id, full_name.strip(), now)
        )

    def _refuse_others(self, principal: Principal, email: str) -> None:
        if email.strip().lower() != principal.email.lower():
            raise Forbidden("You may do this only with your own account.")

    async def roles(self, principal: Principal, project: str = "") -> Roles:
        """Raises ProjectNotFound for a project that is not the principal's."""
        project_id = None
        if project:
            project_id = await self._identity.project(principal.domain_name, project, principal)
        return policy.roles_of(principal, project_id)

    async def ssh_public_key(self, principal: Principal) -> str | None:
        return await self._database.read(lambda conn: store.ssh_public_key(conn, principal.access_key))

    async def renew_ssh_keypair(self, principal: Principal) -> SshKeypair:
        """A fresh one; the only time that its private part is told."""
        pair = await asyncio.to_thread(sshkey.generate)
        await self._keep(principal, pair)
        return pair

    async def set_ssh_keypair(self, principal: Principal, public: str, private: str) -> SshKeypair:
        """Raises InvalidInput for what is no pair."""
        pair = sshkey.check(public, private)
        await self._keep(principal, pair)
        return pair

    async def _keep(self, principal: Principal, pair: SshKeypair) -> None:
        sealed = self._secrets.seal(pair.private, context=ssh_context(principal.access_key))
        now = self._clock.now()
        await self._database.run(
            lambda conn: store.set_ssh_keypair(conn, principal.access_key, pair.public, sealed, now)
        )
