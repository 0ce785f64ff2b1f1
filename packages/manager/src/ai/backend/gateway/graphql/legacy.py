"""Roots that are older, or told in fewer words, than those in `query`: sessions as one container, agents for ordinary use, registries of
images. Each asks a service; none decides. What this system does not know of a thing is null."""

from datetime import datetime
from uuid import UUID

import strawberry

from ai.backend.common.errors import NotFound
from ai.backend.common.ids import AccessKey, parse_uuid
from ai.backend.common.quantity import SlotName
from ai.backend.manager.agents.model import Agent as AgentRow
from ai.backend.manager.session.catalogue import Entry, statuses_of

from ..rest.session import last_stat
from .context import Info, listing, uuid_of
from .query import PaginatedList, agents_seen, one_or_none
from .relay import Node, global_id
from .scalar import JSON, Big
from .workload import (
    ComputeContainer,
    ResourcePreset,
    ScalingGroup,
    container_of,
    preset_of,
    scaling_group_of,
    session_of,
)


@strawberry.type
class LegacyComputeSession:
    id: strawberry.ID | None
    tag: str | None
    sess_id: str | None
    sess_type: str | None
    session_name: str | None
    session_type: str | None
    role: str | None
    image: str | None
    architecture: str | None
    registry: str | None
    domain_name: str | None
    group_name: str | None
    group_id: UUID | None
    scaling_group: str | None
    user_uuid: UUID | None
    user_email: str | None
    access_key: str | None
    status: str | None
    status_changed: datetime | None
    status_info: str | None
    created_at: datetime | None
    terminated_at: datetime | None
    startup_command: str | None
    result: str | None
    agent: str | None
    container_id: str | None
    service_ports: JSON | None
    occupied_slots: JSON | None
    resource_opts: JSON | None
    num_queries: Big | None
    live_stat: JSON | None
    last_stat: JSON | None
    lang: str | None
    cpu_slot: float | None
    cpu_used: Big | None
    mem_cur_bytes: Big | None
    mem_max_bytes: Big | None
    occupied_shares: JSON | None = None
    mounts: list[list[str | None] | None] | None = None
    mem_slot: int | None = None
    gpu_slot: float | None = None
    tpu_slot: float | None = None
    cpu_using: float | None = None
    net_rx_bytes: Big | None = None
    net_tx_bytes: Big | None = None
    io_read_bytes: Big | None = None
    io_write_bytes: Big | None = None
    io_max_scratch_size: Big | None = None
    io_cur_scratch_size: Big | None = None


@strawberry.type
class LegacyComputeSessionList(PaginatedList):
    items: list[LegacyComputeSession | None]


