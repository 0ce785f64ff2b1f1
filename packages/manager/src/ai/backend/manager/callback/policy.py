"""Where a session's callback may go, and what it says. Pure: names are resolved by the caller.

A callback is a request that a user makes this server send. So it must not reach what only this machine reaches: its loopback, and
link-local addresses, where clouds keep their metadata and credentials. An installation may allow either (`ManagerConfig`).
"""

from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

from ai.backend.common.errors import InvalidInput
from ai.backend.common.ids import SessionId

from ..config import ManagerConfig

URL_CHARS_MAX = 2048
PREFIX = "session_"

Address = IPv4Address | IPv6Address


def check_url(text: str, config: ManagerConfig) -> str:
    """The URL, if a callback may go there as far as can be seen. Raises InvalidInput."""

    def refused(why: str) -> InvalidInput:
        return InvalidInput(
            f"callback_url {why}",
            hint="Give an http or https URL of a server of yours.",
            field="callback_url",
        )

    if len(text) > URL_CHARS_MAX or any(not 32 < ord(char) < 127 for char in text):
        raise refused(f"is longer than {URL_CHARS_MAX} characters or has others than printable ASCII")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise refused("is no URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise refused("is no http or https URL")
    if parts.username is not None:
        raise refused("names a user")
    address = literal(host)
    local_name = host == "localhost" or host.endswith(".localhost")
    if local_name and not config.callback_loopback:
        raise refused("leads to this server itself")
    if address is not None and (why := forbidden(address, config)):
        raise refused(f"leads to {why}")
    return text


def literal(host: str) -> Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


def forbidden(address: Address, config: ManagerConfig) -> str:
    """Why a callback must not go to this address; empty when it may."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_multicast or str(address) == "255.255.255.255":
        return "many machines at once"
    # On Linux all of 0.0.0.0/8 is this machine.
    if address.is_loopback or address.is_unspecified or (address.version == 4 and address.packed[0] == 0):
        return "" if config.callback_loopback else "this server itself"
    if address.is_link_local:
        return "" if config.callback_link_local else "a link-local address"
    return ""


def body_of(name: str, session_id: SessionId, when: datetime) -> dict[str, Any]:
    """The published form. `name` is that of an event of a session."""
    return {
        "type": "session_lifecycle",
        "event": name.removeprefix(PREFIX),
        "session_id": str(session_id),
        "when": when.isoformat(),
    }
