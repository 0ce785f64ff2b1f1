"""The folder of a cluster on this machine: where everything is, who runs on it, and what env.sh tells shells.

A pid is never believed by itself: it counts only together with the start time of the process that had it, and what runs holds the
lock of the folder.
"""

import contextlib
import fcntl
import os
import shlex
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ai.backend.client.config import read_assignments
from ai.backend.common.wire.version import MANAGER_VERSION


class Home:
    """Paths below the folder. Nothing is made or read here."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.lock_file = self.path / "cluster.lock"
        self.cluster_file = self.path / "cluster.json"
        self.leave_file = self.path / "cluster.leave"
        """Its presence at a clean stop means: leave the sessions for the next start."""
        self.env_file = self.path / "env.sh"
        self.config_file = self.path / "config.toml"
        self.database_file = self.path / "cluster.db"
        self.secret_file = self.path / "secret.key"
        self.log_file = self.path / "logs" / "cluster.log"


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What cluster.json says of the process that runs."""

    pid: int
    started_ticks: int
    endpoint: str
    backend: str
    version: str = ""


class Account(Protocol):
    """`password` is None when it was made on an earlier start: the cluster keeps only its hash."""

    @property
    def email(self) -> str: ...
    @property
    def password(self) -> str | None: ...
    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...


class Accounts(Protocol):
    """The accounts that a new cluster has."""

    @property
    def admin(self) -> Account: ...
    @property
    def user(self) -> Account: ...


def started_ticks(pid: int) -> int | None:
    """When the process with this pid started, in clock ticks since boot; None when there is none (or only its remains)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything, spaces and parentheses included.
    state, *rest = text.rpartition(")")[2].split()
    return None if state in ("Z", "X") else int(rest[18])


def write_private(path: Path, content: str) -> None:
    """Replaces the file as a whole; only we may read it, from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(content)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def write_cluster_file(home: Home, told: dict[str, Any]) -> None:
    """Called by the cluster itself once it accepts requests; `told` has endpoint and backend."""
    running = Running(
        pid=os.getpid(),
        started_ticks=started_ticks(os.getpid()) or 0,
        endpoint=str(told["endpoint"]),
        backend=str(told["backend"]),
        version=MANAGER_VERSION,
    )
    write_private(home.cluster_file, msgspec.json.encode(running).decode() + "\n")


def running(home: Home) -> Running | None:
    """The cluster that runs on this folder and accepts requests, or None."""
    try:
        found = msgspec.json.decode(home.cluster_file.read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if started_ticks(found.pid) == found.started_ticks else None


def is_locked(home: Home) -> bool:
    """Whether a cluster holds this folder, also while it starts or stops."""
    try:
        with home.lock_file.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def write_env_file(home: Home, endpoint: str, seeded: Accounts) -> None:
    """env.sh, to be sourced by a shell. Passwords that were made on an earlier start are kept as the file has them."""
    kept: dict[str, str] = {}
    with contextlib.suppress(OSError):
        kept = read_assignments(home.env_file.read_text())
    values = {
        "BACKEND_ENDPOINT": endpoint,
        "BACKEND_ENDPOINT_TYPE": "api",
        "BACKEND_ACCESS_KEY": seeded.admin.access_key,
        "BACKEND_SECRET_KEY": seeded.admin.secret_key,
        "BACKEND_ADMIN_EMAIL": seeded.admin.email,
        "BACKEND_ADMIN_PASSWORD": seeded.admin.password or kept.get("BACKEND_ADMIN_PASSWORD", ""),
        "BACKEND_WEB_ENDPOINT": endpoint,
        "BACKEND_USER_EMAIL": seeded.user.email,
        "BACKEND_USER_PASSWORD": seeded.user.password or kept.get("BACKEND_USER_PASSWORD", ""),
        "BACKEND_USER_ACCESS_KEY": seeded.user.access_key,
        "BACKEND_USER_SECRET_KEY": seeded.user.secret_key,
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    write_private(home.env_file, "\n".join(lines) + "\n")
