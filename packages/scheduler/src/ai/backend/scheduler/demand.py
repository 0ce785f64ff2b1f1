"""What kernels that go to one agent together ask of it, reduced to what placing them depends on.

Sessions ask for few different things, often: equal demands are one key, and what was found out for one holds for all of them.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from ai.backend.common.quantity import ResourceSlots

WHOLE = 1000
"""Of a device, in milli."""


@dataclass(frozen=True, slots=True)
class Demand:
    """`slots` are amounts that an agent has in one heap (cpu in milli, mem in bytes). Devices come whole (`devices` of them) or as a share
    of exactly one (`share`, in milli), or `times` such shares; `models`, if any, are those that will do. `chosen` is the only agent that
    will."""

    slots: ResourceSlots
    devices: int = 0
    share: int = 0
    times: int = 1
    family: str = ""
    models: frozenset[str] = frozenset()
    resource_group: str = ""
    architecture: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    chosen: str = ""
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        assert not (self.devices and self.share), "whole devices or a share of one"
        assert 0 <= self.share < WHOLE, "a share is less than a device"
        assert self.times == 1 or (self.share and self.times > 1), "shares are counted, and nothing else"
        key = (
            self.slots, self.devices, self.share, self.times, self.family, self.models, self.resource_group,
            self.architecture, self.images, self.chosen,
        )  # fmt: skip
        object.__setattr__(self, "_hash", hash(key))

    def __hash__(self) -> int:
        return self._hash

    @property
    def device_milli(self) -> int:
        return self.devices * WHOLE + self.share * self.times


def family_of(slot: str) -> str:
    """ "cuda" of "cuda.shares"."""
    return slot.partition(".")[0]


def is_by_device(slot: str) -> bool:
    """Whether devices given for this slot are looked at one by one."""
    return slot.partition(".")[2] in ("device", "shares")


def devices_of(slots: ResourceSlots, families: Collection[str]) -> tuple[str, int, int]:
    """(family, whole devices, share of one) that one kernel asks for; all empty where it is neither, or no such family is told."""
    for name, amount in slots.items():
        if family_of(name) in families and is_by_device(name):
            if amount % WHOLE == 0:
                return family_of(name), amount // WHOLE, 0
            if amount < WHOLE:
                return family_of(name), 0, amount
    return "", 0, 0


def usual(slots: ResourceSlots, families: Collection[str]) -> Demand:
    """Of a mix: amounts and devices alone."""
    family, devices, share = devices_of(slots, families)
    return Demand(slots=slots, devices=devices, share=share, family=family)


@dataclass(frozen=True, slots=True)
class Mix:
    """What is usually asked for: demands and how often each was seen."""

    counts: tuple[tuple[Demand, int], ...] = ()

    @classmethod
    def of(cls, demands: Iterable[Demand]) -> "Mix":
        counts: dict[Demand, int] = {}
        for demand in demands:
            counts[demand] = counts.get(demand, 0) + 1
        return cls(tuple(counts.items()))
