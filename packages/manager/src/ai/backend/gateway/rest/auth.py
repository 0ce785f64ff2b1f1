"""Checking credentials, and trading a password for a keypair."""

from typing import Any

from litestar import Response, get, post
from litestar.types import ControllerRouterHandler

from ai.backend.common.errors import InvalidInput, Unauthenticated
from ai.backend.common.wire.rest.root import Authorize, Authorized, Echo, Keypair, KeypairReply

from ..call import AnyRequest, form_of, gateway_of, reply
from ..openapi import Operation


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(tag="auth", **fields)}


async def _echo(request: AnyRequest) -> Response[bytes]:
    return reply(Authorized(echo=(await form_of(request, Echo)).echo))


@get(["/auth", "/auth/test"], opt=_opt(summary="Check a signature", form=Echo, reply=Authorized))
async def test_auth(request: AnyRequest) -> Response[bytes]:
    return await _echo(request)


@post(
    ["/auth", "/auth/test"],
    opt=_opt(
        summary="Check the signature of a request with a body", form=Echo, form_in="body", reply=Authorized
    ),
)
async def test_auth_body(request: AnyRequest) -> Response[bytes]:
    return await _echo(request)


@post(
    "/auth/authorize",
    opt=_opt(
        summary="Trade a password for a keypair",
        description="Ten failures in twenty minutes from one address for one user are answered with 429.",
        form=Authorize,
        form_in="body",
        reply=KeypairReply,
        refusals=(401, 429),
        anonymous=True,
    ),
)
async def authorize(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, Authorize)
    if form.type != "keypair":
        raise InvalidInput(f"unsupported type {form.type[:40]!r}", hint="Use keypair.", field="type")
    gateway = gateway_of(request)
    who = f"{request.client.host if request.client else ''} {form.domain} {form.username.lower()}"[:400]
    await gateway.rate.check_login(who)
    try:
        known = await gateway.manager.identity.verify_password(form.domain, form.username, form.password)
    except Unauthenticated as exc:
        await gateway.rate.login_failed(who)
        raise Unauthenticated("User credential mismatch.") from exc
    principal, secret_key = await gateway.manager.identity.authenticate(known.access_key)
    keypair = Keypair(
        access_key=principal.access_key, secret_key=secret_key, role=principal.role.value, status="active"
    )
    return reply(KeypairReply(data=keypair))


ROUTES: tuple[ControllerRouterHandler, ...] = (test_auth, test_auth_body, authorize)
