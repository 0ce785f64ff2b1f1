"""Structured logs: one JSON object a line, each with the request id of whoever caused it. Secrets are redacted by key, at any depth."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, TextIO

import msgspec
import structlog

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Set at each entry point (HTTP request, loop run, bus message); carried on the bus, so that one story has one id everywhere."""

# Lower case, without dashes and underscores: secret_key, Secret-Key and secretKey are one.
_SECRET_KEYS = frozenset(
    {
        "secretkey",
        "password",
        "secret",
        "token",
        "authtoken",
        "accesstoken",
        "sessiontoken",
        "authorization",
        "cookie",
        "privatekey",
        "oldpassword",
        "newpassword",
        "signature",
    }
)
REDACTED = "***"


def redact(value: Any) -> Any:
    """A copy in which the values of secret keys are replaced."""
    if isinstance(value, dict):
        return {k: REDACTED if v and _is_secret(k) else redact(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def _is_secret(key: Any) -> bool:
    return str(key).lower().replace("-", "").replace("_", "") in _SECRET_KEYS


def _add_context(_logger: Any, _name: str, event: Any) -> Any:
    if name := event.pop("logger_name", ""):
        event["logger"] = name
    if rid := request_id.get():
        event["request_id"] = rid
    return redact(event)


@contextlib.contextmanager
def bound_request(rid: str) -> Iterator[None]:
    token = request_id.set(rid)
    try:
        yield
    finally:
        request_id.reset(token)


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Call once, in a main. Third-party loggers of the standard library come out in the same form."""
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _add_context,
    ]
    render = structlog.processors.JSONRenderer(
        serializer=lambda obj, **_: msgspec.json.encode(obj, enc_hook=str).decode()
    )
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries at debug level write whole requests, signatures included.
    root.setLevel(max(number, logging.WARNING))


def get_logger(name: str) -> Any:
    """A structured logger: `log.info("event-name", key=value)`. Events are kebab-case nouns and past participles."""
    # Not `.bind(logger=name)`: that would fix today's configuration, and modules get their loggers before a main has configured any.
    # A first value can't be called "logger" here: `_add_context` gives it its name.
    return structlog.get_logger(logger_name=name)
