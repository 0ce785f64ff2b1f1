"""What gets free, where, and in which order: the sessions that run, as they will end.

First come those that are ending already, then those whose end is known, by it; an end that is overdue is to be expected now. Those of which
nothing is known come last, the longest running first, so that who starts meanwhile never comes before who runs.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from functools import cached_property

import numpy as np

from .fleet import Fleet, Ints, Rows
from .model import Running


class Timeline:
    """Attributes:
    sessions: in the order of their ends.
    ending: how many of them are ending already.
    """

    def __init__(self, fleet: Fleet, running: Iterable[Running], now: datetime) -> None:
        self._now = now
        self._width = fleet.devices.shape[1]
        self.sessions = sorted(running, key=self._place)
        self.ending = sum(one.ending for one in self.sessions)
        self.number = {one.id: number for number, one in enumerate(self.sessions)}
        session, row, amounts = [], [], []
        by_device: list[tuple[int, int, int, int]] = []
        slots: dict[object, Ints] = {}
        places: dict[int, dict[str, int]] = {}
        for number, one in enumerate(self.sessions):
            for held in one.held:
                where = fleet.row.get(held.agent_id)
                if where is None:
                    continue
                if held.slots not in slots:
                    slots[held.slots] = fleet.row_of(held.slots)
                session.append(number)
                row.append(where)
                amounts.append(slots[held.slots])
                for device, milli in held.devices:
                    if where not in places:
                        places[where] = {d.id: place for place, d in enumerate(fleet.agents[where].devices)}
                    if device in places[where]:
                        by_device.append((number, where, places[where][device], milli))
        self._session: Rows = np.array(session, np.intp)
        self._row: Rows = np.array(row, np.intp)
        self._amounts: Ints = np.array(amounts, np.int64).reshape(len(row), len(fleet.columns))
        self._device: Ints = np.array(by_device, np.int64).reshape(len(by_device), 4)

    def _place(self, one: Running) -> tuple[int, datetime, datetime, str]:
        if one.ending:
            return 0, self._now, one.started_at, str(one.id)
        if one.ends_at is not None:
            return 1, max(one.ends_at, self._now), one.started_at, str(one.id)
        return 2, one.started_at, one.started_at, str(one.id)

    def at(self, many: int) -> datetime | None:
        """When the first `many` have ended; None: it is not known."""
        if many <= self.ending:
            return self._now
        last = self.sessions[many - 1]
        return None if last.ends_at is None else max(last.ends_at, self._now)

    def free_first(self, fleet: Fleet, many: int) -> None:
        """Gives back what the first `many` hold."""
        upto = int(np.searchsorted(self._session, many))
        np.add.at(fleet.free, self._row[:upto], self._amounts[:upto])
        upto = int(np.searchsorted(self._device[:, 0], many))
        self._free_devices(fleet, self._device[:upto])

    def free_one(self, fleet: Fleet, session: Running) -> None:
        """Gives back what one of them holds, wherever."""
        number = self.number[session.id]
        mine = self._session == number
        np.add.at(fleet.free, self._row[mine], self._amounts[mine])
        self._free_devices(fleet, self._device[self._device[:, 0] == number])
        fleet.changes += self._row[mine].tolist()

    @cached_property
    def parts(self) -> dict[int, dict[int, tuple[Ints, Ints]]]:
        """What each session (by number) holds of each row: slots, and milli by device."""
        found: dict[int, dict[int, tuple[Ints, Ints]]] = defaultdict(dict)
        for number, row, amounts in zip(
            self._session.tolist(), self._row.tolist(), self._amounts, strict=True
        ):
            slots, devices = found[number].get(row, (0, np.zeros(self._width, np.int64)))
            found[number][row] = (slots + amounts, devices)
        for number, row, place, milli in self._device.tolist():
            found[number][row][1][place] += milli
        return found

    def _free_devices(self, fleet: Fleet, given: Ints) -> None:
        np.add.at(fleet.devices, (given[:, 1], given[:, 2]), given[:, 3])
