"""Gives a node's resources to kernels. Pure: what is held is an argument, so there are no counters that could drift.

CPU is counted exactly, in thousandths. A kernel that asks for whole CPUs, fewer than the node has, is bound to the least bound cores: so
programs that look see as many as they may use. As long as no more is given than there is, such kernels never share a core.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from ai.backend.common.quantity import CPU, MEM, MILLI, format_amount

from .model import Allocation, Capacity, InsufficientResources


def allocate(capacity: Capacity, held: Iterable[Allocation], slots: Mapping[str, int]) -> Allocation:
    """Resources and a uid for one more kernel that asks for `slots` (milli-CPUs, bytes).

    Raises InsufficientResources for more than is left, or for a slot that this node has none of.
    """
    taken = list(held)
    left = {
        str(CPU): capacity.cpu_milli - sum(one.cpu_milli for one in taken),
        str(MEM): capacity.memory_bytes - sum(one.memory_bytes for one in taken),
    }
    for name, amount in sorted(slots.items()):
        if amount < 0 or amount > left.get(name, 0):
            asked, available = format_amount(name, amount), format_amount(name, max(0, left.get(name, 0)))
            raise InsufficientResources(
                f"{asked} of {name} were asked of this node, and {available} are left",
                slot=name,
                asked=asked,
                available=available,
            )
    cpu_milli = slots.get(CPU, 0)
    uid, gid = _ids(capacity, taken)
    return Allocation(
        cpu_milli=cpu_milli,
        memory_bytes=slots.get(MEM, 0),
        uid=uid,
        gid=gid,
        cores=_cores(capacity, taken, cpu_milli),
    )


def _cores(capacity: Capacity, taken: list[Allocation], cpu_milli: int) -> tuple[int, ...]:
    count, rest = divmod(cpu_milli, MILLI)
    if rest or not 0 < count < len(capacity.cores):
        return ()
    bound = Counter(core for one in taken for core in one.cores)
    return tuple(sorted(sorted(capacity.cores, key=lambda core: (bound[core], core))[:count]))


def _ids(capacity: Capacity, taken: list[Allocation]) -> tuple[int, int]:
    if capacity.uids_shared:
        return capacity.uid_first, capacity.gid_first
    used = {one.uid for one in taken}
    index = next(index for index in range(len(used) + 1) if capacity.uid_first + index not in used)
    return capacity.uid_first + index, capacity.gid_first + index
