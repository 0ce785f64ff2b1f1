"""The roots of queries, with the published names and arguments. Each asks a service; none decides."""

from collections.abc import Sequence
from typing import TypeVar
from uuid import UUID

import strawberry

from ai.backend.common.errors import Forbidden, InvalidInput, NotFound
from ai.backend.common.ids import parse_uuid
from ai.backend.manager.access.policy import Action, Reach, reach
from ai.backend.manager.agents.model import Agent as AgentRow
from ai.backend.manager.image.model import Image as ImageRow
from ai.backend.manager.session.catalogue import statuses_of

from .account import (
    Domain,
    Group,
    KeyPair,
    KeyPairResourcePolicy,
    ProjectResourcePolicy,
    User,
    UserResourcePolicy,
    domain_of,
    group_of,
    keypair_of,
    keypair_policy_of,
    project_policy_of,
    user_of,
    user_policy_of,
)
from .context import Info, listing, privileged, uuid_of
from .folder import HOST_PERMISSIONS, Endpoint, PredefinedAtomicPermission, StorageVolume, VirtualFolder
from .limit import PAGE_MAX
from .workload import (
    Agent,
    ComputeContainer,
    ComputeSession,
    Image,
    ResourcePreset,
    ScalingGroup,
    agent_of,
    container_of,
    image_of,
    preset_of,
    scaling_group_of,
    session_of,
)

T = TypeVar("T")


@strawberry.interface
class PaginatedList:
    total_count: int


@strawberry.type
class ComputeSessionList(PaginatedList):
    items: list[ComputeSession | None]


@strawberry.type
class ComputeContainerList(PaginatedList):
    items: list[ComputeContainer | None]


@strawberry.type
class KeyPairList(PaginatedList):
    items: list[KeyPair | None]


@strawberry.type
class UserList(PaginatedList):
    items: list[User | None]


@strawberry.type
class AgentList(PaginatedList):
    items: list[Agent | None]


@strawberry.type
class VirtualFolderList(PaginatedList):
    items: list[VirtualFolder | None]


@strawberry.type
class StorageVolumeList(PaginatedList):
    items: list[StorageVolume | None]


@strawberry.type
class EndpointList(PaginatedList):
    items: list[Endpoint | None]


def one_or_none(found: Sequence[T]) -> T | None:
    return found[0] if found else None


def require_all(info: Info, action: Action) -> None:
    """Raises Forbidden, in the published words, for whom that is not wholly open."""
    if reach(info.context.principal, action) is not Reach.ALL:
        raise privileged("superadmin")


def in_page(rows: Sequence[T], limit: int, offset: int) -> Sequence[T]:
    asked = listing(limit, offset)
    return rows[asked.offset : asked.offset + asked.limit]


