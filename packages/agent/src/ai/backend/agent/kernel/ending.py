"""Why a kernel ended, in a word for programs and a sentence for people. Pure."""

from dataclasses import dataclass

from ai.backend.common.errors import BackendError
from ai.backend.common.quantity import format_size

from ..container.errors import ImageNotFound
from ..container.model import Container, ExitCause

_LOG_LINES, _LOG_CHARS = 10, 1500
_GIB = 1 << 30
OUT_OF_MEMORY_CODE = 137


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    reason: str
    message: str = ""
    exit_code: int | None = None


def out_of_memory(limit_bytes: int) -> Ending:
    more_gib = max(1, -(-2 * limit_bytes // _GIB))
    limit = f"its {format_size(limit_bytes)} memory limit" if limit_bytes else "its memory limit"
    return Ending(
        reason="out-of-memory",
        message=f"The session's processes needed more than {limit}, so the kernel killed them. "
        f"Start it with more memory, e.g. -r mem={more_gib}g.",
        exit_code=OUT_OF_MEMORY_CODE,
    )


LOST = Ending(
    reason="lost",
    message="The session's container is gone and nobody saw how: the node was restarted, or somebody removed it.",
)


def ended(container: Container | None, limit_bytes: int) -> Ending:
    """Of a container that is gone, or that exited while it was running well."""
    if container is None or container.exit is None:
        return LOST
    cause, code = container.exit.cause, container.exit.exit_code
    if cause is ExitCause.OUT_OF_MEMORY or (container.oom_kills and code == OUT_OF_MEMORY_CODE):
        return out_of_memory(limit_bytes)
    if cause is ExitCause.KILLED:
        signal = f" by signal {code - 128}" if code is not None and code > 128 else ""
        return Ending(
            reason="killed",
            message=f"The session's main process was killed{signal} by something outside of the session.",
            exit_code=code,
        )
    if cause is ExitCause.LOST:
        return LOST
    return Ending(
        reason="self-terminated",
        message=f"The session's main process ended by itself with exit code {code}.",
        exit_code=code,
    )


def did_not_start(container: Container | None, limit_bytes: int, log: bytes) -> Ending:
    """Of a container that exited before its runner was ready."""
    if (ending := ended(container, limit_bytes)).reason in ("out-of-memory", "lost"):
        return ending
    return Ending(
        reason="failed-to-start",
        message=f"The container ended before it was ready (exit code {ending.exit_code}). {last_words(log)}",
        exit_code=ending.exit_code,
    )


def too_slow(limit_s: float, log: bytes) -> Ending:
    return Ending(
        reason="failed-to-start",
        message=f"The container was not ready within {limit_s:g} s. {last_words(log)}",
    )


def last_words(log: bytes) -> str:
    """The end of a container's log, bounded, as the last sentence of a message."""
    lines = [line for line in log.decode("utf-8", "replace").splitlines() if line.strip()][-_LOG_LINES:]
    text = "\n".join(lines)[-_LOG_CHARS:]
    return f"Its last output was:\n{text}" if text else "It printed nothing."


def failed(exc: BackendError, *, starting: bool) -> Ending:
    """Of a step that raised."""
    if isinstance(exc, ImageNotFound):
        reason = "image-not-found"
    else:
        reason = "failed-to-start" if starting else "failed-to-create"
    text = exc.message or exc.code
    return Ending(
        reason=reason, message=f"{text[:1].upper()}{text[1:]}." + (f" {exc.hint}" if exc.hint else "")
    )
