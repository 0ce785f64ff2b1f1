"""The one table from errors to HTTP: status, published slug and title. Nothing else in the system knows HTTP statuses of errors.

A body is application/problem+json: `type` and `title` always (published clients crash without them), `msg`, `data` where the
published form has it, and ours: `error_code` (stable), `fault`, `hint`.
"""

from typing import Any, NamedTuple

from ..errors import BackendError, Kind, NotFound

TYPE_PREFIX = "https://api.backend.ai/probs/"
CONTENT_TYPE = "application/problem+json"


class Published(NamedTuple):
    status: int
    slug: str
    title: str


_BY_CODE: dict[str, Published] = {
    "request.invalid": Published(400, "invalid-api-params", "Missing or invalid API parameters."),
    "request.unsupported-version": Published(400, "generic-bad-request", "Bad request."),
    "request.malformed-body": Published(400, "invalid-api-params", "Missing or invalid API parameters."),
    "request.too-large": Published(400, "invalid-api-params", "Missing or invalid API parameters."),
    "session.impossible-resources": Published(
        400, "invalid-api-params", "Missing or invalid API parameters."
    ),
    "session.file-not-found": Published(400, "generic-bad-request", "Bad request."),
    "auth.invalid-parameters": Published(
        400, "invalid-auth-params", "Missing or invalid authorization parameters."
    ),
    "auth.failed": Published(401, "auth-failed", "Credential/signature mismatch."),
    "auth.password-expired": Published(401, "password-expired", "Password has expired."),
    "login.too-many": Published(429, "too-many-requests", "Too many requests."),
    "login.already": Published(400, "generic-bad-request", "Bad request."),
    "access.forbidden": Published(403, "generic-forbidden", "Forbidden operation."),
    "access.insufficient-privilege": Published(403, "insufficient-privilege", "Insufficient privilege."),
    "access.not-privileged": Published(401, "auth-failed", "Credential/signature mismatch."),
    "session.ambiguous": Published(404, "too-many-sessions-matched", "Too many sessions matched."),
    "session.already-exists": Published(
        400,
        "session-already-exists",
        "The session already exists but you requested not to reuse existing one.",
    ),
    "session.invalid-state": Published(400, "generic-bad-request", "Bad request."),
    "quota.exceeded": Published(412, "quota-exceeded", "You have reached your resource limit."),
    "request.rate-limited": Published(
        429, "rate-limit-exceeded", "You have reached your API query rate limit."
    ),
    "dotfile.exists": Published(400, "generic-bad-request", "Dotfile already exists."),
    "dotfile.refused": Published(400, "generic-bad-request", "Dotfile creation has failed."),
    "coordinator.none": Published(
        503, "service-unavailable", "No coordinator configured for this resource group"
    ),
    "service.not-implemented": Published(503, "not-implemented", "This API is not implemented."),
    "agent.none-available": Published(503, "instance-not-available", "There is no available instance."),
    "agent.unreachable": Published(503, "instance-not-available", "There is no available instance."),
    "manager.frozen": Published(
        503, "server-frozen", "The server is frozen due to maintenance. Please try again later."
    ),
    "kernel.creation-failed": Published(500, "kernel-creation-failed", "Kernel creation has failed."),
    "kernel.execution-failed": Published(
        500, "kernel-execution-failed", "Executing user code in the kernel has failed."
    ),
    "kernel.restart-failed": Published(500, "kernel-restart-failed", "Kernel restart has failed."),
}
_BY_KIND: dict[Kind, Published] = {
    Kind.INVALID: Published(400, "invalid-api-params", "Missing or invalid API parameters."),
    Kind.UNAUTHENTICATED: Published(401, "auth-failed", "Credential/signature mismatch."),
    Kind.FORBIDDEN: Published(403, "generic-forbidden", "Forbidden operation."),
    Kind.NOT_FOUND: Published(404, "object-not-found", "No such object."),
    Kind.CONFLICT: Published(409, "generic-bad-request", "Bad request."),
    Kind.EXHAUSTED: Published(412, "quota-exceeded", "You have reached your resource limit."),
    Kind.UNAVAILABLE: Published(503, "service-unavailable", "Service unavailable."),
    Kind.TIMEOUT: Published(504, "agent-timeout", "A timeout has occurred while waiting for an agent."),
    Kind.INTERNAL: Published(500, "internal-server-error", "Internal server error."),
}
URL_NOT_FOUND = Published(404, "url-not-found", "Unknown URL path.")
METHOD_NOT_ALLOWED = Published(405, "method-not-allowed", "HTTP Method Not Allowed.")


def published(error: BackendError) -> Published:
    """Where an error appears on the wire."""
    if isinstance(error, NotFound):
        return Published(404, "object-not-found", f"No such {error.what}.")
    return _BY_CODE.get(error.code) or _BY_KIND[error.kind]


def body_of(error: BackendError) -> dict[str, Any]:
    """The problem document of an error."""
    form = published(error)
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + form.slug,
        "title": form.title,
        "error_code": error.code,
        "fault": error.fault.value,
    }
    if error.message:
        body["msg"] = error.message
    if error.hint:
        body["hint"] = error.hint
    if error.detail:
        body["data"] = error.detail
    return body


def plain(form: Published, data: Any = None) -> dict[str, Any]:
    """A problem document that stems from no BackendError (unknown path, wrong method)."""
    body: dict[str, Any] = {"type": TYPE_PREFIX + form.slug, "title": form.title, "error_code": form.slug}
    if data is not None:
        body["data"] = data
    return body
