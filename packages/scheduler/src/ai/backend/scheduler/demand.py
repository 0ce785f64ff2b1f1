"""What kernels that go to one agent together ask of it, reduced to what placing them depends on.

Sessions ask for few different things, often: equal demands are one key, and what was found out for one holds for all of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ai.backend.common.quantity import ResourceSlots

WHOLE = 1000
"""Of a device, in milli."""


@dataclass(frozen=True, slots=True)
class Demand:
    """`slots` are amounts that an agent has in one heap (cpu in milli, mem in bytes). Devices come whole (`devices` of them) or as a share
    of exactly one (`share`, in milli); `models`, if any, are those that will do. `chosen` is the only agent that will."""

    slots: ResourceSlots
    devices: int = 0
    share: int = 0
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
        key = (
            self.slots, self.devices, self.share, self.family, self.models, self.resource_group,
            self.architecture, self.images, self.chosen,
        )  # fmt: skip
        object.__setattr__(self, "_hash", hash(key))

    def __hash__(self) -> int:
        return self._hash

    @property
    def device_milli(self) -> int:
        return self.devices * WHOLE + self.share


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
