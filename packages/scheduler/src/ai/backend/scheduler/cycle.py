"""One scheduling cycle: snapshot -> plan. Deterministic, and each resource group by itself:

1. *Order* the group's workloads, as its queue says (`queue`).
2. *Admit* a workload only within the limits of its keypair, user, project and domain, counting what this plan has started already, in
   whatever group (`limit`). One that is refused by its own limits holds up nobody behind it.
3. *Filter* the agents for each of a workload's kernels (for all of them together, if they must share a node), *score* what is left by the
   group's strategy, and take the best (`placer`).
4. *Reserve* it in the fleet. A workload whose kernels cannot all be placed gives back what it reserved (all or nothing).
5. *Explain* why a workload is refused (`explain`).
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from ai.backend.common.quantity import ResourceSlots, sum_slots

from .demand import WHOLE, Demand
from .explain import Finding, finding_of, refusal_of
from .fleet import Fleet, Taken
from .fragmentation import Fragmentation
from .limit import Limits, limited
from .model import Group, KernelRequest, Placement, Plan, Refusal, Selection, Snapshot, Start, Workload
from .packing import Concentrated, Dispersed, RoundRobin
from .placer import Placer, Strategy
from .queue import order


class Unit(NamedTuple):
    """Kernels that go to one agent together."""

    kernels: tuple[KernelRequest, ...]
    demand: Demand


def plan(snapshot: Snapshot) -> Plan:
    """What starts now and where, and why the rest does not."""
    groups = {group.name: group for group in snapshot.groups}
    waiting: dict[str, list[Workload]] = defaultdict(list)
    for workload in snapshot.workloads:
        waiting[workload.resource_group].append(workload)
    limits = Limits(snapshot.limits)
    starts: list[Start] = []
    refusals: list[Refusal] = []
    for name in sorted(waiting):
        group = groups.get(name, Group(name=name))
        cycle = _Cycle(group, snapshot, limits)
        for workload in order(group, waiting[name], snapshot):
            outcome = cycle.place(workload)
            if isinstance(outcome, Start):
                starts.append(outcome)
            else:
                refusals.append(outcome)
    return Plan(starts=tuple(starts), refusals=tuple(refusals))


class _Cycle:
    """One group's agents while a plan is made for them."""

    def __init__(self, group: Group, snapshot: Snapshot, limits: Limits) -> None:
        agents = [agent for agent in snapshot.agents if agent.resource_group == group.name]
        self._fleet = Fleet(sorted(agents, key=lambda agent: agent.id))
        self._placer = Placer(self._fleet, strategy_of(group, self._fleet, snapshot))
        self._limits = limits
        self._anywhere = len(snapshot.agents)
        self._refused: dict[Demand, Finding] = {}
        """Nothing gets free while a plan is made, so what fitted nowhere does not fit now."""
        self._demands: dict[object, Demand] = {}
        self._position = 0

    def place(self, workload: Workload) -> Start | Refusal:
        excesses = self._limits.over(workload)
        if excesses:
            self._position += 1
            return limited(workload, excesses, self._position)
        held: list[tuple[Unit, Taken]] = []
        for unit in self._units(workload):
            taken = None if unit.demand in self._refused else self._placer.place(unit.demand)
            if taken is None:
                finding = self._refused.get(unit.demand)
                if finding is None:
                    finding = finding_of(self._fleet, unit.demand, anywhere=self._anywhere)
                    if not held:
                        self._refused[unit.demand] = finding
                for _, other in held:
                    self._fleet.give_back(other)
                self._position += 1
                return refusal_of(workload, finding, self._position)
            held.append((unit, taken))
        placements = tuple(
            Placement(kernel_id=kernel.id, agent_id=self._fleet.agents[taken.row].id)
            for unit, taken in held
            for kernel in unit.kernels
        )
        self._limits.take(workload)
        return Start(workload_id=workload.id, version=workload.version, placements=placements)

    def _units(self, workload: Workload) -> list[Unit]:
        kernels = [workload.kernels] if workload.single_node else [(kernel,) for kernel in workload.kernels]
        return [Unit(unit, self._demand(unit, workload.resource_group)) for unit in kernels]

    def _demand(self, kernels: tuple[KernelRequest, ...], resource_group: str) -> Demand:
        key = tuple((one.slots, one.image, one.architecture, one.models, one.agent_id) for one in kernels)
        found = self._demands.get(key)
        if found is None:
            found = self._demands[key] = demand_of(kernels, resource_group, self._fleet.families)
        return found


def strategy_of(group: Group, fleet: Fleet, snapshot: Snapshot) -> Strategy:
    match group.selection:
        case Selection.CONCENTRATED:
            return Concentrated(group.slot_priority)
        case Selection.DISPERSED:
            return Dispersed(group.slot_priority)
        case Selection.ROUND_ROBIN:
            return RoundRobin(fleet.row.get(group.last_agent_id, -1))
        case Selection.FRAGMENTATION:
            return Fragmentation(fleet, snapshot.mix)


def demand_of(kernels: Sequence[KernelRequest], resource_group: str, families: Sequence[str]) -> Demand:
    """Amounts of slots like `cuda.device` and `cuda.shares` are looked at by device, where agents tell their devices of that family and
    the amount is a number of whole ones or a share of one. All others, and those too, are amounts in a heap."""
    slots = sum_slots([kernel.slots for kernel in kernels])
    chosen = {kernel.agent_id for kernel in kernels if kernel.agent_id}
    family, devices, share = _devices(slots, families)
    return Demand(
        slots=slots,
        devices=devices,
        share=share,
        family=family,
        models=frozenset().union(*(kernel.models for kernel in kernels)),
        resource_group=resource_group,
        architecture=frozenset(kernel.architecture for kernel in kernels),
        images=frozenset(kernel.image for kernel in kernels),
        chosen=next(iter(sorted(chosen)), ""),
    )


def _devices(slots: ResourceSlots, families: Sequence[str]) -> tuple[str, int, int]:
    for name, amount in slots.items():
        family, _, kind = name.partition(".")
        if family in families and kind in ("device", "shares"):
            if amount % WHOLE == 0:
                return family, amount // WHOLE, 0
            if amount < WHOLE:
                return family, 0, amount
    return "", 0, 0