def legacy_session_of(entry: Entry) -> LegacyComputeSession:
    """A session as its main container."""
    session, main, told = entry.session, entry.session.main, session_of(entry)
    stat, container = last_stat(main.stats), container_of(entry.session, entry.session.main, 0)
    return LegacyComputeSession(
        id=told.id,
        tag=told.tag,
        sess_id=told.name,
        sess_type=told.type,
        session_name=told.name,
        session_type=told.type,
        role=main.cluster_role,
        image=told.image,
        architecture=told.architecture,
        registry=told.registry,
        domain_name=told.domain_name,
        group_name=told.group_name,
        group_id=told.group_id,
        scaling_group=told.scaling_group,
        user_uuid=told.user_id,
        user_email=told.user_email,
        access_key=told.access_key,
        status=told.status,
        status_changed=told.status_changed,
        status_info=told.status_info,
        created_at=told.created_at,
        terminated_at=told.terminated_at,
        startup_command=told.startup_command,
        result=told.result,
        agent=main.agent_id,
        container_id=main.container_id,
        service_ports=JSON([service.as_row() for service in main.service_ports]),
        occupied_slots=container.occupied_slots,
        resource_opts=JSON(session.resource_opts),
        num_queries=told.num_queries,
        live_stat=container.live_stat,
        last_stat=container.last_stat,
        lang=told.image,
        cpu_slot=main.requested_slots.get(SlotName("cpu"), 0) / 1000 if main.status.occupying else 0,
        cpu_used=Big(main.stats.get("cpu_used_us", 0) // 1000) if stat else None,
        mem_cur_bytes=Big(main.stats.get("memory_bytes", 0)) if stat else None,
        mem_max_bytes=Big(main.stats.get("memory_peak_bytes", 0)) if stat else None,
    )


@strawberry.type
class AgentSummary:
    id: strawberry.ID | None
    status: str | None
    scaling_group: str | None
    schedulable: bool | None
    available_slots: JSON | None
    occupied_slots: JSON | None
    architecture: str | None


@strawberry.type
class AgentSummaryList(PaginatedList):
    items: list[AgentSummary | None]


def agent_summary_of(one: AgentRow) -> AgentSummary:
    return AgentSummary(
        id=strawberry.ID(one.id),
        status=one.status.value,
        scaling_group=one.resource_group,
        schedulable=one.schedulable,
        available_slots=JSON(one.capacity.texts()),
        occupied_slots=JSON(dict.fromkeys(one.capacity, "0") | one.occupied.texts()),
        architecture=one.architecture,
    )


@strawberry.type
class ContainerRegistryConfig:
    url: str
    type: str | None = None
    project: list[str | None] | None = None
    username: str | None = None
    password: str | None = strawberry.field(default=None, description="Never told.")
    ssl_verify: bool | None = None
    is_global: bool | None = None


@strawberry.type
class ContainerRegistry(Node):
    hostname: str | None
    config: ContainerRegistryConfig | None


def container_registry_of(hostname: str, url: str) -> ContainerRegistry:
    return ContainerRegistry(
        id=global_id("ContainerRegistry", hostname),
        hostname=hostname,
        config=ContainerRegistryConfig(url=url),
    )


@strawberry.type
class LegacyQueries:
    @strawberry.field
    async def compute_container(self, info: Info, id: UUID) -> ComputeContainer | None:
        kernel_id = uuid_of(id, "id") or UUID(int=0)
        found = await info.context.manager.catalogue.of_kernel(info.context.principal, kernel_id)
        for rank, kernel in enumerate(found.session.kernels if found else ()):
            if found and kernel.id == kernel_id:
                return container_of(found.session, kernel, rank)
        return None

    @strawberry.field
    async def legacy_compute_session_list(
        self,
        info: Info,
        limit: int,
        offset: int,
        order_key: str | None = None,
        order_asc: bool | None = None,
        domain_name: str | None = None,
        group_id: str | None = None,
        access_key: str | None = None,
        status: str | None = None,
    ) -> LegacyComputeSessionList | None:
        order = f"{'+' if order_asc is None or order_asc else '-'}{order_key}" if order_key else None
        page = await info.context.manager.catalogue.page(
            info.context.principal,
            listing(limit, offset, None, order),
            statuses=statuses_of(status),
            access_key=access_key or None,
            project_id=uuid_of(group_id or None, "group_id"),
            domain_name=domain_name or None,
        )
        return LegacyComputeSessionList(
            items=[legacy_session_of(one) for one in page.items], total_count=page.total_count
        )

    @strawberry.field
    async def legacy_compute_session(
        self, info: Info, sess_id: str, domain_name: str | None = None, access_key: str | None = None
    ) -> LegacyComputeSession | None:
        """By id, or by name the newest."""
        catalogue, principal = info.context.manager.catalogue, info.context.principal
        session_id = parse_uuid(sess_id)
        if session_id is not None:
            found = await catalogue.one(principal, session_id)
            return legacy_session_of(found) if found else None
        quoted = sess_id.replace("\\", "\\\\").replace('"', '\\"')
        page = await catalogue.page(
            principal,
            listing(1, 0, f'name == "{quoted}"'),
            access_key=access_key or None,
            domain_name=domain_name or None,
        )
        one = one_or_none(page.items)
        return legacy_session_of(one) if one else None

    @strawberry.field
    async def agent_summary(self, info: Info, agent_id: str) -> AgentSummary | None:
        found = [one for one in await agents_seen(info) if one.id == agent_id]
        return agent_summary_of(found[0]) if found else None

    @strawberry.field
    async def agent_summary_list(
        self,
        info: Info,
        limit: int,
        offset: int,
        filter: str | None = None,
        order: str | None = None,
        scaling_group: str | None = None,
        status: str | None = None,
    ) -> AgentSummaryList | None:
        found = await agents_seen(info, scaling_group, status)
        chosen = await info.context.manager.agents.narrowed(found, listing(limit, offset, filter, order))
        return AgentSummaryList(
            items=[agent_summary_of(one) for one in chosen.items], total_count=chosen.total_count
        )

    @strawberry.field
    async def scaling_groups_for_keypair(
        self, info: Info, access_key: str, is_active: bool | None = None
    ) -> list[ScalingGroup | None] | None:
        """Those that were given to the keypair itself. Only active ones are ever told, as in the lists of a domain and a group."""
        directory, principal = info.context.manager.directory, info.context.principal
        keypair = await directory.keypair(principal, access_key) if access_key else None
        if keypair is None:
            raise NotFound(f"no keypair {access_key[:64]!r}")
        found = await directory.resource_groups_of_keypair(principal, AccessKey(keypair.access_key))
        return [
            scaling_group_of(one, secrets=info.context.sees_secrets)
            for one in found
            if is_active in (None, one.is_active)
        ]

    @strawberry.field
    async def resource_preset_by_id(self, info: Info, id: UUID | None = None) -> ResourcePreset | None:
        wanted = uuid_of(id, "id")
        found = [one for one in await info.context.manager.resources.presets() if one.id == wanted]
        return preset_of(found[0]) if found else None

    @strawberry.field
    async def container_registries(self, info: Info) -> list[ContainerRegistry | None] | None:
        """Registries of images, as they are in the settings; credentials are never told."""
        found = await info.context.manager.settings.registries(info.context.principal)
        return [container_registry_of(host, url) for host, url in sorted(found.items())]

    @strawberry.field
    async def container_registry(self, info: Info, hostname: str) -> ContainerRegistry | None:
        found = await info.context.manager.settings.registries(info.context.principal)
        return container_registry_of(hostname, found[hostname]) if hostname in found else None
