"""The calls about logs: errors that clients report, and what administrators changed."""

from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from ai.backend.common.errors import InvalidInput
from ai.backend.common.wire.rest import errorlog as wire
from ai.backend.manager.errorlog.model import ErrorDraft, ErrorLog

from ..auth import principal_of
from ..call import AnyRequest, form_of, gateway_of, reply
from ..limits import LIST_ITEMS_MAX
from ..openapi import Operation


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(tag="logs", **fields)}


def item_of(log: ErrorLog) -> wire.ErrorItem:
    return wire.ErrorItem(
        log_id=str(log.id),
        created_at=log.created_at.timestamp(),
        severity=log.severity.value,
        source=log.source,
        user=str(log.user_id) if log.user_id else None,
        is_read=log.is_read,
        message=log.message,
        context_lang=log.context_lang,
        context_env=log.context_env,
        request_url=log.request_url,
        request_status=log.request_status,
        traceback=log.traceback,
        is_cleared=log.is_cleared,
    )


@get(
    "/logs/error",
    opt=_opt(
        summary="List errors that clients reported",
        description="Your own; administrators see those of their domain, superadministrators all. Newest first.",
        form=wire.ListErrors,
        reply=wire.ErrorList,
    ),
)
async def list_errors(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.ListErrors)
    page = await gateway_of(request).manager.error_logs.list(
        principal_of(request), mark_read=form.mark_read, page_no=form.page_no, page_size=form.page_size
    )
    return reply(wire.ErrorList(logs=[item_of(log) for log in page.items], count=page.total_count))


@post(
    "/logs/error",
    status_code=200,
    opt=_opt(
        summary="Report an error",
        description="Kept for 90 days, and the newest thousand of each user.",
        form=wire.ReportError,
        form_in="body",
        reply=wire.Noted,
        while_frozen=True,
    ),
)
async def report_error(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.ReportError)
    draft = ErrorDraft(
        severity=form.severity,
        source=form.source,
        message=form.message,
        context_lang=form.context_lang,
        context_env=form.context_env,
        request_url=form.request_url,
        request_status=form.request_status,
        traceback=form.traceback,
    )
    await gateway_of(request).manager.error_logs.report(principal_of(request), draft)
    return reply(wire.Noted())


@post(
    "/logs/error/{log_id:str}/clear",
    status_code=200,
    opt=_opt(
        summary="Clear a reported error",
        description="From then on only whoever sees all of them sees it.",
        reply=wire.Noted,
        refusals=(404, 503),
    ),
)
async def clear_error(request: AnyRequest, log_id: FromPath[str]) -> Response[bytes]:
    await gateway_of(request).manager.error_logs.clear(principal_of(request), log_id)
    return reply(wire.Noted())


@get(
    "/audit-logs",
    opt=_opt(
        summary="What administrators changed",
        description="Newest first. Superadministrators only. Values of settings and keys are never in it.",
        form=wire.ListAudit,
        reply=wire.AuditList,
    ),
)
async def list_audit(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.ListAudit)
    if not 1 <= form.limit <= LIST_ITEMS_MAX:
        raise InvalidInput(f"limit is 1 to {LIST_ITEMS_MAX}, not {form.limit}", field="limit")
    if form.offset < 0:
        raise InvalidInput(f"offset is 0 or more, not {form.offset}", field="offset")
    page = await gateway_of(request).manager.audit.list(
        principal_of(request), action=form.action, target=form.target, limit=form.limit, offset=form.offset
    )
    items = [
        wire.AuditItem(
            id=record.id,
            created_at=record.note.created_at.isoformat(),
            user=str(record.note.user_id),
            access_key=record.note.access_key,
            action=record.note.action,
            target=record.note.target,
            request_id=record.note.request_id,
            detail=record.note.detail,
        )
        for record in page.items
    ]
    return reply(wire.AuditList(items=items, total_count=page.total_count))


ROUTES: tuple[ControllerRouterHandler, ...] = (list_errors, report_error, clear_error, list_audit)
