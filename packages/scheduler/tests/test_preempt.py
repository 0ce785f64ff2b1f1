"""Preemption: who goes, for whom, and that the room that they leave is nobody else's."""

import itertools
import random
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.backend.scheduler.cycle import plan
from ai.backend.scheduler.model import (
    Group,
    Plan,
    Preemption,
    PreemptionMode,
    PreemptionOrder,
    Rule,
    Running,
    Scope,
    Snapshot,
)

from .world import START, World, job, session


def group(**how: object) -> Group:
    return Group(name="default", preemption=Preemption(**how), reserve_after_s=3600)  # type: ignore[arg-type]


def victims(made: Plan) -> list[int]:
    return sorted(one.session_id.int for one in made.victims)


def low(number: int, *held: tuple[str, int], **more: object) -> Running:
    return session(number, *held, preemptible=True, **{"since_s": -100.0, **more})  # type: ignore[arg-type]


def world_of(cpus: dict[str, int], how: Group, *running: Running) -> World:
    world = World(cpus, {}, how)
    world.running = {one.id: one for one in running}
    return world


def snapshot(world: World, *jobs: object) -> Snapshot:
    return replace(world.snapshot(), workloads=tuple(jobs))  # type: ignore[arg-type]


def test_the_lowest_go_and_no_more_than_are_needed() -> None:
    world = world_of(
        {"a": 4000, "b": 4000},
        group(),
        low(1, ("a", 2000), job_priority=3),
        low(2, ("a", 2000), job_priority=1),
        low(3, ("b", 1000), job_priority=1),
        low(4, ("b", 3000), job_priority=4),
    )
    made = plan(snapshot(world, job(50, 2000, job_priority=5)))
    assert victims(made) == [2] and not made.starts
    assert made.refusals[0].rule is Rule.PREEMPTING
    assert "1 session(s) of a lower job priority on agent a" in made.refusals[0].message
    (reservation,) = made.reservations
    assert reservation.placements[0].agent_id == "a" and reservation.at == START
    assert victims(plan(snapshot(world, job(50, 3000, job_priority=2)))) == [], "two of priority 1 are apart"


@pytest.mark.parametrize(
    ("how", "going"),
    [
        (group(order=PreemptionOrder.NEWEST), [2]),
        (group(order=PreemptionOrder.OLDEST), [1]),
        (group(order=PreemptionOrder.SMALLEST), [3]),
        (group(order=PreemptionOrder.FEWEST), [1]),
        (group(min_run_time_s=61), [1]),
        (group(scope=Scope.USER), [3]),
    ],
)
def test_settings(how: Group, going: list[int]) -> None:
    world = world_of(
        {"a": 3500},
        how,
        low(1, ("a", 1500), since_s=-90, user="u"),
        low(2, ("a", 1100), since_s=-30, user="u"),
        low(3, ("a", 900), since_s=-60, user="me"),
    )
    assert victims(plan(snapshot(world, job(50, 900, job_priority=1, user="me")))) == going


@pytest.mark.parametrize(
    "changed",
    [{"preemptible": False}, {"job_priority": 1}, {"since_s": 0.0}, {"resource_group": "other"}],
)
def test_who_is_never_a_victim(changed: dict[str, object]) -> None:
    one = low(1, ("a", 2000))
    since_s = changed.pop("since_s", None)
    one = replace(one, **changed)  # type: ignore[arg-type]
    if since_s is not None:
        one = replace(one, started_at=START)
    world = world_of({"a": 2000}, group(min_run_time_s=10), one)
    assert not plan(snapshot(world, job(50, 1000, job_priority=1))).victims


def test_room_is_made_once_and_kept_for_whom_it_was_made() -> None:
    world = world_of({"a": 2000}, group(), low(1, ("a", 2000)))
    rival, high = job(60, 2000, at_s=-50), job(50, 2000, job_priority=1)
    world.lasts_s = {50: 10, 60: 10}
    world.waiting = {one.id: one for one in (rival, high)}
    assert victims(world.cycle()) == [1]
    again = world.cycle()
    assert not again.victims and not again.starts, "it is on its way"
    world.go_to(START + timedelta(seconds=1))
    assert UUID(int=50) in world.started and UUID(int=60) in world.waiting, "the older one does not snatch it"


def test_whoever_comes_meanwhile_does_not_get_the_room() -> None:
    world = world_of({"a": 2000}, group(), low(1, ("a", 2000)))
    world.lasts_s = {50: 10, 60: 10}
    world.add(job(50, 2000, job_priority=1))
    rival = replace(job(60, 2000, job_priority=1), priority=20)
    world.waiting[rival.id] = rival
    assert not world.cycle().victims, "what is ending is not ended again"
    world.go_to(START + timedelta(seconds=1))
    assert UUID(int=50) in world.started and UUID(int=60) in world.waiting


def test_a_gang_makes_room_everywhere_or_nowhere() -> None:
    running = (low(1, ("a", 2000)), low(2, ("b", 2000)), replace(low(3, ("c", 2000)), preemptible=False))
    world = world_of(dict.fromkeys("abc", 2000), group(), *running)
    assert victims(plan(snapshot(world, job(50, 2000, 2000, job_priority=1)))) == [1, 2]
    assert victims(plan(snapshot(world, job(50, 2000, 2000, 2000, job_priority=1)))) == []


