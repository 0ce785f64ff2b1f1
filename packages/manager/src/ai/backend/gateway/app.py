"""The application: all routes, behind authentication, behind the edge."""

import msgspec
from litestar import Litestar
from litestar.datastructures import State
from litestar.types import ControllerRouterHandler

from . import openapi, problem
from .auth import Authenticator
from .call import Gateway
from .freeze import FreezeGuard
from .graphiql import route as graphiql
from .graphql import route as graphql
from .limits import JSON_BYTES_MAX, GatewayConfig
from .middleware import Edge
from .port import Manager
from .rate import RateLimiter
from .rest import (
    auth,
    dotfile,
    errorlog,
    folder,
    kernel,
    openid,
    resource,
    root,
    scheduler,
    server,
    service,
    session,
    setting,
    template,
    totp,
)
from .stream import apps, events, execute, pty, tasks, tcpproxy

ROUTES: tuple[ControllerRouterHandler, ...] = (
    *root.ROUTES,
    *auth.ROUTES,
    *server.ROUTES,
    *totp.ROUTES,
    *openid.ROUTES,
    *setting.ROUTES,
    *dotfile.ROUTES,
    *errorlog.ROUTES,
    *resource.ROUTES,
    *session.ROUTES,
    *service.ROUTES,
    *scheduler.ROUTES,
    *template.ROUTES,
    *folder.ROUTES,
    *kernel.ROUTES,
    *events.ROUTES,
    *tasks.ROUTES,
    *execute.ROUTES,
    *apps.ROUTES,
    *tcpproxy.ROUTES,
    *pty.ROUTES,
    *graphql.ROUTES,
    *graphiql.ROUTES,
)


def create_app(manager: Manager, config: GatewayConfig | None = None) -> Edge:
    """An ASGI application. It needs no lifespan events: the manager is opened and run by its owner."""
    config = config or GatewayConfig()
    rate = RateLimiter()
    document = msgspec.json.encode(openapi.document(ROUTES))
    gateway = Gateway(manager=manager, rate=rate, config=config, openapi=document)
    app = Litestar(
        route_handlers=ROUTES,
        guards=[
            Authenticator(manager.identity, manager.logins, manager.clock, rate, config).guard,
            FreezeGuard(manager.settings).guard,
        ],
        exception_handlers={Exception: problem.respond},
        after_exception=[problem.note],
        openapi_config=None,
        request_max_body_size=JSON_BYTES_MAX,
        logging_config=None,
        state=State({"gateway": gateway}, deep_copy=False),
    )
    return Edge(app)
