"""Every error of the gateway as a problem document, HTTP framework's own included. The table of statuses is `common.wire.problem`."""

from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import Scope

from ai.backend.common.errors import BackendError, InvalidInput
from ai.backend.common.log import get_logger, request_id
from ai.backend.common.wire import problem
from ai.backend.common.wire.problem import Published

log = get_logger(__name__)

BAD_REQUEST = Published(400, "generic-bad-request", "Bad request.")
TOO_LARGE = Published(413, "request-too-large", "The request's body is too large.")
INTERNAL = Published(500, "internal-server-error", "Internal server error.")


class UnsupportedVersion(InvalidInput):
    """The version header is no version of the API."""

    code = "request.unsupported-version"


def problem_of(error: Exception, path: str = "") -> tuple[int, dict[str, Any]]:
    """Status and body. Says nothing of the inside of an unexpected error but the request's id, under which it is logged."""
    if isinstance(error, BackendError):
        status = problem.published(error).status
        body = problem.body_of(error)
    elif isinstance(error, HTTPException) and error.status_code < 500:
        form, data = {
            404: (problem.URL_NOT_FOUND, path),
            405: (problem.METHOD_NOT_ALLOWED, None),
            413: (TOO_LARGE, None),
        }.get(error.status_code, (BAD_REQUEST, None))
        status = form.status
        body = problem.plain(form, data) | {"fault": "user"}
        if form is BAD_REQUEST:
            body["msg"] = error.detail
    else:
        status = INTERNAL.status
        body = problem.plain(INTERNAL) | {
            "fault": "infrastructure",
            "msg": "Something unexpected went wrong in the server.",
            "hint": "Report the request_id to your administrator.",
        }
    return status, body | {"request_id": request_id.get()}


def respond(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    status, body = problem_of(error, request.scope["path"])
    headers = {k: v for k, v in (getattr(error, "headers", None) or {}).items() if k.lower() == "allow"}
    if isinstance(error, BackendError) and "retry_after_s" in error.detail:
        headers["Retry-After"] = str(error.detail["retry_after_s"])
    return Response(
        msgspec.json.encode(body), status_code=status, media_type=problem.CONTENT_TYPE, headers=headers
    )


async def note(error: Exception, scope: Scope) -> None:
    """Keeps the error for the edge (which answers refused WebSocket upgrades) and logs what is the server's fault."""
    scope["state"]["error"] = error
    if isinstance(error, BackendError):
        if problem.published(error).status >= 500:
            log.warning(
                "request-failed",
                path=scope["path"],
                code=error.code,
                reason=error.message,
                detail=error.detail,
            )
    elif not (isinstance(error, HTTPException) and error.status_code < 500):
        log.error("request-crashed", path=scope["path"], exc_info=error)
