"""Logins of session mode that are kept between runs: one for each endpoint, in a file that only its owner may read.

What is in it is as good as a password while it lasts, so it is sent to no endpoint but the one that it is from.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec


class SavedLogin(msgspec.Struct, frozen=True, kw_only=True):
    session_id: str
    username: str = ""


class SavedLogins(msgspec.Struct, frozen=True, kw_only=True):
    endpoints: dict[str, SavedLogin] = msgspec.field(default_factory=dict)


def login_file(environ: Mapping[str, str]) -> Path:
    """Where they are, by the rules of the desktop. (Published clients keep theirs beside it, in `cookie.dat`.)"""
    base = environ.get("XDG_STATE_HOME") or ""
    # A relative path there is to be ignored.
    state = Path(base) if base.startswith("/") else Path(environ.get("HOME") or Path.home()) / ".local/state"
    return state / "backend.ai" / "login.json"


def saved_session(path: Path, endpoint: str) -> str:
    """The id of the login at this endpoint; empty without one."""
    found = _read(path).endpoints.get(endpoint)
    return found.session_id if found is not None else ""


def save(path: Path, endpoint: str, login: SavedLogin) -> None:
    _write(path, {**_read(path).endpoints, endpoint: login})


def forget(path: Path, endpoint: str) -> None:
    kept = {name: login for name, login in _read(path).endpoints.items() if name != endpoint}
    _write(path, kept)


def _read(path: Path) -> SavedLogins:
    """What can't be read is no login: it is made anew."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=SavedLogins)
    except (OSError, msgspec.MsgspecError):
        return SavedLogins()


def _write(path: Path, endpoints: dict[str, SavedLogin]) -> None:
    """As a whole, and private from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(SavedLogins(endpoints=endpoints)))
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
