"""Whether a queue keeps what is asked of a plugin of `backendai_scheduler_v10` (see `queue`). For whoever writes one:

def test_my_queue():
    assert conformance.check(MyQueue, random.Random(1)) == []
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from ai.backend.common.quantity import ResourceSlots

from .model import KernelRequest, Share, Workload
from .queue import Factory, View


class Chance(Protocol):
    """Such as `random.Random`."""

    def random(self) -> float: ...

    def randint(self, a: int, b: int, /) -> int: ...


NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROUNDS = 50
WORKLOADS_MAX = 40


def check(factory: Factory, rng: Chance, *, options: dict[str, Any] | None = None) -> list[str]:
    """What is wrong with a queue, in words, each once; nothing when it conforms."""
    found: dict[str, None] = {}
    for _ in range(ROUNDS):
        view, bands = _case(rng, options or {})
        for problem in _problems(factory, view, bands):
            found[problem] = None
    return list(found)


def _case(rng: Chance, options: dict[str, Any]) -> tuple[View, list[tuple[Workload, ...]]]:
    users = [f"user{number}" for number in range(rng.randint(1, 5))]
    workloads = [
        Workload(
            id=UUID(int=number + 1),
            resource_group="default",
            priority=10 * rng.randint(0, 2),
            created_at=NOW - timedelta(seconds=rng.randint(0, 100)),
            user=users[rng.randint(0, len(users) - 1)],
            kernels=tuple(
                KernelRequest(
                    id=UUID(int=number * 100 + place + 1000),
                    slots=ResourceSlots({"cpu": 1000 * rng.randint(1, 4), "mem": rng.randint(1, 8) << 30}),
                    image="image",
                    architecture="x86_64",
                )
                for place in range(rng.randint(1, 3))
            ),
        )
        for number in range(rng.randint(0, WORKLOADS_MAX))
    ]
    shares = {
        user: Share(
            user=user,
            resource_group="default",
            held=ResourceSlots({"cpu": 1000 * rng.randint(0, 16)}),
            factors=(rng.random(), rng.random(), rng.random()),
        )
        for user in users[rng.randint(0, 1) :]
    }
    view = View(
        group="default",
        capacity=ResourceSlots({"cpu": 64_000, "mem": 256 << 30} if rng.randint(0, 4) else {}),
        shares=shares,
        now=NOW,
        options=options,
    )
    priorities = sorted({one.priority for one in workloads}, reverse=True)
    return view, [
        tuple(
            sorted(
                (one for one in workloads if one.priority == priority),
                key=lambda one: (one.created_at, one.id),
            )
        )
        for priority in priorities
    ]


def _problems(factory: Factory, view: View, bands: Sequence[tuple[Workload, ...]]) -> Iterator[str]:
    before = deepcopy((view.shares, view.options))
    try:
        first, again = _orders(factory, view, bands), _orders(factory, view, bands)
    except Exception as exc:
        yield f"it raises {type(exc).__name__}: {exc}"
        return
    for band, ordered in zip(bands, first, strict=True):
        given = {one.id for one in band}
        if given - {one.id for one in ordered}:
            yield "it leaves workloads out"
        if {one.id for one in ordered} - given:
            yield "it yields workloads that it was not given"
        if len(ordered) > len({one.id for one in ordered}):
            yield "it yields a workload twice"
        if any(one not in band for one in ordered if one.id in given):
            yield "it changes workloads"
    if first != again:
        yield "it orders the same workloads in another way the next time"
    if (view.shares, view.options) != before:
        yield "it changes what it was given"


def _orders(factory: Factory, view: View, bands: Sequence[tuple[Workload, ...]]) -> list[list[Workload]]:
    queue = factory(view)
    return [list(queue.order(band)) for band in bands]
