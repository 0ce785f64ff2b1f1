"""What keeps a pending session back, and what ends it."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from ai.backend.common.ids import SessionId
from ai.backend.manager.scheduling.policy import HELD, Doom, Hold, verdict
from ai.backend.manager.session.model import Dependency, SessionResult, SessionStatus

from .test_session_machine import NOW, make_session

S, R = SessionStatus, SessionResult
PENDING = make_session(S.PENDING)


def on(status: SessionStatus, result: SessionResult = R.UNDEFINED, name: str = "first") -> Dependency:
    return Dependency(id=SessionId(UUID(int=1)), name=name, status=status, result=result)


def test_nothing_to_wait_for() -> None:
    assert verdict(PENDING, (), NOW) is None
    assert verdict(PENDING, (on(S.TERMINATED, R.SUCCESS),), NOW) is None


@pytest.mark.parametrize("status", [status for status in S if not status.terminal])
def test_dependencies_are_waited_for(status: SessionStatus) -> None:
    said = verdict(PENDING, (on(S.TERMINATED, R.SUCCESS), on(status, name="second")), NOW)
    assert isinstance(said, Hold) and said.reason in HELD and said.until is None
    assert "second" in said.message and "first" not in said.message


def test_a_success_that_still_tidies_up_is_waited_for() -> None:
    assert isinstance(verdict(PENDING, (on(S.TERMINATING, R.SUCCESS),), NOW), Hold)


@pytest.mark.parametrize(
    ("status", "result"), [(S.TERMINATED, R.FAILURE), (S.TERMINATED, R.UNDEFINED), (S.CANCELLED, R.UNDEFINED)]
)
def test_one_that_failed_or_never_ran_ends_it_at_once(status: SessionStatus, result: SessionResult) -> None:
    said = verdict(PENDING, (on(S.RUNNING, name="other"), on(status, result)), NOW)
    assert isinstance(said, Doom) and said.reason == "dependency-failed" and "first" in said.message


def test_a_time_is_waited_for_and_told() -> None:
    later = replace(PENDING, starts_at=NOW + timedelta(minutes=1))
    said = verdict(later, (), NOW)
    assert isinstance(said, Hold) and said.reason in HELD and said.until == later.starts_at
    assert "00:01:00 UTC" in said.message
    assert verdict(later, (), NOW + timedelta(minutes=1)) is None
    both = verdict(later, (on(S.RUNNING),), NOW)
    assert isinstance(both, Hold) and both.until is None, "first the others, then the time"


def test_many_are_told_briefly() -> None:
    said = verdict(PENDING, [on(S.RUNNING, name=f"n{i}") for i in range(5)], NOW)
    assert isinstance(said, Hold) and "n0, n1, n2 and 2 more" in said.message
