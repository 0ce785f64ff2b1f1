"""Nodes of Relay and their connections, in their published form. What they say is what `account` and `workload` say of the same things;
only the ids differ. What this system does not know of a thing is null."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import strawberry

from ai.backend.manager.access.model import Principal
from ai.backend.manager.access.policy import Action, may
from ai.backend.manager.agents.model import Agent as AgentRow
from ai.backend.manager.directory import model
from ai.backend.manager.image.model import Image as ImageRow
from ai.backend.manager.session.catalogue import Entry
from ai.backend.manager.session.model import Kernel, Session

from .account import domain_of, group_of, user_of
from .context import Info
from .relay import Asked, Node, PageInfo, Slice, cursor_of, global_id, paged, sliced
from .scalar import JSON, Big
from .workload import KVPair, ResourceLimit, agent_of, container_of, image_of, scaling_group_of, session_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

N = TypeVar("N", bound="DataclassInstance")
C = TypeVar("C")
PERMISSIONS = {
    "read_attribute": Action.SESSION_READ,
    "update_attribute": Action.SESSION_USE,
    "delete_session": Action.SESSION_END,
    "start_app": Action.SESSION_USE,
    "execute": Action.SESSION_USE,
}
"""Published words for what one may do to a session, and what they are here."""


def _made(kind: type[N], key: object, told: object, **others: Any) -> N:
    """A node with the fields that the other published form of the thing has too."""
    same = {field.name for field in fields(kind) if field.init} - others.keys() - {"id"}
    values = {name: getattr(told, name) for name in same if hasattr(told, name)}
    made: Any = kind
    return cast("N", made(id=global_id(kind.__name__, key), **values, **others))


@strawberry.type
class UserNode(Node):
    username: str | None
    email: str | None
    need_password_change: bool | None
    full_name: str | None
    description: str | None
    is_active: bool | None
    status: str | None
    status_info: str | None
    created_at: datetime | None
    modified_at: datetime | None
    domain_name: str | None
    role: str | None
    resource_policy: str | None
    allowed_client_ip: list[str | None] | None
    totp_activated: bool | None
    totp_activated_at: datetime | None
    sudo_session_enabled: bool | None
    container_uid: int | None
    container_main_gid: int | None
    container_gids: list[int | None] | None


@strawberry.type
class UserEdge:
    node: UserNode | None
    cursor: str


@strawberry.type
class UserConnection:
    page_info: PageInfo = strawberry.field(name="pageInfo")
    edges: list[UserEdge | None]
    count: int | None


def user_node_of(one: model.Account | model.Member) -> UserNode:
    return _made(UserNode, one.id, user_of(one))


@strawberry.type
class GroupNode(Node):
    row_id: UUID | None
    name: str | None
    description: str | None
    is_active: bool | None
    created_at: datetime | None
    modified_at: datetime | None
    domain_name: str | None
    total_resource_slots: JSON | None
    allowed_vfolder_hosts: JSON | None
    integration_id: str | None
    resource_policy: str | None
    type: str | None
    container_registry: JSON | None = None
    registry_quota: Big | None = None

    @strawberry.field
    async def scaling_groups(self, info: Info) -> list[str | None] | None:
        return [
            *await info.context.manager.directory.resource_group_names(
                info.context.principal, project_id=self.row_id
            )
        ]

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
        """Its members, as far as they are told."""
        asked = Asked(
            filter=filter, order=order, offset=offset, before=before, after=after, first=first, last=last
        )
        directory, principal, project_id = info.context.manager.directory, info.context.principal, self.row_id
        found = await paged(asked, lambda part: directory.users(principal, part, project_id=project_id))
        return users_in(found)


@strawberry.type
class GroupEdge:
    node: GroupNode | None
    cursor: str


@strawberry.type
class GroupConnection:
    page_info: PageInfo = strawberry.field(name="pageInfo")
    edges: list[GroupEdge | None]
    count: int | None


def group_node_of(one: model.Project) -> GroupNode:
    return _made(GroupNode, one.id, group_of(one), row_id=one.id)


@strawberry.type
class ScalingGroupNode(Node):
    name: str | None
    description: str | None
    is_active: bool | None
    is_public: bool | None
    created_at: datetime | None
    wsproxy_addr: str | None
    wsproxy_api_token: str | None
    driver: str | None
    driver_opts: JSON | None
    scheduler: str | None
    scheduler_opts: JSON | None
    use_host_network: bool | None


@strawberry.type(name="ScalinGroupEdge")
class ScalingGroupEdge:
    node: ScalingGroupNode | None
    cursor: str


@strawberry.type(name="ScalinGroupConnection", description="Spelled as published.")
class ScalingGroupConnection:
    page_info: PageInfo = strawberry.field(name="pageInfo")
    edges: list[ScalingGroupEdge | None]
    count: int | None


def scaling_group_node_of(one: model.ResourceGroup, *, secrets: bool) -> ScalingGroupNode:
    return _made(ScalingGroupNode, one.name, scaling_group_of(one, secrets=secrets))


@strawberry.type
class DomainNode(Node):
    name: str | None
    description: str | None
    is_active: bool | None
    created_at: datetime | None
    modified_at: datetime | None
    total_resource_slots: JSON | None
    allowed_vfolder_hosts: JSON | None
    allowed_docker_registries: list[str | None] | None
    integration_id: str | None

    @strawberry.field
    async def scaling_groups(
        self,
        info: Info,
        offset: int | None = None,
        before: str | None = None,
        after: str | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> ScalingGroupConnection | None:
        """Those that were given to it."""
        asked = Asked(offset=offset, before=before, after=after, first=first, last=last)
        found = await info.context.manager.directory.resource_groups_for(
            info.context.principal, domain_name=self.name
        )
        secrets = info.context.sees_secrets
        return connected(
            ScalingGroupConnection,
            ScalingGroupEdge,
            sliced(asked, found),
            lambda one: scaling_group_node_of(one, secrets=secrets),
        )


@strawberry.type
class DomainEdge:
    node: DomainNode | None
    cursor: str


@strawberry.type
class DomainConnection:
    page_info: PageInfo = strawberry.field(name="pageInfo")
    edges: list[DomainEdge | None]
    count: int | None


def domain_node_of(one: model.Domain) -> DomainNode:
    return _made(DomainNode, one.name, domain_of(one))


@strawberry.type
class KernelNode(Node):
    row_id: UUID | None
    cluster_idx: int | None
    local_rank: int | None
    cluster_role: str | None
    cluster_hostname: str | None
    session_id: UUID | None
    image_reference: str | None
    architecture: str | None
    status: str | None
    status_changed: datetime | None
    status_info: str | None
    status_data: JSON | None
    created_at: datetime | None
    terminated_at: datetime | None
    starts_at: datetime | None
    scheduled_at: datetime | None
    agent_id: str | None
    agent_addr: str | None
    container_id: str | None
    resource_opts: JSON | None
    occupied_slots: JSON | None
    live_stat: JSON | None
    abusing_report: JSON | None
    preopen_ports: list[int | None] | None


@strawberry.type
class KernelEdge:
    node: KernelNode | None
    cursor: str


@strawberry.type
class KernelConnection:
    page_info: PageInfo = strawberry.field(name="pageInfo")
    edges: list[KernelEdge | None]
    count: int | None


def kernel_node_of(session: Session, kernel: Kernel, rank: int) -> KernelNode:
    told = container_of(session, kernel, rank)
    return _made(
        KernelNode,
        kernel.id,
        told,
        row_id=kernel.id,
        image_reference=told.image,
        agent_id=told.agent,
    )


@strawberry.type
class ComputeSessionNode(Node):
    row_id: UUID | None
    tag: str | None
    name: str | None
    type: str | None
    priority: int | None
    cluster_template: str | None
    cluster_mode: str | None
    cluster_size: int | None
    domain_name: str | None
    project_id: UUID | None
    user_id: UUID | None
    access_key: str | None
    permissions: list[str | None] | None
    status: str | None
    status_info: str | None
    status_data: JSON | None
    status_history: JSON | None
    created_at: datetime | None
    terminated_at: datetime | None
    starts_at: datetime | None
    scheduled_at: datetime | None
    startup_command: str | None
    result: str | None
    abusing_reports: list[JSON | None] | None
    idle_checks: JSON | None
    agent_ids: list[str | None] | None
    resource_opts: JSON | None
    scaling_group: str | None
    service_ports: JSON | None
    vfolder_mounts: list[str | None] | None
    occupied_slots: JSON | None
    requested_slots: JSON | None
    image_references: list[str | None] | None
    num_queries: Big | None
    inference_metrics: JSON | None
    session: strawberry.Private[Session]

    @strawberry.field
    def commit_status(self, info: Info) -> str | None:
        """`ongoing` while an image is being made of it."""
        return "ongoing" if info.context.manager.commits.is_ongoing(self.session.id) else "ready"

    @strawberry.field
    def kernel_nodes(
        self,
        offset: int | None = None,
        before: str | None = None,
        after: str | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> KernelConnection | None:
        asked = Asked(offset=offset, before=before, after=after, first=first, last=last)
        kernels = [(self.session, kernel, rank) for rank, kernel in enumerate(self.session.kernels)]
        return kernels_in(sliced(asked, kernels))

    @strawberry.field
    async def dependees(
        self,
        info: Info,
        offset: int | None = None,
        before: str | None = None,
        after: str | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> "ComputeSessionConnection | None":
        """Those that it waits for."""
        asked = Asked(offset=offset, before=before, after=after, first=first, last=last)
        catalogue, principal = info.context.manager.catalogue, info.context.principal
        needed = (await catalogue.dependencies([self.session.id]))[self.session.id]
        found = [await catalogue.one(principal, one) for one, _ in needed]
        return sessions_in(sliced(asked, [entry for entry in found if entry is not None]), principal)


@strawberry.type
class ComputeSessionEdge:
    node: ComputeSessionNode | None
    cursor: str


@strawberry.type
class ComputeSessionConnection:
    page_info: PageInfo = strawberry.field(name="pageInfo")
    edges: list[ComputeSessionEdge | None]
    count: int | None


def session_node_of(entry: Entry, principal: Principal) -> ComputeSessionNode:
    told, session = session_of(entry), entry.session
    derived = {
        name: getattr(told, name)()
        for name in (
            "scheduled_at", "status_data", "status_history", "resource_opts", "service_ports", "vfolder_mounts",
            "occupied_slots", "requested_slots", "idle_checks", "inference_metrics", "abusing_reports",
        )
    }  # fmt: skip
    allowed: list[str | None] = [
        word
        for word, action in PERMISSIONS.items()
        if may(
            principal,
            action,
            user_id=session.user_id,
            domain_name=session.domain_name,
            project_id=session.project_id,
        )
    ]
    images: list[str | None] = [*dict.fromkeys(kernel.image_name for kernel in session.kernels)]
    return _made(
        ComputeSessionNode,
        session.id,
        told,
        row_id=session.id,
        project_id=session.project_id,
        permissions=allowed,
        image_references=images,
        **derived,
    )


@strawberry.type
class ImageNode(Node):
    row_id: UUID | None
    name: str | None
    namespace: str | None
    base_image_name: str | None
    project: str | None
    humanized_name: str | None
    tag: str | None
    version: str | None
    registry: str | None
    architecture: str | None
    is_local: bool | None
    digest: str | None
    labels: list[KVPair | None] | None
    size_bytes: Big | None
    status: str | None
    resource_limits: list[ResourceLimit | None] | None
    supported_accelerators: list[str | None] | None
    aliases: list[str | None] | None


@strawberry.type
class ImageEdge:
    node: ImageNode | None
    cursor: str


@strawberry.type
class ImageConnection:
    page_info: PageInfo = strawberry.field(name="pageInfo")
    edges: list[ImageEdge | None]
    count: int | None


def image_node_of(one: ImageRow, aliases: Sequence[str]) -> ImageNode:
    return _made(ImageNode, f"{one.architecture}:{one.name}", image_of(one, aliases, ()), row_id=None)


@strawberry.type
class AgentNode(Node):
    row_id: str | None
    status: str | None
    status_changed: datetime | None
    region: str | None
    scaling_group: str | None
    schedulable: bool | None
    available_slots: JSON | None
    occupied_slots: JSON | None
    addr: str | None
    architecture: str | None
    first_contact: datetime | None
    lost_at: datetime | None
    live_stat: JSON | None
    version: str | None
    compute_plugins: JSON | None
    hardware_metadata: JSON | None
    auto_terminate_abusing_kernel: bool | None
    local_config: JSON | None

    @strawberry.field
    async def container_count(self, info: Info) -> int | None:
        return len(await self._kernels(info))

    @strawberry.field
    async def kernel_nodes(
        self,
        info: Info,
        offset: int | None = None,
        before: str | None = None,
        after: str | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> KernelConnection | None:
        """Those of live sessions."""
        asked = Asked(offset=offset, before=before, after=after, first=first, last=last)
        return kernels_in(sliced(asked, await self._kernels(info)))

    async def _kernels(self, info: Info) -> list[tuple[Session, Kernel, int]]:
        agent_id = str(self.row_id)
        placed = await info.context.manager.catalogue.on_agents(info.context.principal, [agent_id])
        return [
            (session, kernel, rank)
            for session in placed[agent_id]
            for rank, kernel in enumerate(session.kernels)
            if kernel.agent_id == agent_id
        ]


@strawberry.type
class AgentEdge:
    node: AgentNode | None
    cursor: str


@strawberry.type
class AgentConnection:
    page_info: PageInfo = strawberry.field(name="pageInfo")
    edges: list[AgentEdge | None]
    count: int | None


def agent_node_of(one: AgentRow) -> AgentNode:
    return _made(AgentNode, one.id, agent_of(one), row_id=one.id)


def connected(
    connection: Callable[..., C], edge: Callable[..., Any], part: Slice, node: Callable[[Any], Any]
) -> C:
    """A connection of what a slice has."""
    edges = [
        edge(node=node(one), cursor=cursor_of(part.start + number)) for number, one in enumerate(part.items)
    ]
    return connection(page_info=part.info, edges=edges, count=part.total)


def users_in(part: Slice) -> UserConnection:
    return connected(UserConnection, UserEdge, part, user_node_of)


def kernels_in(part: Slice) -> KernelConnection:
    return connected(KernelConnection, KernelEdge, part, lambda one: kernel_node_of(*one))


def sessions_in(part: Slice, principal: Principal) -> ComputeSessionConnection:
    return connected(
        ComputeSessionConnection, ComputeSessionEdge, part, lambda one: session_node_of(one, principal)
    )
