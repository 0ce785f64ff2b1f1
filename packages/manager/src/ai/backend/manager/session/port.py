"""Service ports: which programs in a session can be reached from outside it, and where they listen. Pure.

An image names its services in a label; whoever creates a session may name further ports for programs of their own (preopen ports), each of
which is a service whose name is its number.
"""

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ai.backend.common.errors import AppNotFound, InvalidInput

LABEL = "ai.backend.service-ports"
PORT_MIN, PORT_MAX = 1025, 65534
RESERVED = frozenset({2000, 2001, 2002, 2003, 2200, 7681})
"""Published as the runner's own."""
LABEL_CHARS_MAX = 8192
SERVICES_MAX = 64
PORTS_MAX = 64
"""Of one service; and of preopen ports."""
_ENTRY = re.compile(
    r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}):(?P<protocol>[a-z]{1,16}):"
    r"(?P<ports>[0-9]{1,5}|\[[0-9]{1,5}(?:,[0-9]{1,5})*\])(?:,|$)"
)


class Protocol(enum.StrEnum):
    """The published words."""

    HTTP = "http"
    TCP = "tcp"
    PREOPEN = "preopen"
    PTY = "pty"


_WORDS = frozenset(word.value for word in Protocol)


@dataclass(frozen=True, slots=True)
class ServicePort:
    name: str
    protocol: Protocol
    ports: tuple[int, ...]

    def as_row(self) -> dict[str, Any]:
        return {"name": self.name, "protocol": self.protocol.value, "ports": list(self.ports)}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "ServicePort":
        return cls(row["name"], Protocol(row["protocol"]), tuple(row["ports"]))

    def __str__(self) -> str:
        """As the label has it."""
        ports = [str(port) for port in self.ports]
        return f"{self.name}:{self.protocol}:{ports[0] if len(ports) == 1 else '[' + ','.join(ports) + ']'}"


def _check_port(port: int, field: str) -> int:
    if not PORT_MIN <= port <= PORT_MAX:
        raise InvalidInput(f"port {port} is not between {PORT_MIN} and {PORT_MAX}", field=field, port=port)
    if port in RESERVED:
        taken = ", ".join(map(str, sorted(RESERVED)))
        raise InvalidInput(f"port {port} is reserved", hint=f"These are: {taken}.", field=field, port=port)
    return port


def parse_label(text: str) -> tuple[ServicePort, ...]:
    """The services of an image's label: `name:protocol:port` or `name:protocol:[port,port]`, separated by commas. Raises InvalidInput."""
    text = text.replace(" ", "")
    found: list[ServicePort] = []
    at = 0
    if len(text) > LABEL_CHARS_MAX:
        raise _bad_label(f"it is longer than {LABEL_CHARS_MAX} characters")
    while at < len(text):
        match = _ENTRY.match(text, at)
        if match is None:
            raise _bad_label(f"{text[at : at + 60]!r} is not of the form name:protocol:port")
        at = match.end()
        if match["protocol"] not in _WORDS:
            raise _bad_label(f"{match['protocol']!r} is none of {', '.join(Protocol)}")
        ports = match["ports"].strip("[]").split(",")
        if len(ports) > PORTS_MAX or len(found) >= SERVICES_MAX:
            raise _bad_label(f"more than {SERVICES_MAX} services, or {PORTS_MAX} ports of one")
        try:
            checked = tuple(_check_port(int(port), LABEL) for port in ports)
        except InvalidInput as exc:
            raise _bad_label(exc.message) from exc
        found.append(ServicePort(match["name"], Protocol(match["protocol"]), checked))
    _check_distinct(found)
    return tuple(found)


def _check_distinct(services: Iterable[ServicePort]) -> None:
    names: set[str] = set()
    ports: set[int] = set()
    for service in services:
        if service.name in names:
            raise _bad_label(f"two services are named {service.name!r}")
        if twice := sorted(port for port in service.ports if service.ports.count(port) > 1 or port in ports):
            raise _bad_label(f"port {twice[0]} is named twice")
        names.add(service.name)
        ports.update(service.ports)


def _bad_label(what: str) -> InvalidInput:
    return InvalidInput(
        f"the image's label {LABEL} is wrong: {what}", hint="Tell whoever made the image.", field="image"
    )


def parse_preopen(values: Iterable[Any]) -> tuple[int, ...]:
    """Numbers, or text of them, in order and without repetitions. Raises InvalidInput."""
    ports: dict[int, None] = {}
    for value in values:
        number = value
        if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,5}\s*", value):
            number = int(value)
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidInput(f"{str(value)[:40]!r} is no port", field="preopen_ports")
        ports[_check_port(number, "preopen_ports")] = None
        if len(ports) > PORTS_MAX:
            raise InvalidInput(f"at most {PORTS_MAX} preopen ports", field="preopen_ports")
    return tuple(ports)


def service_ports(label: str, preopen: Iterable[Any]) -> tuple[ServicePort, ...]:
    """All services of a session: the image's, then one for each preopen port. Raises InvalidInput."""
    services = parse_label(label)
    owners = {port: service.name for service in services for port in service.ports}
    opened = parse_preopen(preopen)
    for port in opened:
        if port in owners:
            raise InvalidInput(
                f"port {port} is the image's service {owners[port]!r} already",
                hint="Choose another port, or use that service.",
                field="preopen_ports",
            )
    own = tuple(ServicePort(str(port), Protocol.PREOPEN, (port,)) for port in opened)
    if clash := {service.name for service in services} & {service.name for service in own}:
        raise _bad_label(f"a service is named {min(clash)!r}, as a preopen port is")
    return services + own


def named(services: Iterable[ServicePort], app: str) -> ServicePort:
    """Raises AppNotFound."""
    known = list(services)
    service = next((one for one in known if one.name == app), None)
    if service is None:
        names = ", ".join(one.name for one in known)
        raise AppNotFound(
            f"no app {app[:64]!r} in this session",
            hint=f"It has: {names}." if names else "Create it with preopen ports for programs of your own.",
        )
    return service


def resolve(services: Iterable[ServicePort], app: str, port: int | None) -> int:
    """The port of an app, its first unless one is asked for. Raises AppNotFound or InvalidInput."""
    service = named(services, app)
    if port is None:
        return service.ports[0]
    if port not in service.ports:
        listed = ", ".join(map(str, service.ports))
        raise InvalidInput(f"{app} has no port {port}", hint=f"It has: {listed}.", field="port")
    return port


def environment(services: Iterable[ServicePort]) -> dict[str, str]:
    """What programs in the session are told."""
    known = list(services)
    return {
        "BACKENDAI_SERVICE_PORTS": ",".join(
            str(one) for one in known if one.protocol is not Protocol.PREOPEN
        ),
        "BACKENDAI_PREOPEN_PORTS": ",".join(
            str(port) for one in known if one.protocol is Protocol.PREOPEN for port in one.ports
        ),
    }
