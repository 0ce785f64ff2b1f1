"""Who is calling, and for whom. What the database says is kept in memory, so that verifying a request costs no query.

A change made here is seen at once; one made by another manager on the same database, after CACHED_S at most.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Generic, TypeVar

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from ai.backend.common.clock import Clock
from ai.backend.common.errors import Conflict, DomainNotFound, InvalidInput, ProjectNotFound, Unauthenticated
from ai.backend.common.ids import (
    AccessKey,
    ProjectId,
    Random,
    UserId,
    new_access_key,
    new_secret_key,
    new_uuid,
)

from ..access.model import Principal, Role
from ..db.database import Database, UniqueViolation
from ..secret import Secrets
from . import store
from .model import Credential, NewUser, Seeded, SeedResult, User, UserDraft
from .policy import check_user, not_theirs, refuse_delegation

CACHED_MAX = 10_000
CACHED_S = 30.0
READABLE = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
SEEDED = (("admin", Role.SUPERADMIN), ("user", Role.USER))
PASSWORD_CHARACTERS_MAX = 1024
HASHING_THREADS = 2
# OWASP's argon2id parameters for servers: 19 MiB, 2 passes, 1 lane.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
NOBODY = f"$argon2id$v=19$m=19456,t=2,p=1${'A' * 22}${'A' * 43}"
"""No password's hash, verified in vain so that unknown users take as long as known ones."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Recent(Generic[K, V]):
    """Answers of the database, each kept for CACHED_S, CACHED_MAX of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[K, tuple[float, V]] = {}
        self._changes = 0

    async def get(self, key: K, load: Callable[[], Awaitable[V | None]]) -> V | None:
        """What is kept, or loaded now; None is not kept."""
        now = self._clock.monotonic()
        kept = self._kept.get(key)
        if kept is not None and now < kept[0]:
            return kept[1]
        changes = self._changes
        value = await load()
        # What was read before a change must not be kept after it.
        if value is not None and changes == self._changes:
            self._kept.pop(key, None)
            if len(self._kept) >= CACHED_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = (now + CACHED_S, value)
        return value

    def forget(self) -> None:
        self._changes += 1
        self._kept.clear()


class IdentityService:
    def __init__(self, database: Database, secrets: Secrets, *, clock: Clock, rng: Random) -> None:
        self._database = database
        self._secrets = secrets
        self._clock = clock
        self._rng = rng
        self._known = _Recent[str, Credential](clock)
        self._projects = _Recent[tuple[str, str, UserId, Role], ProjectId](clock)
        # A flood of logins must not become a flood of memory, also when their callers have gone away.
        self._hashing = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="password")

    async def authenticate(self, access_key: str) -> tuple[Principal, str]:
        """The owner of an active access key, and the secret key. Raises Unauthenticated."""

        async def load() -> Credential | None:
            found = await self._database.read(lambda conn: store.credential(conn, access_key))
            if found is None:
                return None
            principal, sealed = found
            plain = self._secrets.unseal(sealed, context=access_key)
            return Credential(principal=principal, secret_key=plain)

        known = await self._known.get(access_key, load)
        if known is None:
            raise Unauthenticated("Access key not found", hint="Check BACKEND_ACCESS_KEY.")
        return known.principal, known.secret_key

    def forget(self) -> None:
        """Call after any change of users, keypairs or memberships that was not made here."""
        self._known.forget()
        self._projects.forget()

    async def _change(self, op: Callable[[sa.Connection], V]) -> V:
        try:
            return await self._database.run(op)
        finally:
            self.forget()

    async def delegate(self, principal: Principal, owner_access_key: str | None) -> Principal:
        """Whom to act as. Raises Forbidden when the principal may not, and InvalidInput for an unknown key, but only for whom no key is
        hidden: others must not learn which keys there are."""
        if not owner_access_key or owner_access_key == principal.access_key:
            return principal
        try:
            owner, _ = await self.authenticate(owner_access_key)
        except Unauthenticated as exc:
            if principal.role is not Role.SUPERADMIN:
                raise not_theirs() from exc
            raise InvalidInput("Unknown owner access key", field="owner_access_key") from exc
        refusal = refuse_delegation(principal, owner)
        if refusal is not None:
            raise refusal
        return owner

    async def verify_password(self, domain_name: str, login: str, password: str) -> Principal:
        """The user of this email or user name. Raises Unauthenticated, after the same work, whatever is wrong."""
        user = await self._database.read(lambda conn: store.user_by_login(conn, domain_name, login))
        known = user.password_hash if user and user.status == "active" else NOBODY
        right = await self._in_thread(_verify, known, password[:PASSWORD_CHARACTERS_MAX])
        if not right or user is None or user.status != "active" or len(password) > PASSWORD_CHARACTERS_MAX:
            raise Unauthenticated("User credential mismatch.")
        access_key = await self._database.read(lambda conn: store.access_key_of(conn, user.id))
        if access_key is None:
            raise Unauthenticated("User credential mismatch.")
        if _hasher.check_needs_rehash(known):
            fresh = await self._in_thread(_hasher.hash, password)
            await self._database.run(lambda conn: store.set_password(conn, user.id, fresh))
        principal, _ = await self.authenticate(access_key)
        return principal

    @property
    def secrets(self) -> Secrets:
        """What seals this installation's secrets."""
        return self._secrets

    async def hash_password(self, password: str) -> str:
        """As it is stored."""
        return await self._in_thread(_hasher.hash, password)

    async def _in_thread(self, work: Callable[..., V], *arguments: str) -> V:
        return await asyncio.get_running_loop().run_in_executor(self._hashing, work, *arguments)

    async def project(self, domain_name: str, project: str, principal: Principal) -> ProjectId:
        """A project by name or id that the principal may use. Raises ProjectNotFound."""
        anyone = principal.role is Role.SUPERADMIN or (
            principal.role is Role.ADMIN and principal.domain_name == domain_name
        )
        member = None if anyone else principal.user_id

        async def load() -> ProjectId | None:
            return await self._database.read(lambda conn: store.project(conn, domain_name, project, member))

        found = await self._projects.get((domain_name, project, principal.user_id, principal.role), load)
        if found is None:
            raise ProjectNotFound(f"no project {project[:64]!r} of yours in the domain {domain_name[:64]!r}")
        return found

    async def deactivate_keypair(self, access_key: str) -> bool:
        """From now on it authenticates nobody. False for an unknown one."""
        return await self._change(lambda conn: store.deactivate_keypair(conn, access_key))

    async def create_user(
        self, draft: UserDraft, also: Callable[[sa.Connection, UserId], None] = lambda _conn, _user_id: None
    ) -> Seeded:
        """Makes a user with a keypair. What `also` writes of it is in the same transaction.

        Raises InvalidInput, DomainNotFound, ProjectNotFound, or Conflict for a taken email or name.
        """
        refusal = check_user(draft)
        if refusal is not None:
            raise refusal
        new = await self._new_user(draft, self._rng)
        now = self._clock.now()

        def op(conn: sa.Connection) -> None:
            if not store.domain_exists(conn, draft.domain_name):
                raise DomainNotFound(f"no domain {draft.domain_name!r}")
            for project_id in draft.project_ids:
                if store.project(conn, draft.domain_name, str(project_id), None) is None:
                    raise ProjectNotFound(f"no project {project_id} in the domain {draft.domain_name!r}")
            store.insert_user(conn, new, now)
            also(conn, new.user_id)

        try:
            await self._change(op)
        except UniqueViolation as exc:
            raise Conflict("a user of that email or name exists", constraint=exc.constraint) from exc
        return _account(new)

    def new_keypair(self) -> tuple[AccessKey, str, bytes]:
        """An access key, its secret key, and that sealed."""
        access_key, secret_key = new_access_key(self._rng), new_secret_key(self._rng)
        return access_key, secret_key, self._secrets.seal(secret_key, context=access_key)

    def unsealed(self, sealed: bytes, access_key: str) -> str:
        return self._secrets.unseal(sealed, context=access_key)

    async def _new_user(self, draft: UserDraft, rng: Random) -> NewUser:
        access_key, secret_key = new_access_key(rng), new_secret_key(rng)
        return NewUser(
            draft=draft,
            user_id=UserId(new_uuid(rng)),
            password_hash=await self._in_thread(_hasher.hash, draft.password),
            access_key=access_key,
            secret_key=secret_key,
            secret_key_sealed=self._secrets.seal(secret_key, context=access_key),
        )

    async def seed(self, rng: Random, now: datetime) -> SeedResult:
        """The defaults of a new installation: domain, project, resource group and policy "default", a superadmin and a plain user.

        Idempotent. Passwords are known only in the run that makes the users.
        """
        missing: dict[str, NewUser] = {}
        for name, role in SEEDED:
            if await self._seeded_user(name) is None:
                password = "".join(READABLE[rng.getrandbits(16) % len(READABLE)] for _ in range(16))
                email = f"{name}@localhost.localdomain"
                draft = UserDraft(email=email, username=name, password=password, role=role)
                missing[name] = await self._new_user(draft, rng)
        fresh_id = ProjectId(new_uuid(rng))

        def op(conn: sa.Connection) -> tuple[ProjectId, set[str]]:
            store.ensure_defaults(conn, fresh_id, now)
            project_id = store.project(conn, "default", "default", None)
            assert project_id is not None, "it was made above, or closed by hand"
            made = set()
            for name, new in missing.items():
                if store.user_by_login(conn, "default", name) is None:
                    store.insert_user(conn, new, now)
                    store.join_project(conn, project_id, new.user_id)
                    made.add(name)
            return project_id, made

        project_id, made = await self._change(op)
        seeded = {
            name: _account(missing[name]) if name in made else await self._seeded(name) for name, _ in SEEDED
        }
        return SeedResult(admin=seeded["admin"], user=seeded["user"], project_id=project_id)

    async def _seeded_user(self, name: str) -> User | None:
        return await self._database.read(lambda conn: store.user_by_login(conn, "default", name))

    async def _seeded(self, name: str) -> Seeded:
        user = await self._seeded_user(name)
        assert user is not None, "it was made before"
        access_key = await self._database.read(lambda conn: store.access_key_of(conn, user.id))
        secret_key = (
            (await self.authenticate(access_key))[1] if access_key and user.status == "active" else ""
        )
        return Seeded(email=user.email, access_key=access_key or AccessKey(""), secret_key=secret_key)


def _account(new: NewUser) -> Seeded:
    return Seeded(
        email=new.draft.email,
        access_key=new.access_key,
        secret_key=new.secret_key,
        password=new.draft.password,
    )


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
