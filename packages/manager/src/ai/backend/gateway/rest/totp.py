"""Two-factor authentication with an authenticator app."""

from typing import Any

from litestar import Response, delete, post
from litestar.types import ControllerRouterHandler

from ai.backend.common.wire.rest import auth as wire

from ..auth import principal_of
from ..call import AnyRequest, form_of, gateway_of, reply
from ..openapi import Operation
from .auth import THROTTLED


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(tag="auth", while_frozen=True, **fields)}


@post(
    "/totp",
    opt=_opt(
        summary="Prepare two-factor authentication",
        description="Makes a key for an authenticator app, told only here. Logins need codes of it once one was shown at `/totp/verify`.",
        reply=wire.NewTotp,
    ),
)
async def prepare_totp(request: AnyRequest) -> Response[bytes]:
    key, uri = await gateway_of(request).manager.logins.prepare_totp(principal_of(request))
    return reply(wire.NewTotp(totp_key=key, totp_uri=uri))


@post(
    "/totp/verify",
    opt=_opt(
        summary="Activate two-factor authentication",
        description="With the first code of the key. " + THROTTLED,
        form=wire.VerifyTotp,
        form_in="body",
        reply=wire.Success,
    ),
)
async def activate_totp(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.VerifyTotp)
    await gateway_of(request).manager.logins.activate_totp(principal_of(request), wire.code_of(form.otp))
    return reply(wire.Success())


@delete(
    "/totp",
    status_code=200,
    opt=_opt(
        summary="Remove two-factor authentication",
        description="Your own, or as an administrator that of somebody who has lost the app.",
        form=wire.RemoveTotp,
        reply=wire.Success,
        refusals=(403, 404),
    ),
)
async def remove_totp(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.RemoveTotp)
    await gateway_of(request).manager.logins.remove_totp(principal_of(request), form.email or "")
    return reply(wire.Success())


ROUTES: tuple[ControllerRouterHandler, ...] = (prepare_totp, activate_totp, remove_totp)
