"""Where the server is and who we are. Frozen; read from the published `BACKEND_*` variables (or `SORNA_*`), which a `.env` file in the
current folder or above it overrides."""

import shlex
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ai.backend.common.errors import ConfigError

from .login import login_file, saved_session

_TRUE = frozenset({"y", "yes", "t", "true", "1", "on"})


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    endpoint: str
    """URL, or several separated by commas: the next one is tried when one can't be reached."""
    endpoint_type: str = "api"
    """`api`: requests are signed with a keypair. `session`: they present a login by password (`backend.ai login`)."""
    session_id: str = ""
    """Of that login; empty: logged out."""
    access_key: str = ""
    """Empty: anonymous."""
    secret_key: str = ""
    domain: str = "default"
    group: str = "default"
    mounts: tuple[str, ...] = ()
    """Appended to the mounts of every session."""
    skip_sslcert_validation: bool = False
    connection_timeout_s: float = 10.0
    read_timeout_s: float = 0.0
    """0: as long as it takes."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(one.strip().rstrip("/") for one in self.endpoint.split(",") if one.strip())

    @property
    def in_session_mode(self) -> bool:
        return self.endpoint_type == "session"

    def __repr__(self) -> str:
        return f"ClientConfig(endpoint={self.endpoint!r}, access_key={self.access_key!r})"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], *, folder: Path | None = None) -> "ClientConfig":
        """`folder`: where the search for `.env` begins; None looks for none. Raises ConfigError."""
        values = {**environ, **(_dotenv(folder) if folder is not None else {})}

        def get(name: str, default: str = "") -> str:
            return values.get(f"BACKEND_{name}") or values.get(f"SORNA_{name}") or default

        endpoint = get("ENDPOINT")
        if not endpoint:
            raise ConfigError(
                "BACKEND_ENDPOINT is not set, so there is no server to talk to",
                hint="Start a cluster here with 'backend.ai up', or set BACKEND_ENDPOINT, BACKEND_ACCESS_KEY and BACKEND_SECRET_KEY.",
            )
        if not all(one.startswith(("http://", "https://")) for one in endpoint.replace(" ", "").split(",")):
            raise ConfigError(
                f"BACKEND_ENDPOINT is no URL: {endpoint}", hint="It begins with http:// or https://."
            )
        if (kind := get("ENDPOINT_TYPE", "api")) not in ("api", "session"):
            raise ConfigError(f"BACKEND_ENDPOINT_TYPE is not {kind!r}", hint="Set it to api or session.")
        return cls(
            endpoint=endpoint,
            endpoint_type=kind,
            session_id=saved_session(login_file(environ), endpoint) if kind == "session" else "",
            access_key=get("ACCESS_KEY"),
            secret_key=get("SECRET_KEY"),
            domain=get("DOMAIN", "default"),
            group=get("GROUP", "default"),
            mounts=tuple(one for one in get("VFOLDER_MOUNTS").split(",") if one),
            skip_sslcert_validation=get("SKIP_SSLCERT_VALIDATION").lower() in _TRUE,
            connection_timeout_s=_seconds("CONNECTION_TIMEOUT", get("CONNECTION_TIMEOUT", "10")),
            read_timeout_s=_seconds("READ_TIMEOUT", get("READ_TIMEOUT", "0")),
        )


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"BACKEND_{name} is no number of seconds: {text!r}", hint="Write for example 10.")
    return value


def _dotenv(folder: Path) -> dict[str, str]:
    for above in (folder, *folder.parents):
        path = above / ".env"
        try:
            if path.is_file():
                return read_assignments(path.read_text())
        except OSError as exc:
            raise ConfigError(f"{path} can't be read: {exc.strerror}", hint="Fix or remove it.") from exc
    return {}


def read_assignments(text: str) -> dict[str, str]:
    """`NAME=VALUE` lines as a shell reads them, with or without `export`. Lines that are something else are passed over."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        for word in words:
            name, equals, value = word.partition("=")
            if equals and name.isidentifier():
                found[name] = value
    return found
