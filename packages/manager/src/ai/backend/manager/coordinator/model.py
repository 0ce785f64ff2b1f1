"""Coordinators of resource groups' app proxies: what is configured, what they answer, and how they can fail. Values; no I/O."""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from ai.backend.common.errors import Unavailable

Networks = tuple[IPv4Network | IPv6Network, ...]


class NoCoordinator(Unavailable):
    """The session's resource group has none."""

    code = "coordinator.none"


class CoordinatorMisconfigured(Unavailable):
    """Its address or its token, as the resource group has them, can't be used."""

    code = "coordinator.misconfigured"


class CoordinatorUnreachable(Unavailable):
    """It can't be connected to, or does not answer in time."""

    code = "coordinator.unreachable"


class CoordinatorFailed(Unavailable):
    """It answers, but not as the protocol has it."""

    code = "coordinator.failed"


class NoRelay(Unavailable):
    """There is no address at which the coordinator could reach a service here."""

    code = "coordinator.no-relay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    """As a resource group has it. The token is a secret between the two: it is never shown, logged, or part of an error."""

    url: str
    """Without a slash at its end."""
    host: str
    token: str = field(default="", repr=False)
    """Empty: it asks for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What a client needs to ask a coordinator for the way to a service."""

    token: str = field(repr=False)
    url: str
    """Where clients reach the coordinator."""


class Place(NamedTuple):
    """Where a relay listens, as a coordinator is told it."""

    host: str
    port: int
