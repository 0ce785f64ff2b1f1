"""What a caller of the library may catch: one tree, whose every member says what happened, whose fault it is, and what to do."""

from typing import Any

from ai.backend.common.errors import Fault


class ClientError(Exception):
    """Root. `message`: what happened; `hint`: what to do, may be empty; `fault`: who has to act; `code`: stable, for programs."""

    code = "client.error"
    fault = Fault.INFRASTRUCTURE

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidCall(ClientError):
    """The call can't be right: nothing was sent."""

    code = "client.invalid-call"
    fault = Fault.USER


OTP_NEEDED = "OTP not provided"
"""What servers say, word for word, when a password is right but a code is wanted too."""


class LoginRefused(ClientError):
    """User name, password or code are wrong."""

    code = "client.login-refused"
    fault = Fault.USER


class OtpNeeded(LoginRefused):
    """Ask for the code and try again with it."""

    code = "client.otp-needed"


class Unreachable(ClientError):
    """No server answered, or the connection broke off."""

    code = "client.unreachable"


class RequestTimeout(ClientError):
    """The server took longer than the configured timeouts."""

    code = "client.timeout"


class ApiError(ClientError):
    """The server refused or failed. `status` is the HTTP status (0 when told inside a stream), `title` the kind of error in words,
    `data` its details as JSON."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        title: str = "",
        hint: str = "",
        fault: Fault | None = None,
        data: Any = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code or f"http.{status}"
        self.title = title or message
        self.data = data
        if fault is None:
            fault = Fault.USER if 400 <= status < 500 else Fault.INFRASTRUCTURE
        self.fault = fault

    @classmethod
    def of(cls, status: int, body: Any, reason: str = "") -> "ApiError":
        """From a problem document, or from whatever came instead of one."""
        if not isinstance(body, dict):
            return cls(f"the server answered {status} {reason}".strip(), status=status)
        title = str(body.get("title") or f"{status} {reason}".strip())
        fault = body.get("fault")
        return cls(
            str(body.get("msg") or title),
            status=status,
            code=str(body.get("error_code") or str(body.get("type", "")).rpartition("/")[2]),
            title=title,
            hint=str(body.get("hint") or ""),
            fault=Fault(fault) if fault in set(Fault) else None,
            data=body.get("data"),
        )
