"""Dotfiles of keypairs, projects and domains, and keypairs' bootstrap scripts."""

from collections.abc import Callable

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.errors import (
    BackendError,
    DomainNotFound,
    InvalidInput,
    NotPrivileged,
    ProjectNotFound,
)

from ..access.model import Principal
from ..audit import store as audit_store
from ..audit.model import note
from ..db.database import Database
from ..identity import store as identity_store
from . import store
from .model import Dotfile, DotfileNotFound, Owner, Scope
from .policy import check_script, may_read, may_write, path_of, refuse_change, refuse_new

Decision = Callable[[Dotfile, list[Dotfile]], BackendError | None]


class DotfileService:
    """`scope` says whose: the principal's own, those of `project` (name with `domain_name`, or id), or those of `domain_name`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def list(
        self, principal: Principal, scope: Scope, *, project: str = "", domain_name: str = ""
    ) -> list[Dotfile]:
        """By path. Raises ProjectNotFound or DomainNotFound, also for what the principal may not see."""
        return await self._database.read(
            lambda conn: store.of_owner(conn, _owner(conn, principal, scope, project, domain_name)[0])
        )

    async def get(
        self, principal: Principal, scope: Scope, path: str, *, project: str = "", domain_name: str = ""
    ) -> Dotfile:
        """Raises DotfileNotFound as well."""
        wanted = path_of(path)
        for file in await self.list(principal, scope, project=project, domain_name=domain_name):
            if file.path == wanted:
                return file
        raise DotfileNotFound(f"no dotfile {wanted!r}")

    async def create(
        self,
        principal: Principal,
        scope: Scope,
        path: str,
        permission: str,
        data: str,
        *,
        project: str = "",
        domain_name: str = "",
    ) -> None:
        """Raises NotPrivileged for a project's or a domain's when the principal may only read them, and what the policy refuses."""
        file = Dotfile(path=path_of(path), permission=permission, data=data)
        await self._put(principal, scope, file, project, domain_name, refuse_new, "dotfile:create")

    async def change(
        self,
        principal: Principal,
        scope: Scope,
        path: str,
        permission: str,
        data: str,
        *,
        project: str = "",
        domain_name: str = "",
    ) -> None:
        """Like `create`, but raises DotfileNotFound when there is none yet."""
        file = Dotfile(path=path_of(path), permission=permission, data=data)
        await self._put(principal, scope, file, project, domain_name, refuse_change, "dotfile:change")

    async def _put(
        self,
        principal: Principal,
        scope: Scope,
        file: Dotfile,
        project: str,
        domain_name: str,
        refuse: Decision,
        action: str,
    ) -> None:
        def change(conn: sa.Connection, owner: Owner) -> None:
            refusal = refuse(file, store.of_owner(conn, owner))
            if refusal is not None:
                raise refusal
            store.put(conn, owner, file)

        await self._write(principal, scope, project, domain_name, change, action, file.path)

    async def delete(
        self, principal: Principal, scope: Scope, path: str, *, project: str = "", domain_name: str = ""
    ) -> None:
        wanted = path_of(path)

        def change(conn: sa.Connection, owner: Owner) -> None:
            if not store.delete(conn, owner, wanted):
                raise DotfileNotFound(f"no dotfile {wanted!r}")

        await self._write(principal, scope, project, domain_name, change, "dotfile:delete", wanted)

    async def _write(
        self,
        principal: Principal,
        scope: Scope,
        project: str,
        domain_name: str,
        change: Callable[[sa.Connection, Owner], None],
        action: str,
        path: str,
    ) -> None:
        told = note(principal, action, path, self._clock.now(), scope=scope.value)

        def op(conn: sa.Connection) -> None:
            owner, its_domain = _owner(conn, principal, scope, project, domain_name)
            if not may_write(principal, owner, its_domain):
                raise NotPrivileged("Unauthorized access", hint="Its administrators may do this.")
            change(conn, owner)
            if scope is not Scope.USER:  # what everybody does with their own is no administration
                audit_store.write(conn, told)

        await self._database.run(op)

    async def script(self, principal: Principal) -> str:
        """What runs at the start of the principal's sessions that bring no script of their own."""
        return await self._database.read(lambda conn: store.script(conn, principal.access_key))

    async def set_script(self, principal: Principal, text: str) -> None:
        """Raises InvalidInput."""
        refusal = check_script(text)
        if refusal is not None:
            raise refusal
        await self._database.run(lambda conn: store.set_script(conn, principal.access_key, text))


def _owner(
    conn: sa.Connection, principal: Principal, scope: Scope, project: str, domain_name: str
) -> tuple[Owner, str]:
    """Whose they are, and in which domain. Raises for what is not there or not for this principal."""
    if scope is Scope.USER:
        owner = Owner(scope=scope, key=principal.access_key)
        if not may_read(principal, owner, principal.domain_name, member=False):
            raise NotPrivileged("Unauthorized access")
        return owner, principal.domain_name
    domain_name = domain_name or principal.domain_name
    if scope is Scope.DOMAIN:
        owner = Owner(scope=scope, key=domain_name)
        if not may_read(principal, owner, domain_name, member=False) or not identity_store.domain_exists(
            conn, domain_name
        ):
            raise DomainNotFound(f"no domain {domain_name[:64]!r}")
        return owner, domain_name
    if not project:
        raise InvalidInput("which group?", hint="Give its name or id as 'group'.", field="group")
    found = identity_store.find_project(conn, project, domain_name, principal.user_id)
    if found is not None:
        project_id, its_domain, member = found
        owner = Owner(scope=scope, key=str(project_id))
        if may_read(principal, owner, its_domain, member=member):
            return owner, its_domain
    raise ProjectNotFound(f"no project {project[:64]!r} of yours in the domain {domain_name[:64]!r}")
