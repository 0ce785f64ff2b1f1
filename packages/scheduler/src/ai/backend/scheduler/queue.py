"""In which order a group's workloads are looked at: by priority, and within it as the group's queue says.

A queue is a plugin of the entry point group `backendai_scheduler_v10`: a class, or a function, that is made for each plan with what the
group is like (`View`) and has one method, `order`. It is given the workloads of one priority, the highest priority first, each time the
oldest of them first, and yields them all, each once, in the order in which they are to be tried. It must be as pure as the scheduler: the
same view and workloads give the same order, nothing that it is given is changed. `conformance.check` looks whether one is. A queue that
raises, or does not yield what it was given, is not followed: the group's workloads are looked at in the order of their age (`Fault`).

*drf*: those users first whose dominant share, the largest fraction of any slot of the group that they hold, is lowest (Ghodsi et al.,
"Dominant Resource Fairness", NSDI 2011); what this order itself lets ahead counts as held. *fair-share*: those first who, and whose
project and domain, have used less lately (`Share.factors`). Ties, and the other orders, go by age; then by id, so that the order of the
snapshot never matters.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Protocol
from uuid import UUID

from ai.backend.common.quantity import ResourceSlots, sum_slots

from .model import Fault, Group, Share, Snapshot, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a queue may go by. `shares`: by user, of those who hold or have used something in the group."""

    group: str
    capacity: ResourceSlots
    """Of all its agents together."""
    shares: Mapping[str, Share]
    now: datetime
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the group's administrator set for this queue."""


class Queue(Protocol):
    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        """`band`: workloads of one priority, the oldest first."""


Factory = Callable[[View], Queue]


class Fifo:
    def __init__(self, view: View) -> None:
        pass

    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        return band


class Lifo:
    def __init__(self, view: View) -> None:
        pass

    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        return sorted(band, key=lambda workload: workload.created_at, reverse=True)


class FairShare:
    def __init__(self, view: View) -> None:
        self._shares = view.shares

    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        return sorted(band, key=lambda workload: self._unused(workload.user), reverse=True)

    def _unused(self, user: str) -> tuple[float, float, float]:
        """Who has no record comes last: unknown is not the same as having used nothing."""
        share = self._shares.get(user)
        return share.factors if share else (0.0, 0.0, 0.0)


class Drf:
    def __init__(self, view: View) -> None:
        self._capacity = view.capacity
        self._held = {user: share.held.amounts() for user, share in view.shares.items()}

    def order(self, band: Sequence[Workload]) -> Iterator[Workload]:
        waiting: dict[str, list[Workload]] = defaultdict(list)
        for workload in band:
            waiting[workload.user].append(workload)
        heads = [
            (self._dominant(user), mine[0].created_at, mine[0].id, user, 0) for user, mine in waiting.items()
        ]
        heapq.heapify(heads)
        while heads:
            _, _, _, user, place = heapq.heappop(heads)
            workload = waiting[user][place]
            yield workload
            held = self._held.setdefault(user, {})
            for kernel in workload.kernels:
                for name, amount in kernel.slots.items():
                    held[name] = held.get(name, 0) + amount
            if place + 1 < len(waiting[user]):
                following = waiting[user][place + 1]
                entry = (self._dominant(user), following.created_at, following.id, user, place + 1)
                heapq.heappush(heads, entry)

    def _dominant(self, user: str) -> float:
        held = ResourceSlots(self._held.get(user))
        return max(
            (amount / self._capacity[name] for name, amount in held.items() if self._capacity[name]),
            default=0.0,
        )


QUEUES: Mapping[str, Factory] = {"fifo": Fifo, "lifo": Lifo, "drf": Drf, "fair-share": FairShare}
"""The scheduler's own, by the names of their entry points."""


def check_queue(loaded: object) -> str:
    """What is wrong with something that is to be a queue's factory; empty: nothing that can be seen from outside."""
    if not callable(loaded):
        return "it is neither a class nor a function"
    empty = View(group="", capacity=ResourceSlots(), shares={}, now=datetime.min.replace(tzinfo=UTC))
    return "" if callable(getattr(loaded(empty), "order", None)) else "what it makes has no method 'order'"


def order(
    group: Group, ranks: Sequence[Sequence[Workload]], snapshot: Snapshot
) -> tuple[Sequence[Workload], Fault | None]:
    """All workloads of the ranks, rank by rank, and what was wrong with the group's queue if it is not followed. One queue orders them all:
    what it lets ahead in one rank counts in the next."""
    by_age: list[list[Workload]] = []
    for rank in ranks:
        bands: dict[int, list[Workload]] = defaultdict(list)
        for workload in sorted(rank, key=lambda workload: (workload.created_at, workload.id)):
            bands[workload.priority].append(workload)
        by_age += [bands[priority] for priority in sorted(bands, reverse=True)]
    view = View(
        group=group.name,
        capacity=sum_slots([one.capacity for one in snapshot.agents if one.resource_group == group.name]),
        shares={share.user: share for share in snapshot.shares if share.resource_group == group.name},
        now=snapshot.now,
        options=group.queue_options,
    )
    found: list[Workload] = []
    try:
        queue = (group.queue or QUEUES[group.order])(view)
        for band in by_age:
            given = {one.id: one for one in band}
            # One more than there are is enough to see that it never ends. And what it made of them is of no interest: only their order.
            ordered = [one.id for one in islice(queue.order(tuple(band)), len(band) + 1)]
            problem = _problem(given, ordered)
            if problem:
                return _plain(by_age), Fault(group=group.name, queue=group.order, message=problem)
            found += [given[one] for one in ordered]
    except (Exception, SystemExit) as exc:
        message = f"{type(exc).__name__}: {exc}"
        return _plain(by_age), Fault(group=group.name, queue=group.order, message=message)
    return found, None


def _plain(bands: Iterable[Sequence[Workload]]) -> list[Workload]:
    return [workload for band in bands for workload in band]


def _problem(given: Collection[UUID], ordered: Sequence[UUID]) -> str:
    """What is wrong with an order; empty: nothing."""
    if set(ordered) - set(given):
        return "it yielded workloads that it was not given"
    if len(ordered) > len(given) or len(set(ordered)) < len(ordered):
        return "it yielded a workload twice"
    return "" if len(ordered) == len(given) else "it left workloads out"