@strawberry.type
class Queries:
    # Sessions.

    @strawberry.field
    async def compute_session_list(
        self,
        info: Info,
        limit: int,
        offset: int,
        filter: str | None = None,
        order: str | None = None,
        domain_name: str | None = None,
        group_id: UUID | None = None,
        access_key: str | None = None,
        status: str | None = None,
    ) -> ComputeSessionList | None:
        page = await info.context.manager.catalogue.page(
            info.context.principal,
            listing(limit, offset, filter, order),
            statuses=statuses_of(status),
            access_key=access_key or None,
            project_id=uuid_of(group_id, "group_id"),
            domain_name=domain_name or None,
        )
        return ComputeSessionList(items=[session_of(one) for one in page.items], total_count=page.total_count)

    @strawberry.field
    async def compute_session(self, info: Info, id: UUID) -> ComputeSession | None:
        found = await info.context.manager.catalogue.one(
            info.context.principal, uuid_of(id, "id") or UUID(int=0)
        )
        return session_of(found) if found else None

    @strawberry.field
    async def compute_container_list(
        self,
        info: Info,
        limit: int,
        offset: int,
        session_id: strawberry.ID,
        filter: str | None = None,
        order: str | None = None,
        role: str | None = None,
    ) -> ComputeContainerList | None:
        identifier = parse_uuid(str(session_id))
        found = (
            await info.context.manager.catalogue.one(info.context.principal, identifier)
            if identifier
            else None
        )
        if filter or order:
            raise InvalidInput("containers can't be filtered or ordered", field="filter")
        chosen = [
            container_of(found.session, kernel, rank)
            for rank, kernel in enumerate(found.session.kernels if found else ())
            if found and role in (None, kernel.cluster_role)
        ]
        return ComputeContainerList(items=[*in_page(chosen, limit, offset)], total_count=len(chosen))

    # Keypairs and users.

    @strawberry.field
    async def keypair(
        self, info: Info, domain_name: str | None = None, access_key: str | None = None
    ) -> KeyPair | None:
        found = await info.context.manager.directory.keypair(info.context.principal, access_key)
        return keypair_of(found) if found else None

    @strawberry.field
    async def keypairs(
        self,
        info: Info,
        domain_name: str | None = None,
        email: str | None = None,
        is_active: bool | None = None,
    ) -> list[KeyPair | None] | None:
        page = await info.context.manager.directory.keypairs(
            info.context.principal,
            listing(PAGE_MAX, 0),
            is_active=is_active,
            domain_name=domain_name,
            email=email,
        )
        return [keypair_of(one) for one in page.items]

    @strawberry.field
    async def keypair_list(
        self,
        info: Info,
        limit: int,
        offset: int,
        filter: str | None = None,
        order: str | None = None,
        domain_name: str | None = None,
        email: str | None = None,
        is_active: bool | None = None,
    ) -> KeyPairList | None:
        page = await info.context.manager.directory.keypairs(
            info.context.principal,
            listing(limit, offset, filter, order),
            is_active=is_active,
            domain_name=domain_name,
            email=email or None,
        )
        return KeyPairList(items=[keypair_of(one) for one in page.items], total_count=page.total_count)

    @strawberry.field
    async def user(self, info: Info, domain_name: str | None = None, email: str | None = None) -> User | None:
        found = await info.context.manager.directory.user(info.context.principal, email=email)
        return user_of(found) if found else None

    @strawberry.field
    async def user_from_uuid(
        self, info: Info, domain_name: str | None = None, user_id: strawberry.ID | None = None
    ) -> User | None:
        identifier = parse_uuid(str(user_id)) if user_id is not None else None
        if user_id is not None and identifier is None:
            return None
        found = await info.context.manager.directory.user(info.context.principal, user_id=identifier)
        return user_of(found) if found else None

    @strawberry.field
    async def users(
        self,
        info: Info,
        domain_name: str | None = None,
        group_id: UUID | None = None,
        is_active: bool | None = None,
        status: str | None = None,
    ) -> list[User | None] | None:
        status = status or (None if is_active is None else "active" if is_active else "inactive")
        page = await info.context.manager.directory.users(
            info.context.principal,
            listing(PAGE_MAX, 0),
            status=status,
            project_id=uuid_of(group_id, "group_id"),
            domain_name=domain_name,
        )
        return [user_of(one) for one in page.items]

    @strawberry.field
    async def user_list(
        self,
        info: Info,
        limit: int,
        offset: int,
        filter: str | None = None,
        order: str | None = None,
        domain_name: str | None = None,
        group_id: UUID | None = None,
        is_active: bool | None = None,
        status: str | None = None,
    ) -> UserList | None:
        status = status or (None if is_active is None else "active" if is_active else "inactive")
        page = await info.context.manager.directory.users(
            info.context.principal,
            listing(limit, offset, filter, order),
            status=status,
            project_id=uuid_of(group_id, "group_id"),
            domain_name=domain_name,
        )
        return UserList(items=[user_of(one) for one in page.items], total_count=page.total_count)

    # Domains and groups.

    @strawberry.field
    async def domains(self, info: Info, is_active: bool | None = None) -> list[Domain | None] | None:
        require_all(info, Action.DOMAIN_READ)
        found = await info.context.manager.directory.domains(info.context.principal, is_active)
        return [domain_of(one) for one in found]

    @strawberry.field
    async def domain(self, info: Info, name: str | None = None) -> Domain | None:
        found = await info.context.manager.directory.domain(info.context.principal, name)
        return domain_of(found) if found else None

    @strawberry.field
    async def groups(
        self,
        info: Info,
        domain_name: str | None = None,
        is_active: bool | None = None,
        type: list[str] | None = None,
    ) -> list[Group | None] | None:
        found = await info.context.manager.directory.projects(
            info.context.principal, domain_name=domain_name, is_active=is_active
        )
        return [group_of(one) for one in found]

    @strawberry.field
    async def group(self, info: Info, id: UUID, domain_name: str | None = None) -> Group | None:
        found = await info.context.manager.directory.projects(
            info.context.principal, project_id=uuid_of(id, "id")
        )
        one = one_or_none(found)
        return group_of(one) if one else None

    @strawberry.field
    async def groups_by_name(
        self, info: Info, name: str, domain_name: str | None = None
    ) -> list[Group | None] | None:
        found = await info.context.manager.directory.projects(
            info.context.principal, name=name, domain_name=domain_name
        )
        return [group_of(one) for one in found]

    # Policies.

    @strawberry.field
    async def keypair_resource_policy(
        self, info: Info, name: str | None = None
    ) -> KeyPairResourcePolicy | None:
        wanted = name or info.context.principal.policy_name
        one = one_or_none(
            await info.context.manager.directory.keypair_policies(info.context.principal, wanted)
        )
        return keypair_policy_of(one) if one else None

    @strawberry.field
    async def keypair_resource_policies(self, info: Info) -> list[KeyPairResourcePolicy | None] | None:
        found = await info.context.manager.directory.keypair_policies(info.context.principal)
        return [keypair_policy_of(one) for one in found]

    @strawberry.field
    async def user_resource_policy(self, info: Info, name: str | None = None) -> UserResourcePolicy | None:
        one = one_or_none(
            await info.context.manager.directory.user_policies(info.context.principal, name or "default")
        )
        return user_policy_of(one) if one else None

    @strawberry.field
    async def user_resource_policies(self, info: Info) -> list[UserResourcePolicy | None] | None:
        return [
            user_policy_of(one)
            for one in await info.context.manager.directory.user_policies(info.context.principal)
        ]

    @strawberry.field
    async def project_resource_policy(self, info: Info, name: str) -> ProjectResourcePolicy | None:
        one = one_or_none(await info.context.manager.directory.project_policies(info.context.principal, name))
        return project_policy_of(one) if one else None

    @strawberry.field
    async def project_resource_policies(self, info: Info) -> list[ProjectResourcePolicy | None] | None:
        found = await info.context.manager.directory.project_policies(info.context.principal)
        return [project_policy_of(one) for one in found]

    # Scaling groups and presets.

    @strawberry.field
    async def scaling_group(self, info: Info, name: str | None = None) -> ScalingGroup | None:
        found = await info.context.manager.directory.resource_groups(
            info.context.principal, name=name or "default"
        )
        one = one_or_none(found)
        return scaling_group_of(one, secrets=info.context.sees_secrets) if one else None

    @strawberry.field
    async def scaling_groups(
        self, info: Info, is_active: bool | None = None, name: str | None = None
    ) -> list[ScalingGroup | None] | None:
        found = await info.context.manager.directory.resource_groups(
            info.context.principal, is_active=is_active, name=name
        )
        return [scaling_group_of(one, secrets=info.context.sees_secrets) for one in found]

    @strawberry.field
    async def scaling_groups_for_domain(
        self, info: Info, domain: str, is_active: bool | None = None
    ) -> list[ScalingGroup | None] | None:
        _own_domain(info, domain)
        found = await info.context.manager.directory.resource_groups_for(
            info.context.principal, domain_name=domain
        )
        return [
            scaling_group_of(one, secrets=info.context.sees_secrets)
            for one in found
            if is_active in (None, one.is_active)
        ]

    @strawberry.field
    async def scaling_groups_for_user_group(
        self, info: Info, user_group: str, is_active: bool | None = None
    ) -> list[ScalingGroup | None] | None:
        projects = await info.context.manager.directory.projects(
            info.context.principal, project_id=parse_uuid(user_group) or UUID(int=0)
        )
        if not projects:
            raise NotFound(f"no group {user_group[:64]!r}")
        found = await info.context.manager.directory.resource_groups_for(
            info.context.principal, domain_name=projects[0].domain_name, project_id=projects[0].id
        )
        return [
            scaling_group_of(one, secrets=info.context.sees_secrets)
            for one in found
            if is_active in (None, one.is_active)
        ]

    @strawberry.field
    async def resource_presets(self, info: Info) -> list[ResourcePreset | None] | None:
        return [preset_of(one) for one in await info.context.manager.resources.presets()]

    @strawberry.field
    async def resource_preset(self, info: Info, name: str) -> ResourcePreset | None:
        one = one_or_none(await info.context.manager.resources.presets(name=name))
        return preset_of(one) if one else None

    # Agents and images.

    @strawberry.field
    async def agent(self, info: Info, agent_id: str) -> Agent | None:
        found = [one for one in await agents_seen(info) if one.id == agent_id]
        return agent_of(found[0]) if found else None

    @strawberry.field
    async def agents(
        self, info: Info, scaling_group: str | None = None, status: str | None = None
    ) -> list[Agent | None] | None:
        return [agent_of(one) for one in await agents_seen(info, scaling_group, status)]

    @strawberry.field
    async def agent_list(
        self,
        info: Info,
        limit: int,
        offset: int,
        filter: str | None = None,
        order: str | None = None,
        scaling_group: str | None = None,
        status: str | None = None,
    ) -> AgentList | None:
        found = await agents_seen(info, scaling_group, status)
        chosen = await info.context.manager.agents.narrowed(found, listing(limit, offset, filter, order))
        return AgentList(items=[agent_of(one) for one in chosen.items], total_count=chosen.total_count)

    @strawberry.field
    async def images(
        self, info: Info, is_installed: bool | None = None, is_operation: bool | None = None
    ) -> list[Image | None] | None:
        found = await info.context.manager.images.catalogue(info.context.principal)
        return [
            image_of(image, aliases, agents)
            for image, aliases, agents in found
            if is_installed in (None, bool(agents))
            and (is_operation is not False or not _is_operation(image))
        ]

    @strawberry.field
    async def image(self, info: Info, reference: str, architecture: str = "x86_64") -> Image | None:
        for image, aliases, agents in await info.context.manager.images.catalogue(info.context.principal):
            if image.architecture == architecture and (image.name == reference or reference in aliases):
                return image_of(image, aliases, agents)
        raise NotFound(f"no image {reference[:120]!r}")

    # Folders and storage: there is none yet, and what there is none of is an empty list.

    @strawberry.field
    async def vfolder_list(
        self,
        info: Info,
        limit: int,
        offset: int,
        filter: str | None = None,
        order: str | None = None,
        domain_name: str | None = None,
        group_id: UUID | None = None,
        access_key: str | None = None,
    ) -> VirtualFolderList | None:
        listing(limit, offset)
        return VirtualFolderList(items=[], total_count=0)

    @strawberry.field
    async def vfolder_own_list(
        self,
        info: Info,
        limit: int,
        offset: int,
        filter: str | None = None,
        order: str | None = None,
        domain_name: str | None = None,
        access_key: str | None = None,
    ) -> VirtualFolderList | None:
        listing(limit, offset)
        return VirtualFolderList(items=[], total_count=0)

    @strawberry.field
    async def vfolder_invited_list(
        self,
        info: Info,
        limit: int,
        offset: int,
        filter: str | None = None,
        order: str | None = None,
        domain_name: str | None = None,
        access_key: str | None = None,
    ) -> VirtualFolderList | None:
        listing(limit, offset)
        return VirtualFolderList(items=[], total_count=0)

    @strawberry.field
    async def vfolder_project_list(
        self,
        info: Info,
        limit: int,
        offset: int,
        filter: str | None = None,
        order: str | None = None,
        domain_name: str | None = None,
        access_key: str | None = None,
    ) -> VirtualFolderList | None:
        listing(limit, offset)
        return VirtualFolderList(items=[], total_count=0)

    @strawberry.field
    async def vfolder_host_permissions(self, info: Info) -> PredefinedAtomicPermission | None:
        return PredefinedAtomicPermission(vfolder_host_permission_list=[*HOST_PERMISSIONS])

    @strawberry.field
    async def storage_volume(self, info: Info, id: str | None = None) -> StorageVolume | None:
        require_all(info, Action.AGENT_READ)
        return None

    @strawberry.field
    async def storage_volume_list(
        self, info: Info, limit: int, offset: int, filter: str | None = None, order: str | None = None
    ) -> StorageVolumeList | None:
        require_all(info, Action.AGENT_READ)
        listing(limit, offset)
        return StorageVolumeList(items=[], total_count=0)

    @strawberry.field
    async def endpoint(self, info: Info, endpoint_id: UUID) -> Endpoint | None:
        return None

    @strawberry.field
    async def endpoint_list(
        self,
        info: Info,
        limit: int,
        offset: int,
        filter: str | None = None,
        order: str | None = None,
        domain_name: str | None = None,
        group_id: UUID | None = None,
        access_key: str | None = None,
        project: UUID | None = None,
        user_uuid: UUID | None = None,
    ) -> EndpointList | None:
        listing(limit, offset)
        return EndpointList(items=[], total_count=0)


def _is_operation(image: ImageRow) -> bool:
    return "operation" in image.labels.get("ai.backend.features", "").split()


def _own_domain(info: Info, domain: str) -> None:
    if (
        reach(info.context.principal, Action.DOMAIN_READ) is not Reach.ALL
        and domain != info.context.principal.domain_name
    ):
        raise NotFound(f"no domain {domain[:64]!r}")


async def all_agents(info: Info) -> Sequence[AgentRow]:
    """Raises Forbidden, in the published words."""
    try:
        return await info.context.manager.agents.list(info.context.principal)
    except Forbidden:
        raise privileged("superadmin") from None


async def agents_seen(
    info: Info, scaling_group: str | None = None, status: str | None = None
) -> list[AgentRow]:
    found = await all_agents(info)
    wanted = {word.strip().upper() for word in (status or "ALIVE").split(",")}
    return [
        one for one in found if one.status.value in wanted and scaling_group in (None, "", one.resource_group)
    ]
