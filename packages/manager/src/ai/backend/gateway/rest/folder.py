"""The calls about virtual folders: where they may be, and whose."""

from typing import Any

from litestar import Response, get
from litestar.types import ControllerRouterHandler

from ai.backend.common.wire.rest import folder as wire
from ai.backend.manager.folder.model import Hosts

from ..auth import principal_of
from ..call import AnyRequest, form_of, gateway_of, reply
from ..openapi import Operation


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(**({"tag": "folders"} | fields))}


def _host_list(found: Hosts) -> Response[bytes]:
    return reply(wire.HostList(default=found.default, allowed=list(found.allowed)))


@get(
    "/folders/_/hosts",
    opt=_opt(
        summary="Hosts where your folders may be",
        description="Those on which your domain, a project of yours or your keypair's policy gives any permission.",
        form=wire.ListHosts,
        reply=wire.HostList,
        refusals=(404,),
    ),
)
async def list_hosts(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.ListHosts)
    folders = gateway_of(request).manager.folders
    return _host_list(await folders.hosts(principal_of(request), form.group_id))


@get(
    ["/folders/_/all_hosts", "/folders/_/all-hosts"],
    opt=_opt(
        summary="Hosts where anybody's folders may be",
        description="Superadministrators only.",
        reply=wire.HostList,
    ),
)
async def list_all_hosts(request: AnyRequest) -> Response[bytes]:
    return _host_list(await gateway_of(request).manager.folders.all_hosts(principal_of(request)))


@get(
    ["/folders/_/allowed_types", "/folders/_/allowed-types"],
    opt=_opt(summary="Whom your folders may belong to", reply=list[str]),
)
async def list_allowed_types(request: AnyRequest) -> Response[bytes]:
    return reply(await gateway_of(request).manager.folders.types())


@get(
    "/config/vfolder-types",
    opt=_opt(summary="Whom folders may belong to", tag="service", reply=list[str], anonymous=True),
)
async def get_vfolder_types(request: AnyRequest) -> Response[bytes]:
    return reply(await gateway_of(request).manager.folders.types())


ROUTES: tuple[ControllerRouterHandler, ...] = (
    list_hosts,
    list_all_hosts,
    list_allowed_types,
    get_vfolder_types,
)
