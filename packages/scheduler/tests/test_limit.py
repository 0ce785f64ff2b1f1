"""Limits of keypairs, users, projects and domains: what is told, and that no plan exceeds one, in whatever order."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from ai.backend.common.quantity import CPU, ResourceSlots, sum_slots
from ai.backend.scheduler.cycle import plan
from ai.backend.scheduler.limit import slots_of, texts
from ai.backend.scheduler.model import Excess, Group, Limit, Plan, Rule, Scope, Snapshot, Workload
from ai.backend.scheduler.queue import QUEUES

from .test_cycle import agent, workload

OWNER = {"keypair": "K", "user": "u", "project": "p", "domain": "d"}


def mine(number: int, *cpus: int, **more: Any) -> Workload:
    return replace(workload(number, *cpus), **{**OWNER, **more})


def planned(*workloads: Workload, limits: Iterable[Limit], cpu: int = 64000) -> Plan:
    return plan(Snapshot(agents=(agent("a", cpu=cpu),), workloads=workloads, limits=tuple(limits)))


def started(made: Plan) -> list[int]:
    return [start.workload_id.int for start in made.starts]


def numbers(excesses: Iterable[Excess]) -> list[tuple[str, str, int, int, int]]:
    return [(one.limit.scope.value, one.what, one.asked, one.used, one.allowed) for one in excesses]


def test_all_limits_that_are_exceeded_are_told_together_with_numbers() -> None:
    limits = (
        Limit(scope=Scope.DOMAIN, name="d", label="main", rest=1500),
        Limit(scope=Scope.PROJECT, name="p", label="vision", slots={"cpu": 9000, "mem": 0}),
        Limit(
            scope=Scope.KEYPAIR, name="K", label="K", slots={"cpu": 4000}, slots_used=ResourceSlots({"cpu": 3000}),
            sessions=5, sessions_used=5,
        ),
    )  # fmt: skip
    (refusal,) = planned(mine(1, 1000, 1000), limits=limits).refusals
    assert refusal.rule is Rule.LIMIT and str(refusal.rule) == "limit-reached"
    assert numbers(refusal.excesses) == [
        ("keypair", "sessions", 1, 5, 5),
        ("keypair", "cpu", 2000, 3000, 4000),
        ("domain", "cpu", 2000, 0, 1500),
    ]
    assert "keypair K (sessions: asked 1, used 5 of 5, cpu: asked 2, used 3 of 4)" in refusal.message
    assert "domain main (cpu: asked 2 of 1.5)" in refusal.message and "vision" not in refusal.message
    assert [tuple(short) for short in refusal.shortfalls] == [("cpu", 2000, 1000)], "the strictest is told"
    assert texts(refusal.excesses[0]) == {
        "scope": "keypair", "name": "K", "what": "sessions", "asked": "1", "used": "5", "allowed": "5",
    }  # fmt: skip
    assert texts(refusal.excesses[1])["used"] == "3"
    (need,) = refusal.unblock
    assert "keypair K" in need.text and "domain main" in need.text


def test_hidden_numbers_stay_hidden() -> None:
    limit = Limit(scope=Scope.PROJECT, name="p", label="vision", slots={"cpu": 7531}, hidden=True)
    (refusal,) = planned(mine(1, 8000), limits=[limit]).refusals
    told = f"{refusal.message} {refusal.shortfalls} {texts(refusal.excesses[0])} {refusal.unblock}"
    assert "vision" in refusal.message and "7.531" not in told and "7531" not in told


def test_who_is_refused_by_limits_holds_up_nobody() -> None:
    limits = [Limit(scope=Scope.KEYPAIR, name="K", sessions=1)]
    works = (mine(1, 1000), mine(2, 1000), replace(mine(3, 1000), keypair="other"))
    made = planned(*works, limits=limits)
    assert started(made) == [1, 3]
    assert [(r.workload_id.int, r.rule, r.position) for r in made.refusals] == [(2, Rule.LIMIT, 1)]


def test_what_the_plan_starts_counts_in_every_group() -> None:
    agents = (agent("a"), agent("b", resource_group="other"))
    works = (mine(1, 2000), replace(mine(2, 2000), resource_group="other"))
    limits = (Limit(scope=Scope.PROJECT, name="p", slots={"cpu": 3000}),)
    made = plan(Snapshot(agents=agents, workloads=works, limits=limits))
    assert started(made) == [1] and numbers(made.refusals[0].excesses) == [
        ("project", "cpu", 2000, 2000, 3000)
    ]


def test_what_finds_no_room_uses_nothing_up() -> None:
    limits = [Limit(scope=Scope.KEYPAIR, name="K", sessions=1)]
    made = planned(mine(1, 5000), mine(2, 1000), limits=limits, cpu=4000)
    assert started(made) == [2] and made.refusals[0].rule is Rule.SLOTS


NAMES = st.sampled_from("xy")
AMOUNTS = st.integers(0, 6000)
LIMITS = st.lists(
    st.builds(
        Limit,
        scope=st.sampled_from(Scope),
        name=NAMES,
        sessions=st.none() | st.integers(0, 4),
        slots=st.fixed_dictionaries({}, optional={"cpu": AMOUNTS}),
        rest=st.none() | AMOUNTS,
        sessions_used=st.integers(0, 3),
        slots_used=st.builds(lambda cpu: ResourceSlots({"cpu": cpu}), AMOUNTS),
    ),
    max_size=8,
    unique_by=lambda one: (one.scope, one.name),
)
WORKS = st.lists(
    st.tuples(
        st.lists(st.integers(1, 3000), min_size=1, max_size=3),
        st.fixed_dictionaries({scope.value: NAMES for scope in Scope}),
        st.sampled_from(["default", "other"]),
        st.integers(0, 2),
    ),
    max_size=10,
)


@settings(max_examples=300, deadline=None)
@given(
    LIMITS, WORKS, st.integers(0, 8000), st.sampled_from(sorted(QUEUES)), st.randoms(use_true_random=False)
)
def test_no_plan_exceeds_a_limit(
    limits: list[Limit],
    works: list[tuple[list[int], dict[str, Any], str, int]],
    cpu: int,
    order: str,
    random: Any,
) -> None:
    workloads = [
        replace(
            workload(n, *cpus, priority=priority, age_s=random.randrange(3)), resource_group=group, **owner
        )
        for n, (cpus, owner, group, priority) in enumerate(works, 1)
    ]
    snapshot = Snapshot(
        agents=(agent("a", cpu=cpu), agent("b", cpu=cpu, resource_group="other")),
        workloads=tuple(workloads),
        groups=(Group(name="default", order=order),),
        limits=tuple(limits),
    )
    made = plan(snapshot)
    chosen = {start.workload_id for start in made.starts}
    running = [one for one in workloads if one.id in chosen]
    for limit in limits:
        of_it = [one for one in running if getattr(one, limit.scope) == limit.name]
        if not of_it:
            continue  # it may have been lowered below what is held already
        held = (limit.slots_used + sum_slots([slots_of(one) for one in of_it]))[CPU]
        allowed = limit.slots.get("cpu", limit.rest)
        assert allowed is None or held <= allowed
        assert limit.sessions is None or limit.sessions_used + len(of_it) <= limit.sessions

    for refusal in made.refusals:
        one = next(w for w in workloads if w.id == refusal.workload_id)
        wanted = slots_of(one)
        over = set()
        for limit in limits:
            if getattr(one, limit.scope) == limit.name:
                others = [w for w in running if getattr(w, limit.scope) == limit.name]
                allowed = limit.slots.get("cpu", limit.rest)
                held = (limit.slots_used + sum_slots([slots_of(w) for w in others]))[CPU]
                if limit.sessions is not None and limit.sessions_used + len(others) >= limit.sessions:
                    over.add((limit.scope, "sessions"))
                if allowed is not None and held + wanted[CPU] > allowed:
                    over.add((limit.scope, "cpu"))
        told = {(excess.limit.scope, excess.what) for excess in refusal.excesses}
        assert told <= over, "refused for a limit only if it would be exceeded"
        assert bool(told) == (refusal.rule is Rule.LIMIT)
        if refusal is made.refusals[-1] and refusal.rule is Rule.LIMIT and not made.starts:
            assert told == over, "nothing was started meanwhile, so all of them are told"
        if not over:
            assert refusal.rule is not Rule.LIMIT

    turned = replace(
        snapshot,
        agents=snapshot.agents[::-1],
        workloads=tuple(random.sample(workloads, len(workloads))),
        limits=tuple(random.sample(limits, len(limits))),
    )
    assert plan(turned) == made, "the order of the snapshot decides nothing"


@settings(max_examples=100, deadline=None)
@given(LIMITS, st.fixed_dictionaries({scope.value: NAMES for scope in Scope}), st.integers(1, 3000))
def test_one_alone_starts_exactly_if_all_its_limits_allow_it(
    limits: list[Limit], owner: dict[str, Any], cpu: int
) -> None:
    one = replace(workload(1, cpu), **owner)
    fits = all(
        (limit.sessions is None or limit.sessions_used < limit.sessions)
        and ((most := limit.slots.get("cpu", limit.rest)) is None or limit.slots_used[CPU] + cpu <= most)
        for limit in limits
        if getattr(one, limit.scope) == limit.name
    )
    made = planned(one, limits=limits)
    assert [start.workload_id for start in made.starts] == ([UUID(int=1)] if fits else [])
