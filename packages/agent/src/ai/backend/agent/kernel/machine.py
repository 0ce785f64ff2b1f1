"""A kernel on its node: what it is, what may happen to it, and what is to be done then. Pure and total.

`handle(state, event)` is the only way in which a kernel's state changes. Whatever happens, in any order and any number of times,
RELEASE is asked for exactly once on the way to TERMINATED, and nothing after it.
"""

import enum
from typing import NamedTuple

from ai.backend.common.machine import Drop, Table, row


class State(enum.Enum):
    NEW = "new"
    PREPARING = "preparing"
    """Folders, socket and container are being made."""
    STARTING = "starting"
    """The container runs; its runner is not ready yet."""
    RUNNING = "running"
    RECREATING = "recreating"
    """A restart: the old container goes, scratch and user id stay."""
    STOPPING = "stopping"
    TERMINATED = "terminated"
    """Nothing of it is left on the node but its record, until the manager no longer lists it."""
    QUARANTINED = "quarantined"
    """Runs here, but the manager has not listed it (yet): shown, never touched."""


class Event(enum.Enum):
    RUN_WANTED = "run-wanted"
    STOP_WANTED = "stop-wanted"
    RESTART_WANTED = "restart-wanted"
    UNLISTED = "unlisted"
    """The manager's newest wishes do not name it."""
    FOUND = "found"
    """A running container of ours was found at the agent's start."""
    PREPARED = "prepared"
    READY = "ready"
    FAILED = "failed"
    EXITED = "exited"
    """Its container has ended, or a batch session's command has: there is nothing more to run."""
    CLEARED = "cleared"
    """The old container of a restart is gone."""
    RELEASED = "released"


class Effect(enum.Enum):
    PREPARE = "prepare"
    WAIT_READY = "wait-ready"
    COMMAND = "command"
    """Run a batch session's command, or take up the one that runs already. Nothing to do for other sessions."""
    CLEAR = "clear"
    RELEASE = "release"


_S, _E = State, Event


TABLE: Table[State, Event] = Table(
    "kernel",
    {
        _S.NEW: row(Event, RUN_WANTED=_S.PREPARING, STOP_WANTED=_S.STOPPING, FOUND=_S.QUARANTINED),
        _S.PREPARING: row(
            Event, PREPARED=_S.STARTING, FAILED=_S.STOPPING, EXITED=_S.STOPPING, STOP_WANTED=_S.STOPPING
        ),
        _S.STARTING: row(
            Event,
            READY=_S.RUNNING,
            FAILED=_S.STOPPING,
            EXITED=_S.STOPPING,
            STOP_WANTED=_S.STOPPING,
            RESTART_WANTED=_S.RECREATING,
            UNLISTED=_S.QUARANTINED,
        ),
        _S.RUNNING: row(
            Event,
            EXITED=_S.STOPPING,
            FAILED=_S.STOPPING,
            STOP_WANTED=_S.STOPPING,
            RESTART_WANTED=_S.RECREATING,
            UNLISTED=_S.QUARANTINED,
        ),
        _S.RECREATING: row(Event, CLEARED=_S.PREPARING, FAILED=_S.STOPPING, STOP_WANTED=_S.STOPPING),
        _S.STOPPING: row(Event, RELEASED=_S.TERMINATED),
        _S.TERMINATED: row(Event),
        _S.QUARANTINED: row(
            Event,
            RUN_WANTED=_S.STARTING,
            RESTART_WANTED=_S.RECREATING,
            STOP_WANTED=_S.STOPPING,
            EXITED=_S.STOPPING,
        ),
    },
    states=State,
    events=Event,
)

_EFFECTS = {
    _S.PREPARING: Effect.PREPARE,
    _S.STARTING: Effect.WAIT_READY,
    _S.RUNNING: Effect.COMMAND,
    _S.RECREATING: Effect.CLEAR,
    _S.STOPPING: Effect.RELEASE,
}
"""What entering a state asks for; it replaces whatever was being done."""


class Step(NamedTuple):
    state: State
    effect: Effect | None
    changed: bool


def handle(state: State, event: Event) -> Step:
    """The next state and what to do on entering it; `changed` is false for late or doubled news."""
    target = TABLE.next(state, event)
    if isinstance(target, Drop):
        return Step(state, None, False)
    return Step(target, _EFFECTS.get(target), True)
