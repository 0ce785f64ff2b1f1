"""The shell around the session machine: one door through which every status is written, with its events, in one transaction."""

from collections.abc import Mapping, Set
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ai.backend.common.ids import AgentId
from ai.backend.common.machine import Drop

from ..config import ManagerConfig
from ..event import store as event_store
from . import store
from .attempt import ATTEMPTS_KEPT, RETRIED, attempt_of, renewed, tries_again
from .machine import EVENT_NAMES, RESULT_EVENTS, TABLE, Event, deadline, history, ran
from .model import Session, SessionResult, SessionStatus


def announce(
    conn: sa.Connection, session: Session, now: datetime, result: SessionResult | None = None
) -> None:
    """Writes the published events of the session's present status, after that of a result that has just become known."""
    event_store.append_all(conn, announcement(session, now, result))


def announcement(
    session: Session, now: datetime, result: SessionResult | None = None
) -> list[dict[str, Any]]:
    """The rows of what `announce` writes."""
    return _announcement(session, session.status, session.reason, session.reason_detail, now, result)


def announcement_of(session: Session, values: Mapping[str, Any], now: datetime) -> list[dict[str, Any]]:
    """`announcement` of a session after `change`, without making it."""
    status = SessionStatus(values["status"])
    return _announcement(session, status, values["reason"], values["reason_detail"], now, None)


