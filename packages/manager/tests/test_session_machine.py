"""The session machine: total, monotone, and nothing that comes late, twice or never can hold a session back or bring it back."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.backend.common.ids import AccessKey, AgentId, KernelId, ProjectId, SessionId, UserId
from ai.backend.common.machine import Drop
from ai.backend.common.quantity import ResourceSlots
from ai.backend.common.wire.rpc import KernelReport, KernelState
from ai.backend.manager.config import ManagerConfig
from ai.backend.manager.session.machine import (
    EVENT_NAMES,
    EXPIRED_REASONS,
    TABLE,
    Event,
    deadline,
    expiry,
    history,
    react,
)
from ai.backend.manager.session.model import Kernel, Session, SessionResult, SessionStatus, SessionType

NOW = datetime(2026, 1, 1, tzinfo=UTC)
S = SessionStatus


def make_session(status: SessionStatus, *kernel_statuses: SessionStatus) -> Session:
    kernels = tuple(
        Kernel(
            id=KernelId(UUID(int=10 + i)),
            session_id=SessionId(UUID(int=1)),
            cluster_role="main" if i == 0 else "sub",
            cluster_idx=max(i, 1),
            status=kernel_status,
            agent_id=AgentId("a1"),
            image_name="local/python:3.11",
            image_digest="",
            architecture="x86_64",
            image_labels={},
            requested_slots=ResourceSlots({"cpu": 1000}),
            shm_bytes=1,
            incarnation=2,
            stop_reason="",
            stop_forced=False,
            container_id="",
            step="",
            exit_code=None,
            stats={},
        )
        for i, kernel_status in enumerate(kernel_statuses or (status,))
    )
    return Session(
        id=SessionId(UUID(int=1)),
        name="test",
        session_type=SessionType.INTERACTIVE,
        status=status,
        status_changed_at=NOW,
        status_history={},
        deadline_at=None,
        reason="",
        reason_detail={},
        version=1,
        domain_name="default",
        project_id=ProjectId(UUID(int=2)),
        user_id=UserId(UUID(int=3)),
        access_key=AccessKey("AKIA"),
        resource_group="default",
        priority=10,
        tag=None,
        requested_slots=ResourceSlots({"cpu": 1000}),
        resource_opts={},
        environ={},
        startup_command=None,
        bootstrap_script="",
        result="undefined",
        created_at=NOW,
        terminated_at=None,
        kernels=kernels,
    )


def report(state: KernelState, number: int = 0, *, incarnation: int = 2, **more: object) -> KernelReport:
    return KernelReport(
        kernel_id=UUID(int=10 + number),
        session_id=UUID(int=1),
        incarnation=incarnation,
        state=state,
        **more,  # type: ignore[arg-type]
    )


def reacted(session: Session, *reports: KernelReport, missing: tuple[int, ...] = ()):  # type: ignore[no-untyped-def]
    return react(
        session,
        {KernelId(r.kernel_id): r for r in reports},
        frozenset(KernelId(UUID(int=10 + n)) for n in missing),
    )


def test_every_state_has_an_exit_a_deadline_and_events() -> None:
    config = ManagerConfig()
    for status in SessionStatus:
        exits = {t for t in TABLE.rows[status].values() if not isinstance(t, Drop)}
        assert bool(exits) is not status.terminal
        has_deadline = deadline(status, NOW, config) is not None
        assert has_deadline is (not status.terminal and status is not S.RUNNING)
        may_have_one = deadline(status, NOW, config, batch_timeout_s=1) is not None
        assert may_have_one is not status.terminal
        assert (status in EXPIRED_REASONS) is may_have_one
        assert status in EVENT_NAMES


def test_terminal_states_never_change_and_every_path_ends_once() -> None:
    for events in itertools.product(Event, repeat=6):
        state, ends = S.PENDING, 0
        for event in events:
            target = TABLE.next(state, event)
            if not isinstance(target, Drop):
                assert not state.terminal
                state = target
                ends += state.terminal
        assert ends <= 1


@pytest.mark.parametrize("status", [s for s in SessionStatus if not s.terminal])
def test_expiry_leads_to_an_end_from_everywhere(status: SessionStatus) -> None:
    state = status
    for _ in range(4):
        target = TABLE.next(state, Event.EXPIRED)
        if not isinstance(target, Drop):
            state = target
    assert state.terminal


def test_a_start_is_followed_step_by_step() -> None:
    reaction = reacted(make_session(S.SCHEDULED), report(KernelState.PREPARING, step="create"))
    assert reaction.event is Event.PREPARING
    assert reaction.kernels[KernelId(UUID(int=10))] == {"step": "create", "status": S.PREPARING}
    assert reacted(make_session(S.PREPARING), report(KernelState.RUNNING)).event is Event.STARTED


def test_what_runs_has_been_prepared() -> None:
    """Also when its agent's reports skip it; a restart changes nothing of it, and what never ran was not prepared."""
    later = NOW + timedelta(seconds=1)
    before = {"PENDING": "a", "SCHEDULED": "b"}
    ran = history(before, S.RUNNING, NOW)
    assert ran == {**before, "PREPARING": "b", "RUNNING": NOW.isoformat()}
    assert history(ran, S.RUNNING, later) == {**ran, "RUNNING": later.isoformat()}
    seen = history(before, S.PREPARING, NOW)
    assert history(seen, S.RUNNING, later)["PREPARING"] == NOW.isoformat()
    assert "PREPARING" not in history(before, S.CANCELLED, NOW)


