"""Where a request comes from, and how: what the connection says, and what trusted proxies in front of us say of theirs. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from ai.backend.manager.login.policy import address_allowed

HOPS_MAX = 16


def client_address(peer: str, forwarded_for: str, trusted: Sequence[str]) -> str:
    """The nearest address that is no trusted proxy's. What such an address says of those behind it is anybody's word, and not looked at."""
    address = peer
    hops = [hop.strip() for hop in forwarded_for.split(",")][-HOPS_MAX:] if forwarded_for else []
    while hops and trusted and address_allowed(address, trusted):
        address = hops.pop().removeprefix("[").removesuffix("]")
    return address


def headers_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """Lower-case names; the first of several counts."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return headers


def _peer(scope: Mapping[str, Any]) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def address_of(scope: Mapping[str, Any], trusted: Sequence[str]) -> str:
    """The address of whoever sent a request."""
    # A proxy may add a header of its own instead of extending the one that it got: they count as one list.
    forwarded = ",".join(
        value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"
    )
    return client_address(_peer(scope), forwarded, trusted)


def scheme_of(scope: Mapping[str, Any], trusted: Sequence[str]) -> str:
    """`https` or `http`, as the client used it."""
    scheme = str(scope["scheme"])
    if trusted and address_allowed(_peer(scope), trusted):
        scheme = headers_of(scope).get("x-forwarded-proto", "").partition(",")[0].strip().lower() or scheme
    return "https" if scheme in ("https", "wss") else "http"