def _announcement(
    session: Session,
    status: SessionStatus,
    reason: str,
    detail: Mapping[str, Any],
    now: datetime,
    result: SessionResult | None,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    shared = _shared(session) | {"reason": reason, "message": detail.get("message", "")}
    if session.callback_url:
        shared["hasCallback"] = True
    names = EVENT_NAMES[status]
    for name in names if result is None else (RESULT_EVENTS[result], *names):
        if name.startswith("session_"):
            rows.append(event_store.row(name, session.id, shared, now))
        else:
            rows += _of_kernels(name, session, shared, now)
    return rows


def _of_kernels(
    name: str, session: Session, shared: Mapping[str, Any], now: datetime
) -> list[dict[str, Any]]:
    return [
        event_store.row(
            name,
            session.id,
            {
                **shared,
                "kernelId": str(kernel.id),
                "clusterRole": kernel.cluster_role,
                "clusterIdx": kernel.cluster_idx,
                "exitCode": kernel.exit_code,
            },
            now,
        )
        for kernel in session.kernels
    ]


def waiting_announcement(session: Session, now: datetime) -> dict[str, Any]:
    """The row that tells why a session waits. It is no change of status, so no callback hears of it."""
    known = {key: session.reason_detail.get(key) for key in ("hint", "position", "slots", "unblock")}
    return event_store.row("session_waiting", session.id, _shared(session) | known, now)


def _shared(session: Session) -> dict[str, Any]:
    """What every event tells of its session."""
    return {
        "sessionId": str(session.id),
        "sessionName": session.name,
        "ownerAccessKey": session.access_key,
        "userId": str(session.user_id),
        "domainName": session.domain_name,
        "projectId": str(session.project_id),
        "reason": session.reason,
        "message": session.reason_detail.get("message", ""),
        "exitCode": session.main.exit_code,
    }


def advance(
    conn: sa.Connection,
    session: Session,
    event: Event,
    *,
    now: datetime,
    config: ManagerConfig,
    reason: str = "",
    detail: Mapping[str, Any] | None = None,
    result: SessionResult | None = None,
    requeue: Set[AgentId] | None = None,
) -> Session | None:
    """Moves a session by what happened to it; returns it as it is now, or None when the news was stale or somebody else was first.

    A reason once given for ending is kept: the first cause is the true one. `requeue`: once its kernels are gone it is to be requeued.
    """
    values = change(session, event, now=now, config=config, reason=reason, detail=detail, result=result)
    if values is None:
        return None
    marked = values if requeue is None else {**values, "requeue": sorted(requeue)}
    if not store.update(conn, session, marked):
        return None
    moved = changed(session, values)
    announce(conn, moved, now, result)
    return moved


def change(
    session: Session,
    event: Event,
    *,
    now: datetime,
    config: ManagerConfig,
    reason: str = "",
    detail: Mapping[str, Any] | None = None,
    result: SessionResult | None = None,
) -> dict[str, Any] | None:
    """What `advance` writes into the session's row, or None when the news is stale."""
    status = TABLE.next(session.status, event)
    if isinstance(status, Drop):
        return None
    ending_already = session.status.value in ("TERMINATING", "ERROR") and bool(session.reason)
    kept = ending_already or not (reason or detail)
    values: dict[str, Any] = {
        "status": status.value,
        "status_changed_at": now,
        "status_history": history(session.status_history, status, now),
        "deadline_at": deadline(status, now, config, batch_timeout_s=session.batch_timeout_s),
        "reason": session.reason if kept else reason,
        "reason_detail": session.reason_detail if kept else dict(detail or {}),
    }
    if status.value == "RUNNING":
        values |= {"reason": "", "reason_detail": {}}
    if status.terminal:
        values["terminated_at"] = now
    if result is not None:
        values["result"] = result.value
    return values


def changed(session: Session, values: Mapping[str, Any]) -> Session:
    """The session after `change`."""
    status = SessionStatus(values["status"])
    return replace(session, **{**values, "status": status}, version=session.version + 1)


def agents_to_blame(
    conn: sa.Connection, session: Session, reason: str, blamed: Set[AgentId]
) -> Set[AgentId] | None:
    """For a session that ends: the agents to blame for that, if it is to be requeued; None: it is over.

    Args:
        blamed: where it failed, if it has not been decided before that it is to be requeued.
    """
    if session.requeue is not None or reason not in RETRIED:
        return session.requeue
    return blamed if tries_again(session, blamed, store.suitable(conn, session)) else None


def requeue(
    conn: sa.Connection,
    session: Session,
    blamed: Set[AgentId],
    *,
    now: datetime,
    config: ManagerConfig,
    reason: str = "",
    detail: Mapping[str, Any] | None = None,
) -> Session | None:
    """Puts a session whose kernels are all gone back into the queue, at the place that its age gives it; its kernels stay as history.
    Returns it as it is now, or None as `advance` does."""
    values = change(session, Event.REQUEUED, now=now, config=config, reason=reason, detail=detail)
    if values is None:
        return None
    told = replace(session, reason=values["reason"], reason_detail=values["reason_detail"])
    attempt = attempt_of(told, blamed, now, failed=not ran(session))
    before = (*session.attempts, attempt)[-ATTEMPTS_KEPT:]
    values |= {"attempts": [store.attempt_row(one) for one in before], "requeue": None}
    if not store.update(conn, session, values):
        return None
    for kernel in session.kernels:
        store.update_kernel(conn, kernel.id, {"attempt": attempt.number})
    ended = "kernel_cancelled" if attempt.failed else "kernel_terminated"
    event_store.append_all(conn, _of_kernels(ended, told, _shared(told), now))
    store.insert_kernels(conn, renewed(session.kernels, attempt.number), now)
    store.touch_agents(conn, (kernel.agent_id for kernel in session.kernels))
    moved = store.get(conn, session.id)
    assert moved is not None, "a session vanished inside its transaction"
    announce(conn, moved, now)
    return moved


def stop_kernels(conn: sa.Connection, session: Session, *, reason: str, forced: bool, now: datetime) -> None:
    """Turns the target of every kernel that is not ended to "stop" and tells their agents."""
    for kernel in session.kernels:
        if kernel.status.terminal:
            continue
        values: dict[str, Any] = {"stop_forced": forced or kernel.stop_forced}
        if not kernel.stop_reason:
            values |= {"stop_reason": reason, "status": "TERMINATING", "status_changed_at": now}
        store.update_kernel(conn, kernel.id, values)
    store.touch_agents(conn, (kernel.agent_id for kernel in session.kernels))


def end_kernels(conn: sa.Connection, session: Session, now: datetime) -> None:
    """For a session that is over without its agents' word: it never left the queue, or was given up."""
    for kernel in session.kernels:
        if not kernel.status.terminal:
            store.update_kernel(conn, kernel.id, {"status": session.status.value, "status_changed_at": now})
    store.touch_agents(conn, (kernel.agent_id for kernel in session.kernels))
