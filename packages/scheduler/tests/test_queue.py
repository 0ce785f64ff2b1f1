"""Queues as plugins: the scheduler's own conform, the kit finds what does not, and a bad one is not followed."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ai.backend.scheduler import conformance
from ai.backend.scheduler.cycle import plan
from ai.backend.scheduler.model import Group, Preemption, Snapshot, Workload
from ai.backend.scheduler.queue import QUEUES, Factory, View, check_queue

from .test_cycle import agent, workload


class Bad:
    """Made wrong in one way each."""

    def __init__(self, view: View) -> None:
        self.view = view

    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        return band


class Forgetful(Bad):
    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        return band[1:]


class Double(Bad):
    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        return [*band, *band[:1]]


class Throwing(Bad):
    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        yield from band[:1]
        raise LookupError("no such thing")


class Inventive(Bad):
    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        return [*band[1:], workload(999, 1000)]


class Changing(Bad):
    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        return [replace(one, priority=99) for one in band]


class Moody(Bad):
    rng = random.Random(3)

    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        mixed = list(band)
        self.rng.shuffle(mixed)
        return mixed


class Writing(Bad):
    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        self.view.shares.clear()  # type: ignore[attr-defined]
        return band


class Endless(Bad):
    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        while True:
            yield from band


class Exiting(Bad):
    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        raise SystemExit(1)


class Shrinking(Bad):
    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        return [replace(one, kernels=workload(one.id.int, 1).kernels) for one in band]


class Largest:
    """What a third party would write: the largest first."""

    def __init__(self, view: View) -> None:
        self._slot = str(view.options.get("slot", "cpu"))

    def order(self, band: Sequence[Workload]) -> Iterable[Workload]:
        return sorted(band, key=self._size, reverse=True)

    def _size(self, one: Workload) -> int:
        return sum(kernel.slots.amounts().get(self._slot, 0) for kernel in one.kernels)


@pytest.mark.parametrize("name", sorted(QUEUES))
def test_the_schedulers_own_conform(name: str) -> None:
    assert conformance.check(QUEUES[name], random.Random(1)) == []
    assert conformance.check(Largest, random.Random(1), options={"slot": "mem"}) == []


@pytest.mark.parametrize(
    ("queue", "problem"),
    [
        (Forgetful, "it leaves workloads out"),
        (Double, "it yields a workload twice"),
        (Throwing, "it raises LookupError: no such thing"),
        (Inventive, "it yields workloads that it was not given"),
        (Changing, "it changes workloads"),
        (Moody, "it orders the same workloads in another way the next time"),
        (Writing, "it changes what it was given"),
    ],
)
def test_the_kit_finds_what_does_not_conform(queue: Factory, problem: str) -> None:
    assert problem in conformance.check(queue, random.Random(1))


def test_what_a_queue_made_of_workloads_is_of_no_interest() -> None:
    works = tuple(workload(number, 4000) for number in range(1, 6))
    group = Group(name="default", order="bad", queue=Shrinking)
    made = plan(Snapshot(agents=(agent("a"),), workloads=works, groups=(group,)))
    assert len(made.starts) == 1 and not made.faults


def test_one_queue_orders_all_ranks_of_a_group_that_preempts() -> None:
    works = (
        replace(workload(1, 1000, age_s=9), user="u", job_priority=1),
        replace(workload(2, 1000, age_s=8), user="u"),
        replace(workload(3, 1000, age_s=7), user="v"),
    )
    group = Group(name="default", order="drf", preemption=Preemption())
    made = plan(Snapshot(agents=(agent("a"),), workloads=works, groups=(group,)))
    assert [one.workload_id.int for one in made.starts] == [1, 3, 2], "u has one ahead already"


@pytest.mark.parametrize("queue", [Forgetful, Double, Throwing, Inventive, Endless, Exiting])
def test_a_bad_queue_is_not_followed_in_its_group_alone(queue: Factory) -> None:
    works = (workload(1, 3000, age_s=1), workload(2, 3000, age_s=9))
    others = tuple(replace(workload(number, 1000), resource_group="other") for number in (3, 4))
    agents = (agent("a"), agent("b", resource_group="other"))
    bad = Group(name="default", order="bad", queue=queue)
    good = Group(name="other", order="largest", queue=Largest)
    made = plan(Snapshot(agents=agents, workloads=(*works, *others), groups=(bad, good)))
    assert [one.workload_id.int for one in made.starts] == [2, 3, 4], (
        "by age, nobody is lost, nobody is doubled"
    )
    (fault,) = made.faults
    assert (fault.group, fault.queue) == ("default", "bad") and fault.message
    by_age = plan(Snapshot(agents=agents, workloads=(*works, *others), groups=(Group(name="default"), good)))
    assert replace(made, faults=()) == by_age


def test_a_third_partys_queue_is_followed() -> None:
    works = (workload(1, 1000, age_s=9), workload(2, 4000), workload(3, 2000, age_s=5))
    group = Group(name="default", order="largest", queue=Largest)
    made = plan(Snapshot(agents=(agent("a"),), workloads=works, groups=(group,)))
    assert [one.workload_id.int for one in made.starts] == [2] and not made.faults


@pytest.mark.parametrize(
    ("loaded", "wrong"), [(Largest, False), (object(), True), (lambda view: object(), True)]
)
def test_what_is_no_queue_is_seen_when_it_is_loaded(loaded: Any, wrong: bool) -> None:
    assert bool(check_queue(loaded)) == wrong
