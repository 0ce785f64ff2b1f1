"""Which programs of a session can be reached."""

from litestar import Response, get
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from ai.backend.common.wire.rest import session as wire

from ..call import AnyRequest, begin, reply
from ..openapi import Operation


@get(
    "/stream/session/{name:str}/apps",
    opt={
        "operation": Operation(
            summary="List the services of a session",
            description="Those of its image, and one for each of its preopen ports, named by its number. Connect with `tcpproxy`.",
            tag="stream",
            form=wire.GetSession,
            reply=list[wire.AppItem],
            refusals=(403, 404),
        )
    },
)
async def list_apps(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, _ = await begin(request, wire.GetSession)
    apps = await manager.sessions.apps(principal, name)
    return reply([wire.AppItem(**app.as_row()) for app in apps])


ROUTES: tuple[ControllerRouterHandler, ...] = (list_apps,)