def test_a_session_runs_only_when_all_its_kernels_run() -> None:
    two = make_session(S.PREPARING, S.PREPARING, S.PREPARING)
    assert reacted(two, report(KernelState.RUNNING, 0)).event is None
    assert reacted(two, report(KernelState.RUNNING, 0), report(KernelState.RUNNING, 1)).event is Event.STARTED


def test_one_dead_kernel_takes_the_session_down_with_its_reason() -> None:
    two = make_session(S.RUNNING, S.RUNNING, S.RUNNING)
    reaction = reacted(two, report(KernelState.TERMINATED, 1, reason="out-of-memory", message="too much"))
    assert (reaction.event, reaction.reason, reaction.message) == (
        Event.STOP_REQUESTED,
        "out-of-memory",
        "too much",
    )


def followed(session: Session, *reports: KernelReport) -> list[SessionStatus]:
    """The session's statuses through reports of its one kernel."""
    found = [session.status]
    for one in reports:
        reaction = reacted(session, one)
        values = next(iter(reaction.kernels.values()), {})
        kernel = replace(session.kernels[0], **{k: v for k, v in values.items() if k == "status"})
        status = session.status if reaction.event is None else TABLE.next(session.status, reaction.event)
        assert isinstance(status, SessionStatus)
        result = session.result if reaction.result is None else reaction.result.value
        history = {**session.status_history, status.value: "now"}
        session = replace(session, status=status, status_history=history, result=result, kernels=(kernel,))
        found.append(status)
    assert session.status.terminal
    assert kernel.status is session.status
    return found


@pytest.mark.parametrize("state", [S.SCHEDULED, S.PREPARING])
def test_a_failed_start_ends_as_cancelled_also_when_its_agent_tidies_up_first(state: SessionStatus) -> None:
    stopping = report(KernelState.STOPPING, reason="failed-to-start")
    over = report(KernelState.TERMINATED, reason="failed-to-start")
    assert followed(make_session(state), over) == [state, S.CANCELLED]
    assert followed(make_session(state), stopping, over) == [state, S.TERMINATING, S.CANCELLED]


def test_what_ran_ends_as_terminated() -> None:
    run, stopping, over = (
        report(state) for state in (KernelState.RUNNING, KernelState.STOPPING, KernelState.TERMINATED)
    )
    started = [S.PREPARING, S.RUNNING]
    assert followed(make_session(S.PREPARING), run, over) == [*started, S.TERMINATED]
    assert followed(make_session(S.PREPARING), run, stopping, over) == [*started, S.TERMINATING, S.TERMINATED]


def test_a_command_that_passed_between_two_reports_did_run() -> None:
    stopping, over = (
        report(state, reason="task-finished", exit_code=0)
        for state in (KernelState.STOPPING, KernelState.TERMINATED)
    )
    assert followed(batch(S.PREPARING), over) == [S.PREPARING, S.TERMINATED]
    assert followed(batch(S.PREPARING), stopping, report(KernelState.TERMINATED)) == [
        S.PREPARING, S.TERMINATING, S.TERMINATED,
    ]  # fmt: skip


def test_giving_up_depends_on_whether_it_ran() -> None:
    lost = make_session(S.ERROR)
    assert TABLE.next(S.ERROR, expiry(lost)) is S.CANCELLED
    assert TABLE.next(S.ERROR, expiry(replace(lost, status_history={"RUNNING": "then"}))) is S.TERMINATED
    assert TABLE.next(S.PREPARING, expiry(make_session(S.PREPARING))) is S.TERMINATING


