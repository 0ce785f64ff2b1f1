"""One scheduling cycle: snapshot -> plan. Deterministic, and each resource group by itself:

1. *Order* the group's workloads, as its queue says (`queue`). Where the group preempts, those that others were told to make room for come
   before all, and then a higher job priority before a lower one: nobody starts to be preempted by who waits already.
2. *Admit* a workload only within the limits of its keypair, user, project and domain, counting what this plan has started already, in
   whatever group (`limit`). One that is refused by its own limits holds up nobody behind it.
3. *Filter* the agents for each of a workload's kernels (for all of them together, if they must share a node), *score* what is left by the
   group's strategy, and take the best (`placer`).
4. *Reserve* it in the fleet. A workload whose kernels cannot all be placed gives back what it reserved (all or nothing).
5. *Preempt*, where the group allows it: running sessions of a lower job priority are told to make room, which is held for the workload
   until they are gone (`preempt`).
6. *Backfill*: one that has waited long gets a reservation; those behind it take what cannot delay it (`reserve`).
7. *Explain* why a workload is refused (`explain`).
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

from ai.backend.common.quantity import sum_slots

from .demand import WHOLE, Demand, devices_of
from .explain import Finding, finding_of, held_for_another, making_room, refusal_of, reserved
from .fleet import Fleet, Taken
from .fragmentation import Fragmentation
from .limit import Limits, limited
from .model import (
    Fault,
    Group,
    KernelRequest,
    Placement,
    Plan,
    Refusal,
    Reservation,
    Rule,
    Selection,
    Snapshot,
    Start,
    Victim,
    Workload,
)
from .packing import Concentrated, Dispersed, RoundRobin
from .placer import Placer, Strategy
from .preempt import ATTEMPTS_MAX, Preemptor
from .queue import order
from .reserve import RESERVATIONS_MAX, Place, Reservations

SHORT_OF_ROOM = frozenset({Rule.SLOTS, Rule.DEVICES, Rule.HELD})


class Unit(NamedTuple):
    """Kernels that go to one agent together."""

    kernels: tuple[KernelRequest, ...]
    demand: Demand


Held = list[tuple[Unit, Taken]]


def plan(snapshot: Snapshot) -> Plan:
    """What starts now and where, who makes room, and why the rest waits."""
    groups = {group.name: group for group in snapshot.groups}
    waiting: dict[str, list[Workload]] = defaultdict(list)
    for workload in snapshot.workloads:
        waiting[workload.resource_group].append(workload)
    limits = Limits(snapshot.limits)
    starts: list[Start] = []
    refusals: list[Refusal] = []
    victims: list[Victim] = []
    reservations: list[Reservation] = []
    faults: list[Fault] = []
    for name in sorted(waiting):
        group = groups.get(name, Group(name=name))
        cycle = _Cycle(group, snapshot, limits)
        in_turn, fault = _in_turn(group, waiting[name], snapshot)
        faults += [fault] if fault else []
        for workload in in_turn:
            outcome = cycle.place(workload)
            if isinstance(outcome, Start):
                starts.append(outcome)
            else:
                refusals.append(outcome)
        victims += cycle.victims
        reservations += cycle.reservations
    return Plan(
        starts=tuple(starts),
        refusals=tuple(refusals),
        victims=tuple(victims),
        reservations=tuple(reservations),
        faults=tuple(faults),
    )


def _in_turn(
    group: Group, workloads: Sequence[Workload], snapshot: Snapshot
) -> tuple[Sequence[Workload], Fault | None]:
    if group.preemption is None:
        return order(group, [workloads], snapshot)
    ranks: dict[tuple[bool, int], list[Workload]] = defaultdict(list)
    for workload in workloads:
        ranks[workload.preempting, workload.job_priority].append(workload)
    return order(group, [ranks[rank] for rank in sorted(ranks, reverse=True)], snapshot)


def may_reserve(workload: Workload, group: Group, snapshot: Snapshot) -> bool:
    """Has it waited long enough?"""
    return snapshot.now - workload.created_at >= timedelta(seconds=group.reserve_after_s)


def looks_at_running(made: Plan, snapshot: Snapshot) -> bool:
    """Whether a plan that was made without knowing what runs would be another one with that knowledge."""
    groups = {group.name: group for group in snapshot.groups}
    workloads = {one.id: one for one in snapshot.workloads}
    for refusal in made.refusals:
        if refusal.rule in SHORT_OF_ROOM:
            workload = workloads[refusal.workload_id]
            group = groups.get(workload.resource_group, Group(name=workload.resource_group))
            if group.preemption is not None or may_reserve(workload, group, snapshot):
                return True
    return False


class _Cycle:
    """One group's agents while a plan is made for them."""

    def __init__(self, group: Group, snapshot: Snapshot, limits: Limits) -> None:
        agents = [agent for agent in snapshot.agents if agent.resource_group == group.name]
        self._group = group
        self._snapshot = snapshot
        self._fleet = Fleet(sorted(agents, key=lambda agent: agent.id))
        self._placer = Placer(self._fleet, strategy_of(group, self._fleet))
        self._limits = limits
        self._anywhere = len(snapshot.agents)
        self._refused: dict[Demand, Finding] = {}
        """While a plan is made nothing gets free that everybody may have, so what fitted nowhere does not fit now."""
        self._demands: dict[object, Demand] = {}
        self._position = 0
        running = [one for one in snapshot.running if one.resource_group == group.name]
        self._known = bool(running)
        """Whether anything is known that may end."""
        self._room = Reservations(self._fleet, running, snapshot.now)
        self._preemptor: Preemptor | None = None
        self._hopeless: set[tuple[Demand, ...]] = set()
        """What would fit nowhere even if all sessions ended."""
        self._tried: set[tuple[tuple[Demand, ...], int, int]] = set()
        """What fits nowhere for a while either: demands, and how much there was to be tried."""
        self.victims: list[Victim] = []
        self.reservations: list[Reservation] = []

    def place(self, workload: Workload) -> Start | Refusal:
        excesses = self._limits.over(workload)
        if excesses:
            self._position += 1
            return limited(workload, excesses, self._position)
        units = self._units(workload)
        avoid = [self._fleet.row[agent] for agent in workload.avoid if agent in self._fleet.row]
        outcome = self._take(units, avoid)
        if isinstance(outcome, Finding) and self._room.many and workload.run_time_s is not None:
            outcome = self._take_for_a_while(units, avoid, workload.run_time_s) or outcome
        if isinstance(outcome, Finding):
            self._position += 1
            return refusal_of(workload, self._wait(workload, units, outcome), self._position)
        placements = tuple(
            placement for unit, taken in outcome for placement in _placed(self._fleet, unit, taken)
        )
        self._limits.take(workload)
        return Start(workload_id=workload.id, version=workload.version, placements=placements)

    def _take(self, units: Sequence[Unit], avoid: Collection[int]) -> Held | Finding:
        """All of them, or why the first that fits nowhere does not."""
        held: Held = []
        for unit in units:
            finding = self._refused.get(unit.demand)
            taken = self._placer.place(unit.demand, avoid) if finding is None else None
            if taken is None:
                if finding is None:
                    finding = self._finding(unit.demand)
                    if not held:
                        self._refused[unit.demand] = finding
                for _, other in held:
                    self._fleet.give_back(other)
                return finding
            held.append((unit, taken))
        return held

    def _finding(self, demand: Demand) -> Finding:
        finding = finding_of(self._fleet, demand, anywhere=self._anywhere)
        if not self._room.many or finding.rule not in SHORT_OF_ROOM:
            return finding
        spot = Placer(self._room.unheld(), self._placer.strategy).find(demand)
        return finding if spot is None else held_for_another(finding, self._fleet.agents[spot.row])

    def _take_for_a_while(
        self, units: Sequence[Unit], avoid: Collection[int], run_time_s: int
    ) -> Held | None:
        """On what is held for others who come only after it has ended."""
        demands = tuple(unit.demand for unit in units)
        held: Held = []
        with self._room.lifted(self._snapshot.now + timedelta(seconds=run_time_s)) as places:
            tried = (demands, self._room.many, places)
            if not places or tried in self._tried:
                return None
            for unit in units:
                taken = self._placer.place(unit.demand, avoid)
                if taken is None:
                    self._tried.add(tried)
                    for _, other in held:
                        self._fleet.give_back(other)
                    return None
                held.append((unit, taken))
        return held

    def _wait(self, workload: Workload, units: Sequence[Unit], finding: Finding) -> Finding:
        """It waits; perhaps others make room for it, or it gets a reservation."""
        demands = tuple(unit.demand for unit in units)
        if finding.rule not in SHORT_OF_ROOM or not self._known or demands in self._hopeless:
            return finding
        before = len(self.victims)
        place = self._preempt(workload, demands)
        if place is not None:
            self._keep(workload, units, place)
            return making_room(finding, self._names(place), len(self.victims) - before)
        if self._room.many >= RESERVATIONS_MAX or not may_reserve(workload, self._group, self._snapshot):
            return finding
        place = self._room.reserve(demands)
        if place is None:
            self._hopeless.add(demands)
            return finding
        self._keep(workload, units, place)
        return reserved(finding, self._names(place), place.at)

    def _preempt(self, workload: Workload, demands: tuple[Demand, ...]) -> Place | None:
        """The place that those leave who are told to make room for it, or were told before."""
        how, now = self._group.preemption, self._snapshot.now
        if how is None:
            return None
        if self._preemptor is None:
            self._preemptor = Preemptor(self._room.timeline, how, now)
        if self._preemptor.attempts >= ATTEMPTS_MAX:
            return None
        later = self._room.later(self._room.timeline.ending)
        found = self._preemptor.victims(workload, demands, later)
        if found is None:
            return None
        gone, rows = found
        self.victims += [
            Victim(session_id=one.id, version=one.version, mode=how.mode, workload_id=workload.id)
            for one in gone
        ]
        return self._room.hold(demands, rows, later, now)

    def _keep(self, workload: Workload, units: Sequence[Unit], place: Place) -> None:
        placements = tuple(
            Placement(kernel_id=kernel.id, agent_id=self._fleet.agents[row].id)
            for unit, row in zip(units, place.rows, strict=True)
            for kernel in unit.kernels
        )
        self.reservations.append(Reservation(workload_id=workload.id, placements=placements, at=place.at))

    def _names(self, place: Place) -> list[str]:
        return [self._fleet.agents[row].id for row in sorted(set(place.rows))]

    def _units(self, workload: Workload) -> list[Unit]:
        kernels = [workload.kernels] if workload.single_node else [(kernel,) for kernel in workload.kernels]
        return [Unit(unit, self._demand(unit, workload.resource_group)) for unit in kernels]

    def _demand(self, kernels: tuple[KernelRequest, ...], resource_group: str) -> Demand:
        key = tuple((one.slots, one.image, one.architecture, one.models, one.agent_id) for one in kernels)
        found = self._demands.get(key)
        if found is None:
            found = self._demands[key] = demand_of(kernels, resource_group, self._fleet.families)
        return found


