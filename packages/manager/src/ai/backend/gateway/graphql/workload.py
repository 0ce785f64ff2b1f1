"""Sessions and their containers, agents, images, scaling groups (resource groups) and presets, in their published form."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import strawberry

from ai.backend.common.quantity import ResourceSlots
from ai.backend.manager.access.policy import Action, Reach, reach
from ai.backend.manager.agents.model import Accelerator
from ai.backend.manager.agents.model import Agent as AgentRow
from ai.backend.manager.directory import model as directory
from ai.backend.manager.image.model import Image as ImageRow
from ai.backend.manager.resource.model import Preset
from ai.backend.manager.session.catalogue import Entry
from ai.backend.manager.session.model import Kernel, Session

from ..rest.session import last_stat
from .context import Info
from .scalar import JSON, Big

MINIMUM = "ai.backend.resource.min."


def registry_of(name: str) -> tuple[str, str]:
    """The registry of an image's canonical name, and the rest."""
    first, _, rest = name.partition("/")
    return (first, rest) if rest and ("." in first or ":" in first or first == "local") else ("", name)


def _when(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@strawberry.type
class ComputeContainer:
    id: strawberry.ID | None
    idx: int | None
    role: str | None
    hostname: str | None
    kernel_id: UUID | None
    cluster_role: str | None
    cluster_idx: int | None
    local_rank: int | None
    cluster_hostname: str | None
    session_id: UUID | None
    image: str | None
    architecture: str | None
    registry: str | None
    status: str | None
    status_info: str | None
    status_data: JSON | None
    status_changed: datetime | None
    created_at: datetime | None
    terminated_at: datetime | None
    starts_at: datetime | None
    scheduled_at: datetime | None
    agent: str | None
    agent_addr: str | None
    container_id: str | None
    resource_opts: JSON | None
    occupied_slots: JSON | None
    preopen_ports: list[int | None] | None
    live_stat: JSON | None
    last_stat: JSON | None
    abusing_report: JSON | None = None


def _occupied(held: bool, slots: ResourceSlots) -> JSON:
    return JSON(slots.texts() if held else {})


def container_of(session: Session, kernel: Kernel, rank: int) -> ComputeContainer:
    stat = last_stat(kernel.stats)
    return ComputeContainer(
        id=strawberry.ID(str(kernel.id)),
        idx=kernel.cluster_idx,
        role=kernel.cluster_role,
        hostname=kernel.hostname,
        kernel_id=kernel.id,
        cluster_role=kernel.cluster_role,
        cluster_idx=kernel.cluster_idx,
        local_rank=rank,
        cluster_hostname=kernel.hostname,
        session_id=session.id,
        image=kernel.image_name,
        architecture=kernel.architecture,
        registry=registry_of(kernel.image_name)[0],
        status=kernel.status.value,
        status_info=kernel.stop_reason or session.reason,
        status_data=JSON(session.reason_detail) if session.reason_detail else None,
        status_changed=session.status_changed_at,
        created_at=session.created_at,
        terminated_at=session.terminated_at,
        starts_at=None,
        scheduled_at=_when(session.status_history.get("SCHEDULED")),
        agent=kernel.agent_id,
        agent_addr=None,
        container_id=kernel.container_id,
        resource_opts=JSON(session.resource_opts),
        occupied_slots=_occupied(kernel.status.occupying, kernel.requested_slots),
        preopen_ports=[*kernel.preopen_ports],
        live_stat=JSON(stat) if stat and not kernel.status.terminal else None,
        last_stat=JSON(stat) if stat else None,
    )


@strawberry.type
class ComputeSession:
    id: strawberry.ID | None
    session_id: UUID | None
    main_kernel_id: UUID | None
    tag: str | None
    name: str | None
    type: str | None
    main_kernel_role: str | None
    priority: int | None
    image: str | None
    architecture: str | None
    registry: str | None
    cluster_template: str | None
    cluster_mode: str | None
    cluster_size: int | None
    domain_name: str | None
    group_name: str | None
    group_id: UUID | None
    agent_ids: list[str | None] | None
    agents: list[str | None] | None
    user_email: str | None
    full_name: str | None
    user_id: UUID | None
    access_key: str | None
    created_user_email: str | None
    created_user_id: UUID | None
    status: str | None
    status_info: str | None
    status_changed: datetime | None
    created_at: datetime | None
    terminated_at: datetime | None
    starts_at: datetime | None
    startup_command: str | None
    result: str | None
    scaling_group: str | None
    num_queries: Big | None
    session: strawberry.Private[Session]

    @strawberry.field
    def scheduled_at(self) -> datetime | None:
        return _when(self.session.status_history.get("SCHEDULED"))

    @strawberry.field
    def status_data(self) -> JSON | None:
        return JSON(self.session.reason_detail) if self.session.reason_detail else None

    @strawberry.field
    def status_history(self) -> JSON | None:
        return JSON(self.session.status_history)

    @strawberry.field
    def commit_status(self, info: Info) -> str | None:
        """`ongoing` while an image is being made of it."""
        return "ongoing" if info.context.manager.commits.is_ongoing(self.session.id) else "ready"

    @strawberry.field
    def resource_opts(self) -> JSON | None:
        return JSON({kernel.hostname: self.session.resource_opts for kernel in self.session.kernels})

    @strawberry.field
    def service_ports(self) -> JSON | None:
        return JSON([service.as_row() for service in self.session.main.service_ports])

    @strawberry.field
    def mounts(self) -> list[str | None] | None:
        return []

    @strawberry.field
    def vfolder_mounts(self) -> list[str | None] | None:
        return []

    @strawberry.field
    def occupying_slots(self) -> JSON | None:
        return _occupied(self.session.status.occupying, self.session.requested_slots)

    @strawberry.field
    def occupied_slots(self) -> JSON | None:
        return _occupied(self.session.status.occupying, self.session.requested_slots)

    @strawberry.field
    def requested_slots(self) -> JSON | None:
        return JSON(self.session.requested_slots.texts())

    @strawberry.field
    def containers(self) -> list[ComputeContainer | None] | None:
        return [container_of(self.session, kernel, rank) for rank, kernel in enumerate(self.session.kernels)]

    @strawberry.field
    async def dependencies(self, info: Info) -> list["ComputeSession | None"] | None:
        needed = (await info.context.manager.catalogue.dependencies([self.session.id]))[self.session.id]
        found = [await info.context.manager.catalogue.one(info.context.principal, one) for one, _ in needed]
        return [session_of(entry) for entry in found if entry is not None]

    @strawberry.field
    def abusing_reports(self) -> list[JSON | None] | None:
        return []

    @strawberry.field
    def idle_checks(self) -> JSON | None:
        return JSON({})

    @strawberry.field
    def inference_metrics(self) -> JSON | None:
        return JSON({})


def session_of(entry: Entry) -> ComputeSession:
    session, main = entry.session, entry.session.main
    agents: list[str | None] = [kernel.agent_id for kernel in session.kernels if kernel.agent_id is not None]
    return ComputeSession(
        id=strawberry.ID(str(session.id)),
        session_id=session.id,
        main_kernel_id=main.id,
        tag=session.tag,
        name=session.name,
        type=session.session_type.value.upper(),
        main_kernel_role="COMPUTE",
        priority=session.priority,
        image=main.image_name,
        architecture=main.architecture,
        registry=registry_of(main.image_name)[0],
        cluster_template=None,
        cluster_mode=session.cluster_mode.value,
        cluster_size=len(session.kernels),
        domain_name=session.domain_name,
        group_name=entry.project_name,
        group_id=session.project_id,
        agent_ids=agents,
        agents=agents,
        user_email=entry.user_email,
        full_name=entry.full_name,
        user_id=session.user_id,
        access_key=session.access_key,
        created_user_email=entry.user_email,
        created_user_id=session.user_id,
        status=session.status.value,
        status_info=session.reason,
        status_changed=session.status_changed_at,
        created_at=session.created_at,
        terminated_at=session.terminated_at,
        starts_at=session.starts_at,
        startup_command=session.startup_command,
        result=session.result.upper(),
        scaling_group=session.resource_group,
        num_queries=Big(session.num_queries),
        session=session,
    )


@strawberry.type
class Agent:
    id: strawberry.ID | None
    status: str | None
    status_changed: datetime | None
    region: str | None
    architecture: str | None
    scaling_group: str | None
    schedulable: bool | None
    available_slots: JSON | None
    occupied_slots: JSON | None
    addr: str | None
    first_contact: datetime | None
    lost_at: datetime | None
    live_stat: JSON | None
    version: str | None
    compute_plugins: JSON | None
    hardware_metadata: JSON | None
    local_config: JSON | None
    cpu_cur_pct: float | None
    auto_terminate_abusing_kernel: bool | None = False

    @strawberry.field
    async def compute_containers(
        self, info: Info, status: str | None = None
    ) -> list[ComputeContainer | None] | None:
        agent_id = str(self.id)
        placed = await info.context.manager.catalogue.on_agents(info.context.principal, [agent_id])
        return [
            container_of(session, kernel, rank)
            for session in placed[agent_id]
            for rank, kernel in enumerate(session.kernels)
            if kernel.agent_id == agent_id and status in (None, kernel.status.value)
        ]

    @strawberry.field
    async def mem_cur_bytes(self, info: Info) -> float | None:
        """What the containers of live sessions used when they were last measured."""
        agent_id = str(self.id)
        placed = await info.context.manager.catalogue.on_agents(info.context.principal, [agent_id])
        return float(
            sum(
                kernel.stats.get("memory_bytes", 0)
                for session in placed[agent_id]
                for kernel in session.kernels
                if kernel.agent_id == agent_id
            )
        )

    @strawberry.field
    async def container_count(self, info: Info) -> int | None:
        agent_id = str(self.id)
        placed = await info.context.manager.catalogue.on_agents(info.context.principal, [agent_id])
        return sum(kernel.agent_id == agent_id for session in placed[agent_id] for kernel in session.kernels)


def agent_of(one: AgentRow) -> Agent:
    return Agent(
        id=strawberry.ID(one.id),
        status=one.status.value,
        status_changed=one.status_changed_at,
        region=one.region,
        architecture=one.architecture,
        scaling_group=one.resource_group,
        schedulable=one.schedulable,
        available_slots=JSON(one.capacity.texts()),
        occupied_slots=JSON(dict.fromkeys(one.capacity, "0") | one.occupied.texts()),
        addr=one.address,
        first_contact=one.first_contact_at,
        lost_at=one.lost_at,
        live_stat=_live_stat(one),
        version=one.version,
        compute_plugins=JSON({a.key: {"version": a.version, **a.facts} for a in one.accelerators}),
        hardware_metadata=JSON(
            {"backend": one.backend, **{a.key: _hardware(one, a) for a in one.accelerators}}
        ),
        local_config=JSON({}),
        cpu_cur_pct=None,
    )


def _hardware(one: AgentRow, kind: Accelerator) -> dict[str, Any]:
    """The published words for how a kind of device is."""
    mine = [device for device in one.devices if device.id.startswith(f"{kind.key}/")]
    broken = [f"{device.id}: {device.problem}" for device in mine if device.problem]
    works = "healthy" if not broken else "degraded" if len(broken) < len(mine) else "unavailable"
    return {
        "status": "unavailable" if kind.problem else works,
        "status_info": kind.problem or "; ".join(broken) or None,
        "metadata": {device.id: device.model for device in mine},
    }


def _live_stat(one: AgentRow) -> JSON | None:
    """How busy its devices are, in the published shape; nothing where that is not known."""
    measured = [device for device in one.devices if device.percent is not None]
    if not measured:
        return None
    devices: dict[str, dict[str, dict[str, str]]] = {}
    for device in measured:
        key = device.id.partition("/")[0]
        devices.setdefault(f"{key}_util", {})[device.id] = _measure(device.percent or 0.0, 100, "pct")
        if device.used_bytes is not None:
            memory = _measure(device.used_bytes, device.memory_bytes, "bytes")
            devices.setdefault(f"{key}_mem", {})[device.id] = memory
    node = {
        name: _measure(
            sum(float(value["current"]) for value in each.values()),
            sum(float(value["capacity"]) for value in each.values()),
            next(iter(each.values()))["unit_hint"],
        )
        for name, each in devices.items()
    }
    return JSON({"node": node, "devices": devices})


def _measure(current: float, capacity: float, unit: str) -> dict[str, str]:
    percent = 100 * current / capacity if capacity else 0.0
    return {
        "current": _number(current),
        "capacity": _number(capacity),
        "pct": f"{percent:.2f}",
        "unit_hint": unit,
    }


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3f}"


