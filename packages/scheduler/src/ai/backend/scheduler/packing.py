"""Placement strategies that look at amounts alone. Each says, in its docstring, which agent it prefers.

Amounts of different slots are compared as fractions of the most that any agent has.
"""

from collections.abc import Sequence

import numpy as np

from .demand import WHOLE, Demand
from .fleet import Fleet, Ints, Rows
from .placer import Floats


def tightest(fleet: Fleet, demand: Demand, rows: Rows) -> Ints:
    """For a share: the device with the least free that can give it."""
    if not demand.share:
        return np.full(len(rows), -1, np.int64)
    devices = fleet.devices_for(demand, rows)
    picked: Ints = np.where(devices >= demand.share, devices, np.iinfo(np.int64).max).argmin(axis=1)
    return picked


def _fractions(fleet: Fleet, demand: Demand, rows: Rows) -> tuple[Floats, Floats]:
    """What is free on the rows, devices as the last column, and what is asked for."""
    width = max(fleet.devices.shape[1], 1) * WHOLE
    free = np.empty((len(rows), len(fleet.scale) + 1))
    np.divide(fleet.free[rows], fleet.scale, out=free[:, :-1])
    free[:, -1] = fleet.devices[rows].sum(axis=1) / width if fleet.devices.shape[1] else 0.0
    asked = np.empty(len(fleet.scale) + 1)
    np.divide(fleet.amounts(demand), fleet.scale, out=asked[:-1])
    asked[-1] = demand.device_milli / width
    return free, asked


class BestFit:
    """The agent that has the least left afterwards, over the slots that are asked for."""

    lasting = True

    def score(self, fleet: Fleet, demand: Demand, rows: Rows) -> tuple[Floats, Ints]:
        free, asked = _fractions(fleet, demand, rows)
        return ((free - asked) * (asked > 0)).sum(axis=1), tightest(fleet, demand, rows)


class DotProduct:
    """The agent whose free amounts point least in the direction of the demand (Tetris' alignment, for packing)."""

    lasting = True

    def score(self, fleet: Fleet, demand: Demand, rows: Rows) -> tuple[Floats, Ints]:
        free, asked = _fractions(fleet, demand, rows)
        return free @ asked, tightest(fleet, demand, rows)


class GpuPacking:
    """Devices that are in use before idle ones, and idle ones of agents in use before those of idle agents."""

    lasting = True

    def score(self, fleet: Fleet, demand: Demand, rows: Rows) -> tuple[Floats, Ints]:
        devices = fleet.devices[rows]
        picked = tightest(fleet, demand, rows)
        free, asked = _fractions(fleet, demand, rows)
        rest = free @ (asked > 0) / free.shape[1]
        idle = (devices == WHOLE).sum(axis=1) == np.array([len(fleet.agents[row].devices) for row in rows])
        opens = picked >= 0
        opens[opens] = devices[opens, picked[opens]] == WHOLE
        return 4.0 * idle + 2.0 * opens + rest, picked


class GpuClustering:
    """Agents that hold the same demand already before others: what is alike stays together. Then as `BestFit`.

    It has to be told what is placed: `holds` counts demands by agent.
    """

    lasting = True

    def __init__(self, holds: dict[tuple[int, int, int], int]) -> None:
        self._holds = holds
        self._best_fit = BestFit()

    def score(self, fleet: Fleet, demand: Demand, rows: Rows) -> tuple[Floats, Ints]:
        rest, picked = self._best_fit.score(fleet, demand, rows)
        alike = [self._holds.get((row, demand.devices, demand.share), 0) > 0 for row in rows.tolist()]
        return rest - 100.0 * np.array(alike), picked


class Random:
    """Any agent, and any device that can give the share."""

    lasting = False

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def score(self, fleet: Fleet, demand: Demand, rows: Rows) -> tuple[Floats, Ints]:
        if not demand.share:
            return self._rng.random(len(rows)), np.full(len(rows), -1, np.int64)
        chance = self._rng.random((len(rows), fleet.devices.shape[1]))
        picked: Ints = np.where(fleet.devices_for(demand, rows) >= demand.share, chance, 2.0).argmin(axis=1)
        return self._rng.random(len(rows)), picked


class _ByPriority:
    """Agents without unneeded kinds of slots first; then by what is left of each slot, in the order of `priority`."""

    lasting = True
    direction = 1.0

    def __init__(self, priority: Sequence[str] = ("cuda", "rocm", "tpu", "cpu", "mem")) -> None:
        self._priority = priority
        self._weighed: Floats | None = None

    def score(self, fleet: Fleet, demand: Demand, rows: Rows) -> tuple[Floats, Ints]:
        free, asked = _fractions(fleet, demand, rows)
        unneeded = ((free > 0) & (asked == 0)).sum(axis=1)
        if self._weighed is None:
            self._weighed = self._weights(fleet)  # a strategy serves one fleet
        left = (free - asked) @ self._weighed
        return unneeded * 1000.0 + self.direction * left, tightest(fleet, demand, rows)

    def _weights(self, fleet: Fleet) -> Floats:
        """Devices before everything else, and each slot a hundred times as much as the next."""
        order = sorted(fleet.columns, key=self._rank)
        return np.array([*(10.0 ** -(2 * order.index(name) + 2) for name in sorted(order)), 1.0])

    def _rank(self, name: str) -> int:
        family = name.partition(".")[0]
        return self._priority.index(family) if family in self._priority else len(self._priority)


class Concentrated(_ByPriority):
    """Agents without unneeded kinds of slots first, then the fullest: others stay free for large sessions."""


class Dispersed(_ByPriority):
    """Agents without unneeded kinds of slots first, then the emptiest: the load is spread."""

    direction = -1.0


class RoundRobin:
    """The agent after the one that was picked last, in the order of rows."""

    lasting = False

    def __init__(self, after: int = -1) -> None:
        self._after = after

    def score(self, fleet: Fleet, demand: Demand, rows: Rows) -> tuple[Floats, Ints]:
        turn = (rows - self._after - 1) % max(len(fleet.agents), 1)
        self._after = int(rows[turn.argmin()])
        return turn.astype(float), tightest(fleet, demand, rows)
