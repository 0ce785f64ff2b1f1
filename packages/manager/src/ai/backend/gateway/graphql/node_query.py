"""The roots of Relay: `node`, one root for a node of each kind, and one for a list of each. Each asks a service; none decides."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import strawberry

from ai.backend.common.errors import InvalidInput
from ai.backend.common.ids import parse_uuid
from ai.backend.manager.image.policy import owner_of

from .context import Info, uuid_of
from .legacy import ContainerRegistry, container_registry_of
from .node import (
    AgentConnection,
    AgentEdge,
    AgentNode,
    ComputeSessionConnection,
    ComputeSessionNode,
    DomainConnection,
    DomainEdge,
    DomainNode,
    GroupConnection,
    GroupEdge,
    GroupNode,
    ImageConnection,
    ImageEdge,
    ImageNode,
    KernelNode,
    ScalingGroupNode,
    UserConnection,
    UserNode,
    agent_node_of,
    connected,
    domain_node_of,
    group_node_of,
    image_node_of,
    kernel_node_of,
    scaling_group_node_of,
    session_node_of,
    sessions_in,
    user_node_of,
    users_in,
)
from .query import all_agents, one_or_none
from .relay import Asked, GlobalID, Node, Scope, key_of, paged, parts_of, scope_of


async def user_node(info: Info, key: str) -> UserNode | None:
    user_id = parse_uuid(key)
    if user_id is None:
        return None
    found = await info.context.manager.directory.user(info.context.principal, user_id=user_id)
    return user_node_of(found) if found else None


async def group_node(info: Info, key: str) -> GroupNode | None:
    project_id = parse_uuid(key)
    if project_id is None:
        return None
    found = await info.context.manager.directory.projects(info.context.principal, project_id=project_id)
    one = one_or_none(found)
    return group_node_of(one) if one else None


async def domain_node(info: Info, key: str) -> DomainNode | None:
    found = await info.context.manager.directory.domain(info.context.principal, key) if key else None
    return domain_node_of(found) if found else None


async def scaling_group_node(info: Info, key: str) -> ScalingGroupNode | None:
    found = await info.context.manager.directory.resource_groups(info.context.principal, name=key)
    one = one_or_none(found)
    return scaling_group_node_of(one, secrets=info.context.sees_secrets) if one else None


async def session_node(info: Info, key: str) -> ComputeSessionNode | None:
    session_id = parse_uuid(key)
    if session_id is None:
        return None
    principal = info.context.principal
    found = await info.context.manager.catalogue.one(principal, session_id)
    return session_node_of(found, principal) if found else None


async def kernel_node(info: Info, key: str) -> KernelNode | None:
    kernel_id = parse_uuid(key)
    if kernel_id is None:
        return None
    found = await info.context.manager.catalogue.of_kernel(info.context.principal, kernel_id)
    for rank, kernel in enumerate(found.session.kernels if found else ()):
        if found and kernel.id == kernel_id:
            return kernel_node_of(found.session, kernel, rank)
    return None


async def image_node(info: Info, key: str) -> ImageNode | None:
    architecture, _, name = key.partition(":")
    for image, aliases, _agents in await info.context.manager.images.catalogue(info.context.principal):
        if (image.architecture, image.name) == (architecture, name):
            return image_node_of(image, aliases)
    return None


async def agent_node(info: Info, key: str) -> AgentNode | None:
    found = [one for one in await all_agents(info) if one.id == key]
    return agent_node_of(found[0]) if found else None


async def registry(info: Info, key: str) -> ContainerRegistry | None:
    found = await info.context.manager.settings.registries(info.context.principal)
    return container_registry_of(key, found[key]) if key in found else None


_FINDERS: dict[str, Callable[[Info, str], Awaitable[Node | None]]] = {
    "usernode": user_node,
    "groupnode": group_node,
    "domainnode": domain_node,
    "scalinggroupnode": scaling_group_node,
    "computesessionnode": session_node,
    "kernelnode": kernel_node,
    "imagenode": image_node,
    "agentnode": agent_node,
    "containerregistry": registry,
}


@strawberry.type
class NodeQueries:
    @strawberry.field
    async def node(self, info: Info, id: strawberry.ID) -> Node | None:
        """Whatever has this global id; null for what is not there or may not be seen."""
        parts = parts_of(str(id))
        if parts is None:
            raise InvalidInput(f"{str(id)[:80]!r} is no global id", field="id")
        finder = _FINDERS.get(parts[0])
        return None if finder is None else await finder(info, parts[1])

    @strawberry.field
    async def user_node(self, info: Info, id: str) -> UserNode | None:
        return await user_node(info, key_of(id, "UserNode"))

    @strawberry.field
    async def user_nodes(
        self,
        info: Info,
        filter: str | None = None,
        order: str | None = None,
        offset: int | None = None,
        before: str | None = None,
        after: str | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> UserConnection | None:
        asked = Asked(
            filter=filter, order=order, offset=offset, before=before, after=after, first=first, last=last
        )
        directory, principal = info.context.manager.directory, info.context.principal
        return users_in(await paged(asked, lambda part: directory.users(principal, part)))

    @strawberry.field
    async def group_node(self, info: Info, id: str) -> GroupNode | None:
        return await group_node(info, key_of(id, "GroupNode"))

    @strawberry.field
    async def group_nodes(
        self,
        info: Info,
        filter: str | None = None,
        order: str | None = None,
        scope: Scope | None = None,
        offset: int | None = None,
        before: str | None = None,
        after: str | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> GroupConnection | None:
        asked = Asked(
            filter=filter, order=order, offset=offset, before=before, after=after, first=first, last=last
        )
        kind, key = scope_of(scope)
        if kind == "user":
            raise InvalidInput("groups are told of a domain or of all, not of a user", field="scope")
        domain_name = key if kind == "domain" else None
        project_id = (uuid_of(key, "scope") or UUID(int=0)) if kind == "project" else None
        directory, principal = info.context.manager.directory, info.context.principal
        found = await paged(
            asked,
            lambda part: directory.project_page(
                principal, part, domain_name=domain_name, project_id=project_id
            ),
        )
        return connected(GroupConnection, GroupEdge, found, group_node_of)

    @strawberry.field
    async def domain_node(self, info: Info, id: GlobalID) -> DomainNode | None:
        return await domain_node(info, key_of(id, "DomainNode"))

    @strawberry.field
    async def domain_nodes(
        self,
        info: Info,
        filter: str | None = None,
        order: str | None = None,
        offset: int | None = None,
        before: str | None = None,
        after: str | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> DomainConnection | None:
        asked = Asked(
            filter=filter, order=order, offset=offset, before=before, after=after, first=first, last=last
        )
        directory, principal = info.context.manager.directory, info.context.principal
        found = await paged(asked, lambda part: directory.domain_page(principal, part))
        return connected(DomainConnection, DomainEdge, found, domain_node_of)

    @strawberry.field
    async def compute_session_node(
        self, info: Info, id: GlobalID, scope_id: Scope | None = None, project_id: UUID | None = None
    ) -> ComputeSessionNode | None:
        """The scope is of no consequence: an id stands for one session."""
        scope_of(scope_id)
        return await session_node(info, key_of(id, "ComputeSessionNode"))

    @strawberry.field
    async def compute_session_nodes(
        self,
        info: Info,
        scope_id: Scope | None = None,
        project_id: UUID | None = None,
        filter: str | None = None,
        order: str | None = None,
        offset: int | None = None,
        before: str | None = None,
        after: str | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> ComputeSessionConnection | None:
        asked = Asked(
            filter=filter, order=order, offset=offset, before=before, after=after, first=first, last=last
        )
        kind, key = scope_of(scope_id)
        if kind == "user":
            raise InvalidInput("sessions of a user are found by a filter: user_email", field="scope_id")
        within = uuid_of(key, "scope_id") if kind == "project" else uuid_of(project_id, "project_id")
        catalogue, principal = info.context.manager.catalogue, info.context.principal
        found = await paged(
            asked,
            lambda part: catalogue.page(
                principal, part, project_id=within, domain_name=key if kind == "domain" else None
            ),
        )
        return sessions_in(found, principal)

    @strawberry.field
    async def image_node(self, info: Info, id: GlobalID, scope_id: Scope | None = None) -> ImageNode | None:
        scope_of(scope_id)
        return await image_node(info, key_of(id, "ImageNode"))

    @strawberry.field
    async def image_nodes(
        self,
        info: Info,
        scope_id: Scope,
        filter: str | None = None,
        order: str | None = None,
        offset: int | None = None,
        before: str | None = None,
        after: str | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> ImageConnection | None:
        """The scope is of no consequence: images are the same everywhere."""
        asked = Asked(
            filter=filter, order=order, offset=offset, before=before, after=after, first=first, last=last
        )
        scope_of(scope_id)
        images, principal = info.context.manager.images, info.context.principal
        found = await paged(asked, lambda part: images.page(principal, part))
        return connected(ImageConnection, ImageEdge, found, lambda one: image_node_of(one[0], one[1]))

    @strawberry.field
    async def customized_images(self, info: Info) -> list[ImageNode | None] | None:
        """Those that were made of one's own sessions."""
        own = f"user:{info.context.principal.user_id}"
        found = await info.context.manager.images.catalogue(info.context.principal)
        return [image_node_of(image, aliases) for image, aliases, _ in found if owner_of(image) == own]

    @strawberry.field
    async def agent_nodes(
        self,
        info: Info,
        scope: Scope | None = None,
        filter: str | None = None,
        order: str | None = None,
        offset: int | None = None,
        before: str | None = None,
        after: str | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> AgentConnection | None:
        """The scope is of no consequence: agents are told only to whom all of them are."""
        asked = Asked(
            filter=filter, order=order, offset=offset, before=before, after=after, first=first, last=last
        )
        scope_of(scope)
        agents, known = info.context.manager.agents, await all_agents(info)
        found = await paged(asked, lambda part: agents.narrowed(known, part))
        return connected(AgentConnection, AgentEdge, found, agent_node_of)
