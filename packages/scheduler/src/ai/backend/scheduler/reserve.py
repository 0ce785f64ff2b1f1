"""Reservations: a workload that has waited long gets its place, and nobody behind it may delay that (backfill).

The place is where, and the time is when, the workload fits first as running sessions end in the order of the `Timeline`: of the sessions
that have to end before, none is ever added while it waits. What is free already of such a place is *held*: it is taken out of the fleet,
so that those behind it find only what can be spared. One of which it is known that it ends before the reserved time may use what is held.
With one reservation this is the EASY rule (Lifka, "The ANL/IBM SP Scheduling System", JSSPP 1995), with more of them it goes towards
conservative backfill (Mu'alem and Feitelson, IEEE TPDS 12(6), 2001); that ends may be unknown is our own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from .demand import Demand
from .fleet import Fleet, Ints
from .model import Running
from .packing import BestFit
from .placer import Placer
from .timeline import Timeline

RESERVATIONS_MAX = 4
"""In a group at a time. The first is what nobody starves for; each costs some placings of it on the whole group."""


@dataclass(slots=True)
class _Hold:
    """Of one reservation on one agent: what it will take, and how much of that is held now. By `columns`, and by device."""

    row: int
    until: datetime | None
    takes: Ints
    takes_devices: Ints
    held: Ints
    held_devices: Ints


class Place:
    """Where a workload will be: the rows of its demands, in order, and from when (None: not known)."""

    __slots__ = ("at", "rows")

    def __init__(self, rows: list[int], at: datetime | None) -> None:
        self.rows, self.at = rows, at


class Reservations:
    """Those of one group while a plan is made. `fleet` is the one that the plan is made on."""

    def __init__(self, fleet: Fleet, running: Sequence[Running], now: datetime) -> None:
        self._fleet = fleet
        self._running = running
        self._now = now
        self._timeline: Timeline | None = None
        self._holds: list[_Hold] = []
        self.many = 0

    @property
    def timeline(self) -> Timeline:
        if self._timeline is None:
            self._timeline = Timeline(self._fleet, self._running, self._now)
        return self._timeline

    def later(self, many: int) -> Fleet:
        """What can be given away once the first `many` of the running sessions have ended."""
        fleet = self._fleet.copy()
        self.timeline.free_first(fleet, many)
        for hold in self._holds:
            fleet.free[hold.row] -= hold.takes - hold.held
            fleet.devices[hold.row] -= hold.takes_devices - hold.held_devices
        return fleet

    def reserve(self, demands: Sequence[Demand]) -> Place | None:
        """The first place for all of them together, held from now on; None when there will never be one."""
        least, most = 0, len(self.timeline.sessions)
        found = self._rows_at(demands, most)
        if found is None:
            return None
        while least < most:
            middle = (least + most) // 2
            rows = self._rows_at(demands, middle)
            if rows is None:
                least = middle + 1
            else:
                most, found = middle, rows
        return self.hold(demands, found, self.later(most), self.timeline.at(most))

    def _rows_at(self, demands: Sequence[Demand], many: int) -> list[int] | None:
        placer = Placer(self.later(many), BestFit())
        rows = []
        for demand in demands:
            taken = placer.place(demand)
            if taken is None:
                return None
            rows.append(taken.row)
        return rows

    def hold(
        self, demands: Sequence[Demand], rows: Sequence[int], later: Fleet, at: datetime | None
    ) -> Place:
        """Holds the place on these rows, where everything fits `later`."""
        free, devices = later.free.copy(), later.devices.copy()
        for demand, row in zip(demands, rows, strict=True):
            device = BestFit().score(later, demand, np.array([row]))[1] if demand.share else [-1]
            later.take(row, demand, int(device[0]))
        for row in sorted(set(rows)):
            takes, takes_devices = free[row] - later.free[row], devices[row] - later.devices[row]
            held = np.clip(self._fleet.free[row] - later.free[row], 0, takes)
            held_devices = np.clip(self._fleet.devices[row] - later.devices[row], 0, takes_devices)
            self._holds.append(_Hold(row, at, takes, takes_devices, held, held_devices))
            self._move(row, -held, -held_devices)
        self.many += 1
        return Place(list(rows), at)

    @contextmanager
    def lifted(self, ends_at: datetime) -> Iterator[int]:
        """What is held for later than that may be used meanwhile; it is held again afterwards, less what was taken of it. Tells on how
        many places there is something."""
        lifted = [hold for hold in self._holds if hold.until is not None and ends_at <= hold.until]
        for hold in lifted:
            self._move(hold.row, hold.held, hold.held_devices)
        fleet = self._fleet
        before = {hold.row: (fleet.free[hold.row].copy(), fleet.devices[hold.row].copy()) for hold in lifted}
        yield len(lifted)
        taken = {
            row: (free - fleet.free[row], devices - fleet.devices[row])
            for row, (free, devices) in before.items()
        }
        for hold in lifted:
            slots, devices = taken[hold.row]
            used, used_devices = np.minimum(hold.held, slots), np.minimum(hold.held_devices, devices)
            hold.held, hold.held_devices = hold.held - used, hold.held_devices - used_devices
            taken[hold.row] = (slots - used, devices - used_devices)
            self._move(hold.row, -hold.held, -hold.held_devices)

    def unheld(self) -> Fleet:
        """The fleet as it would be if nothing were held."""
        fleet = self._fleet.copy()
        for hold in self._holds:
            fleet.free[hold.row] += hold.held
            fleet.devices[hold.row] += hold.held_devices
        return fleet

    def _move(self, row: int, slots: Ints, devices: Ints) -> None:
        self._fleet.free[row] += slots
        self._fleet.devices[row] += devices
        self._fleet.changes.append(row)