def _placed(fleet: Fleet, unit: Unit, taken: Taken) -> Iterator[Placement]:
    """Each kernel of the unit with its part of the devices."""
    agent, many = fleet.agents[taken.row], len(unit.kernels)
    milli = unit.demand.share or WHOLE
    for number, kernel in enumerate(unit.kernels):
        mine = taken.devices[number * len(taken.devices) // many : (number + 1) * len(taken.devices) // many]
        devices = tuple((agent.devices[place].id, milli) for place in sorted(mine))
        yield Placement(kernel_id=kernel.id, agent_id=agent.id, devices=devices)


def strategy_of(group: Group, fleet: Fleet) -> Strategy:
    match group.selection:
        case Selection.CONCENTRATED:
            return Concentrated(group.slot_priority)
        case Selection.DISPERSED:
            return Dispersed(group.slot_priority)
        case Selection.ROUND_ROBIN:
            return RoundRobin(fleet.row.get(group.last_agent_id, -1))
        case Selection.FRAGMENTATION:
            return Fragmentation(fleet, group.mix)


def demand_of(kernels: Sequence[KernelRequest], resource_group: str, families: Sequence[str]) -> Demand:
    """Amounts of slots like `cuda.device` and `cuda.shares` are looked at by device, where agents tell their devices of that family and
    the amount is a number of whole ones or a share of one, the same for each kernel. All others, and those too, are amounts in a heap."""
    slots = sum_slots([kernel.slots for kernel in kernels])
    chosen = {kernel.agent_id for kernel in kernels if kernel.agent_id}
    asked = {devices_of(kernel.slots, families) for kernel in kernels}
    family, devices, share = asked.pop() if len(asked) == 1 else ("", 0, 0)
    return Demand(
        slots=slots,
        devices=devices * len(kernels),
        share=share,
        times=len(kernels) if share else 1,
        family=family,
        models=frozenset().union(*(kernel.models for kernel in kernels)),
        resource_group=resource_group,
        architecture=frozenset(kernel.architecture for kernel in kernels),
        images=frozenset(kernel.image for kernel in kernels),
        chosen=next(iter(sorted(chosen)), ""),
    )
