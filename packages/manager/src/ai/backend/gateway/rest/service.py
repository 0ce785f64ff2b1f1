"""Services of sessions behind a resource group's app proxy, and what else of a session is reached past this API."""

from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from ai.backend.common.wire.rest import session as wire

from ..call import AnyRequest, begin, empty, reply
from ..openapi import Operation
from ..stream.tcpproxy import options_of

SESSION = (403, 404)


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(tag="session", while_frozen=True, **fields)}


@post(
    "/session/{name:str}/start-service",
    status_code=200,
    opt=_opt(
        summary="Open a service of a session through its resource group's app proxy",
        description="Answers what the proxy's coordinator wants to see. 503 tells what is wrong with the proxy, in `error_code`: "
        "`coordinator.none` (it has none: use `tcpproxy`), `.unreachable`, `.failed`, `.misconfigured`, `.no-relay`. The program has "
        "to be running in the session: nothing is started, and `arguments` and `envs` are checked but not used.",
        form=wire.StartService,
        form_in="body",
        reply=wire.ServiceStarted,
        refusals=(*SESSION, 503),
    ),
)
async def start_service(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.StartService)
    options_of(form.arguments, "arguments"), options_of(form.envs, "envs")
    opened = await manager.coordinators.start_service(
        principal, name, form.app, port=form.port, login_session_token=form.login_session_token
    )
    return reply(wire.ServiceStarted(token=opened.token, wsproxy_addr=opened.url))


@post(
    "/session/{name:str}/shutdown-service",
    opt=_opt(
        summary="Close what was opened by start-service",
        description="And the connections through it. The program in the session is not touched.",
        form=wire.ShutdownService,
        form_in="body",
        status=204,
        refusals=SESSION,
    ),
)
async def shutdown_service(request: AnyRequest, name: FromPath[str]) -> Response[None]:
    manager, principal, form = await begin(request, wire.ShutdownService)
    await manager.coordinators.shutdown_service(principal, name, form.service_name)
    return empty()


@get(
    "/session/{name:str}/direct-access-info",
    opt=_opt(
        summary="Where a session is reached directly",
        description="Nowhere: there are no sessions of the type for which this is asked (`system`).",
        form=wire.GetSession,
        reply=wire.DirectAccess,
        refusals=SESSION,
    ),
)
async def get_direct_access(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, _ = await begin(request, wire.GetSession)
    await manager.sessions.get(principal, name)
    return reply(wire.DirectAccess())


ROUTES: tuple[ControllerRouterHandler, ...] = (start_service, shutdown_service, get_direct_access)
