"""Who makes room: running sessions of a lower job priority, as few and as low as suffice.

Of each agent that could take a demand, sessions are counted off from the lowest job priority, and within it in the group's order, until it
fits; those that turn out not to be needed are let off. The agent is taken where the highest of the victims' job priorities is lowest, then
where they are fewest. All the demands of a workload find room, or nobody goes.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import numpy as np

from .demand import Demand
from .fleet import Fleet
from .model import Preemption, PreemptionOrder, Running, Workload
from .packing import BestFit
from .placer import Placer, allowed, fits
from .timeline import Timeline

ATTEMPTS_MAX = 16
"""Workloads of a group that look for victims in one plan."""


def eligible(one: Running, workload: Workload, how: Preemption, now: datetime) -> bool:
    """May this session go for that workload?"""
    return (
        one.preemptible
        and not one.ending
        and one.job_priority < workload.job_priority
        and (how.scope is None or getattr(one, how.scope.value) == getattr(workload, how.scope.value))
        and now - one.started_at >= timedelta(seconds=how.min_run_time_s)
    )


class Preemptor:
    """Of one group while a plan is made. `spent` are those that have been told to go already."""

    def __init__(self, timeline: Timeline, how: Preemption, now: datetime) -> None:
        self._timeline = timeline
        self._how = how
        self._now = now
        self.spent: set[UUID] = set()
        self.attempts = 0
        self._turns: dict[UUID, tuple[int, float, str]] = {}

    def victims(
        self, workload: Workload, demands: Sequence[Demand], later: Fleet
    ) -> tuple[list[Running], list[int]] | None:
        """Who goes, beside those who are ending already, and the rows of the demands then. `later` is the fleet once those have ended; the
        victims' room is added to it. None: nobody can help."""
        if workload.preempting:
            rows = self._rows_without(later, (), demands)
            if rows is not None:
                return [], rows
        self.attempts += 1
        candidates = [
            one
            for one in self._timeline.sessions
            if one.id not in self.spent and eligible(one, workload, self._how, self._now)
        ]
        if not candidates:
            return None
        by_row: dict[int, list[Running]] = defaultdict(list)
        for one in sorted(candidates, key=lambda one: self._turn(later, one)):
            for row in self._timeline.parts[self._timeline.number[one.id]]:
                by_row[row].append(one)
        then, chosen, rows = later.copy(), list[Running](), list[int]()
        for demand in demands:
            found = self._room(then, demand, by_row, chosen)
            if found is None:
                return None
            row, gone = found
            for one in gone:
                self._timeline.free_one(then, one)
            chosen += gone
            self._take(then, row, demand)
            rows.append(row)
        for one in sorted(chosen, key=lambda one: self._turn(later, one), reverse=True):
            fewer = [other for other in chosen if other is not one]
            other_rows = self._rows_without(later, fewer, demands)
            if other_rows is not None:
                chosen, rows = fewer, other_rows
        for one in chosen:
            self._timeline.free_one(later, one)
        self.spent |= {one.id for one in chosen}
        return chosen, rows

    def _turn(self, fleet: Fleet, one: Running) -> tuple[int, float, str]:
        """Who goes first: the least."""
        found = self._turns.get(one.id)
        if found is None:
            found = self._turns[one.id] = (one.job_priority, self._key(fleet, one), str(one.id))
        return found

    def _key(self, fleet: Fleet, one: Running) -> float:
        match self._how.order:
            case PreemptionOrder.OLDEST:
                return one.started_at.timestamp()
            case PreemptionOrder.NEWEST:
                return -one.started_at.timestamp()
        held = sum((fleet.row_of(held.slots) for held in one.held), np.zeros(len(fleet.columns), np.int64))
        size = float((held / np.maximum(fleet.capacity.sum(axis=0), 1)).max(initial=0.0))
        return size if self._how.order is PreemptionOrder.SMALLEST else -size

    def _room(
        self,
        then: Fleet,
        demand: Demand,
        by_row: dict[int, list[Running]],
        chosen: Sequence[Running],
    ) -> tuple[int, list[Running]] | None:
        """A row for the demand, and who has to leave it. Rows are looked at in the order of who would go first there, and no further than
        one can be better: each lets at least one go, who is not before its first."""
        spot = Placer(then, BestFit()).find(demand)
        if spot is not None:
            return spot.row, []
        right = allowed(then, demand)
        gone = {one.id for one in chosen}
        best: tuple[tuple[float, ...], int, list[Running]] | None = None
        fewest = self._how.order is PreemptionOrder.FEWEST
        for row in sorted(by_row, key=lambda row: (self._turn(then, by_row[row][0]), row)):
            if not right[row]:
                continue
            lowest, key, _ = self._turn(then, by_row[row][0])
            least: tuple[float, ...] = (1, lowest, key) if fewest else (lowest, 1, key)
            if best is not None and best[0] <= least:
                break
            leaving = self._leaving(then, demand, row, [one for one in by_row[row] if one.id not in gone])
            if leaving is None:
                continue
            highest, many = max(one.job_priority for one in leaving), len(leaving)
            last = max(self._turn(then, one)[1] for one in leaving)
            cost: tuple[float, ...] = (many, highest, last) if fewest else (highest, many, last)
            if best is None or cost < best[0]:
                best = (cost, row, leaving)
        return None if best is None else best[1:]

    def _leaving(
        self, then: Fleet, demand: Demand, row: int, candidates: Sequence[Running]
    ) -> list[Running] | None:
        def enough(leaving: Sequence[Running]) -> bool:
            parts = [self._timeline.parts[self._timeline.number[one.id]][row] for one in leaving]
            free = then.free[row] + sum(slots for slots, _ in parts)
            return fits(then, demand, row, free, then.devices[row] + sum(devices for _, devices in parts))

        leaving = list(candidates)
        for many in range(1, len(candidates) + 1):
            if enough(leaving[:many]):
                leaving = leaving[:many]
                break
        else:
            return None
        for one in leaving[-2::-1]:
            fewer = [other for other in leaving if other is not one]
            if enough(fewer):
                leaving = fewer
        return leaving

    def _rows_without(
        self, later: Fleet, gone: Sequence[Running], demands: Sequence[Demand]
    ) -> list[int] | None:
        """Rows for all demands, once these are gone."""
        fleet = later.copy()
        for one in gone:
            self._timeline.free_one(fleet, one)
        placer, rows = Placer(fleet, BestFit()), list[int]()
        for demand in demands:
            taken = placer.place(demand)
            if taken is None:
                return None
            rows.append(taken.row)
        return rows

    def _take(self, fleet: Fleet, row: int, demand: Demand) -> None:
        device = BestFit().score(fleet, demand, np.array([row]))[1] if demand.share else [-1]
        fleet.take(row, demand, int(device[0]))
