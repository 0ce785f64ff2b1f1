"""The peer of `bench.api`: the same server and framework with one handler behind the same signature check, and nothing else.

Run as a process: reads `ACCESS_KEY SECRET_KEY` from its standard input, tells its port on standard output, serves until it is killed.
"""

import asyncio
import sys
from typing import Any
from uuid import UUID

import uvloop
from litestar import Litestar, Response, get, post

from ai.backend.common.clock import SystemClock
from ai.backend.common.errors import Unauthenticated
from ai.backend.common.ids import AccessKey, UserId
from ai.backend.gateway import problem
from ai.backend.gateway.auth import Authenticator
from ai.backend.gateway.limits import GatewayConfig
from ai.backend.gateway.main import bind, serve_app
from ai.backend.gateway.middleware import Edge
from ai.backend.gateway.openapi import Operation
from ai.backend.gateway.rate import RateLimiter
from ai.backend.manager.access.model import Principal, Role


class OneKey:
    """An identity service that knows one keypair."""

    def __init__(self, access_key: str, secret_key: str) -> None:
        self._secret_key = secret_key
        self._principal = Principal(
            user_id=UserId(UUID(int=1)),
            email="bare@localhost",
            role=Role.SUPERADMIN,
            domain_name="default",
            access_key=AccessKey(access_key),
            is_admin=True,
            rate_limit=10_000_000,
        )

    async def authenticate(self, access_key: str) -> tuple[Principal, str]:
        if access_key != self._principal.access_key:
            raise Unauthenticated("Access key not found")
        return self._principal, self._secret_key

    async def delegate(self, principal: Principal, owner_access_key: str | None) -> Principal:
        raise AssertionError("nobody acts for others here")

    async def verify_password(self, domain: str, email: str, password: str) -> Principal:
        raise AssertionError("nobody logs in here")


class NoLogins:
    """Nobody comes by cookie here."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is for logins by cookie")


_OPERATION = {"operation": Operation(summary="Bare", tag="bench")}


@get("/bare", opt=_OPERATION)
async def get_bare() -> Response[bytes]:
    return Response(b'{"ok":true}', media_type="application/json")


@post("/bare", opt=_OPERATION, status_code=200)
async def post_bare() -> Response[bytes]:
    return Response(b'{"ok":true}', media_type="application/json")


async def main() -> None:
    access_key, secret_key = sys.stdin.readline().split()
    config = GatewayConfig()
    rate = RateLimiter()
    authenticator = Authenticator(OneKey(access_key, secret_key), NoLogins(), SystemClock(), rate, config)
    app = Litestar(
        route_handlers=[get_bare, post_bare],
        guards=[authenticator.guard],
        exception_handlers={Exception: problem.respond},
        openapi_config=None,
        logging_config=None,
    )
    listener = bind("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    await serve_app(Edge(app), listener, ready=asyncio.Event(), config=config)


if __name__ == "__main__":
    uvloop.run(main())
