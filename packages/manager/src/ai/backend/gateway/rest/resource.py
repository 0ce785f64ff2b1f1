"""The calls about resource groups, presets, what is left and what was used."""

from datetime import datetime
from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from ai.backend.common.errors import NotServed
from ai.backend.common.quantity import CPU, MEM, MILLI
from ai.backend.common.wire.rest import resource as wire
from ai.backend.common.wire.rest.dotfile import Nothing
from ai.backend.common.wire.rest.form import Form
from ai.backend.manager.resource.model import Bin, Check, KernelUse, Preset, ProjectUse
from ai.backend.manager.resource.policy import device_bytes, device_milli, devices_of, hidden, texts

from ..auth import principal_of
from ..call import AnyRequest, begin, form_of, gateway_of, reply
from ..openapi import Operation

ADMINISTRATORS = "Superadministrators and monitors only."


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(**({"tag": "resources"} | fields))}


def preset_item(preset: Preset, allocatable: bool | None = None) -> wire.PresetItem:
    shared = preset.shared_memory_bytes
    return wire.PresetItem(
        id=str(preset.id),
        name=preset.name,
        resource_slots=preset.slots.texts(),
        shared_memory=str(shared) if shared else None,
        allocatable=allocatable,
    )


def check_reply(check: Check) -> wire.PresetCheck:
    names = check.keypair.limits
    project = check.project
    return wire.PresetCheck(
        keypair_limits=texts(check.keypair.limits),
        keypair_using=texts(check.keypair.using),
        keypair_remaining=texts(check.keypair.remaining),
        group_limits=texts(project.limits) if project else hidden(names),
        group_using=texts(project.using) if project else hidden(names),
        group_remaining=texts(project.remaining) if project else hidden(names),
        scaling_group_remaining=texts(check.remaining),
        scaling_groups={
            name: wire.GroupStanding(using=texts(standing.using), remaining=texts(standing.remaining))
            for name, standing in check.groups.items()
        },
        presets=[preset_item(preset, allocatable) for preset, allocatable in check.presets],
    )


def kernel_use(kernel: KernelUse, now: datetime) -> dict[str, Any]:
    """The published form of one container in accounting."""
    used = (kernel.terminated_at or now) - kernel.began_at
    devices = device_milli(kernel.slots) / MILLI
    return {
        "id": str(kernel.kernel_id),
        "session_id": str(kernel.session_id),
        "container_id": kernel.container_id,
        "domain_name": kernel.domain_name,
        "group_id": str(kernel.project_id),
        "group_name": kernel.project_name,
        "name": kernel.session_name,
        "access_key": kernel.access_key,
        "email": kernel.email,
        "full_name": kernel.full_name,
        "agent": kernel.agent_id,
        "cpu_allocated": kernel.slots[CPU] / MILLI,
        "cpu_used": kernel.stats.get("cpu_used_us", 0) / 1_000_000,
        "mem_allocated": kernel.slots[MEM],
        "mem_used": kernel.stats.get("memory_peak_bytes", 0),
        "shared_memory": kernel.shm_bytes,
        "disk_allocated": 0,
        "disk_used": kernel.stats.get("disk_used_bytes", 0),
        "io_read": kernel.stats.get("io_read_bytes", 0),
        "io_write": kernel.stats.get("io_write_bytes", 0),
        "used_time": str(used),
        "used_days": used.days + 1,
        "device_type": sorted({name.partition(".")[0] for name in devices_of(kernel.slots)}),
        "smp": devices,
        "gpu_mem_allocated": device_bytes(kernel.slots),
        "gpu_allocated": devices,
        "nfs": [],
        "image_id": kernel.image_name,
        "image_name": kernel.image_name,
        "created_at": kernel.created_at.isoformat(),
        # A text in any case: published clients append it to one.
        "terminated_at": kernel.terminated_at.isoformat() if kernel.terminated_at else "",
        "status": kernel.status,
        "status_info": kernel.reason,
        "status_changed": kernel.status_changed_at.isoformat(),
        "status_history": dict(kernel.status_history),
        "cluster_mode": kernel.cluster_mode,
    }


