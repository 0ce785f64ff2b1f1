"""A kernel's machine on its node: total; whatever happens, RELEASE is asked for exactly once."""

import itertools

import pytest

from ai.backend.agent.kernel.machine import TABLE, Effect, Event, State, handle
from ai.backend.common.machine import Drop


def test_every_sequence_of_six_events_releases_at_most_once_and_exactly_once_at_the_end() -> None:
    for events in itertools.product(Event, repeat=6):
        state, released = State.NEW, 0
        for event in events:
            step = handle(state, event)
            assert step.changed or (step.state is state and step.effect is None)
            if step.effect is Effect.RELEASE:
                released += 1
            assert not (state is State.TERMINATED and step.changed)
            state = step.state
        assert released == (state in (State.STOPPING, State.TERMINATED))


@pytest.mark.parametrize("state", [s for s in State if s is not State.TERMINATED])
def test_a_wish_to_stop_ends_everything_from_everywhere(state: State) -> None:
    step = handle(state, Event.STOP_WANTED)
    reached = step.state if step.changed else state
    assert reached is State.STOPPING
    assert handle(reached, Event.RELEASED).state is State.TERMINATED


def test_doubled_and_late_news_change_nothing() -> None:
    assert handle(State.RUNNING, Event.RUN_WANTED) == (State.RUNNING, None, False)
    assert handle(State.RUNNING, Event.READY) == (State.RUNNING, None, False)
    assert handle(State.STOPPING, Event.EXITED) == (State.STOPPING, None, False)


def test_a_stranger_is_touched_only_when_the_manager_says_so() -> None:
    quiet = {e for e in Event if isinstance(TABLE.next(State.QUARANTINED, e), Drop)}
    assert quiet == {
        Event.UNLISTED,
        Event.FOUND,
        Event.PREPARED,
        Event.READY,
        Event.FAILED,
        Event.CLEARED,
        Event.RELEASED,
    }