@strawberry.type
class KVPair:
    key: str | None
    value: str | None


@strawberry.type
class ResourceLimit:
    key: str | None
    min: str | None
    max: str | None


@strawberry.type
class Image:
    id: UUID | None
    name: str | None
    humanized_name: str | None
    namespace: str | None
    base_image_name: str | None
    tag: str | None
    version: str | None
    registry: str | None
    project: str | None
    architecture: str | None
    is_local: bool | None
    status: str | None
    digest: str | None
    labels: list[KVPair | None] | None
    aliases: list[str | None] | None
    size_bytes: Big | None
    resource_limits: list[ResourceLimit | None] | None
    supported_accelerators: list[str | None] | None
    installed: bool | None
    installed_agents: list[str | None] | None
    hash: str | None


def image_of(one: ImageRow, aliases: Sequence[str], agents: Sequence[str]) -> Image:
    registry, rest = registry_of(one.name)
    path, _, tag = rest.partition(":")
    limits: list[ResourceLimit | None] = [
        ResourceLimit(key=label.removeprefix(MINIMUM), min=value, max=None)
        for label, value in sorted(one.labels.items())
        if label.startswith(MINIMUM)
    ]
    return Image(
        id=None,
        name=path,
        humanized_name=path,
        namespace=path,
        base_image_name=path.rpartition("/")[2],
        tag=tag,
        version=re.split(r"-", tag, maxsplit=1)[0],
        registry=registry,
        project=None,
        architecture=one.architecture,
        is_local=registry in ("", "local"),
        status="ALIVE",
        digest=one.digest,
        labels=[KVPair(key=key, value=value) for key, value in sorted(one.labels.items())],
        aliases=[*aliases],
        size_bytes=Big(one.size_bytes),
        resource_limits=limits,
        supported_accelerators=[
            word for word in one.labels.get("ai.backend.accelerators", "").split(",") if word
        ],
        installed=bool(agents),
        installed_agents=[*agents],
        hash=one.digest,
    )


