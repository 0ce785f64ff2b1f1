"""What may be reported, and how much. Pure."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from ai.backend.common.errors import InvalidInput

from ..access.model import Principal
from .model import ErrorDraft, ErrorLog, Severity

KEPT = timedelta(days=90)
PER_USER_MAX = 1000
"""Older ones of the same user make room."""
TEXT_MAX = 64 << 10
ENV_BYTES_MAX = 64 << 10
PAGE_MAX = 100


def admit(draft: ErrorDraft, principal: Principal, log_id: UUID, now: datetime) -> ErrorLog:
    """The row to write. Raises InvalidInput."""
    try:
        severity = Severity(draft.severity.lower())
    except ValueError:
        known = ", ".join(Severity)
        raise InvalidInput(
            f"no severity {draft.severity[:40]!r}", hint=f"One of {known}.", field="severity"
        ) from None
    if not draft.message:
        raise InvalidInput("what went wrong? The message is empty", field="message")
    for name, text, most in (
        ("source", draft.source, 255),
        ("message", draft.message, TEXT_MAX),
        ("context_lang", draft.context_lang, 64),
        ("request_url", draft.request_url or "", 2048),
        ("traceback", draft.traceback or "", TEXT_MAX),
    ):
        if len(text) > most or "\0" in text:
            raise InvalidInput(f"{name} has at most {most} characters, and no NUL", field=name)
    if draft.request_status is not None and not 0 <= draft.request_status <= 999:
        raise InvalidInput("that is no HTTP status", field="request_status")
    return ErrorLog(
        id=log_id,
        created_at=now,
        severity=severity,
        source=draft.source,
        user_id=principal.user_id,
        message=draft.message,
        context_lang=draft.context_lang,
        context_env=environment(draft.context_env),
        request_url=draft.request_url,
        request_status=draft.request_status,
        traceback=draft.traceback,
    )


def environment(value: Any) -> dict[str, Any]:
    """The context as an object, whether it came as one or as a text. Raises InvalidInput."""
    if isinstance(value, str):
        if len(value) > ENV_BYTES_MAX:
            raise InvalidInput(f"context_env is over {ENV_BYTES_MAX >> 10} KiB", field="context_env")
        try:
            value = msgspec.json.decode(value) if value.strip() else {}
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            raise InvalidInput("context_env is no JSON", field="context_env") from exc
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput("context_env is a JSON object", field="context_env")
    encoded = msgspec.json.encode(value)
    if len(encoded) > ENV_BYTES_MAX or b"\\u0000" in encoded:
        raise InvalidInput(
            f"context_env is over {ENV_BYTES_MAX >> 10} KiB, or has a NUL", field="context_env"
        )
    return value


def page_of(page_no: int, page_size: int) -> tuple[int, int]:
    """Limit and offset. Raises InvalidInput."""
    if page_no < 1 or page_no > 1_000_000:
        raise InvalidInput("pages are numbered from 1", field="page_no")
    if not 1 <= page_size <= PAGE_MAX:
        raise InvalidInput(f"page_size is 1 to {PAGE_MAX}, not {page_size}", field="page_size")
    return page_size, (page_no - 1) * page_size
