"""The calls about settings, the manager's state, the announcement and the scheduler."""

from typing import Any

from litestar import Response, get, post, put
from litestar.types import ControllerRouterHandler

from ai.backend.common.errors import InvalidInput
from ai.backend.common.wire.rest import setting as wire
from ai.backend.common.wire.rest.root import Announcement, ManagerNode, ManagerStatus
from ai.backend.common.wire.version import CURRENT, MANAGER_VERSION
from ai.backend.manager.setting.model import Tree

from ..auth import principal_of
from ..call import AnyRequest, empty, form_of, gateway_of, reply
from ..openapi import Operation

ADMINISTRATORS = "Superadministrators only."


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(**({"tag": "settings"} | fields))}


def tree_of(value: Any) -> Tree:
    """A value as it is kept: texts, nested. Numbers and booleans are taken as clients write them. Raises InvalidInput."""
    if isinstance(value, dict):
        return {str(name): tree_of(inner) for name, inner in value.items()}
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, list):
        raise InvalidInput("a setting is a text, or names with texts", field="value")
    return str(value)


@get(
    "/manager/announcement",
    opt=_opt(summary="The administrators' announcement", tag="service", reply=Announcement, anonymous=True),
)
async def get_announcement(request: AnyRequest) -> Response[bytes]:
    text = (await gateway_of(request).manager.settings.status()).announcement
    return reply(Announcement(enabled=bool(text), message=text))


@post(
    "/manager/announcement",
    opt=_opt(
        summary="Set the announcement",
        description=ADMINISTRATORS,
        form=wire.Announce,
        form_in="body",
        status=204,
        while_frozen=True,
    ),
)
async def set_announcement(request: AnyRequest) -> Response[None]:
    form = await form_of(request, wire.Announce)
    settings = gateway_of(request).manager.settings
    await settings.announce(principal_of(request), enabled=form.enabled, message=form.message)
    return empty()


@get(
    "/manager/status",
    opt=_opt(
        summary="The manager's status",
        description="`frozen`: calls that change something are refused; what runs can be used and ended.",
        tag="service",
        reply=ManagerStatus,
        anonymous=True,
    ),
)
async def get_manager_status(request: AnyRequest) -> Response[bytes]:
    status = await gateway_of(request).manager.settings.status()
    node = ManagerNode(
        id="manager",
        num_proc=1,
        service_addr=request.headers.get("host", ""),
        heartbeat_timeout=10.0,
        ssl_enabled=request.scope["scheme"] == "https",
        active_sessions=status.active_sessions,
        status=status.state.value,
        version=MANAGER_VERSION,
        api_version=(CURRENT.major, CURRENT.date),
    )
    return reply(
        ManagerStatus(nodes=[node], status=status.state.value, active_sessions=status.active_sessions)
    )


@put(
    "/manager/status",
    opt=_opt(
        summary="Freeze or unfreeze the manager",
        description=ADMINISTRATORS,
        form=wire.SetManagerStatus,
        form_in="body",
        status=204,
        while_frozen=True,
    ),
)
async def set_manager_status(request: AnyRequest) -> Response[None]:
    form = await form_of(request, wire.SetManagerStatus)
    settings = gateway_of(request).manager.settings
    await settings.set_state(principal_of(request), form.status, force_kill=form.force_kill)
    return empty()


@post(
    "/manager/scheduler/operation",
    opt=_opt(
        summary="Include agents in scheduling, or exclude them",
        description=ADMINISTRATORS,
        form=wire.SchedulerOperation,
        form_in="body",
        status=204,
        refusals=(404,),
        while_frozen=True,
    ),
)
async def operate_scheduler(request: AnyRequest) -> Response[None]:
    form = await form_of(request, wire.SchedulerOperation)
    await gateway_of(request).manager.settings.operate_scheduler(principal_of(request), form.op, form.args)
    return empty()


