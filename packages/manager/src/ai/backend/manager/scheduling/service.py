"""Why a session waits, and what would be if others were asked for. Nothing is written: facts are read in one transaction, and the same
`scheduler.cycle.plan` as in the loop decides, in a thread of its own, for a queue may be long."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.ids import SessionId
from ai.backend.scheduler.cycle import plan
from ai.backend.scheduler.forecast import ends_of, forecast
from ai.backend.scheduler.model import Need, Plan, Remedy, Running, Snapshot
from ai.backend.scheduler.queue import QUEUES, Factory
from ai.backend.scheduler.unblock import sentence

from ..access.model import Principal
from ..access.policy import Action, demand
from ..agents.rotation import resting
from ..db.database import Database
from ..image import store as image_store
from ..session.model import WAITS_FOR_TIME, Dependency, Session, SessionStatus
from ..session.service import SessionService
from . import store
from .loop import Rows, load, snapshot_of
from .model import Simulated, SimulationDraft, Why, limits_of
from .policy import HELD, Hold, verdict
from .simulation import Facts, outcome, snapshot_for

STEPS_MAX = 50
"""Of ends that are looked at for an estimate."""
FORECAST_MAX = 50_000
"""Workloads that are looked at for one, over all steps."""


class SchedulingService:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        sessions: SessionService,
        queues: Mapping[str, Factory] = QUEUES,
    ) -> None:
        self._database = database
        self._queues = queues
        self._clock = clock
        self._sessions = sessions
        self._explaining = asyncio.Lock()
        self._simulating = asyncio.Lock()
        """However many ask at once, each of the two takes one thread."""

    async def why(self, principal: Principal, ref: str) -> Why:
        """Why a session is as it is; if it waits, by the cluster as it is now. Raises SessionNotFound or AmbiguousSession."""
        session = await self._sessions.get(principal, ref, live_only=False)
        if session.status is not SessionStatus.PENDING:
            return settled(session)
        group = session.resource_group

        def op(
            conn: sa.Connection,
        ) -> tuple[list[Session], dict[SessionId, list[Dependency]], Rows | None, tuple[Running, ...]]:
            return *load(conn, self._queues, group), store.running(conn)

        async with self._explaining:
            pending, needs, rows, running = await self._database.read(op)
            found = next((one for one in pending if one.id == session.id), None)
            if found is None or rows is None:  # it has gone on meanwhile
                return settled(await self._sessions.get(principal, str(session.id), live_only=False))
            now = self._clock.now()
            in_queue = [one for one in pending if one.resource_group == group and not _held(one, needs, now)]
            if (
                said := verdict(found, needs.get(found.id, ()), now) if found.reason in HELD else None
            ) is None:
                snapshot = snapshot_of(
                    rows.agents, in_queue, rows.groups, rows.shares, rows.limits, now=now, running=running
                )
                mine = [agent for agent in rows.agents if agent.resource_group == group]
                also = " ".join(f"Agent {one} {text}." for one, text in resting(mine, now).items())
                return await asyncio.to_thread(queued, found, snapshot, now, _lasting(in_queue), also)
            if not isinstance(said, Hold):
                return Why(session=found, rule=said.reason, message=said.message)
            snapshot = snapshot_of(
                rows.agents,
                [*in_queue, found],
                rows.groups,
                rows.shares,
                rows.limits,
                now=now,
                running=running,
            )
            return await asyncio.to_thread(held, found, said, snapshot)

    async def dry_run(self, principal: Principal, draft: SimulationDraft) -> Simulated:
        """Where these sessions would start now, and why not. Raises NotPrivileged, InvalidInput, ImageNotFound or ResourceGroupNotFound."""
        demand(principal, Action.SCHEDULER_SIMULATE)
        now = self._clock.now()

        def op(conn: sa.Connection) -> tuple[Facts, dict[UUID, timedelta]]:
            pending, needs, rows = load(conn, self._queues, draft.resource_group)
            assert rows is not None, "a group was named"
            in_queue = [one for one in pending if not _held(one, needs, now)]
            facts = Facts(
                groups=store.groups(conn, self._queues),
                images=image_store.all_images(conn),
                aliases=image_store.aliases(conn),
                live=snapshot_of(
                    rows.agents,
                    in_queue,
                    rows.groups,
                    rows.shares,
                    rows.limits,
                    now=now,
                    running=store.running(conn) if draft.agents is None else (),
                ),
            )
            return facts, _lasting(in_queue)

        def work(facts: Facts, lasting: dict[UUID, timedelta]) -> Simulated:
            snapshot = snapshot_for(draft, facts, now=now)
            made = plan(snapshot)
            return outcome(draft, snapshot, made, _estimates(snapshot, made, now, lasting))

        async with self._simulating:
            return await asyncio.to_thread(work, *await self._database.read(op))


def _held(session: Session, needs: Mapping[SessionId, list[Dependency]], now: datetime) -> bool:
    return session.reason in HELD and verdict(session, needs.get(session.id, ()), now) is not None


def _lasting(sessions: list[Session]) -> dict[UUID, timedelta]:
    return {one.id: timedelta(seconds=one.batch_timeout_s) for one in sessions if one.batch_timeout_s}


def _estimates(
    snapshot: Snapshot,
    made: Plan,
    now: datetime,
    lasting: Mapping[UUID, timedelta],
    *,
    until: UUID | None = None,
) -> dict[UUID, datetime]:
    steps = min(STEPS_MAX, FORECAST_MAX // max(len(snapshot.workloads), 1))
    ends = ends_of(snapshot.running)
    return forecast(snapshot, made, ends, now=now, lasting=lasting, until=until, steps_max=steps)


def queued(
    session: Session, snapshot: Snapshot, now: datetime, lasting: Mapping[UUID, timedelta], also: str = ""
) -> Why:
    """Of a session that stands in the queue; `also` is what else there is to say if it is refused. Pure."""
    made = plan(snapshot)
    refusal = next((one for one in made.refusals if one.workload_id == session.id), None)
    if refusal is None:
        return Why(
            session=session,
            rule="",
            message="There is room for it: it is about to start.",
            estimated_start=now,
        )
    place = next((one for one in made.reservations if one.workload_id == session.id), None)
    estimates = (
        {session.id: place.at}
        if place is not None and place.at is not None
        else _estimates(snapshot, made, now, lasting, until=session.id)
    )
    return Why(
        session=session,
        rule=refusal.rule.value,
        message=" ".join(filter(None, (refusal.message, also, before(session)))),
        hint=sentence(refusal.unblock),
        position=refusal.position,
        shortfalls=refusal.shortfalls,
        unblock=refusal.unblock,
        estimated_start=estimates.get(session.id),
        considered=refusal.considered,
        limits=limits_of(refusal),
    )


def before(session: Session) -> str:
    """What became of its last attempt, in a sentence; empty if this is its first."""
    if not session.attempts:
        return ""
    last = session.attempts[-1]
    where = ", ".join(last.blamed or last.agents)
    return f"Attempt {last.number}, on {where}, ended at {last.ended_at:%Y-%m-%d %H:%M:%S} UTC: {last.reason}. {last.message}".rstrip()


def held(session: Session, said: Hold, snapshot: Snapshot) -> Why:
    """Of a session that waits for its time or for others; the snapshot has it in the queue all the same. When its time comes is told as its
    start only if there would be room now. Pure."""
    by_time = said.reason == WAITS_FOR_TIME
    text = "its time has come" if by_time else "those that it depends on have ended with success"
    fits = said.until is not None and any(one.workload_id == session.id for one in plan(snapshot).starts)
    need = Need(remedy=Remedy.TIME if by_time else Remedy.SESSIONS, text=text)
    return Why(
        session=session,
        rule=said.reason,
        message=said.message,
        hint=sentence([need]),
        unblock=(need,),
        estimated_start=said.until if fits else None,
    )


def settled(session: Session) -> Why:
    """Of a session that does not wait (any more). Pure."""
    since = f"{session.status_changed_at:%Y-%m-%d %H:%M:%S} UTC"
    told = str(session.reason_detail.get("message") or "")
    match session.status:
        case SessionStatus.RUNNING:
            message = f"It does not wait: it runs since {since}."
        case SessionStatus.TERMINATED | SessionStatus.CANCELLED:
            verb = "ended" if session.status is SessionStatus.TERMINATED else "was cancelled before it ran"
            message = f"It does not wait: it {verb} at {since}" + (
                f" ({session.reason})." if session.reason else "."
            )
        case _:
            message = f"It does not wait: it is {session.status.value} since {since}."
    hint = str(session.reason_detail.get("hint") or "")
    return Why(session=session, rule=session.reason, message=f"{message} {told}".rstrip(), hint=hint)
