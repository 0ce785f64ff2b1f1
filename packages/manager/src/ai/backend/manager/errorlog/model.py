"""Errors that clients report, so that their users and administrators can look at them."""

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from ai.backend.common.errors import NotFound
from ai.backend.common.ids import UserId


class Severity(enum.StrEnum):
    CRITICAL = "critical"
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDraft:
    severity: str
    source: str
    message: str
    context_lang: str
    context_env: Any
    """A JSON object, or a text that spells one."""
    request_url: str | None = None
    request_status: int | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorLog:
    id: UUID
    created_at: datetime
    severity: Severity
    source: str
    user_id: UserId | None
    message: str
    context_lang: str = ""
    context_env: dict[str, Any] = field(default_factory=dict)
    request_url: str | None = None
    request_status: int | None = None
    traceback: str | None = None
    is_read: bool = False
    is_cleared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorPage:
    items: tuple[ErrorLog, ...]
    total_count: int


class ErrorLogNotFound(NotFound):
    code = "error-log.not-found"
    what = "error log"