@strawberry.type
class ScalingGroup:
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
    status: JSON | None = None

    @strawberry.field
    async def agent_count_by_status(self, info: Info, status: str = "ALIVE") -> int | None:
        """Null to whom agents are not told."""
        if reach(info.context.principal, Action.AGENT_READ) is Reach.NOTHING:
            return None
        found = await info.context.manager.agents.list(info.context.principal)
        return sum((one.resource_group, one.status.value) == (self.name, status.upper()) for one in found)


def scaling_group_of(one: directory.ResourceGroup, *, secrets: bool) -> ScalingGroup:
    """`secrets`: whether the one who asks may see the token of the app proxy."""
    return ScalingGroup(
        name=one.name,
        description=one.description,
        is_active=one.is_active,
        is_public=one.is_public,
        created_at=one.created_at,
        wsproxy_addr=one.wsproxy_addr,
        wsproxy_api_token=one.wsproxy_api_token if secrets else None,
        driver=one.driver,
        driver_opts=JSON(one.driver_opts),
        scheduler=one.scheduler,
        scheduler_opts=JSON(one.scheduler_opts),
        use_host_network=one.use_host_network,
    )


@strawberry.type
class ResourcePreset:
    id: UUID | None
    name: str | None
    resource_slots: JSON | None
    shared_memory: Big | None
    scaling_group_name: str | None


def preset_of(one: Preset) -> ResourcePreset:
    return ResourcePreset(
        id=one.id,
        name=one.name,
        resource_slots=JSON(one.slots.texts()),
        shared_memory=None if one.shared_memory_bytes is None else Big(one.shared_memory_bytes),
        scaling_group_name=one.resource_group or None,
    )
