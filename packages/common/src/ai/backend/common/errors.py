"""One error tree for the whole system.

An error that a person may see says three things: what happened (`message`), whose fault it is (`fault`), and what to do next
(`hint`). Programs look at `code`, which is stable, and at `detail`, whose values are plain JSON. HTTP knows nothing here:
`common.wire.problem` holds the one table from errors to statuses.

Wrap with `raise X(...) from exc`; the outer message never repeats the inner one.
"""

import enum
from typing import Any, ClassVar


class Kind(enum.StrEnum):
    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    EXHAUSTED = "exhausted"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    INTERNAL = "internal"


class Fault(enum.StrEnum):
    """Who has to act."""

    USER = "user"
    QUOTA = "quota"
    INFRASTRUCTURE = "infrastructure"


class BackendError(Exception):
    """Root of the tree. Subclasses fix `kind`, `code` and `fault`; an instance adds a message, a hint and details."""

    kind: ClassVar[Kind] = Kind.INTERNAL
    code: ClassVar[str] = "internal"
    fault: ClassVar[Fault] = Fault.INFRASTRUCTURE

    def __init__(self, message: str = "", *, hint: str = "", **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail: dict[str, Any] = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class InvalidInput(BackendError):
    """A parameter is missing, malformed or out of range."""

    kind = Kind.INVALID
    code = "request.invalid"
    fault = Fault.USER


class MalformedBody(InvalidInput):
    code = "request.malformed-body"


class TooLarge(InvalidInput):
    """A body or a file is over its limit; `detail` has `limit_bytes`."""

    code = "request.too-large"


class BadAuthParameters(InvalidInput):
    """The signature's headers are missing, malformed, or the date is off by more than the allowed skew."""

    code = "auth.invalid-parameters"


class Unauthenticated(BackendError):
    """Unknown or inactive key, or a signature that does not match."""

    kind = Kind.UNAUTHENTICATED
    code = "auth.failed"
    fault = Fault.USER


class Forbidden(BackendError):
    kind = Kind.FORBIDDEN
    code = "access.forbidden"
    fault = Fault.USER


class InsufficientPrivilege(Forbidden):
    code = "access.insufficient-privilege"


class NotPrivileged(Forbidden):
    """An administrators' call, made by somebody else (401 on the wire, as published)."""

    code = "access.not-privileged"


class NotFound(BackendError):
    """No such thing, or no permission to see it. `what` names the kind of thing as users know it ("session")."""

    kind = Kind.NOT_FOUND
    code = "object.not-found"
    fault = Fault.USER
    what: ClassVar[str] = "object"


class SessionNotFound(NotFound):
    code = "session.not-found"
    what = "session"


class ImageNotFound(NotFound):
    code = "image.not-found"
    what = "environment image"


class ProjectNotFound(NotFound):
    code = "project.not-found"
    what = "user group (or project)"


class DomainNotFound(NotFound):
    code = "domain.not-found"
    what = "domain"


class UserNotFound(NotFound):
    code = "user.not-found"
    what = "user"


class AgentNotFound(NotFound):
    code = "agent.not-found"
    what = "agent instance"


class ResourceGroupNotFound(NotFound):
    code = "resource-group.not-found"
    what = "scaling group"


class TaskNotFound(NotFound):
    code = "task.not-found"
    what = "background task"


class AppNotFound(NotFound):
    """The session has no service of that name."""

    code = "session.app-not-found"
    what = "app service"


class TaskLogNotFound(NotFound):
    """No batch session is meant, or none whose command was begun."""

    code = "session.task-log-not-found"
    what = "task log"


class FileNotFound(InvalidInput):
    """A path in a session that is not there, leaves the home folder, or is over the limit (400 on the wire, as published)."""

    code = "session.file-not-found"


class AmbiguousSession(BackendError):
    """A name matches several sessions; `detail["matches"]` lists them with id, name and status."""

    kind = Kind.NOT_FOUND
    code = "session.ambiguous"
    fault = Fault.USER


class Conflict(BackendError):
    kind = Kind.CONFLICT
    code = "request.conflict"
    fault = Fault.USER


class SessionExists(Conflict):
    """The owner has a live session of that name; `detail["existingSessionId"]` is its id."""

    code = "session.already-exists"


class InvalidSessionState(Conflict):
    """The session's present status does not allow what was asked; `detail` has `status`."""

    code = "session.invalid-state"


class CommitOngoing(Conflict):
    """An image is being made of the session already."""

    code = "session.commit-ongoing"


class CommitExists(Conflict):
    """There is an archive of that name."""

    code = "session.commit-exists"


class CommitBroken(Conflict):
    """The session ended, or was restarted, while an image was being made of it."""

    code = "session.commit-broken-off"


class ImageExists(Conflict):
    """There is an image of that name."""

    code = "image.exists"


class QuotaExceeded(BackendError):
    """A resource policy says no; `detail` names the limit, what was asked and what is left."""

    kind = Kind.EXHAUSTED
    code = "quota.exceeded"
    fault = Fault.QUOTA


class RateLimited(BackendError):
    kind = Kind.EXHAUSTED
    code = "request.rate-limited"
    fault = Fault.QUOTA


class ImpossibleResources(InvalidInput):
    """No agent could ever satisfy the request. `detail["slots"]` lists slot, asked and available (largest agent)."""

    code = "session.impossible-resources"


class Unavailable(BackendError):
    kind = Kind.UNAVAILABLE
    code = "service.unavailable"


class NotServed(Unavailable):
    """A published call that this server has no use for; the hint says what there is instead."""

    code = "service.not-implemented"


class NoAgent(Unavailable):
    """No agent is there to do it."""

    code = "agent.none-available"


class AgentUnreachable(Unavailable):
    code = "agent.unreachable"


class Frozen(Unavailable):
    code = "manager.frozen"


class Timeout(BackendError):
    kind = Kind.TIMEOUT
    code = "request.timeout"


class StreamClosed(Unavailable):
    """The other end of a stream has closed it, or the connection under it is gone."""

    code = "stream.closed"


class ServiceRefused(Unavailable):
    """Nothing in the session listens there (yet)."""

    code = "stream.refused"
    fault = Fault.USER


class TooManyStreams(Unavailable):
    """As many streams into that session are open as may be."""

    code = "stream.too-many"
    fault = Fault.QUOTA


class KernelError(BackendError):
    """A kernel (container) could not do what was asked."""

    code = "kernel.failed"


class KernelCreationFailed(KernelError):
    code = "kernel.creation-failed"


class KernelExecutionFailed(KernelError):
    code = "kernel.execution-failed"


class KernelRestartFailed(KernelError):
    code = "kernel.restart-failed"


class ConfigError(BackendError):
    """A configuration file or variable is wrong; the message names the file, the line and the key."""

    kind = Kind.INVALID
    code = "config.invalid"
    fault = Fault.USER
