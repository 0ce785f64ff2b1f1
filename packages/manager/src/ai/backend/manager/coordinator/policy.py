"""The coordinator protocol (version 2 of the published app proxy), and who may use a relay. Pure.

Nothing that a coordinator says is believed before it is checked here: its answers go on to users.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from ai.backend.common.errors import ConfigError, InvalidInput

from ..config import CoordinatorConfig
from ..session.model import Session
from .model import Coordinator, CoordinatorFailed, CoordinatorMisconfigured, Networks, NoRelay, Place

API_VERSION = "v2"
URL_CHARS_MAX = 1024
TOKEN_CHARS_MAX = 8192
PORT_MAX = 65535
TIMEOUT_S_MAX = 60
"""A client waits for two such requests."""
ITS_ADMINISTRATOR = "Tell the administrator of the resource group's app proxy."
SET_IT_RIGHT = "A superadministrator sets it in the resource group (GraphQL: modify_scaling_group)."

Address = IPv4Address | IPv6Address


def coordinator_of(url: str, token: str | None) -> Coordinator:
    """Raises CoordinatorMisconfigured."""
    host = _host_of(url)
    if not host:
        raise CoordinatorMisconfigured(
            "the address of this resource group's coordinator is no plain http or https URL",
            hint=SET_IT_RIGHT,
            field="wsproxy_addr",
        )
    if token and not _printable(token):
        raise CoordinatorMisconfigured(
            "the token of this resource group's coordinator can't be sent: it has other characters than printable ASCII",
            hint=SET_IT_RIGHT,
            field="wsproxy_api_token",
        )
    return Coordinator(url=url.rstrip("/"), host=host, token=token or "")


def check_login(token: str | None) -> None:
    """What a client gives for the coordinator. Raises InvalidInput."""
    if token is not None and len(token) > TOKEN_CHARS_MAX:
        raise InvalidInput(
            f"login_session_token is longer than {TOKEN_CHARS_MAX} characters", field="login_session_token"
        )


def advertised(status: Mapping[str, Any], coordinator: Coordinator) -> str:
    """Where clients reach the coordinator, by its status. Raises CoordinatorFailed for one that speaks another protocol, or none."""
    version = status.get("api_version")
    if version != API_VERSION:
        told = f"version {version[:16]!r}" if isinstance(version, str) else "no version"
        raise CoordinatorFailed(
            f"the coordinator speaks {told} of its protocol, and this server speaks {API_VERSION}",
            hint="The resource group's wsproxy_addr has to be that of an app proxy's coordinator.",
        )
    url = status.get("advertise_address") or coordinator.url
    if not isinstance(url, str) or not _host_of(url):
        raise CoordinatorFailed(
            "the coordinator's advertise_address is no plain http or https URL", hint=ITS_ADMINISTRATOR
        )
    return url.rstrip("/")


def conf_of(session: Session, place: Place, login_session_token: str | None) -> dict[str, Any]:
    """The body of `POST /v2/conf`."""
    return {
        "login_session_token": login_session_token,
        "kernel_host": place.host,
        "kernel_port": place.port,
        "session": {
            "id": str(session.id),
            "user_uuid": str(session.user_id),
            "group_id": str(session.project_id),
            "access_key": session.access_key,
            "domain_name": session.domain_name,
        },
    }


def token_of(answer: Mapping[str, Any]) -> str:
    """Of the answer to `POST /v2/conf`. Raises CoordinatorFailed."""
    token = answer.get("token")
    if not isinstance(token, str) or not token or len(token) > TOKEN_CHARS_MAX or not _printable(token):
        raise CoordinatorFailed("the coordinator gave no token that could be one", hint=ITS_ADMINISTRATOR)
    return token


def check_config(config: CoordinatorConfig) -> None:
    """Raises ConfigError."""

    def wrong(what: str, hint: str) -> ConfigError:
        return ConfigError(f"[manager.coordinator] {what}", hint=hint)

    host = address_of(config.relay_host)
    if host is None:
        raise wrong(
            f"relay-host: {config.relay_host[:60]!r} is no address", "For example 127.0.0.1 or 0.0.0.0."
        )
    if host.is_unspecified and not config.relay_told_host:
        raise wrong(
            f"relay-host is {host}, to which nobody can connect",
            "Set relay-told-host to the name or address by which coordinators know this machine.",
        )
    first, last = config.relay_ports
    if not 0 <= first <= last <= PORT_MAX or (first == 0) != (last == 0):
        raise wrong(f"relay-ports: {first} to {last} is no range of ports", "For example [20000, 20999].")
    if not 0 < config.timeout_s <= TIMEOUT_S_MAX:
        raise wrong(f"timeout-s is above 0 and at most {TIMEOUT_S_MAX}", "For example 10.0.")
    networks_of(config)


def networks_of(config: CoordinatorConfig) -> Networks:
    """Who may use relays besides the coordinators themselves. Raises ConfigError."""
    found = []
    for text in config.peers:
        try:
            found.append(ip_network(text, strict=False))
        except ValueError:
            raise ConfigError(
                f"[manager.coordinator] peers: {text[:60]!r} is no address and no network",
                hint="For example 10.1.2.3 or 10.1.0.0/16.",
            ) from None
    return tuple(found)


def check_reach(config: CoordinatorConfig, coordinator: Iterable[Address]) -> None:
    """Raises NoRelay when the relays listen on this machine's loopback only, and the coordinator is elsewhere."""
    listening = address_of(config.relay_host)
    if (
        listening is not None
        and listening.is_loopback
        and not any(address.is_loopback for address in coordinator)
    ):
        raise NoRelay(
            "the coordinator of this resource group is on another machine, and this server offers services on its own only",
            hint="An administrator sets relay-host in [manager.coordinator] of the server's configuration.",
        )


def may_use(peer: Address, networks: Networks, coordinator: Iterable[Address]) -> bool:
    """Whether a connection from there may use a relay that was opened for this coordinator."""
    return peer in coordinator or any(peer in network for network in networks)


def address_of(text: str) -> Address | None:
    """An IPv4 address in IPv6 clothes is taken out of them."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def _printable(text: str) -> bool:
    return all(32 < ord(char) < 127 for char in text)


def _host_of(url: str) -> str:
    """Empty unless it is an http or https URL of a host, that names no user, no query and no fragment."""
    if not 0 < len(url) <= URL_CHARS_MAX or not _printable(url):
        return ""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return ""
    odd = parts.scheme not in ("http", "https") or "@" in parts.netloc or parts.query or parts.fragment
    return "" if odd else host or ""
