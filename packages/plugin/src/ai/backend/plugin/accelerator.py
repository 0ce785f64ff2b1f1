"""What a plugin of the group `backendai_accelerator_v21` is: it knows one kind of device on a node, and how a container gets some of them.

The entry point names a *factory*: it is called with its options in the agent's configuration (`[agent.accelerators.NAME]`)
and returns an `Accelerator`, or None when there is nothing of its kind here. What it raises keeps it out, and is told.

Who gets which device is not the plugin's business: the scheduler proposes and the agent decides, and the plugin is told. All methods are
plain functions; the agent calls them in a thread, one at a time for each plugin, and with a time limit.

Amounts are in milli: 1000 is one whole device.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

WHOLE = 1000
_KEY = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SLOT = re.compile(r"[a-z][a-z0-9-]{0,31}(\.[a-z0-9-]{1,32})+")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One physical device, or one slice that the hardware makes of it."""

    id: str
    """Its own among the plugin's devices, and the same after a restart of the node."""
    slot: str
    """What sessions ask for to get it: `cuda.device` (whole ones), `cuda.shares` (shares of it), ..."""
    model: str
    memory_bytes: int = 0
    units: int = 0
    """Processing units: multiprocessors, cores; 0: not known."""
    numa_node: int = -1
    """-1: near none, or not known."""
    location: str = ""
    """On the bus, as in 0000:3b:00.0."""
    problem: str = ""
    """Why it can't be used now; empty: it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotInfo:
    """How a slot is shown to people, and in which steps it is given."""

    slot: str
    description: str
    name: str
    """Short, as in "GPU"."""
    unit: str
    shared: bool = False
    """Whether shares of one device are given; else only whole ones."""
    quantum: int = WHOLE
    """Amounts are multiples of this, in milli."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """So much of a device is a container's."""

    device: Device
    milli: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A device file that the container sees."""

    source: Path
    target: PurePosixPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A file or folder of the host that the container sees, read-only."""

    source: Path
    target: PurePosixPath


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """What a container engine is asked to attach by itself (Docker's DeviceRequest): CDI names, or devices of a vendor's runtime."""

    driver: str
    """`cdi`, `nvidia`, ..."""
    ids: tuple[str, ...]
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """All that makes devices usable in one container."""

    environ: Mapping[str, str] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    binds: tuple[Bind, ...] = ()
    requests: tuple[EngineRequest, ...] = ()
    """Not for containers that no engine makes; they need `nodes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of one device, now; None where it is not known."""

    percent: float | None = None
    memory_bytes: int | None = None


@runtime_checkable
class Accelerator(Protocol):
    """Attributes:
    key: the family of its slots, as in `cuda`.
    slots: each that its devices can have.
    """

    key: str
    slots: Sequence[SlotInfo]

    def facts(self) -> Mapping[str, str]:
        """About the kind as a whole: versions of the driver, ..."""

    def devices(self) -> Sequence[Device]:
        """As they are now, in the order of the bus. Whatever it raises means that none can be used."""

    def usage(self) -> Mapping[str, Usage]:
        """How busy devices are, by id."""

    def attach(self, given: Sequence[Given], *, engine: bool) -> Attachment:
        """What a container needs that has got these devices of this plugin. `engine`: a container engine makes it, which can be asked."""

    def close(self) -> None:
        """The agent ends."""


class Factory(Protocol):
    def __call__(self, options: Mapping[str, Any]) -> Accelerator | None: ...


def check_factory(loaded: object) -> str:
    """What is wrong with what an entry point named; empty: nothing can be seen from here."""
    return "" if callable(loaded) else f"{type(loaded).__name__} is no factory: it can't be called"


def wrongs(one: Accelerator, devices: Sequence[Device]) -> list[str]:
    """What is wrong with a plugin and its devices, in words; what is wrong is not used."""
    if not isinstance(one, Accelerator):
        return ["it lacks attributes or methods of an accelerator"]
    found = []
    if not _KEY.fullmatch(one.key):
        found.append(f"its key is {one.key!r}, and must match {_KEY.pattern}")
    slots = {info.slot for info in one.slots}
    for info in one.slots:
        if not _SLOT.fullmatch(info.slot) or not info.slot.startswith(f"{one.key}."):
            found.append(f"its slot {info.slot!r} is not of the form {one.key}.KIND")
        if not 1 <= info.quantum <= WHOLE or WHOLE % info.quantum:
            found.append(f"the quantum of {info.slot} is {info.quantum}, which does not divide {WHOLE}")
        if not info.shared and info.quantum != WHOLE:
            found.append(f"{info.slot} is not shared, so its quantum is {WHOLE}")
    ids = [device.id for device in devices]
    for device in devices:
        if not _ID.fullmatch(device.id):
            found.append(f"the device id {device.id!r} must match {_ID.pattern}")
        if ids.count(device.id) > 1:
            found.append(f"two devices have the id {device.id}")
        if device.slot not in slots:
            found.append(f"device {device.id} has the slot {device.slot!r}, which the plugin does not name")
        if not device.model:
            found.append(f"device {device.id} has no model")
    return sorted(set(found))
