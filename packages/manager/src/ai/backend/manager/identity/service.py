"""Who is calling, and for whom. Keypairs are kept in memory after their first use, so that verifying a request costs no query."""

import asyncio
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from ai.backend.common.clock import Clock
from ai.backend.common.errors import InvalidInput, ProjectNotFound, Unauthenticated
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
from ..db.database import Database
from ..db.schema import domains, keypair_policies, projects, resource_groups
from ..secret import Secrets
from . import store
from .model import Credential, KeypairPolicy, Seeded, SeedResult
from .policy import refuse_delegation

CACHED_MAX = 10_000
READABLE = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
RATE_LIMIT = 10_000
# OWASP's argon2id parameters for servers: 19 MiB, 2 passes, 1 lane.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class IdentityService:
    def __init__(self, database: Database, secrets: Secrets, *, clock: Clock, rng: Random) -> None:
        self._database = database
        self._secrets = secrets
        self._clock = clock
        self._rng = rng
        self._known: dict[str, Credential] = {}
        self._policies: dict[str, KeypairPolicy] = {}
        self._projects: dict[tuple[str, str, UserId], ProjectId] = {}
        self._hashing = asyncio.Semaphore(2)  # a flood of logins must not become a flood of memory

    async def authenticate(self, access_key: str) -> tuple[Principal, str]:
        """The owner of an active access key, and the secret key. Raises Unauthenticated."""
        known = self._known.get(access_key)
        if known is None:
            found = await self._database.read(lambda conn: store.credential(conn, access_key))
            if found is None:
                raise Unauthenticated("Access key not found", hint="Check BACKEND_ACCESS_KEY.")
            principal, sealed = found
            known = Credential(
                principal=principal, secret_key=self._secrets.unseal(sealed, context=access_key)
            )
            if len(self._known) >= CACHED_MAX:
                self._known.clear()
            self._known[access_key] = known
        return known.principal, known.secret_key

    def forget(self) -> None:
        """Call after any change of users, keypairs, policies or memberships."""
        self._known.clear()
        self._policies.clear()
        self._projects.clear()

    async def delegate(self, principal: Principal, owner_access_key: str | None) -> Principal:
        """Whom to act as. Raises InvalidInput for an unknown key and Forbidden when the principal may not."""
        if not owner_access_key or owner_access_key == principal.access_key:
            return principal
        try:
            owner, _ = await self.authenticate(owner_access_key)
        except Unauthenticated as exc:
            raise InvalidInput("Unknown owner access key", field="owner_access_key") from exc
        refusal = refuse_delegation(principal, owner)
        if refusal is not None:
            raise refusal
        return owner

    async def verify_password(self, domain_name: str, login: str, password: str) -> Principal:
        """The user of this email or user name. Raises Unauthenticated, after the same work, whatever is wrong."""
        user = await self._database.read(lambda conn: store.user_by_login(conn, domain_name, login))
        known = user.password_hash if user and user.status == "active" else _NOBODY
        async with self._hashing:
            right = await asyncio.to_thread(_verify, known, password)
        if not right or user is None or user.status != "active":
            raise Unauthenticated("User credential mismatch.")
        access_key = await self._database.read(lambda conn: store.access_key_of(conn, user.id))
        if access_key is None:
            raise Unauthenticated("User credential mismatch.")
        if _hasher.check_needs_rehash(known):
            fresh = await self._hash(password)
            await self._database.run(lambda conn: store.set_password(conn, user.id, fresh))
        principal, _ = await self.authenticate(access_key)
        return principal

    async def _hash(self, password: str) -> str:
        async with self._hashing:
            return await asyncio.to_thread(_hasher.hash, password)

    async def project(self, domain_name: str, project: str, principal: Principal) -> ProjectId:
        """A project by name or id that the principal may use. Raises ProjectNotFound."""
        key = (domain_name, project, principal.user_id)
        if key not in self._projects:
            anyone = principal.role is Role.SUPERADMIN or (
                principal.role is Role.ADMIN and principal.domain_name == domain_name
            )
            member = None if anyone else principal.user_id
            found = await self._database.read(lambda conn: store.project(conn, domain_name, project, member))
            if found is None:
                raise ProjectNotFound(
                    f"no project {project[:64]!r} of yours in the domain {domain_name[:64]!r}"
                )
            if len(self._projects) >= CACHED_MAX:
                self._projects.clear()
            self._projects[key] = found
        return self._projects[key]

    async def policy(self, name: str) -> KeypairPolicy:
        if name not in self._policies:
            found = await self._database.read(lambda conn: store.policy(conn, name))
            assert found is not None, "a foreign key holds it"
            self._policies[name] = found
        return self._policies[name]

    async def deactivate_keypair(self, access_key: str) -> bool:
        done = await self._database.run(lambda conn: store.deactivate_keypair(conn, access_key))
        self.forget()
        return done

    async def seed(self, rng: Random, now: datetime) -> SeedResult:
        """The defaults of a new installation: domain, project, resource group and policy "default", a superadmin and a plain user.

        Idempotent. Passwords are known only in the run that makes the users.
        """
        accounts = [("admin", Role.SUPERADMIN), ("user", Role.USER)]
        passwords = {
            name: "".join(READABLE[rng.getrandbits(16) % len(READABLE)] for _ in range(16))
            for name, _ in accounts
        }
        hashes = {name: await self._hash(password) for name, password in passwords.items()}

        def op(conn: sa.Connection) -> tuple[ProjectId, set[str]]:
            store.ensure(conn, domains, {"name": "default"}, {"created_at": now})
            store.ensure(conn, resource_groups, {"name": "default"}, {"created_at": now})
            limits = {"max_concurrent_sessions": 30, "max_containers_per_session": 1}
            store.ensure(conn, keypair_policies, {"name": "default"}, {"created_at": now, **limits})
            key = {"domain_name": "default", "name": "default"}
            store.ensure(conn, projects, key, {"id": new_uuid(rng), "created_at": now})
            project_id = store.project(conn, "default", "default", None)
            assert project_id is not None, "it was made above"
            made = {
                name
                for name, role in accounts
                if self._seed_user(conn, name, role, hashes[name], project_id, now)
            }
            return project_id, made

        project_id, made = await self._database.run(op)
        seeded = {
            name: await self._seeded(name, passwords[name] if name in made else None) for name, _ in accounts
        }
        return SeedResult(admin=seeded["admin"], user=seeded["user"], project_id=project_id)

    def _seed_user(
        self,
        conn: sa.Connection,
        name: str,
        role: Role,
        password_hash: str,
        project_id: ProjectId,
        now: datetime,
    ) -> bool:
        if store.user_by_login(conn, "default", name) is not None:
            return False
        user_id = new_uuid(self._rng)
        row: dict[str, Any] = {
            "id": user_id,
            "email": f"{name}@localhost.localdomain",
            "username": name,
            "password_hash": password_hash,
            "role": role.value,
            "domain_name": "default",
            "created_at": now,
        }
        store.insert_user(conn, row)
        store.join_project(conn, project_id, user_id)
        access_key = new_access_key(self._rng)
        store.insert_keypair(
            conn,
            {
                "access_key": access_key,
                "secret_key_sealed": self._secrets.seal(new_secret_key(self._rng), context=access_key),
                "user_id": user_id,
                "is_admin": role is Role.SUPERADMIN,
                "policy_name": "default",
                "rate_limit": RATE_LIMIT,
                "created_at": now,
            },
        )
        return True

    async def _seeded(self, name: str, password: str | None) -> Seeded:
        user = await self._database.read(lambda conn: store.user_by_login(conn, "default", name))
        assert user is not None, "it was made before"
        access_key = await self._database.read(lambda conn: store.access_key_of(conn, user.id))
        secret_key = (await self.authenticate(access_key))[1] if access_key else ""
        return Seeded(
            email=user.email, access_key=access_key or AccessKey(""), secret_key=secret_key, password=password
        )


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except VerifyMismatchError:
        return False


_NOBODY = _hasher.hash("nobody's password, verified in vain so that unknown users take as long as known ones")