def test_one_container_that_ran_does_not_make_a_session_that_did() -> None:
    two = make_session(S.PREPARING, S.RUNNING, S.PREPARING)
    reaction = reacted(two, report(KernelState.TERMINATED, 0), report(KernelState.TERMINATED, 1))
    assert reaction.event is Event.NEVER_RAN
    assert [values["status"] for values in reaction.kernels.values()] == [S.TERMINATED, S.CANCELLED]


def test_news_of_an_older_incarnation_is_dropped() -> None:
    restarting = make_session(S.RESTARTING)
    old = report(KernelState.TERMINATED, incarnation=1, reason="restarting")
    assert reacted(restarting, old).event is None
    assert reacted(restarting, report(KernelState.RUNNING)).event is Event.STARTED


def test_late_news_of_the_living_does_not_revive_the_dead() -> None:
    for state in KernelState:
        assert reacted(make_session(S.TERMINATED), report(state)).event is None


def test_a_missing_kernel_ends_its_session() -> None:
    reaction = reacted(make_session(S.RUNNING), missing=(0,))
    assert (reaction.event, reaction.reason) == (Event.ENDED, "container-not-found")


def batch(status: SessionStatus = S.RUNNING, *kernels: SessionStatus, **more: object) -> Session:
    made = replace(make_session(status, *kernels), session_type=SessionType.BATCH, startup_command="true")
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("exit_code", "result"),
    [(0, SessionResult.SUCCESS), (3, SessionResult.FAILURE), (137, SessionResult.FAILURE)],
)
@pytest.mark.parametrize("state", [KernelState.STOPPING, KernelState.TERMINATED])
def test_a_command_that_ended_decides_the_result(
    state: KernelState, exit_code: int, result: SessionResult
) -> None:
    reaction = reacted(batch(), report(state, reason="task-finished", exit_code=exit_code))
    assert (reaction.result, reaction.reason) == (result, "task-finished")
    assert reaction.event in (Event.STOP_REQUESTED, Event.ENDED)


def test_a_command_that_ended_while_its_session_was_being_ended_counts() -> None:
    ending = batch(S.TERMINATING, reason="user-requested")
    told = report(KernelState.TERMINATED, reason="task-finished", exit_code=0)
    assert reacted(ending, told).result is SessionResult.SUCCESS


@pytest.mark.parametrize(
    ("reason", "result"),
    [("out-of-memory", SessionResult.FAILURE), ("user-requested", None), ("cluster-down", None)],
)
def test_what_ends_a_command_has_failed_it_unless_somebody_wished_so(
    reason: str, result: SessionResult | None
) -> None:
    assert reacted(batch(), report(KernelState.TERMINATED, reason=reason)).result is result


def test_a_lost_container_fails_its_command_and_a_result_is_kept() -> None:
    assert reacted(batch(), missing=(0,)).result is SessionResult.FAILURE
    told = report(KernelState.TERMINATED, reason="task-finished", exit_code=0)
    assert reacted(batch(result=SessionResult.FAILURE), told).result is None
    assert reacted(make_session(S.RUNNING), told).result is None, "an interactive session has no result"
    assert (
        reacted(batch(S.PREPARING), report(KernelState.TERMINATED, reason="failed-to-start")).result is None
    )


def test_the_end_of_the_main_kernels_command_ends_the_others() -> None:
    two = batch(S.RUNNING, S.RUNNING, S.RUNNING)
    reaction = reacted(two, report(KernelState.TERMINATED, reason="task-finished", exit_code=0))
    assert (reaction.event, reaction.result) == (Event.STOP_REQUESTED, SessionResult.SUCCESS)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(KernelState)), st.integers(0, 1), st.integers(1, 2)), max_size=12)
)
def test_any_order_of_reports_keeps_statuses_in_the_table(stream: list[tuple[KernelState, int, int]]) -> None:
    statuses = [S.SCHEDULED, S.SCHEDULED]
    session_status = S.SCHEDULED
    for state, number, incarnation in stream:
        session = make_session(session_status, *statuses)
        reaction = reacted(session, report(state, number, incarnation=incarnation))
        for kernel_id, values in reaction.kernels.items():
            if "status" in values:
                index = kernel_id.int - 10
                assert not statuses[index].terminal
                statuses[index] = values["status"]
        if reaction.event is not None:
            target = TABLE.next(session_status, reaction.event)
            assert not isinstance(target, Drop)
            session_status = target
    if session_status is S.RUNNING:
        assert all(status is S.RUNNING for status in statuses)
