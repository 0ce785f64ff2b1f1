"""Reservations and backfill: nobody starves, and nobody is delayed by those behind."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from ai.backend.scheduler.cycle import looks_at_running, plan
from ai.backend.scheduler.model import Group, Plan, Remedy, Rule, Snapshot

from .world import START, World, job, session

BIG = 1


def starts(made: Plan) -> list[int]:
    return [one.workload_id.int for one in made.starts]


def test_a_long_wait_earns_a_reservation_and_small_ones_pass_only_if_they_end_before_it() -> None:
    world = World({"a": 4000}, {})
    world.running = {UUID(int=90): session(90, ("a", 2000), ends_s=100)}
    small = [job(2, 2000, lasts_s=100), job(3, 2000, lasts_s=101), job(4, 1000)]
    world.waiting = {one.id: one for one in (job(BIG, 4000), *small)}
    made = plan(world.snapshot())
    assert starts(made) == [2], "it is gone when the reserved time comes"
    (reservation,) = made.reservations
    assert reservation.workload_id.int == BIG and reservation.at == START + timedelta(seconds=100)
    rules = {one.workload_id.int: one.rule for one in made.refusals}
    assert rules[BIG] is Rule.SLOTS
    world.waiting.pop(UUID(int=2))
    refusals = {one.workload_id.int: one for one in plan(world.snapshot()).refusals}
    assert refusals[3].rule is Rule.HELD and refusals[4].rule is Rule.HELD
    assert refusals[4].unblock[0].remedy is Remedy.TURN
    assert "reserved on agent a, from 2026-01-01 00:01:40 UTC at the latest" in refusals[BIG].message


def test_what_is_to_spare_beside_a_reservation_is_given_away() -> None:
    world = World({"a": 4000, "b": 2000}, {})
    world.running = {UUID(int=90): session(90, ("a", 3000)), UUID(int=91): session(91, ("b", 1000))}
    world.waiting = {one.id: one for one in (job(BIG, 3000), job(2, 1000), job(3, 1000), job(4, 1000))}
    made = plan(world.snapshot())
    assert sorted(starts(made)) == [2, 3], "one beside it on its agent, one elsewhere"
    assert made.reservations[0].at is None and made.reservations[0].placements[0].agent_id == "a"
    assert "as soon as enough of what runs has ended" in made.refusals[0].message


def test_who_uses_what_is_held_leaves_the_rest_of_it_held() -> None:
    world = World({"a": 4000}, {})
    world.running = {UUID(int=90): session(90, ("a", 2000), ends_s=100)}
    world.waiting = {one.id: one for one in (job(BIG, 4000), job(2, 1000, lasts_s=100), job(3, 500))}
    assert starts(plan(world.snapshot())) == [2]


def test_of_ends_that_are_not_known_the_longest_running_is_waited_for() -> None:
    world = World({"a": 2000, "b": 2000}, {})
    old, new = session(90, ("b", 2000), since_s=-20), session(91, ("a", 2000), since_s=-10)
    world.running = {one.id: one for one in (old, new)}
    world.waiting = {UUID(int=BIG): job(BIG, 1500)}
    assert plan(world.snapshot()).reservations[0].placements[0].agent_id == "b"
    ending = replace(new, ending=True)
    world.running = {one.id: one for one in (old, ending)}
    assert plan(world.snapshot()).reservations[0].placements[0].agent_id == "a", (
        "those that are ending come first"
    )


def test_nobody_gets_a_reservation_before_its_time_nor_for_what_never_fits() -> None:
    world = World({"a": 4000}, {}, Group(name="default", reserve_after_s=60))
    world.running = {UUID(int=90): session(90, ("a", 2000), ends_s=100)}
    world.waiting = {one.id: one for one in (job(BIG, 4000), job(2, 2000))}
    assert starts(plan(world.snapshot())) == [2]
    world.now = START + timedelta(seconds=60)
    assert starts(plan(world.snapshot())) == []
    world.waiting = {one.id: one for one in (job(BIG, 5000), job(2, 2000))}
    assert starts(plan(world.snapshot())) == [2]


def test_what_runs_is_looked_at_only_where_it_makes_a_difference() -> None:
    def asks(snapshot: Snapshot) -> bool:
        return looks_at_running(plan(snapshot), snapshot)

    world = World({"a": 4000}, {}, Group(name="default", reserve_after_s=60))
    world.waiting = {UUID(int=BIG): job(BIG, 4000)}
    assert not asks(world.snapshot()), "nothing waits"
    full = replace(world.snapshot(), running=(session(90, ("a", 2000)),))
    full = replace(
        full, agents=tuple(replace(one, occupied=full.running[0].held[0].slots) for one in full.agents)
    )
    assert not asks(full), "it has not waited long"
    assert asks(replace(full, now=START + timedelta(seconds=60)))


def test_a_gang_collects_agents_while_small_ones_stream_past() -> None:
    """Four agents are always full of small ones of unknown length; the gang wants all four at once."""
    names = ["a", "b", "c", "d"]
    world = World(dict.fromkeys(names, 1000), dict.fromkeys(range(2000), 10))
    for number in range(100, 104):
        world.add(job(number, 1000))
    world.add(job(BIG, 1000, 1000, 1000, 1000))
    for number in range(200, 400):
        world.add(job(number, 1000, at_s=(number - 199) * 0.5))
    assert world.started[UUID(int=BIG)] <= START + timedelta(seconds=10)


small_jobs = st.lists(
    st.tuples(
        st.integers(1, 6),  # processors
        st.integers(1, 50),  # how long it runs
        st.booleans(),  # whether that is known
        st.integers(0, 5),  # seconds until the next comes
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(
    agents=st.lists(st.integers(2, 8), min_size=1, max_size=4),
    jobs=small_jobs,
    gang=st.integers(1, 3),
    exact=st.booleans(),
)
def test_nobody_starves_and_no_reservation_moves_away(
    agents: list[int], jobs: list[tuple[int, int, bool, int]], gang: int, exact: bool
) -> None:
    """Everything that fits the empty cluster starts; and the reserved time of whoever waits longest never gets later, as long as others
    end when they said (or before)."""
    cpus = {f"agent{place}": 1000 * size for place, size in enumerate(agents)}
    world = World(cpus, {}, Group(name="default", reserve_after_s=3))
    at_s = 0.0
    for number, (size, lasts_s, known, pause_s) in enumerate(jobs, start=2):
        world.lasts_s[number] = lasts_s if exact else max(1, lasts_s // 2)
        at_s += pause_s
        kernels = [size * 1000] * (gang if number % 5 == 0 else 1)
        world.add(job(number, *kernels, lasts_s=lasts_s if known else None, at_s=at_s))
        before = _first_reservation(world)
        world.go_to(world.now + timedelta(seconds=0.5))
        after = _first_reservation(world)
        if before and after and before[0] == after[0] and before[1] is not None:
            assert after[1] is not None and after[1] <= before[1], "backfill delayed it"
    world.settle()
    for left in world.waiting.values():
        empty = replace(world.snapshot(), workloads=(left,), running=())
        assert not world.running and not plan(empty).starts, "it starved"


def _first_reservation(world: World) -> tuple[UUID, object] | None:
    made = plan(world.snapshot())
    return (made.reservations[0].workload_id, made.reservations[0].at) if made.reservations else None


@settings(max_examples=100, deadline=None)
@given(
    agents=st.lists(st.integers(2, 8), min_size=2, max_size=4),
    stream=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 30)), min_size=30, max_size=80),
    kernels=st.integers(1, 4),
)
def test_a_large_one_waits_for_nobody_who_came_after_it(
    agents: list[int], stream: list[tuple[int, int]], kernels: int
) -> None:
    """The bound: it starts at the latest when all those have ended that ran, or stood before it, when it got its reservation, whatever
    streams past. Run times are not known."""
    cpus = {f"agent{place}": 1000 * size for place, size in enumerate(agents)}
    world = World(cpus, {}, Group(name="default", reserve_after_s=2))
    big, big_at = UUID(int=BIG), len(stream) // 3
    before: set[UUID] = set()
    for number, (size, lasts_s) in enumerate(stream, start=2):
        world.lasts_s[number] = lasts_s
        world.add(job(number, size * 1000, at_s=number))
        if number == big_at:
            world.lasts_s[BIG] = 1
            world.add(job(BIG, *[2000] * kernels, at_s=number))
        if big in world.reserved and big in world.waiting and not before:
            came = world.waiting[big].created_at
            before = {
                *world.running,
                *(one.id for one in world.waiting.values() if one.created_at <= came),
            } - {big}
    world.settle()
    assert (big in world.started) == (sum(size // 2 for size in agents) >= kernels)
    if big in world.started and before:
        ends = [
            world.started[one] + timedelta(seconds=world.lasts_s[one.int])
            for one in before
            if one in world.started
        ]
        assert world.started[big] <= max(ends)
