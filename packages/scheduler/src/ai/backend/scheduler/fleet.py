"""The agents of a snapshot as matrices of integers, so that a question is put to all of them at once.

A row is an agent, a column a slot or a device. Taking and giving back is exact; each change is noted, so that others know what they have to
look at again. Usage is summed from the snapshot's rows: nothing else keeps sums.

Devices may be of several kinds (family and model) on one agent; a demand sees those that suit it.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ai.backend.common.quantity import ResourceSlots

from .demand import WHOLE, Demand
from .model import AgentView

Ints = NDArray[np.int64]
Rows = NDArray[np.intp]
Bools = NDArray[np.bool_]


class Taken(NamedTuple):
    """What a demand holds of an agent, to give back: the devices by number, and how much of each."""

    row: int
    demand: Demand
    devices: tuple[int, ...]


class Fleet:
    """Attributes:
    agents: by row.
    free: amounts of each agent's slots, by `columns`.
    devices: milli that are free of each device; 0 where there is none.
    kind: of each device, by `kinds` (family, model); -1 where there is none.
    changes: the rows that changed, in order; it only grows.
    scale: the most that any agent has of each slot.
    """

    def __init__(self, agents: Sequence[AgentView]) -> None:
        self.agents = list(agents)
        self.row = {agent.id: number for number, agent in enumerate(self.agents)}
        names = {str(name) for agent in self.agents for name in (*agent.capacity, *agent.occupied)}
        self.columns = {name: number for number, name in enumerate(sorted(names))}
        rows, width = len(self.agents), max((len(agent.devices) for agent in self.agents), default=0)
        self.capacity = np.zeros((rows, len(self.columns)), np.int64)
        self.free = np.zeros((rows, len(self.columns)), np.int64)
        self.devices = np.zeros((rows, width), np.int64)
        self.changes: list[int] = []
        self.kinds = sorted({(d.family, d.model) for agent in self.agents for d in agent.devices})
        number_of = {kind: number for number, kind in enumerate(self.kinds)}
        self.kind = np.full((rows, width), -1, np.int64)
        self.families = sorted({family for family, _ in self.kinds})
        for number, agent in enumerate(self.agents):
            for name, amount in agent.capacity.items():
                self.capacity[number, self.columns[name]] = amount
            self.free[number] = self.capacity[number]
            for name, amount in agent.occupied.items():
                self.free[number, self.columns[name]] -= amount
            for place, device in enumerate(agent.devices):
                self.devices[number, place] = device.free
                self.kind[number, place] = number_of[device.family, device.model]
        self._mixed = any(len({(d.family, d.model) for d in agent.devices}) > 1 for agent in self.agents)
        self.scale = np.maximum(self.capacity.max(axis=0, initial=1), 1).astype(float)
        self._amounts: dict[Demand, Ints] = {}

    def copy(self) -> "Fleet":
        """As it is now, to be changed apart."""
        other = copy.copy(self)
        other.free, other.devices, other.changes = self.free.copy(), self.devices.copy(), []
        return other

    def row_of(self, slots: ResourceSlots) -> Ints:
        """Amounts by `columns`; slots that no agent has are left out."""
        found = np.zeros(len(self.columns), np.int64)
        for name, amount in slots.items():
            if name in self.columns:
                found[self.columns[name]] = amount
        return found

    def amounts(self, demand: Demand) -> Ints:
        """A row of `columns`; slots that no agent has are left out: see `lacking`."""
        found = self._amounts.get(demand)
        if found is None:
            found = self._amounts[demand] = self.row_of(demand.slots)
        return found

    def lacking(self, slots: ResourceSlots) -> bool:
        """Whether no agent has even heard of a slot that is asked for."""
        return any(name not in self.columns for name in slots)

    def right(self, demand: Demand) -> Bools:
        """Of each kind of device, and last of none, whether it suits."""
        of_kind = [
            family == demand.family and (not demand.models or model in demand.models)
            for family, model in self.kinds
        ]
        return np.array([*of_kind, False])

    def devices_for(self, demand: Demand, rows: Rows) -> Ints:
        """What is free of the devices of these rows; of those that don't suit, nothing. The rows have some that do."""
        devices = self.devices[rows]
        return np.where(self.right(demand)[self.kind[rows]], devices, 0) if self._mixed else devices

    def free_of(self, row: int) -> ResourceSlots:
        return ResourceSlots({name: int(self.free[row, place]) for name, place in self.columns.items()})

    def take(self, row: int, demand: Demand, device: int = -1) -> Taken:
        """Reserves; `device` is the one that a share is taken of, the first of several. The caller has checked that it fits."""
        amounts = self.amounts(demand)
        self.free[row] -= amounts
        assert ((self.free[row] >= 0) | (amounts == 0)).all(), "reserved more than is free"
        devices: tuple[int, ...] = ()
        if demand.share:
            devices = self._take_shares(row, demand, device)
        elif demand.devices:
            idle = np.nonzero(self.devices_for(demand, np.array([row]))[0] == WHOLE)[0].tolist()
            devices = self._near(row, idle, demand.devices)
            self.devices[row, list(devices)] = 0
            assert len(devices) == demand.devices, "reserved more devices than are free"
        assert not devices or self.devices[row].min() >= 0, "reserved more of a device than is free"
        self.changes.append(row)
        return Taken(row, demand, devices)

    def _take_shares(self, row: int, demand: Demand, device: int) -> tuple[int, ...]:
        """After the first one, each of the device with the least left that can give it."""
        devices = []
        for _ in range(demand.times):
            devices.append(device)
            self.devices[row, device] -= demand.share
            if len(devices) < demand.times:
                left = self.devices_for(demand, np.array([row]))[0]
                device = int(np.where(left >= demand.share, left, np.iinfo(np.int64).max).argmin())
        return tuple(devices)

    def _near(self, row: int, idle: list[int], many: int) -> tuple[int, ...]:
        """So many of the idle devices, near each other if that can be: of the NUMA node where the fewest are left over."""
        of_node = Counter(self.agents[row].devices[place].numa_node for place in idle)
        if len(of_node) < 2:
            return tuple(idle[:many])

        def turn(place: int) -> tuple[bool, int, int]:
            node = self.agents[row].devices[place].numa_node
            there = of_node[node] if node >= 0 else 0
            return there < many, there if there >= many else -there, node

        return tuple(sorted(idle, key=turn)[:many])

    def give_back(self, taken: Taken) -> None:
        row, demand, devices = taken
        self.free[row] += self.amounts(demand)
        for device in devices:
            self.devices[row, device] += demand.share or WHOLE
        self.changes.append(row)
