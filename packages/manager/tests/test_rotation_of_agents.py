"""Agents where starts fail rest, longer each time, are tried with one session, and never leave their kind without any agent."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from ai.backend.common.ids import AgentId
from ai.backend.manager.agents.model import Agent
from ai.backend.manager.agents.rotation import FAILURES_MAX, REST_MAX, canaries, rest, resting
from ai.backend.manager.scheduling.policy import one_each
from ai.backend.scheduler.model import Placement, Start

from .test_session_policy import NOW
from .test_session_policy import agent as an_agent


def agent(
    number: int, failures: int, rests_s: int | None, *, group: str = "default", usable: bool = True
) -> Agent:
    return replace(
        an_agent(f"a{number}"),
        resource_group=group,
        schedulable=usable,
        start_failures=failures,
        rests_until=None if rests_s is None else NOW + timedelta(seconds=rests_s),
    )


AGENTS = st.lists(
    st.tuples(st.integers(0, 6), st.none() | st.integers(-100, 100), st.sampled_from("xy"), st.booleans()),
    max_size=8,
).map(
    lambda many: [agent(n, f, s, group=group, usable=usable) for n, (f, s, group, usable) in enumerate(many)]
)


def test_each_rest_is_twice_as_long_up_to_an_hour() -> None:
    assert rest(FAILURES_MAX - 1) == timedelta(0)
    assert [rest(FAILURES_MAX + n).total_seconds() for n in range(3)] == [60, 120, 240]
    assert rest(10**9) == REST_MAX


@given(AGENTS)
def test_whoever_takes_sessions_leaves_some_that_do(agents: list[Agent]) -> None:
    out, tried = resting(agents, NOW), canaries(agents, NOW)
    assert not out.keys() & tried.keys()
    doubted = {one.id for one in agents if one.start_failures >= FAILURES_MAX}
    assert out.keys() | tried.keys() <= doubted
    for one in agents:
        if one.takes_sessions:
            peers = [two for two in agents if two.takes_sessions and two.resource_group == one.resource_group]
            assert any(two.id not in out and two.id not in tried for two in peers)
            alone = all(two.start_failures >= FAILURES_MAX for two in peers)
            assert (one.id in out or one.id in tried) is (one.id in doubted and not alone)


def test_one_is_tried_with_one_session() -> None:
    def start(number: int, *agents: str) -> Start:
        placements = tuple(Placement(kernel_id=UUID(int=n), agent_id=one) for n, one in enumerate(agents))
        return Start(workload_id=UUID(int=number), version=1, placements=placements)

    trying = {AgentId("a1"): NOW, AgentId("a2"): NOW}
    starts = [
        start(1, "a0", "a0"),
        start(2, "a1", "a1"),
        start(3, "a1"),
        start(4, "a2", "a1"),
        start(5, "a0"),
    ]
    kept, got = one_each(starts, trying)
    assert [one.workload_id.int for one in kept] == [1, 2, 5] and got == {AgentId("a1"): NOW}