def project_use(use: ProjectUse, now: datetime) -> wire.ProjectUse:
    def total(name: str) -> int:
        return sum(kernel.stats.get(name, 0) for kernel in use.kernels)

    return wire.ProjectUse(
        domain_name=use.domain_name,
        g_id=str(use.project_id),
        g_name=use.project_name,
        g_cpu_allocated=use.cpu_milli / MILLI,
        g_cpu_used=use.cpu_used_us / 1_000_000,
        g_mem_allocated=use.memory_bytes,
        g_mem_used=use.memory_used_bytes,
        g_shared_memory=use.shm_bytes,
        g_disk_allocated=0,
        g_disk_used=total("disk_used_bytes"),
        g_io_read=total("io_read_bytes"),
        g_io_write=total("io_write_bytes"),
        g_device_type=list(use.devices),
        g_smp=use.device_milli / MILLI,
        g_gpu_mem_allocated=use.device_memory_bytes,
        g_gpu_allocated=use.device_milli / MILLI,
        c_infos=[kernel_use(kernel, now) for kernel in use.kernels],
    )


def bin_item(one: Bin) -> wire.UseBin:
    """What is not measured over time (input, output, disk) is told as 0."""

    def measure(value: float, unit: str) -> wire.Measure:
        return wire.Measure(value=value, unit_hint=unit)

    return wire.UseBin(
        date=one.begins_at.timestamp(),
        num_sessions=measure(one.sessions, "count"),
        cpu_allocated=measure(one.cpu_milli / MILLI, "count"),
        mem_allocated=measure(one.memory_bytes, "bytes"),
        gpu_allocated=measure(one.device_milli / MILLI, "count"),
        io_read_bytes=measure(0, "bytes"),
        io_write_bytes=measure(0, "bytes"),
        disk_used=measure(0, "bytes"),
    )


@get(
    "/scaling-groups",
    opt=_opt(
        summary="Resource groups where your sessions may run",
        description="Public ones, and those that your domain, project or keypair was given.",
        form=wire.ListGroups,
        reply=wire.GroupList,
        refusals=(403, 404),
    ),
)
async def list_groups(request: AnyRequest) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.ListGroups)
    names = await manager.resources.groups(principal, form.group)
    return reply(wire.GroupList(scaling_groups=[wire.GroupName(name=name) for name in names]))


@get(
    "/scaling-groups/{name:str}/wsproxy-version",
    opt=_opt(
        summary="How applications in sessions of a resource group are reached",
        form=wire.ListGroups,
        reply=wire.ProxyVersion,
        refusals=(403, 404),
    ),
)
async def get_proxy_version(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.ListGroups)
    version = await manager.resources.proxy_version(principal, name, form.group)
    return reply(wire.ProxyVersion(wsproxy_version=version))


@get(
    "/resource/presets",
    opt=_opt(summary="Presets: named amounts of resources", form=wire.ListPresets, reply=wire.PresetList),
)
async def list_presets(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.ListPresets)
    found = await gateway_of(request).manager.resources.presets(form.scaling_group)
    return reply(wire.PresetList(presets=[preset_item(preset) for preset in found]))


@post(
    "/resource/check-presets",
    status_code=200,
    opt=_opt(
        summary="What you may hold, hold and could get, and which presets could run now",
        form=wire.CheckPresets,
        form_in="body",
        reply=wire.PresetCheck,
        refusals=(403, 404),
        while_frozen=True,
    ),
)
async def check_presets(request: AnyRequest) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.CheckPresets)
    check = await manager.resources.check_presets(principal, form.group, form.scaling_group)
    return reply(check_reply(check))


@post(
    "/resource/recalculate-usage",
    status_code=200,
    opt=_opt(
        summary="Recalculate what is in use",
        description="Changes nothing here: use is summed from rows whenever it is asked for. Superadministrators only.",
        reply=Nothing,
        while_frozen=True,
    ),
)
async def recalculate_usage(request: AnyRequest) -> Response[bytes]:
    await gateway_of(request).manager.resources.recalculate(principal_of(request))
    return reply(Nothing())


@get(
    "/resource/usage/month",
    opt=_opt(
        summary="What projects used in a month",
        description=ADMINISTRATORS,
        form=wire.MonthUse,
        reply=list[wire.ProjectUse],
    ),
)
async def get_month_use(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.MonthUse)
    manager = gateway_of(request).manager
    found = await manager.resources.month_use(principal_of(request), form.month, form.group_ids)
    return reply([project_use(use, manager.clock.now()) for use in found])


