"""In which order a group's workloads are looked at: by priority, and within it by the group's order.

*drf*: those users first whose dominant share, the largest fraction of any slot of the group that they hold, is lowest (Ghodsi et al.,
"Dominant Resource Fairness", NSDI 2011); what this order itself lets ahead counts as held. *fair-share*: those first who, and whose
project and domain, have used less lately (`Share.factors`). Ties, and the other orders, go by age; then by id, so that the order of the
snapshot never matters.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from ai.backend.common.quantity import ResourceSlots, sum_slots

from .model import Group, Order, Share, Snapshot, Workload


def order(group: Group, workloads: Sequence[Workload], snapshot: Snapshot) -> Iterator[Workload]:
    bands: dict[int, list[Workload]] = defaultdict(list)
    for workload in workloads:
        bands[workload.priority].append(workload)
    shares = {share.user: share for share in snapshot.shares if share.resource_group == group.name}
    drf = _Drf(group, snapshot, shares) if group.order is Order.DRF else None
    for priority in sorted(bands, reverse=True):
        band = sorted(bands[priority], key=lambda workload: (workload.created_at, workload.id))
        match group.order:
            case Order.LIFO:
                band.sort(key=lambda workload: workload.created_at, reverse=True)
            case Order.FAIR_SHARE:
                band.sort(key=lambda workload: _unused(shares.get(workload.user)), reverse=True)
        yield from drf.order(band) if drf else band


def _unused(share: Share | None) -> tuple[float, float, float]:
    """Who has no record comes last: unknown is not the same as having used nothing."""
    return share.factors if share else (0.0, 0.0, 0.0)


class _Drf:
    def __init__(self, group: Group, snapshot: Snapshot, shares: dict[str, Share]) -> None:
        capacities = [agent.capacity for agent in snapshot.agents if agent.resource_group == group.name]
        self._capacity = sum_slots(capacities)
        self._held = {user: share.held.amounts() for user, share in shares.items()}

    def order(self, band: Iterable[Workload]) -> Iterator[Workload]:
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
