"""Tables are total or refused at import, and diagrams leave out what does not happen."""

import enum

import pytest

from ai.backend.common.machine import NEVER, STALE, Table


class State(enum.Enum):
    OFF = "off"
    ON = "on"


class Event(enum.Enum):
    PUSHED = "pushed"
    BROKEN = "broken"


def test_a_total_table_answers() -> None:
    table: Table[State, Event] = Table(
        "lamp",
        {
            State.OFF: {Event.PUSHED: State.ON, Event.BROKEN: STALE},
            State.ON: {Event.PUSHED: State.ON, Event.BROKEN: NEVER},
        },
        states=State,
        events=Event,
    )
    assert table.next(State.OFF, Event.PUSHED) is State.ON
    assert table.next(State.OFF, Event.BROKEN) is STALE
    assert table.next(State.ON, Event.BROKEN) is NEVER
    assert table.mermaid() == "stateDiagram-v2\n    OFF --> ON: PUSHED"


def test_a_hole_is_refused_and_named() -> None:
    with pytest.raises(ValueError, match=r"lamp.*OFF.*BROKEN"):
        Table("lamp", {State.OFF: {Event.PUSHED: STALE}}, states=[State.OFF], events=Event)
    with pytest.raises(ValueError, match="ON"):
        Table("lamp", {State.OFF: dict.fromkeys(Event, STALE)}, states=State, events=Event)