def test_a_session_on_two_agents_is_not_let_go_for_what_another_leaves() -> None:
    """Once a session goes that holds something of both agents, nobody else has to."""
    running = (low(1, ("a", 1000), ("b", 1000)), low(2, ("a", 1000), since_s=-50))
    world = world_of({"a": 2000, "b": 1000}, group(), *running)
    assert victims(plan(snapshot(world, job(50, 1000, 1000, job_priority=1)))) == [1]


sessions = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(1, 3),
        st.integers(0, 3),
        st.booleans(),
        st.integers(0, 100),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(
    running=sessions,
    wanted=st.lists(
        st.tuples(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 4)),
        min_size=1,
        max_size=5,
    ),
    order=st.sampled_from(list(PreemptionOrder)),
    scope=st.sampled_from([None, Scope.USER]),
    rng=st.randoms(use_true_random=False),
)
def test_properties(
    running: list[tuple[int, int, int, bool, int, bool]],
    wanted: list[tuple[list[int], int]],
    order: PreemptionOrder,
    scope: Scope | None,
    rng: random.Random,
) -> None:
    cpus = {f"agent{place}": 6000 for place in range(3)}
    used = dict.fromkeys(cpus, 0)
    there = []
    for number, (place, size, priority, preemptible, age_s, ending) in enumerate(running, start=1):
        name = f"agent{place}"
        if used[name] + size * 1000 <= cpus[name]:
            used[name] += size * 1000
            there.append(
                replace(
                    low(
                        number,
                        (name, size * 1000),
                        job_priority=priority,
                        since_s=-age_s,
                        user=f"u{number % 2}",
                    ),
                    preemptible=preemptible,
                    ending=ending,
                )
            )
    how = group(order=order, scope=scope, min_run_time_s=20)
    world = world_of(cpus, how, *there)
    jobs = [
        job(100 + number, *(1000 * size for size in sizes), job_priority=priority, user=f"u{number % 2}")
        for number, (sizes, priority) in enumerate(wanted)
    ]
    seen = snapshot(world, *jobs)
    made = plan(seen)
    by_id, by_job = {one.id: one for one in there}, {one.id: one for one in jobs}
    assert len({one.session_id for one in made.victims}) == len(made.victims), "nobody goes twice"
    for victim in made.victims:
        one, workload = by_id[victim.session_id], by_job[victim.workload_id]
        assert one.preemptible and not one.ending and one.job_priority < workload.job_priority
        assert START - one.started_at >= timedelta(seconds=20)
        assert scope is None or one.user == workload.user
    # All that starts, and all that was promised, fits when the victims and those who were ending are gone: nothing is counted twice.
    free = {name: cpus[name] - used[name] for name in cpus}
    slots = {kernel.id: kernel.slots.amounts()["cpu"] for one in jobs for kernel in one.kernels}
    for start in made.starts:
        for placed in start.placements:
            free[placed.agent_id] -= slots[placed.kernel_id]
    assert all(amount >= 0 for amount in free.values())
    going = {one.session_id for one in made.victims} | {one.id for one in there if one.ending}
    for one in there:
        if one.id in going:
            free[one.held[0].agent_id] += one.held[0].slots.amounts()["cpu"]
    promised = [one for one in made.reservations if one.at == START]
    for reservation in promised:
        for placed in reservation.placements:
            free[placed.agent_id] -= slots[placed.kernel_id]
    assert all(amount >= 0 for amount in free.values())
    # And nobody goes in vain: with one victim less there is no room for whom it goes.
    for victim in made.victims:
        mine = [one for one in made.victims if one.workload_id == victim.workload_id]
        if len({one.workload_id for one in made.victims}) == 1 and not made.starts:
            spared = [by_id[one.session_id] for one in mine if one is not victim]
            assert not _fits(
                cpus, there, {one.id for one in spared} | {o.id for o in there if o.ending}, promised, slots
            )
    shuffled = [list(there), list(jobs), list(seen.agents)]
    for many in shuffled:
        rng.shuffle(many)  # type: ignore[arg-type]
    turned = replace(
        seen, running=tuple(shuffled[0]), workloads=tuple(shuffled[1]), agents=tuple(shuffled[2])
    )  # type: ignore[arg-type]
    assert plan(turned) == made == plan(seen), "the order of the snapshot decides nothing"


def _fits(
    cpus: dict[str, int], there: list[Running], gone: set[UUID], promised: object, slots: dict[UUID, int]
) -> bool:
    free = dict(cpus)
    for one in there:
        if one.id not in gone:
            free[one.held[0].agent_id] -= one.held[0].slots.amounts()["cpu"]
    for reservation in promised:  # type: ignore[attr-defined]
        for placed in reservation.placements:
            free[placed.agent_id] -= slots[placed.kernel_id]
    return all(amount >= 0 for amount in free.values())


def test_the_loop_ends() -> None:
    """Low ones come without end; high ones get through, each victim going for one of them."""
    world = world_of({"a": 2000, "b": 2000}, group(mode=PreemptionMode.TERMINATE))
    numbers = itertools.count(1)
    for at_s in range(40):
        number = next(numbers)
        priority = 1 if at_s % 4 == 3 else 0
        world.lasts_s[number] = 30 if priority == 0 else 5
        world.add(job(number, 2000, at_s=at_s, job_priority=priority))
    world.settle()
    high = list(range(4, 41, 4))
    waited = [world.started[UUID(int=number)] - START - timedelta(seconds=number - 1) for number in high]
    assert max(waited) <= timedelta(seconds=20)
    assert not world.running
