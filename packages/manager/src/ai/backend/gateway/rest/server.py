"""Session mode's own calls: logging in and out by cookie. Failed logins are answered with 200, as published."""

from typing import Any

from litestar import Response, get, post
from litestar.datastructures import Cookie
from litestar.types import ControllerRouterHandler

from ai.backend.common.errors import BackendError, Forbidden, InvalidInput, Kind
from ai.backend.common.wire import problem
from ai.backend.common.wire.rest import auth as wire
from ai.backend.common.wire.version import MANAGER_VERSION
from ai.backend.manager.access.model import Principal
from ai.backend.manager.login.model import Attempt, WebSession

from .. import web
from ..call import AnyRequest, address_of, form_of, gateway_of, reply
from ..openapi import Operation
from ..peer import headers_of, scheme_of
from .auth import THROTTLED, attempt_of

TOKEN_COOKIE = "sToken"  # noqa: S105 (a name)


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(tag="session mode", anonymous=True, while_frozen=True, **fields)}


def _user(principal: Principal) -> wire.WebUser:
    return wire.WebUser(access_key=principal.access_key, role=principal.role.value, status="active")


def _refusal(error: BackendError) -> wire.WebRefusal:
    """Raises the error again when it is no refusal of what was said, but for example of a rate."""
    if error.kind not in (Kind.UNAUTHENTICATED, Kind.FORBIDDEN):
        raise error
    form = problem.published(error)
    return wire.WebRefusal(
        type=problem.TYPE_PREFIX + form.slug, title=form.title, details=error.message or form.title
    )


def is_secure(request: AnyRequest) -> bool:
    return scheme_of(request.scope, gateway_of(request).config.trusted_proxies) == "https"


def cookie_for(request: AnyRequest, value: str, lifetime_s: int) -> Cookie:
    """The session's cookie, for this request's answer."""
    return web.cookie(value, lifetime_s=lifetime_s, secure=is_secure(request))


def _opened(request: AnyRequest, session: WebSession) -> Response[bytes]:
    answer = reply(wire.WebLoginReply(authenticated=True, data=_user(session.principal)))
    answer.headers["X-BackendAI-SessionID"] = session.id
    # Another site must not log its visitors in here as somebody else: it gets no cookie set.
    if web.from_our_pages(headers_of(request.scope)):
        answer.set_cookie(cookie_for(request, session.id, session.lifetime_s))
    return answer


@post(
    "/server/login",
    opt=_opt(
        summary="Log in by password",
        description="The answer sets the cookie `AIOHTTP_SESSION` and tells its value in `X-BackendAI-SessionID`. A failure is told with "
        "200 and `authenticated: false`; with the details `OTP not provided`, try again with `otp`. "
        + THROTTLED,
        form=wire.WebLogin,
        form_in="body",
        reply=wire.WebLoginReply,
        refusals=(429,),
    ),
)
async def log_in(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.WebLogin)
    logins = gateway_of(request).manager.logins
    attempt = Attempt(
        domain_name=form.domain or logins.domain_name,
        login=form.username,
        password=form.password,
        otp=wire.code_of(form.otp),
        address=address_of(request),
    )
    presented, _ = web.presented_id(headers_of(request.scope))
    try:
        session = await logins.log_in(attempt, presented)
    except BackendError as exc:
        return reply(wire.WebLoginReply(authenticated=False, data=_refusal(exc)))
    return _opened(request, session)


@post(
    "/server/token-login",
    opt=_opt(
        summary="Log in by a token of a trusted site",
        description="Only where the administrators have agreed on a secret with that site. A token works once.",
        form=wire.TokenLogin,
        form_in="body",
        reply=wire.WebLoginReply,
    ),
)
async def log_in_by_token(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.TokenLogin)
    cookies = web.cookies_of(request.headers.get("cookie", ""))
    token = form.s_token or cookies.get(TOKEN_COOKIE, "")
    if not token:
        raise InvalidInput("there is no token", field=TOKEN_COOKIE)
    try:
        session = await gateway_of(request).manager.logins.log_in_by_token(token, address_of(request))
    except BackendError as exc:
        return reply(wire.WebLoginReply(authenticated=False, data=_refusal(exc)))
    return _opened(request, session)


@post("/server/login-check", opt=_opt(summary="Whether you are logged in", reply=wire.WebLoginCheck))
async def check_login(request: AnyRequest) -> Response[bytes]:
    presented, _ = web.presented_id(headers_of(request.scope))
    principal = await gateway_of(request).manager.logins.find(presented) if presented else None
    return reply(
        wire.WebLoginCheck(
            authenticated=principal is not None,
            data=_user(principal) if principal is not None else None,
            session_id=presented if principal is not None else "",
        )
    )


@post("/server/logout", opt=_opt(summary="Log out", status=201, refusals=(403,)))
async def log_out(request: AnyRequest) -> Response[bytes]:
    headers = headers_of(request.scope)
    presented, by_cookie = web.presented_id(headers)
    if by_cookie and not web.from_our_pages(headers):
        raise Forbidden("The request comes from a page of another site.")
    if presented:
        await gateway_of(request).manager.logins.log_out(presented)
    return Response(b"", status_code=201, media_type="text/plain", cookies=[cookie_for(request, "", 0)])


@post(
    "/server/update-password-no-auth",
    opt=_opt(
        summary="Change a password that has expired, in session mode",
        description="A refusal is told with 200 and `data`. " + THROTTLED,
        form=wire.UpdateExpiredPassword,
        form_in="body",
        reply=wire.WebPasswordReply,
        refusals=(429,),
    ),
)
async def update_expired_password_in_session(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.UpdateExpiredPassword)
    try:
        changed_at = await gateway_of(request).manager.logins.change_expired_password(
            attempt_of(request, form), form.new_password
        )
    except InvalidInput as exc:
        published = problem.published(exc)
        refusal = wire.WebRefusal(
            type=problem.TYPE_PREFIX + published.slug, title=published.title, details=exc.message
        )
        return reply(wire.WebPasswordReply(data=refusal, password_changed_at=None))
    except BackendError as exc:
        return reply(wire.WebPasswordReply(data=_refusal(exc), password_changed_at=None))
    return reply(wire.WebPasswordReply(data=None, password_changed_at=changed_at.isoformat()))


@get("/ping", opt=_opt(summary="Whether session mode answers", reply=wire.Ping))
async def ping(request: AnyRequest) -> Response[bytes]:
    return reply(wire.Ping(version=MANAGER_VERSION))


ROUTES: tuple[ControllerRouterHandler, ...] = (
    log_in,
    log_in_by_token,
    check_login,
    log_out,
    update_expired_password_in_session,
    ping,
)
