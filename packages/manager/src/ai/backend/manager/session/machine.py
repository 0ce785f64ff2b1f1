"""How sessions and kernels change. One table for both: a session follows its kernels.

Pure and total: what comes late or twice is STALE and dropped. `react` turns an agent's report about the kernels of one session into what
to write; the shell (`transition`) writes it guarded by the session's version.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ai.backend.common.ids import KernelId
from ai.backend.common.machine import STALE, Drop, Table, row
from ai.backend.common.wire.rpc import KernelReport, KernelState

from ..config import ManagerConfig
from .model import Kernel, Session, SessionResult, SessionStatus


class Event(enum.Enum):
    """Past tense: each has happened."""

    PLACED = "placed"
    PREPARING = "preparing"
    STARTED = "started"
    RESTART_REQUESTED = "restart-requested"
    STOP_REQUESTED = "stop-requested"
    ENDED = "ended"
    NEVER_RAN = "never-ran"
    """It has ended, and never ran: it failed to start, or somebody changed their mind."""
    EXPIRED = "expired"
    REQUEUED = "requeued"
    """Its kernels are gone, and it waits for another attempt."""


_S = SessionStatus
_E = Event


TABLE: Table[SessionStatus, Event] = Table(
    "session",
    {
        _S.PENDING: row(Event, PLACED=_S.SCHEDULED, STOP_REQUESTED=_S.CANCELLED, EXPIRED=_S.CANCELLED),
        _S.SCHEDULED: row(
            Event,
            PREPARING=_S.PREPARING,
            STARTED=_S.RUNNING,
            STOP_REQUESTED=_S.TERMINATING,
            ENDED=_S.TERMINATED,
            NEVER_RAN=_S.CANCELLED,
            EXPIRED=_S.TERMINATING,
            REQUEUED=_S.PENDING,
        ),
        _S.PREPARING: row(
            Event,
            STARTED=_S.RUNNING,
            STOP_REQUESTED=_S.TERMINATING,
            ENDED=_S.TERMINATED,
            NEVER_RAN=_S.CANCELLED,
            EXPIRED=_S.TERMINATING,
            REQUEUED=_S.PENDING,
        ),
        _S.RUNNING: row(
            Event,
            RESTART_REQUESTED=_S.RESTARTING,
            STOP_REQUESTED=_S.TERMINATING,
            ENDED=_S.TERMINATED,
            EXPIRED=_S.TERMINATING,
        ),
        _S.RESTARTING: row(
            Event,
            STARTED=_S.RUNNING,
            STOP_REQUESTED=_S.TERMINATING,
            ENDED=_S.TERMINATED,
            EXPIRED=_S.TERMINATING,
        ),
        _S.TERMINATING: row(
            Event, ENDED=_S.TERMINATED, NEVER_RAN=_S.CANCELLED, EXPIRED=_S.ERROR, REQUEUED=_S.PENDING
        ),
        _S.ERROR: row(
            Event, ENDED=_S.TERMINATED, NEVER_RAN=_S.CANCELLED, EXPIRED=_S.TERMINATED, REQUEUED=_S.PENDING
        ),
        _S.TERMINATED: row(Event),
        _S.CANCELLED: row(Event),
    },
    states=SessionStatus,
    events=Event,
)

EVENT_NAMES: Mapping[SessionStatus, tuple[str, ...]] = {
    _S.PENDING: ("session_enqueued",),
    _S.SCHEDULED: ("session_scheduled",),
    _S.PREPARING: ("kernel_preparing", "session_preparing"),
    _S.RUNNING: ("kernel_started", "session_started"),
    _S.RESTARTING: (),
    _S.TERMINATING: ("kernel_terminating", "session_terminating"),
    _S.ERROR: (),
    _S.TERMINATED: ("kernel_terminated", "session_terminated"),
    _S.CANCELLED: ("kernel_cancelled", "session_cancelled"),
}
"""The published events that tell of a session's new status."""


def history(before: Mapping[str, str], status: SessionStatus, now: datetime) -> dict[str, str]:
    """When each status began, with the next one. What runs has been prepared, though a quick start passes between two reports of its
    agent: then from when it was handed over, for published clients count the time of use from there."""
    if status is _S.PENDING:
        return {status.value: now.isoformat()}  # another attempt begins
    told = {**before, status.value: now.isoformat()}
    if status is _S.RUNNING and _S.SCHEDULED.value in before:
        told = {_S.PREPARING.value: before[_S.SCHEDULED.value], **told}
    return told


RESULT_EVENTS: Mapping[str, str] = {
    SessionResult.SUCCESS.value: "session_success",
    SessionResult.FAILURE.value: "session_failure",
}
"""The published event that tells of a batch session's result."""


def deadline(
    status: SessionStatus, now: datetime, config: ManagerConfig, *, batch_timeout_s: int | None = None
) -> datetime | None:
    """When a status is given up. Only RUNNING (its owner is the agent) and the terminal ones have none; a batch session that runs
    has one if its owner has set a limit."""
    limits_s: dict[SessionStatus, int | None] = {
        _S.RUNNING: batch_timeout_s,
        _S.PENDING: config.pending_timeout_s,
        _S.SCHEDULED: config.start_timeout_s,
        _S.PREPARING: config.start_timeout_s,
        _S.RESTARTING: config.restart_timeout_s,
        _S.TERMINATING: config.terminate_timeout_s,
        _S.ERROR: config.error_timeout_s,
    }
    limit_s = limits_s.get(status)
    return now + timedelta(seconds=limit_s) if limit_s is not None else None


