"""Which devices of a node a kernel gets, and how much of each. Pure: amounts in, an allocation or a refusal out; nothing is held elsewhere.

A *pool* is a family of like devices, of which whole ones and shares are given: both come from the same devices, so they never overlap. Of
whole devices and of shares above one device as many are given as are asked for, the rest of a share from one more; a share below one device
is of exactly one. Where amounts may be put together from parts (`divisible`, as processors' time), any devices do.

*fill* takes devices that are in use before idle ones, and of those the one with the least left that suffices; *even* takes those with the
most left. Devices near one NUMA node are preferred to devices near several: moving data between nodes costs more than the strategy gains.

Amounts are in milli: 1000 is one whole device.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

WHOLE = 1000
Parts = tuple[tuple[str, int], ...]
"""(device, milli), by device."""


class Strategy(enum.StrEnum):
    EVEN = "even"
    FILL = "fill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    id: str
    numa_node: int = -1
    """-1: near none, or not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One family of devices. `slots`: the names of what is asked of it ("cuda.device", "cuda.shares"). `quantum`: of which step amounts
    are multiples, in milli."""

    slots: frozenset[str]
    devices: tuple[Device, ...]
    strategy: Strategy = Strategy.FILL
    quantum: int = 10
    divisible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why nothing is given. `asked` and `available` in milli; `available` is the most that could be given in that way."""

    slot: str
    message: str
    asked: int
    available: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What one kernel holds, by slot."""

    parts: Mapping[str, Parts]
    across_nodes: frozenset[str] = field(default_factory=frozenset)
    """Slots whose devices are near more than one NUMA node: it may run slower."""


class Allocations:
    """What the kernels of a node hold. It changes only by whole allocations: all that a kernel asks for, or nothing."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        self._pools = tuple(pools)
        self._pool_of = {slot: pool for pool in self._pools for slot in pool.slots}
        self._free = {device.id: WHOLE for pool in self._pools for device in pool.devices}
        assert len(self._free) == sum(len(pool.devices) for pool in self._pools), (
            "devices have names of their own"
        )
        self._held: dict[str, Allocation] = {}
        self.unusable: frozenset[str] = frozenset()
        """Devices of which nothing is given now, though somebody may hold them."""

    @property
    def free(self) -> Mapping[str, int]:
        """Milli that are left of each device."""
        return dict(self._free)

    @property
    def held(self) -> Mapping[str, Allocation]:
        return dict(self._held)

    def allocate(
        self, kernel: str, asked: Mapping[str, int], hint: Mapping[str, int] | None = None
    ) -> Allocation | Refused:
        """Gives a kernel all that it asks for, by slot; slots of no pool are not this module's. The same kernel again gets what it has.
        `hint`: (device -> milli) that somebody who saw the node a moment ago chose; followed where it still fits."""
        if kernel in self._held:
            return self._held[kernel]
        left = {one: 0 if one in self.unusable else milli for one, milli in self._free.items()}
        parts, across = dict[str, Parts](), set[str]()
        for slot in sorted(asked):
            pool, amount = self._pool_of.get(slot), asked[slot]
            if pool is None or amount == 0:
                continue
            given = _pick(pool, slot, amount, left, hint or {})
            if isinstance(given, Refused):
                return given
            for device, milli in given:
                left[device] -= milli
            parts[slot] = given
            if len(_nodes(pool, given)) > 1:
                across.add(slot)
        return self._hold(kernel, Allocation(parts=parts, across_nodes=frozenset(across)))

    def adopt(self, kernel: str, allocation: Allocation) -> str:
        """Takes over what a kernel was given before this process began. Says what is wrong with it, and then takes over nothing: a
        device that is gone, or more of one than is left."""
        if kernel in self._held:
            return "" if self._held[kernel] == allocation else "it holds something else already"
        wanted: dict[str, int] = {}
        for given in allocation.parts.values():
            for device, milli in given:
                wanted[device] = wanted.get(device, 0) + milli
        for device, milli in sorted(wanted.items()):
            if device not in self._free:
                return f"there is no device {device} any more"
            if not 0 < milli <= self._free[device]:
                return f"of device {device} {self._free[device] / WHOLE:g} is free, and it holds {milli / WHOLE:g}"
        self._hold(kernel, allocation)
        return ""

    def release(self, kernel: str) -> None:
        """Gives back all that a kernel holds; nothing happens when it holds nothing."""
        allocation = self._held.pop(kernel, None)
        for given in allocation.parts.values() if allocation else ():
            for device, milli in given:
                self._free[device] += milli

    def _hold(self, kernel: str, allocation: Allocation) -> Allocation:
        for given in allocation.parts.values():
            for device, milli in given:
                self._free[device] -= milli
        self._held[kernel] = allocation
        return allocation


