"""Logging in through an OpenID provider, with a browser."""

from typing import Any

from litestar import Response, get
from litestar.datastructures import Cookie
from litestar.types import ControllerRouterHandler

from ai.backend.common.wire.rest import auth as wire
from ai.backend.manager.openid.model import Returned

from .. import web
from ..call import AnyRequest, address_of, form_of, gateway_of
from ..openapi import Operation
from ..peer import headers_of
from .server import cookie_for, is_secure

COOKIE = "BACKENDAI_OPENID"
COOKIE_PATH = "/func/openid"


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(tag="session mode", anonymous=True, while_frozen=True, **fields)}


def _base_url(request: AnyRequest) -> str:
    """This site as the browser reaches it."""
    return f"{'https' if is_secure(request) else 'http'}://{request.headers.get('host', '')}"


def _kept_cookie(request: AnyRequest, value: str, lifetime_s: int) -> Cookie:
    return web.cookie(value, lifetime_s=lifetime_s, secure=is_secure(request), name=COOKIE, path=COOKIE_PATH)


def _redirect(location: str, cookies: list[Cookie]) -> Response[bytes]:
    headers = {"Location": location}
    return Response(b"", status_code=302, media_type="text/plain", headers=headers, cookies=cookies)


@get(
    "/openid/login",
    opt=_opt(
        summary="Log in through the OpenID provider",
        description="Sends the browser there. `/func/openid/callback` is where it has to come back to.",
        form=wire.OpenIdLogin,
        status=302,
        refusals=(404, 503),
    ),
)
async def begin_openid_login(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.OpenIdLogin)
    begun = await gateway_of(request).manager.openid.begin(_base_url(request), form.next)
    return _redirect(begun.url, [_kept_cookie(request, begun.kept, begun.lifetime_s)])


@get(
    "/openid/callback",
    opt=_opt(
        summary="Come back from the OpenID provider",
        description="Ends in a web session, as a login by password does.",
        form=wire.OpenIdCallback,
        status=302,
        refusals=(401, 404, 503),
    ),
)
async def finish_openid_login(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.OpenIdCallback)
    manager = gateway_of(request).manager
    headers = headers_of(request.scope)
    returned = Returned(
        state=form.state,
        code=form.code,
        issuer=form.iss,
        error=form.error,
        kept=web.cookies_of(headers.get("cookie", "")).get(COOKIE, ""),
        address=address_of(request),
    )
    finished = await manager.openid.finish(_base_url(request), returned)
    presented, by_cookie = web.presented_id(headers)
    if presented and by_cookie:
        await manager.logins.log_out(presented)
    session = finished.session
    return _redirect(
        finished.next_path,
        [cookie_for(request, session.id, session.lifetime_s), _kept_cookie(request, "", 0)],
    )


ROUTES: tuple[ControllerRouterHandler, ...] = (begin_openid_login, finish_openid_login)
