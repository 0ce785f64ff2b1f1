"""Fragmentation-aware placement: where does it least spoil the devices for what is usually asked for?

The measure is that of Fragmentation Gradient Descent (Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with
Fragmentation Gradient Descent", USENIX ATC 2023): what is free of an agent's devices, as far as a task of the usual mix cannot use it,
averaged over the mix. A task cannot use any device of an agent that lacks the slots, the model or enough devices for it, and else none of
those devices that have less free than it takes of one. The agent is picked on which the measure grows least.

Two terms of our own: *stranded* devices, those for which the agent's other slots would not suffice if tasks of the average kind took them
(the published measure sees an agent run out of processors only when it has); and among equals the agent with less left, which keeps
empty ones for large tasks. On the published workloads they are worth another half of a percent of all devices.
"""

import numpy as np

from .demand import WHOLE, Demand, Mix
from .fleet import Fleet, Ints, Rows
from .placer import Floats

STRANDED_WEIGHT = 0.3
LEFT_WEIGHT = 1e-6


class _State:
    """Agents as they are or would be: rows of slots and of devices."""

    __slots__ = ("devices", "free", "rows")

    def __init__(self, free: Floats, devices: Floats, rows: Rows) -> None:
        self.free, self.devices, self.rows = free, devices, rows


class Fragmentation:
    lasting = True

    def __init__(self, fleet: Fleet, mix: Mix) -> None:
        usual = sorted(((demand, count) for demand, count in mix.counts if demand.device_milli), key=_by_kind)
        total = sum(count for _, count in usual)
        self._slots = np.array([fleet.amounts(demand) for demand, _ in usual], float).reshape(
            len(usual), len(fleet.columns)
        )
        self._asked = np.nonzero(self._slots.any(axis=0))[0]
        self._never = np.array([fleet.lacking(demand.slots) for demand, _ in usual], bool)
        """Those that ask for what no agent has heard of."""
        kinds = sorted({_kind(demand) for demand, _ in usual})
        of_kind = [kinds.index(_kind(demand)) for demand, _ in usual]
        self._first_of_kind = np.searchsorted(of_kind, np.arange(len(kinds)))
        self._weight = np.array([count / total for _, count in usual])
        self._needed = np.array([max(devices, 1) for devices, *_ in kinds], float)
        takes = np.array([share or WHOLE for _, share, *_ in kinds], float)
        self._levels, self._level = np.unique(takes, return_inverse=True)
        self._suits = np.array(
            [
                [
                    any(
                        fleet.kinds[kind][0] == family and (not models or fleet.kinds[kind][1] in models)
                        for kind in set(fleet.kind[row].tolist()) - {-1}
                    )
                    for _, _, family, models in kinds
                ]
                for row in range(len(fleet.agents))
            ],
            float,
        ).reshape(len(fleet.agents), len(kinds))
        milli = sum(demand.device_milli * count for demand, count in usual)
        spent = sum((fleet.amounts(demand) * count for demand, count in usual), np.zeros(len(fleet.columns)))
        self._per_milli = spent[self._asked] / milli if milli else spent[self._asked]

    def score(self, fleet: Fleet, demand: Demand, rows: Rows) -> tuple[Floats, Ints]:
        picked = np.full(len(rows), -1, np.int64)
        before = _State(fleet.free[rows].astype(float), fleet.devices[rows].astype(float), rows)
        free = before.free - fleet.amounts(demand)
        if demand.share:
            suiting = fleet.devices_for(demand, rows)
            owner, device = _distinct(suiting, demand.share)
            devices = _shared(before.devices[owner], suiting[owner], device, demand)
            after = _State(free[owner], devices, rows[owner])
        else:
            owner = np.arange(len(rows))
            whole = fleet.devices_for(demand, rows) == WHOLE
            devices = np.where(whole & (whole.cumsum(axis=1) <= demand.devices), 0.0, before.devices)
            after = _State(free, devices, rows)
        values = self._measure(before, after)
        left = before.devices.sum(axis=1)
        growth = values[len(rows) :] - values[: len(rows)][owner] + LEFT_WEIGHT * left[owner]
        if not demand.share:
            return growth, picked
        order = np.lexsort((growth, owner))
        first = order[np.searchsorted(owner[order], np.arange(len(rows)))]
        picked[:] = device[first]
        return growth[first], picked

    def _measure(self, *states: _State) -> Floats:
        """The devices, in milli, that the mix cannot use, of each agent of the states."""
        free = np.concatenate([state.free for state in states])[:, self._asked]
        devices = np.concatenate([state.devices for state in states])
        rows = np.concatenate([state.rows for state in states])
        left = devices.sum(axis=1)
        fits = np.repeat(~self._never[None, :], len(rows), axis=0)
        for number, column in enumerate(self._asked):
            fits &= free[:, number, None] >= self._slots[:, column]
        enough = devices[:, :, None] >= self._levels
        spoiled = left[:, None] - np.einsum("rd,rdl->rl", devices, enough)
        # Not a product of matrices: for sizes like these, threads of a linear algebra library cost more than they give.
        usable = (
            np.add.reduceat(fits * self._weight, self._first_of_kind, axis=1)
            if len(self._weight)
            else fits * 1.0
        )
        usable *= self._suits[rows]
        usable *= enough.sum(axis=1)[:, self._level] >= self._needed
        fragments = (usable * spoiled[:, self._level]).sum(axis=1) + (
            self._weight.sum() - usable.sum(axis=1)
        ) * left
        fed = np.divide(
            free,
            self._per_milli,
            out=np.full_like(free, np.inf),
            where=np.broadcast_to(self._per_milli > 0, free.shape),
        ).min(axis=1, initial=np.inf)
        measured: Floats = fragments + STRANDED_WEIGHT * np.maximum(0.0, left - fed)
        return measured


def _shared(devices: Floats, suiting: Ints, first: Ints, demand: Demand) -> Floats:
    """The devices once all of the demand's shares are taken of them: the first one of `first`, the others as `Fleet.take` does."""
    rows, left, device = np.arange(len(first)), suiting.copy(), first
    for number in range(demand.times):
        if number:
            device = np.where(left >= demand.share, left, np.iinfo(np.int64).max).argmin(axis=1)
        devices[rows, device] -= demand.share
        left[rows, device] -= demand.share
    return devices


def _kind(demand: Demand) -> tuple[int, int, str, tuple[str, ...]]:
    return demand.devices, demand.share, demand.family, tuple(sorted(demand.models))


def _by_kind(usual: tuple[Demand, int]) -> tuple[object, ...]:
    return _kind(usual[0])


def _distinct(devices: Ints, share: int) -> tuple[Rows, Ints]:
    """(index of the agent, device) of each device that can give the share; of equally free ones of an agent only the first."""
    can = devices >= share
    for place in range(1, devices.shape[1]):
        can[:, place] &= ~(devices[:, :place] == devices[:, place, None]).any(axis=1)
    owner, device = np.nonzero(can)
    return owner, device
