"""Finds the agent for a demand: filter, score, pick.

What a strategy said of an agent holds until the agent changes. So scores are kept for each demand, and before a pick only the agents that
changed since the last pick for an equal demand are scored again, all in one go.
"""

from collections.abc import Collection
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .demand import WHOLE, Demand
from .fleet import Bools, Fleet, Ints, Rows, Taken

Floats = NDArray[np.float64]


class Strategy(Protocol):
    """Says how well agents suit. `lasting`: equal demands and unchanged agents always score the same."""

    lasting: bool

    def score(self, fleet: Fleet, demand: Demand, rows: Rows) -> tuple[Floats, Ints]:
        """Of agents that all can take the demand: how bad each is (the lowest is picked, among equals the first), and, for a share, which
        device to take it of."""


class Spot(NamedTuple):
    row: int
    device: int
    """-1 when no share of a device is asked for."""


class _Known:
    """What is known of one demand."""

    def __init__(self, allowed: Bools) -> None:
        rows = len(allowed)
        self.allowed = allowed
        self.seen = -1
        """How many of the fleet's changes the scores know; -1: not even the first state."""
        self.scores = np.full(rows, np.inf)
        self.devices = np.full(rows, -1, np.int64)


class Placer:
    def __init__(self, fleet: Fleet, strategy: Strategy) -> None:
        self.fleet = fleet
        self.strategy = strategy
        self._known: dict[Demand, _Known] = {}

    def find(self, demand: Demand, avoid: Collection[int] = ()) -> Spot | None:
        """The best agent that can take it now, one of the rows in `avoid` only if there is no other."""
        known = self._known.get(demand)
        if known is None:
            known = self._known[demand] = _Known(allowed(self.fleet, demand))
        changes = self.fleet.changes
        if not self.strategy.lasting or known.seen < 0:
            self._score(known, demand, np.nonzero(known.allowed)[0])
        elif known.seen < len(changes):
            rows = np.array(list(set(changes[known.seen :])), np.intp)
            self._score(known, demand, rows[known.allowed[rows]])
        known.seen = len(changes)
        if not len(known.scores):
            return None
        best = int(known.scores.argmin())
        if best in avoid:
            others = known.scores.copy()
            others[list(avoid)] = np.inf
            other = int(others.argmin())
            best = other if others[other] < np.inf else best
        return Spot(best, int(known.devices[best])) if known.scores[best] < np.inf else None

    def _score(self, known: _Known, demand: Demand, rows: Rows) -> None:
        if not len(rows):
            return
        known.scores[rows] = np.inf
        rows = rows[fitting(self.fleet, demand, rows)]
        if len(rows):
            known.scores[rows], known.devices[rows] = self.strategy.score(self.fleet, demand, rows)

    def place(self, demand: Demand, avoid: Collection[int] = ()) -> Taken | None:
        """Finds and reserves."""
        spot = self.find(demand, avoid)
        return None if spot is None else self.fleet.take(spot.row, demand, spot.device)


def allowed(fleet: Fleet, demand: Demand) -> Bools:
    """Agents that are of the right kind, whatever is free on them now."""
    rows = len(fleet.agents)
    if fleet.lacking(demand.slots):
        return np.zeros(rows, bool)
    kind = np.fromiter((_suits(fleet, row, demand) for row in range(rows)), bool, rows)
    if demand.device_milli:
        kind &= fleet.right(demand)[fleet.kind].any(axis=1)
    return kind


def _suits(fleet: Fleet, row: int, demand: Demand) -> bool:
    agent = fleet.agents[row]
    return (
        agent.schedulable
        and agent.resource_group == demand.resource_group
        and demand.chosen in ("", agent.id)
        and demand.architecture <= {agent.architecture}
        and demand.images <= agent.images
    )


def fits(fleet: Fleet, demand: Demand, row: int, free: Ints, devices: Ints) -> bool:
    """Whether so much of that agent is enough."""
    if any(free[fleet.columns[name]] < amount for name, amount in demand.slots.items()):
        return False
    right = devices[fleet.right(demand)[fleet.kind[row]]]
    if demand.devices:
        return int((right == WHOLE).sum()) >= demand.devices
    return not demand.share or int((right // demand.share).sum()) >= demand.times


def fitting(fleet: Fleet, demand: Demand, rows: Rows) -> Bools:
    """Which of these rows have enough free."""
    fits = np.ones(len(rows), bool)
    for name, amount in demand.slots.items():
        fits &= fleet.free[rows, fleet.columns[name]] >= amount
    if demand.devices:
        fits &= (fleet.devices_for(demand, rows) == WHOLE).sum(axis=1) >= demand.devices
    elif demand.times > 1:
        fits &= (fleet.devices_for(demand, rows) // demand.share).sum(axis=1) >= demand.times
    elif demand.share:
        fits &= fleet.devices_for(demand, rows).max(axis=1) >= demand.share
    return fits