EXPIRED_REASONS: Mapping[SessionStatus, tuple[str, str]] = {
    _S.PENDING: ("pending-timeout", "It waited for resources for longer than the limit."),
    _S.SCHEDULED: ("failed-to-start", "Its agent did not start it within the time limit."),
    _S.PREPARING: ("failed-to-start", "Its agent did not start it within the time limit."),
    _S.RUNNING: ("task-timeout", "Its command did not end within the time limit that was set for it."),
    _S.RESTARTING: ("restart-timeout", "It did not come back within the time limit of a restart."),
    _S.TERMINATING: (
        "agent-silent",
        "Its agent did not confirm its end in time; its slots stay held until it does.",
    ),
    _S.ERROR: ("agent-lost", "Its agent never confirmed its end and it was given up."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """What a report changes: new values of kernel columns, and what happened to the session (None: nothing)."""

    kernels: dict[KernelId, dict[str, Any]] = field(default_factory=dict)
    event: Event | None = None
    reason: str = ""
    message: str = ""
    result: SessionResult | None = None
    """What came of a batch session, if that is known by now."""


TASK_FINISHED = "task-finished"
"""A batch session's command has ended, whatever its exit code was."""
_ASKED_FOR = frozenset({"user-requested", "force-terminated", "cluster-down"})
"""Somebody ended it: that says nothing about its command."""
LOST = "container-not-found"
_LOST_MESSAGE = "Its agent no longer has its container: the node lost it."

_KERNEL_EVENTS = {
    KernelState.PREPARING: Event.PREPARING,
    KernelState.RUNNING: Event.STARTED,
    KernelState.STOPPING: Event.STOP_REQUESTED,
}


def ran(session: Session) -> bool:
    """Whether it ever ran. The whole of a short command may have passed between two reports: then its result tells of it."""
    runs = session.status in (_S.RUNNING, _S.RESTARTING)
    return runs or _S.RUNNING.value in session.status_history or session.result != SessionResult.UNDEFINED


def expiry(session: Session) -> Event:
    """What the end of a session's time in its status means. Whoever is given up is over, and how depends on whether it ran."""
    return Event.NEVER_RAN if session.status is _S.ERROR and not ran(session) else Event.EXPIRED


def react(
    session: Session, reports: Mapping[KernelId, KernelReport], missing: frozenset[KernelId]
) -> Reaction:
    """What the newest reports of its agents mean for a session.

    Args:
        reports: the kernels of this session that were reported.
        missing: its kernels that their agent should have told of and did not: they are gone.
    """
    changes: dict[KernelId, dict[str, Any]] = {}
    after: list[SessionStatus] = []
    reason, message = "", ""
    main = reports.get(session.main.id)
    ended = ran(session) or (main is not None and main.reason == TASK_FINISHED)
    end = Event.ENDED if ended else Event.NEVER_RAN
    for kernel in session.kernels:
        status, values, why = _kernel_change(kernel, reports.get(kernel.id), kernel.id in missing, end)
        after.append(status)
        if values:
            changes[kernel.id] = values
        if why and not reason:
            reason, message = why
    event = _session_event(session.status, after, end)
    return Reaction(
        kernels=changes,
        event=event,
        reason=reason,
        message=message,
        result=_result(session, main, event, reason),
    )


def _result(
    session: Session, main: KernelReport | None, event: Event | None, reason: str
) -> SessionResult | None:
    """A command that has ended decides by its exit code, even when somebody ended the session at that moment. One that was ended by
    anything but a person's wish has failed."""
    if not session.is_batch or event not in (Event.STOP_REQUESTED, Event.ENDED):
        return None
    if session.result != SessionResult.UNDEFINED:
        return None
    if main is not None and main.reason == TASK_FINISHED:
        return SessionResult.SUCCESS if main.exit_code == 0 else SessionResult.FAILURE
    began = session.status in (_S.RUNNING, _S.RESTARTING)
    return SessionResult.FAILURE if began and reason not in _ASKED_FOR else None


def _kernel_change(
    kernel: Kernel, report: KernelReport | None, missing: bool, end: Event
) -> tuple[SessionStatus, dict[str, Any], tuple[str, str] | None]:
    if kernel.status is _S.RUNNING:
        end = Event.ENDED  # it did run, though others of its session never came that far
    if missing:
        target = TABLE.next(kernel.status, end)
        if isinstance(target, Drop):
            return kernel.status, {}, None
        return target, {"status": target}, (LOST, _LOST_MESSAGE)
    if report is None or report.incarnation < kernel.incarnation or kernel.status.terminal:
        return kernel.status, {}, None
    values: dict[str, Any] = {}
    for column, value in (
        ("container_id", report.container_id),
        ("step", report.step),
        ("exit_code", report.exit_code),
        ("stats", dict(report.stats)),
        ("devices", dict(report.devices)),
    ):
        if value not in ("", None, {}) and getattr(kernel, column) != value:
            values[column] = value
    event = end if report.state is KernelState.TERMINATED else _KERNEL_EVENTS.get(report.state)
    target = TABLE.next(kernel.status, event) if event else STALE
    if isinstance(target, Drop):
        return kernel.status, values, None
    ending = event in (Event.STOP_REQUESTED, Event.ENDED, Event.NEVER_RAN)
    return target, {**values, "status": target}, (report.reason, report.message) if ending else None


def _session_event(status: SessionStatus, kernels: list[SessionStatus], end: Event) -> Event | None:
    if all(kernel.terminal for kernel in kernels):
        event = end
    elif any(kernel.terminal or kernel is _S.TERMINATING for kernel in kernels):
        event = Event.STOP_REQUESTED  # one kernel gone means that the others have to go
    elif all(kernel is _S.RUNNING for kernel in kernels):
        event = Event.STARTED
    elif any(kernel is _S.PREPARING for kernel in kernels):
        event = Event.PREPARING
    else:
        return None
    return None if isinstance(TABLE.next(status, event), Drop) else event
