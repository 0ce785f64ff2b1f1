"""How a kernel changes on its node. Pure and total: late or doubled news is STALE.

Two kinds of events meet here: what the manager wants (from its whole list: RUN_WANTED, RESTART_WANTED, STOP_WANTED, UNLISTED), given anew
after each change so that nothing said too early is lost; and what happened (the rest). There is one effect for each state that is
entered, and it is safe to perform again: recovery after a crash is the FOUND_* row and nothing else.
"""

import enum
from collections.abc import Mapping

from ai.backend.common.machine import NEVER, STALE, Drop, Table

from .model import State


class Event(enum.Enum):
    RUN_WANTED = "run-wanted"
    RESTART_WANTED = "restart-wanted"
    STOP_WANTED = "stop-wanted"
    UNLISTED = "unlisted"
    PREPARED = "prepared"
    """The container was started."""
    BECAME_READY = "became-ready"
    FAILED = "failed"
    """What was being done cannot be done."""
    EXITED = "exited"
    """The container's main process is gone."""
    RAN_OUT_OF_MEMORY = "ran-out-of-memory"
    """The language process was killed; the container lives."""
    CLEARED = "cleared"
    """The old container is gone (restart)."""
    RELEASED = "released"
    """Everything is undone."""
    FOUND_RUNNING = "found-running"
    """At the agent's start: its container runs."""
    FOUND_ENDED = "found-ended"
    """At the agent's start: its container is there and does not run."""
    FOUND_NOTHING = "found-nothing"
    """At the agent's start: it has a record but no container."""


class Effect(enum.Enum):
    NOTHING = "nothing"
    PREPARE = "prepare"
    AWAIT_READY = "await-ready"
    SERVE = "serve"
    CLEAR_CONTAINER = "clear-container"
    RELEASE = "release"
    FORGET = "forget"


_S = State
_E = Event


def _row(**targets: State | Drop) -> dict[Event, State | Drop]:
    """A row of the table: what is not named is late or doubled news."""
    return {event: targets.get(event.name, STALE) for event in Event}


TABLE: Table[State, Event] = Table(
    "kernel",
    {
        _S.ABSENT: _row(
            RUN_WANTED=_S.PREPARING,
            RESTART_WANTED=_S.PREPARING,
            STOP_WANTED=_S.TERMINATED,
            FOUND_RUNNING=_S.QUARANTINED,
            FOUND_ENDED=_S.STOPPING,
            **dict.fromkeys(("PREPARED", "BECAME_READY", "CLEARED", "RELEASED", "FOUND_NOTHING"), NEVER),
        ),
        _S.PREPARING: _row(
            PREPARED=_S.STARTING,
            FAILED=_S.STOPPING,
            STOP_WANTED=_S.STOPPING,
            RESTART_WANTED=_S.RESTARTING,
            FOUND_RUNNING=_S.PREPARING,
            FOUND_ENDED=_S.PREPARING,
            FOUND_NOTHING=_S.PREPARING,
        ),
        _S.STARTING: _row(
            BECAME_READY=_S.RUNNING,
            FAILED=_S.STOPPING,
            EXITED=_S.STOPPING,
            STOP_WANTED=_S.STOPPING,
            RESTART_WANTED=_S.RESTARTING,
            FOUND_RUNNING=_S.STARTING,
            FOUND_ENDED=_S.STOPPING,
            FOUND_NOTHING=_S.STOPPING,
        ),
        _S.RUNNING: _row(
            EXITED=_S.STOPPING,
            FAILED=_S.STOPPING,
            RAN_OUT_OF_MEMORY=_S.STOPPING,
            STOP_WANTED=_S.STOPPING,
            RESTART_WANTED=_S.RESTARTING,
            UNLISTED=_S.QUARANTINED,
            FOUND_RUNNING=_S.RUNNING,
            FOUND_ENDED=_S.STOPPING,
            FOUND_NOTHING=_S.STOPPING,
        ),
        _S.QUARANTINED: _row(
            RUN_WANTED=_S.STARTING,
            RESTART_WANTED=_S.RESTARTING,
            STOP_WANTED=_S.STOPPING,
            EXITED=_S.STOPPING,
            RAN_OUT_OF_MEMORY=_S.STOPPING,
            FOUND_RUNNING=_S.QUARANTINED,
            FOUND_ENDED=_S.STOPPING,
            FOUND_NOTHING=_S.STOPPING,
        ),
        _S.RESTARTING: _row(
            CLEARED=_S.PREPARING,
            FAILED=_S.STOPPING,
            STOP_WANTED=_S.STOPPING,
            FOUND_RUNNING=_S.RESTARTING,
            FOUND_ENDED=_S.RESTARTING,
            FOUND_NOTHING=_S.RESTARTING,
        ),
        _S.STOPPING: _row(
            RELEASED=_S.TERMINATED,
            FOUND_RUNNING=_S.STOPPING,
            FOUND_ENDED=_S.STOPPING,
            FOUND_NOTHING=_S.STOPPING,
        ),
        _S.TERMINATED: _row(
            UNLISTED=_S.ABSENT,
            FOUND_RUNNING=_S.STOPPING,
            FOUND_ENDED=_S.STOPPING,
            FOUND_NOTHING=_S.TERMINATED,
        ),
    },
    states=State,
    events=Event,
)

EFFECTS: Mapping[State, Effect] = {
    _S.ABSENT: Effect.FORGET,
    _S.PREPARING: Effect.PREPARE,
    _S.STARTING: Effect.AWAIT_READY,
    _S.RUNNING: Effect.SERVE,
    _S.QUARANTINED: Effect.NOTHING,
    _S.RESTARTING: Effect.CLEAR_CONTAINER,
    _S.STOPPING: Effect.RELEASE,
    _S.TERMINATED: Effect.NOTHING,
}


def handle(state: State, event: Event) -> tuple[State, Effect] | Drop:
    """The state that an event leads to, and what to do on entering it; or STALE or NEVER."""
    target = TABLE.next(state, event)
    return target if isinstance(target, Drop) else (target, EFFECTS[target])
