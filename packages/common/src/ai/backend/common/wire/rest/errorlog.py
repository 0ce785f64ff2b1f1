"""Requests and replies of the calls about logs: errors that clients report, and what administrators changed. snake_case on the wire."""

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from .form import Form


class ListErrors(Form, frozen=True, kw_only=True):
    mark_read: Annotated[bool, Meta(description="Those that are told count as read from now on.")] = (
        msgspec.field(default=False, name="mark_read")
    )
    page_size: Annotated[int, Meta(description="1 to 100.")] = msgspec.field(default=20, name="page_size")
    page_no: int = msgspec.field(default=1, name="page_no")


class ReportError(Form, frozen=True, kw_only=True):
    severity: Annotated[str, Meta(description="`critical`, `error` or `warning`.")]
    source: Annotated[str, Meta(description="Which program tells it.")] = ""
    message: str
    context_lang: Annotated[str, Meta(description="The program's language.")] = msgspec.field(
        default="", name="context_lang"
    )
    context_env: Annotated[Any, Meta(description="An object, or its JSON text.")] = msgspec.field(
        default=None, name="context_env"
    )
    request_url: str | None = msgspec.field(default=None, name="request_url")
    request_status: int | None = msgspec.field(default=None, name="request_status")
    traceback: str | None = None


class ErrorItem(msgspec.Struct, frozen=True, kw_only=True):
    log_id: str
    created_at: Annotated[float, Meta(description="Seconds since 1970.")]
    severity: str
    source: str
    user: str | None
    is_read: bool
    message: str
    context_lang: str
    context_env: dict[str, Any]
    request_url: str | None
    request_status: int | None
    traceback: str | None
    is_cleared: bool


class ErrorList(msgspec.Struct, frozen=True, kw_only=True):
    logs: list[ErrorItem]
    count: Annotated[int, Meta(description="Of all pages.")]


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    success: bool = True


class ListAudit(Form, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"page_size": "limit"}

    action: Annotated[
        str | None, Meta(description="The beginning of an action: `setting`, `agent:exclude`.")
    ] = None
    target: Annotated[str | None, Meta(description="The beginning of what was changed.")] = None
    limit: Annotated[int, Meta(description="1 to 100.")] = 50
    offset: int = 0


class AuditItem(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    created_at: str
    user: str
    access_key: str
    action: str
    target: str
    request_id: Annotated[str, Meta(description="Names the request in the server's logs.")]
    detail: dict[str, Any]


class AuditList(msgspec.Struct, frozen=True, kw_only=True):
    items: list[AuditItem]
    total_count: int