@post(
    "/manager/scheduler/trigger",
    opt=_opt(
        summary="Let the scheduler look now",
        description=ADMINISTRATORS,
        form=wire.TriggerScheduler,
        form_in="body",
        status=204,
        while_frozen=True,
    ),
)
async def trigger_scheduler(request: AnyRequest) -> Response[None]:
    form = await form_of(request, wire.TriggerScheduler)
    await gateway_of(request).manager.settings.trigger_scheduler(principal_of(request), form.event)
    return empty()


@get(
    "/manager/scheduler/status",
    opt=_opt(summary="What the scheduler does", description=ADMINISTRATORS, reply=wire.SchedulerStatus),
)
async def get_scheduler_status(request: AnyRequest) -> Response[bytes]:
    status = await gateway_of(request).manager.settings.scheduler_status(principal_of(request))
    return reply(
        wire.SchedulerStatus(
            pending_sessions=status.pending_sessions,
            schedulable_agents=status.schedulable_agents,
            runs=status.runs,
            failures=status.failures,
        )
    )


@post(
    "/config/get",
    opt=_opt(
        summary="Read settings",
        description=ADMINISTRATORS,
        form=wire.GetSetting,
        form_in="body",
        reply=wire.SettingFound,
        while_frozen=True,
    ),
)
async def get_setting(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.GetSetting)
    settings = gateway_of(request).manager.settings
    return reply(
        wire.SettingFound(result=await settings.get(principal_of(request), form.key, prefix=form.prefix))
    )


@post(
    "/config/set",
    opt=_opt(
        summary="Write settings",
        description=ADMINISTRATORS,
        form=wire.SetSetting,
        form_in="body",
        reply=wire.SettingDone,
        refusals=(503,),
    ),
)
async def set_setting(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.SetSetting)
    await gateway_of(request).manager.settings.set(principal_of(request), form.key, tree_of(form.value))
    return reply(wire.SettingDone())


@post(
    "/config/delete",
    opt=_opt(
        summary="Delete settings",
        description=f"{ADMINISTRATORS} What is not there counts as deleted.",
        form=wire.DeleteSetting,
        form_in="body",
        reply=wire.SettingDone,
        refusals=(503,),
    ),
)
async def delete_setting(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.DeleteSetting)
    settings = gateway_of(request).manager.settings
    await settings.delete(principal_of(request), form.key, prefix=form.prefix)
    return reply(wire.SettingDone())


@get(
    ["/config/docker-registries", "/resource/container-registries"],
    opt=_opt(
        summary="Registries of images",
        description=f"Host to address, from the settings `config/docker/registry/HOST`. {ADMINISTRATORS}",
        reply=dict[str, str],
    ),
)
async def get_registries(request: AnyRequest) -> Response[bytes]:
    return reply(await gateway_of(request).manager.settings.registries(principal_of(request)))


@get(
    "/config/resource-slots/details",
    opt=_opt(
        summary="How kinds of resource slots are shown to people",
        tag="service",
        form=wire.SlotDetails,
        reply=dict[str, wire.SlotDetail],
        anonymous=True,
    ),
)
async def get_slot_details(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.SlotDetails)
    slots = await gateway_of(request).manager.settings.slots(form.sgroup)
    return reply(
        {
            slot.slot_name: wire.SlotDetail(
                slot_name=slot.slot_name,
                description=slot.description,
                human_readable_name=slot.human_readable_name,
                display_unit=slot.display_unit,
                number_format=wire.NumberFormat(binary=slot.binary, round_length=slot.round_length),
                display_icon=slot.display_icon,
            )
            for slot in slots
        }
    )


ROUTES: tuple[ControllerRouterHandler, ...] = (
    get_announcement,
    set_announcement,
    get_manager_status,
    set_manager_status,
    operate_scheduler,
    trigger_scheduler,
    get_scheduler_status,
    get_setting,
    set_setting,
    delete_setting,
    get_registries,
    get_slot_details,
)
