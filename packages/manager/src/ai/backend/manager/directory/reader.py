"""What everybody may look up in the directory: each sees what the access table lets it see, and the rest is not there."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.errors import Forbidden
from ai.backend.common.ids import AccessKey

from ..access.model import Principal
from ..access.policy import Action, Reach, administered, may, reach
from ..db import schema as t
from ..db.database import Database
from ..identity.service import IdentityService
from ..resource import store as resource_store
from ..resource.policy import given
from . import model, store
from .model import Listing, Page

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")
_OF_MEMBERS = tuple(field.name for field in fields(model.Member))
MEMBER_NAMES = ("uuid", "username", "email", "full_name", "is_active", "status", "created_at", "domain_name")
"""By what an administrator of projects may filter and order their members."""


class DirectoryReader:
    def __init__(self, database: Database, identity: IdentityService) -> None:
        self._database = database
        self._identity = identity

    @staticmethod
    def _only_all(principal: Principal, action: Action) -> None:
        if reach(principal, action) is not Reach.ALL:
            raise Forbidden("only superadministrators may do this")

    async def _find(self, table: store.Table[R], *where: sa.ColumnElement[bool]) -> list[R]:
        return await self._database.read(lambda conn: table.find(conn, *where))

    async def domains(self, principal: Principal, is_active: bool | None = None) -> list[model.Domain]:
        where = store.visible_domains(principal)
        if is_active is not None:
            where.append(t.domains.c.is_active == is_active)
        return await self._find(store.domains, *where)

    async def domain(self, principal: Principal, name: str | None) -> model.Domain | None:
        wanted = name or principal.domain_name
        found = await self._find(store.domains, *store.visible_domains(principal), t.domains.c.name == wanted)
        return found[0] if found else None

    async def projects(
        self,
        principal: Principal,
        *,
        domain_name: str | None = None,
        is_active: bool | None = None,
        project_id: UUID | None = None,
        name: str | None = None,
    ) -> list[model.Project]:
        project = t.projects.c
        where = store.visible_projects(principal)
        for column, value in (
            (project.domain_name, domain_name),
            (project.is_active, is_active),
            (project.id, project_id),
            (project.name, name),
        ):
            if value is not None:
                where.append(column == value)
        return await self._find(store.projects, *where)

    async def project_page(
        self,
        principal: Principal,
        asked: Listing,
        *,
        domain_name: str | None = None,
        project_id: UUID | None = None,
    ) -> Page[model.Project]:
        """Raises InvalidInput."""
        where = store.visible_projects(principal)
        if domain_name is not None:
            where.append(t.projects.c.domain_name == domain_name)
        if project_id is not None:
            where.append(t.projects.c.id == project_id)
        return await self._database.read(lambda conn: store.projects.page(conn, where, asked))

    async def domain_page(self, principal: Principal, asked: Listing) -> Page[model.Domain]:
        """Raises InvalidInput."""
        where = store.visible_domains(principal)
        return await self._database.read(lambda conn: store.domains.page(conn, where, asked))

    def _user_conditions(
        self, principal: Principal, status: str | None, project_id: UUID | None, domain_name: str | None
    ) -> list[sa.ColumnElement[bool]]:
        where = store.visible_users(principal, project_id)
        if status is not None:
            where.append(t.users.c.status == status.lower())
        if domain_name is not None:
            where.append(t.users.c.domain_name == domain_name)
        return where

    @staticmethod
    def _seen(principal: Principal, account: model.Account) -> model.Account | model.Member:
        """Of others, an administrator of their project sees only who they are."""
        if account.id == principal.user_id or reach(principal, Action.USER_READ) is not Reach.OWN:
            return account
        return model.Member(**{name: getattr(account, name) for name in _OF_MEMBERS})

    async def users(
        self,
        principal: Principal,
        asked: Listing,
        *,
        status: str | None = None,
        project_id: UUID | None = None,
        domain_name: str | None = None,
    ) -> Page[model.Account | model.Member]:
        where = self._user_conditions(principal, status, project_id, domain_name)
        # What is not told must not be found out by filtering either.
        names = MEMBER_NAMES if administered(principal, Action.USER_READ) else None
        if reach(principal, Action.USER_READ) is not Reach.OWN:
            names = None
        page = await self._database.read(lambda conn: store.users.page(conn, where, asked, names))
        return Page(items=[self._seen(principal, one) for one in page.items], total_count=page.total_count)

    async def user(
        self, principal: Principal, *, email: str | None = None, user_id: UUID | None = None
    ) -> model.Account | model.Member | None:
        """By e-mail, by id, or the principal's own."""
        column, value = (t.users.c.email, email) if email else (t.users.c.id, user_id or principal.user_id)
        found = await self._find(store.users, *store.visible_users(principal), column == value)
        return self._seen(principal, found[0]) if found else None

    async def keypairs(
        self,
        principal: Principal,
        asked: Listing,
        *,
        is_active: bool | None = None,
        domain_name: str | None = None,
        email: str | None = None,
    ) -> Page[model.Keypair]:
        where = store.visible_keypairs(principal)
        for column, value in (
            (t.keypairs.c.is_active, is_active),
            (t.users.c.domain_name, domain_name),
            (t.users.c.email, email),
        ):
            if value is not None:
                where.append(column == value)
        return await self._database.read(lambda conn: store.keypairs.page(conn, where, asked))

    async def keypair(self, principal: Principal, access_key: str | None) -> model.Keypair | None:
        wanted = t.keypairs.c.access_key == (access_key or principal.access_key)
        found = await self._find(store.keypairs, *store.visible_keypairs(principal), wanted)
        return found[0] if found else None

    def secret_key(self, principal: Principal, keypair: model.Keypair) -> str | None:
        """Plain, for its owner and for those who may write keypairs."""
        if keypair.user_id != principal.user_id and reach(principal, Action.KEYPAIR_WRITE) is not Reach.ALL:
            return None
        return self._identity.unsealed(keypair.secret_key_sealed, keypair.access_key)

    async def keypair_policies(
        self, principal: Principal, name: str | None = None
    ) -> list[model.KeypairPolicy]:
        where = store.visible_keypair_policies(principal)
        if name is not None:
            where.append(t.keypair_policies.c.name == name)
        return await self._find(store.keypair_policies, *where)

    async def user_policies(self, principal: Principal, name: str | None = None) -> list[model.UserPolicy]:
        self._only_all(principal, Action.POLICY_READ)
        where = [t.user_policies.c.name == name] if name is not None else []
        return await self._find(store.user_policies, *where)

    async def project_policies(
        self, principal: Principal, name: str | None = None
    ) -> list[model.ProjectPolicy]:
        self._only_all(principal, Action.POLICY_READ)
        where = [t.project_policies.c.name == name] if name is not None else []
        return await self._find(store.project_policies, *where)

    async def resource_groups(
        self, principal: Principal, *, is_active: bool | None = None, name: str | None = None
    ) -> list[model.ResourceGroup]:
        self._only_all(principal, Action.RESOURCE_GROUP_READ)
        where = [] if is_active is None else [t.resource_groups.c.is_active == is_active]
        if name is not None:
            where.append(t.resource_groups.c.name == name)
        return await self._find(store.resource_groups, *where)

    async def resource_groups_for(
        self, principal: Principal, *, domain_name: str | None = None, project_id: UUID | None = None
    ) -> list[model.ResourceGroup]:
        """Those in which the domain or the project may have sessions."""
        domain_name = domain_name or principal.domain_name

        def op(conn: sa.Connection) -> list[model.ResourceGroup]:
            names = given(resource_store.groups(conn, domain_name, project_id), principal)
            return store.resource_groups.find(conn, t.resource_groups.c.name.in_(names))

        return await self._database.read(op)

    async def resource_groups_of_keypair(
        self, principal: Principal, access_key: AccessKey
    ) -> list[model.ResourceGroup]:
        """Those that were given to the keypair itself."""

        def op(conn: sa.Connection) -> list[model.ResourceGroup]:
            names = given(resource_store.groups(conn, access_key=access_key), principal)
            return store.resource_groups.find(conn, t.resource_groups.c.name.in_(names))

        return await self._database.read(op)

    async def resource_group_names(
        self, principal: Principal, *, domain_name: str | None = None, project_id: UUID | None = None
    ) -> list[str]:
        """Those that were given to the domain, or to the project alone."""
        found = await self._database.read(lambda conn: resource_store.groups(conn, domain_name, project_id))
        return sorted(given(found, principal))

    async def projects_of(
        self, principal: Principal, user_ids: Sequence[UUID]
    ) -> dict[UUID, list[tuple[UUID, str]]]:
        return await self._database.read(lambda conn: store.projects_of(conn, principal, user_ids))

    async def administrators(
        self, principal: Principal, domain_name: str, project_id: UUID
    ) -> list[UUID] | None:
        """Users who administer a project; None to whom this is not told."""
        if not may(principal, Action.USER_READ, domain_name=domain_name, project_id=project_id):
            return None
        return await self._database.read(lambda conn: store.administrators(conn, project_id))
