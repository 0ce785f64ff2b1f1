"""Which addresses the private network of a session gets: the first part of the node's range that nobody uses.

Pure: ranges and routes come in as values. Knows nothing of bridges, engines or sessions.
"""

import re
import sys
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from .errors import AddressesExhausted, ContainerFailed
from .model import Network, NetworkSpec

DEFAULT_RANGE = "10.213.0.0/16"
HOSTS_MAX = 256
_RESERVED = 3
"""Of each part: the network itself, the engine's gateway (the first address) and the broadcast address."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ROUTE_UP = 0x1


def parse_range(text: str) -> IPv4Network:
    """Raises ValueError: not an IPv4 network in CIDR notation, or not a private one."""
    found = IPv4Network(text)
    if not found.is_private or found.is_loopback or found.is_link_local:
        raise ValueError(f"{text} is not a private range of addresses")
    return found


def check(spec: NetworkSpec) -> None:
    """Raises ContainerFailed for names that no network can have: they end up in files and on command lines."""
    names = (spec.name, *spec.hosts)
    if any(not _NAME.fullmatch(name) for name in names) or len({*spec.hosts}) != len(spec.hosts):
        raise ContainerFailed(
            "a network's name and its different hosts are lower-case letters, digits and hyphens"
        )
    if not 1 <= len(spec.hosts) <= HOSTS_MAX:
        raise ContainerFailed(f"a network has 1 to {HOSTS_MAX} hosts, not {len(spec.hosts)}")


def choose_subnet(within: IPv4Network, hosts: int, taken: Iterable[IPv4Network]) -> IPv4Network:
    """The lowest part of `within` with room for so many hosts that overlaps nothing of `taken`. Raises AddressesExhausted."""
    prefix = 32 - (hosts + _RESERVED - 1).bit_length()
    size = 1 << (32 - prefix)
    start, end = int(within.network_address), int(within.broadcast_address) + 1
    used = sorted((int(one.network_address), int(one.broadcast_address) + 1) for one in taken)
    for first, behind in used:
        if first < start + size and behind > start:
            start = -(-behind // size) * size
    if prefix < within.prefixlen or start + size > end:
        raise AddressesExhausted(
            f"no part of {within} is free for a network of {hosts} containers on this node",
            hint="End sessions of several containers, or give the agent another network-range.",
            range=str(within),
        )
    return IPv4Network((start, prefix))


def network_of(spec: NetworkSpec, subnet: IPv4Network) -> Network:
    """Each host's address, in their order, the first behind the gateway's."""
    base = int(subnet.network_address) + 2
    addresses = tuple((host, str(IPv4Address(base + index))) for index, host in enumerate(spec.hosts))
    return Network(name=spec.name, subnet=str(subnet), addresses=addresses)


def routed(table: str) -> list[IPv4Network]:
    """The networks that a machine has routes to, its default route aside. `table` is the text of /proc/net/route (proc(5)):
    hexadecimal words, addresses in the machine's byte order."""
    found = []
    for line in table.splitlines()[1:]:
        words = line.split()
        destination, flags, mask = int(words[1], 16), int(words[3], 16), int(words[7], 16)
        if flags & _ROUTE_UP and mask:
            prefix = mask.bit_count()
            found.append(IPv4Network((destination.to_bytes(4, sys.byteorder), prefix), strict=False))
    return found
