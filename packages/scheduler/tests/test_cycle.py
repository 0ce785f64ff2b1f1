"""The cycle: examples, and properties over random clusters."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from ai.backend.common.quantity import ResourceSlots, sum_slots
from ai.backend.scheduler.cycle import plan
from ai.backend.scheduler.model import (
    AgentView,
    Group,
    KernelRequest,
    Rule,
    Selection,
    Share,
    Snapshot,
    Workload,
)
from ai.backend.scheduler.queue import order

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def agent(name: str, cpu: int = 4000, mem: int = 8 << 30, *, occupied: int = 0, **more: object) -> AgentView:
    fields: dict[str, object] = {
        "resource_group": "default",
        "architecture": "x86_64",
        "images": frozenset({"python"}),
        **more,
    }
    return AgentView(
        id=name,
        capacity=ResourceSlots({"cpu": cpu, "mem": mem}),
        occupied=ResourceSlots({"cpu": occupied}),
        **fields,  # type: ignore[arg-type]
    )


def workload(
    number: int,
    *cpus: int,
    priority: int = 10,
    age_s: int = 0,
    single_node: bool = False,
    chosen: tuple[str, ...] = (),
) -> Workload:
    return Workload(
        id=UUID(int=number),
        resource_group="default",
        priority=priority,
        created_at=NOW - timedelta(seconds=age_s),
        single_node=single_node,
        kernels=tuple(
            KernelRequest(
                id=UUID(int=number * 1000 + i),
                slots=ResourceSlots({"cpu": c}),
                image="python",
                architecture="x86_64",
                agent_id=chosen[i] if chosen else "",
            )
            for i, c in enumerate(cpus)
        ),
    )


def test_takes_the_agent_that_fits() -> None:
    made = plan(Snapshot(agents=(agent("b"), agent("a", occupied=3500)), workloads=(workload(1, 1000),)))
    assert [p.agent_id for p in made.starts[0].placements] == ["b"]


def test_higher_priority_then_older_goes_first() -> None:
    works = (workload(1, 3000, age_s=10), workload(2, 3000, age_s=20), workload(3, 3000, priority=20))
    made = plan(Snapshot(agents=(agent("a"),), workloads=works))
    assert [s.workload_id.int for s in made.starts] == [3]
    assert [(r.workload_id.int, r.position) for r in made.refusals] == [(2, 1), (1, 2)]


def test_a_refusal_names_slot_asked_and_free() -> None:
    made = plan(
        Snapshot(
            agents=(agent("a", occupied=2500), agent("b", occupied=3500)), workloads=(workload(1, 2000),)
        )
    )
    (refusal,) = made.refusals
    assert refusal.rule is Rule.SLOTS
    assert [tuple(s) for s in refusal.shortfalls] == [("cpu", 2000, 1500)]
    assert "asked 2, free 1.5" in refusal.message and "agent a" in refusal.message


def test_a_gang_is_placed_whole_or_not_at_all() -> None:
    made = plan(
        Snapshot(
            agents=(agent("a"), agent("b")), workloads=(workload(1, 3000, 3000, 3000), workload(2, 4000))
        )
    )
    assert [s.workload_id.int for s in made.starts] == [2]
    assert made.refusals[0].workload_id.int == 1


def test_kernels_of_one_node_go_there_together_or_wait() -> None:
    agents = (agent("a", occupied=1000), agent("b"))
    made = plan(Snapshot(agents=agents, workloads=(workload(1, 2000, 2000, single_node=True),)))
    assert [p.agent_id for p in made.starts[0].placements] == ["b", "b"]
    made = plan(Snapshot(agents=agents, workloads=(workload(1, 3000, 3000, single_node=True),)))
    (refusal,) = made.refusals
    assert refusal.rule is Rule.SLOTS and [tuple(s) for s in refusal.shortfalls] == [("cpu", 6000, 4000)]
    made = plan(Snapshot(agents=agents, workloads=(workload(1, 3000, 3000),)))
    assert {p.agent_id for p in made.starts[0].placements} == {"a", "b"}, "over several nodes it fits"


def test_chosen_agents_are_taken_or_waited_for() -> None:
    agents = (agent("a"), agent("b"), agent("c", occupied=4000))

    def outcome(*chosen: str) -> list[str] | Rule:
        made = plan(Snapshot(agents=agents, workloads=(workload(1, *(1000 for _ in chosen), chosen=chosen),)))
        return [p.agent_id for p in made.starts[0].placements] if made.starts else made.refusals[0].rule

    assert outcome("b") == ["b"] and outcome("b", "a") == ["b", "a"]
    assert outcome("c") is Rule.SLOTS and outcome("gone") is Rule.CHOSEN


def test_each_rule_is_told() -> None:
    def rule(*agents: AgentView) -> Rule:
        return plan(Snapshot(agents=agents, workloads=(workload(1, 1000),))).refusals[0].rule

    assert rule() is Rule.NO_AGENT
    assert rule(agent("a", resource_group="other")) is Rule.RESOURCE_GROUP
    assert rule(agent("a", schedulable=False, problem="is lost")) is Rule.NOT_SCHEDULABLE
    assert rule(agent("a", architecture="aarch64")) is Rule.ARCHITECTURE
    assert rule(agent("a", images=frozenset())) is Rule.IMAGE
    assert rule(agent("a", occupied=4000), agent("b", images=frozenset())) is Rule.SLOTS


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8000), st.integers(0, 8000)), max_size=5),
    st.lists(
        st.tuples(st.lists(st.integers(1, 5000), min_size=1, max_size=3), st.integers(0, 3), st.booleans()),
        max_size=12,
    ),
)
def test_never_more_than_capacity_and_every_workload_is_answered(
    nodes: list[tuple[int, int]], works: list[tuple[list[int], int, bool]]
) -> None:
    agents = tuple(agent(f"a{i}", cpu=max(c, o), occupied=o) for i, (c, o) in enumerate(nodes))
    snapshot = Snapshot(
        agents=agents,
        workloads=tuple(
            workload(i + 1, *cpus, priority=p, single_node=s) for i, (cpus, p, s) in enumerate(works)
        ),
    )
    made = plan(snapshot)
    asked = {k.id: k.slots for w in snapshot.workloads for k in w.kernels}
    for one in agents:
        mine = [asked[p.kernel_id] for s in made.starts for p in s.placements if p.agent_id == one.id]
        assert (sum_slots(mine) + one.occupied).fits(one.capacity)
    answered = [s.workload_id for s in made.starts] + [r.workload_id for r in made.refusals]
    assert sorted(answered) == sorted(w.id for w in snapshot.workloads)
    for start in made.starts:
        assert len({p.agent_id for p in start.placements}) == 1 or not works[start.workload_id.int - 1][2]
        assert len(start.placements) == len(
            next(w for w in snapshot.workloads if w.id == start.workload_id).kernels
        )
    assert plan(snapshot) == made
    turned = Snapshot(agents=snapshot.agents[::-1], workloads=snapshot.workloads[::-1])
    assert plan(turned) == made, "the order of the snapshot decides nothing"


def test_round_robin_goes_on_where_it_was() -> None:
    agents = tuple(agent(name) for name in "abc")

    def turns(last: str) -> list[str]:
        group = Group(name="default", selection=Selection.ROUND_ROBIN, last_agent_id=last)
        made = plan(Snapshot(agents=agents, workloads=(workload(1, 100), workload(2, 100)), groups=(group,)))
        return [start.placements[0].agent_id for start in made.starts]

    assert turns("") == ["a", "b"]
    assert turns("b") == ["c", "a"]


def test_orders_of_queues() -> None:
    """Who comes first within a priority; `drf` counts what users hold and what it lets ahead."""
    works = tuple(
        replace(workload(number, 1000, age_s=100 - number), user=user)
        for number, user in enumerate(("u", "u", "u", "v", "w"), 1)
    )
    held = Share(user="w", resource_group="default", held=ResourceSlots({"cpu": 3500}))
    used = tuple(
        Share(user=user, resource_group="default", factors=(0.5, 0.5, factor))
        for user, factor in (("u", 0.2), ("v", 0.9))
    )

    def ids(order_: str, shares: tuple[Share, ...] = ()) -> list[int]:
        group = Group(name="default", order=order_)
        snapshot = Snapshot(agents=(agent("a"),), workloads=works, groups=(group,), shares=shares)
        return [one.id.int for one in order(group, [works], snapshot)[0]]

    assert ids("fifo") == [1, 2, 3, 4, 5]
    assert ids("lifo") == [5, 4, 3, 2, 1]
    assert ids("drf", (held,)) == [1, 4, 2, 3, 5]
    assert ids("fair-share", used) == [4, 1, 2, 3, 5]