@get(
    "/resource/usage/period",
    opt=_opt(
        summary="What projects used between two days",
        description=ADMINISTRATORS,
        form=wire.PeriodUse,
        reply=list[wire.ProjectUse],
    ),
)
async def get_period_use(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.PeriodUse)
    manager = gateway_of(request).manager
    found = await manager.resources.period_use(
        principal_of(request), form.start_date, form.end_date, form.group_id
    )
    return reply([project_use(use, manager.clock.now()) for use in found])


@get(
    "/resource/stats/user/month",
    opt=_opt(
        summary="What you held in the last 30 days",
        description="2880 quarters of an hour.",
        reply=list[wire.UseBin],
    ),
)
async def get_my_month(request: AnyRequest) -> Response[bytes]:
    found = await gateway_of(request).manager.resources.my_month(principal_of(request))
    return reply([bin_item(one) for one in found])


@get(
    "/resource/stats/admin/month",
    opt=_opt(
        summary="What everybody held in the last 30 days",
        description=f"2880 quarters of an hour. {ADMINISTRATORS}",
        reply=list[wire.UseBin],
    ),
)
async def get_everyones_month(request: AnyRequest) -> Response[bytes]:
    found = await gateway_of(request).manager.resources.everyones_month(principal_of(request))
    return reply([bin_item(one) for one in found])


async def _watcher(request: AnyRequest, verb: str) -> Response[bytes]:
    form = await form_of(request, wire.WatchAgent)
    await gateway_of(request).manager.resources.watch_agent(principal_of(request), form.agent_id, verb)
    return reply(Nothing())


def _watcher_opt(summary: str, **fields: Any) -> dict[str, Any]:
    return _opt(
        summary=summary,
        description="Agents of this platform have no watcher: the answer is 503 `not-implemented`.",
        form=wire.WatchAgent,
        reply=Nothing,
        refusals=(404, 503),
        status=503,
        while_frozen=True,
        **fields,
    )


@get("/resource/watcher", opt=_watcher_opt("An agent's watcher"))
async def get_watcher(request: AnyRequest) -> Response[bytes]:
    return await _watcher(request, "status")


@post("/resource/watcher/agent/start", opt=_watcher_opt("Start an agent", form_in="body"))
async def start_agent(request: AnyRequest) -> Response[bytes]:
    return await _watcher(request, "start")


@post("/resource/watcher/agent/stop", opt=_watcher_opt("Stop an agent", form_in="body"))
async def stop_agent(request: AnyRequest) -> Response[bytes]:
    return await _watcher(request, "stop")


@post("/resource/watcher/agent/restart", opt=_watcher_opt("Restart an agent", form_in="body"))
async def restart_agent(request: AnyRequest) -> Response[bytes]:
    return await _watcher(request, "restart")


@post(
    "/session/_/sync-agent-registry",
    status_code=200,
    opt=_opt(
        summary="Have an agent sent anew what it should run",
        description="It then reports what it runs, and what differs is set right; that goes on after the answer. Superadministrators only.",
        form=wire.SyncAgent,
        form_in="body",
        reply=Nothing,
        refusals=(404,),
        while_frozen=True,
    ),
)
async def sync_agent(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.SyncAgent)
    await gateway_of(request).manager.agents.sync(principal_of(request), form.agent)
    return reply(Nothing())


class ImportImage(Form, frozen=True, kw_only=True):
    """Nothing is read: it is refused in any case."""


def _import_opt(summary: str) -> dict[str, Any]:
    return _opt(
        summary=summary,
        description="Not served: images are built or pulled where they run; see `backend.ai image build`.",
        tag="service",
        form=ImportImage,
        reply=Nothing,
        status=503,
        while_frozen=True,
    )


def _no_import() -> NotServed:
    return NotServed(
        "images are not imported by this server",
        hint="Build one on the node with 'backend.ai image build', or pull it there; agents tell of it themselves.",
    )


@get("/image/import", opt=_import_opt("The form for importing an image"))
async def get_import_form(request: AnyRequest) -> Response[bytes]:
    raise _no_import()


@post("/image/import", opt=_import_opt("Import an image"))
async def import_image(request: AnyRequest) -> Response[bytes]:
    raise _no_import()


ROUTES: tuple[ControllerRouterHandler, ...] = (
    list_groups,
    get_proxy_version,
    list_presets,
    check_presets,
    recalculate_usage,
    get_month_use,
    get_period_use,
    get_my_month,
    get_everyones_month,
    get_watcher,
    start_agent,
    stop_agent,
    restart_agent,
    sync_agent,
    get_import_form,
    import_image,
)