def _pick(
    pool: Pool, slot: str, amount: int, left: Mapping[str, int], hint: Mapping[str, int]
) -> Parts | Refused:
    if amount < 0 or amount % pool.quantum:
        below = max(0, amount // pool.quantum * pool.quantum)
        return Refused(
            slot=slot,
            message=f"{slot} comes in steps of {pool.quantum / WHOLE:g}: "
            f"{below / WHOLE:g} or {(below + pool.quantum) / WHOLE:g}, not {amount / WHOLE:g}",
            asked=amount,
            available=below,
        )
    hinted = _hinted(pool, amount, left, hint)
    if hinted:
        return hinted
    take = _together if pool.divisible else _by_device
    for devices in _neighbours(pool, left):
        found = take(devices, amount, left, pool.strategy)
        if found:
            return tuple(sorted(found))
    available = _most(pool, left)
    return Refused(
        slot=slot,
        message=f"{amount / WHOLE:g} of {slot} is asked for, and {available / WHOLE:g} can be given now",
        asked=amount,
        available=available,
    )


def _hinted(pool: Pool, amount: int, left: Mapping[str, int], hint: Mapping[str, int]) -> Parts:
    """The devices of the hint, if they are of this pool, make up the amount and have that much left."""
    ours = {device.id: hint[device.id] for device in pool.devices if device.id in hint}
    if sum(ours.values()) != amount or any(not 0 < milli <= left[one] for one, milli in ours.items()):
        return ()
    shared = [milli for milli in ours.values() if milli < WHOLE]
    return tuple(sorted(ours.items())) if pool.divisible or len(shared) <= 1 else ()


def _neighbours(pool: Pool, left: Mapping[str, int]) -> list[Sequence[Device]]:
    """Groups of devices to look at, in turn: those of each NUMA node, then all of them."""
    nodes = sorted({device.numa_node for device in pool.devices if device.numa_node >= 0})
    groups: list[Sequence[Device]] = [
        [one for one in pool.devices if one.numa_node == node] for node in nodes
    ]
    fullest = pool.strategy is Strategy.FILL
    groups.sort(key=lambda group: sum(left[one.id] for one in group) * (1 if fullest else -1))
    return [*groups, pool.devices]


def _by_device(
    devices: Sequence[Device], amount: int, left: Mapping[str, int], strategy: Strategy
) -> list[tuple[str, int]]:
    """Whole devices, and the rest of one more."""
    many, share = divmod(amount, WHOLE)
    idle = [one.id for one in devices if left[one.id] == WHOLE]
    if len(idle) < many:
        return []
    found = [(one, WHOLE) for one in idle[:many]]
    if share:
        taken = {one for one, _ in found}
        able = [one.id for one in devices if one.id not in taken and left[one.id] >= share]
        if not able:
            return []
        found.append((_preferred(able, left, strategy), share))
    return found


def _preferred(able: Sequence[str], left: Mapping[str, int], strategy: Strategy) -> str:
    if strategy is Strategy.FILL:
        return min(able, key=lambda one: (left[one], one))
    return max(able, key=lambda one: (left[one], [-ord(letter) for letter in one]))


def _together(
    devices: Sequence[Device], amount: int, left: Mapping[str, int], strategy: Strategy
) -> list[tuple[str, int]]:
    """Parts of any devices."""
    if sum(left[one.id] for one in devices) < amount:
        return []
    found: dict[str, int] = {}
    now = {one.id: left[one.id] for one in devices if left[one.id] > 0}
    while amount > 0:
        one = _preferred(sorted(now), now, strategy)
        milli = min(amount, now.pop(one))
        found[one] = milli
        amount -= milli
    return list(found.items())


def _most(pool: Pool, left: Mapping[str, int]) -> int:
    """The largest amount that could be given."""
    amounts = [left[one.id] for one in pool.devices]
    if pool.divisible:
        return sum(amounts)
    return sum(one for one in amounts if one == WHOLE) + max(
        (one for one in amounts if one < WHOLE), default=0
    )


def _nodes(pool: Pool, given: Parts) -> set[int]:
    used = {device for device, _ in given}
    return {one.numa_node for one in pool.devices if one.id in used and one.numa_node >= 0}
