"""Takes in agents' reports: the only way in which the manager learns what is.

A report is the agent's whole state, so late, doubled and lost ones do no harm: older than the newest (by start time and sequence) is
dropped, and everything else is compared with the rows. Nothing here talks to an agent.
"""

import enum
from collections.abc import Callable, Set
from datetime import datetime, timedelta
from itertools import takewhile

import sqlalchemy as sa
from msgspec import structs

from ai.backend.common.clock import Clock
from ai.backend.common.ids import AgentId, KernelId
from ai.backend.common.log import get_logger
from ai.backend.common.wire.rpc import AgentReport, KernelReport, KernelState

from ..config import ManagerConfig
from ..db.database import Database
from ..session import store as session_store
from ..session.attempt import blamed_by
from ..session.machine import LOST, Event, Reaction, ran, react
from ..session.model import Session, SessionStatus
from ..session.transition import advance, agents_to_blame, requeue, stop_kernels
from . import store

log = get_logger(__name__)


class Change(enum.Enum):
    """What a report has changed."""

    PROGRESS = enum.auto()
    """Sessions are further on, in the room that they had."""
    TIMED = enum.auto()
    """The same, and one has a limit while it runs: whoever keeps deadlines must look."""
    ROOM = enum.auto()
    """There is more or less room than before, or an agent has to be told something."""


class Intake:
    """`newest` holds the last report of each agent in memory; losing it is safe, the next heartbeat brings it back."""

    def __init__(
        self, database: Database, clock: Clock, config: ManagerConfig, *, wake: Callable[[Change], None]
    ) -> None:
        self._database = database
        self._clock = clock
        self._config = config
        self._wake = wake
        self.newest: dict[AgentId, AgentReport] = {}
        self._written: dict[AgentId, datetime] = {}
        self._rest = timedelta(seconds=config.agent_lost_after_s / 4)
        """A report that says nothing new is written no more often than this: enough to tell that the agent lives."""

    async def take(self, report: AgentReport) -> None:
        """Applies a report. Safe to call with any report, any number of times, in any order."""
        agent_id = AgentId(report.agent_id)
        before = self.newest.get(agent_id)
        if before is not None and _order(report) <= _order(before):
            return
        images_changed = before is None or before.images != report.images
        now = self._clock.now()
        if (
            before is not None
            and _says_nothing_new(report, before)
            and now - self._written[agent_id] < self._rest
        ):
            self.newest[agent_id] = report
            return

        stale = False

        def op(conn: sa.Connection) -> Change | None:
            nonlocal stale
            known = store.order_of(conn, agent_id)
            stale = known is not None and _order(report) <= known[:2]
            if stale:
                return None
            store.heard(conn, report, now, images_changed=images_changed)
            generation = known[2] if known else report.generation
            return self._apply(conn, report, generation)

        change = await self._database.run(op)
        log.debug("report-taken", agent=agent_id, sequence=report.sequence, stale=stale, change=change)
        if stale:
            return
        restarted = before is not None and before.started_at_us != report.started_at_us
        if restarted:
            log.info("agent-restarted", agent=agent_id)
        self.newest[agent_id] = report
        self._written[agent_id] = now
        if (
            before is None
            or restarted
            or before.capacity != report.capacity
            or before.devices != report.devices
            or before.healthy != report.healthy
            or images_changed
        ):
            change = Change.ROOM
        if change is not None:
            self._wake(change)

    def _apply(self, conn: sa.Connection, report: AgentReport, generation: int) -> Change | None:
        agent_id = AgentId(report.agent_id)
        reports = {KernelId(kernel.kernel_id): kernel for kernel in report.kernels}
        changes: set[Change | None] = set()
        for session in session_store.live_on(conn, agent_id, also=reports):
            if not session.status.terminal:
                missing = _missing(session, agent_id, reports, told=report.generation >= generation)
                changes.add(self._apply_to(conn, session, reports, missing))
        # A limit that is masked by room is found at the next period of the deadlines: late, never lost.
        return next((one for one in (Change.ROOM, Change.TIMED, Change.PROGRESS) if one in changes), None)

    def _apply_to(
        self,
        conn: sa.Connection,
        session: Session,
        reports: dict[KernelId, KernelReport],
        missing: frozenset[KernelId],
    ) -> Change | None:
        now = self._clock.now()
        mine = {kernel.id: reports[kernel.id] for kernel in session.kernels if kernel.id in reports}
        reaction = react(session, mine, missing)
        reasons = {one: report.reason for one, report in mine.items()} | dict.fromkeys(missing, LOST)
        for kernel_id, values in reaction.kernels.items():
            moved = {"status": values["status"].value, "status_changed_at": now} if "status" in values else {}
            session_store.update_kernel(conn, kernel_id, {**values, **moved})
        if reaction.event is None:
            moved_kernel = any("status" in values for values in reaction.kernels.values())
            return Change.PROGRESS if moved_kernel else None
        # Events tell exit codes: read the kernels as they are now.
        fresh = session_store.get(conn, session.id)
        assert fresh is not None, "a session vanished inside its transaction"
        again = agents_to_blame(conn, session, reaction.reason, blamed_by(session, reasons))
        now_is = self._advance(conn, fresh, reaction, again, now)
        if now_is is not None and now_is.status is SessionStatus.TERMINATING:
            stop_kernels(conn, now_is, reason=reaction.reason or "anomaly-detected", forced=False, now=now)
        if now_is is not None and now_is.status.terminal:
            session_store.touch_agents(conn, (kernel.agent_id for kernel in now_is.kernels))
        if now_is is not None and now_is.status is SessionStatus.RUNNING and not ran(session):
            self._count(conn, now_is, now)
        if (
            now_is is not None
            and now_is.status is SessionStatus.RUNNING
            and now_is.is_batch
            and len(now_is.kernels) > 1
        ):
            # Its command goes to the main kernel only now that all of them run.
            session_store.touch_agents(conn, [now_is.main.agent_id])
            return Change.ROOM
        started = now_is is not None and now_is.status in (SessionStatus.PREPARING, SessionStatus.RUNNING)
        if started and now_is is not None and now_is.status is SessionStatus.RUNNING and now_is.deadline_at:
            return Change.TIMED
        return Change.PROGRESS if started else Change.ROOM

    def _advance(
        self,
        conn: sa.Connection,
        session: Session,
        reaction: Reaction,
        again: Set[AgentId] | None,
        now: datetime,
    ) -> Session | None:
        assert reaction.event is not None, "the caller has looked"
        detail = {"message": reaction.message} if reaction.message else {}
        if reaction.result is not None and not ran(session):
            # Its command came and went between two reports: that it ran is told all the same.
            started = advance(conn, session, Event.STARTED, now=now, config=self._config)
            if started is None:
                return None
            session = started
        over = reaction.event in (Event.ENDED, Event.NEVER_RAN)
        if over and again is not None and reaction.result is None:
            return requeue(
                conn, session, again, now=now, config=self._config, reason=reaction.reason, detail=detail
            )
        return advance(
            conn,
            session,
            reaction.event,
            now=now,
            config=self._config,
            reason=reaction.reason,
            detail=detail,
            result=reaction.result,
            requeue=again,
        )

    @staticmethod
    def _count(conn: sa.Connection, session: Session, now: datetime) -> None:
        """It has started: that speaks for its agents, and against those where it failed just before."""
        mine = {kernel.agent_id for kernel in session.kernels if kernel.agent_id is not None}
        store.worked(conn, mine)
        failed = takewhile(lambda one: one.failed, reversed(session.attempts))
        blamed = {agent for one in failed for agent in one.blamed} - mine
        if blamed:
            store.blame(conn, blamed, now)


def _says_nothing_new(report: AgentReport, before: AgentReport) -> bool:
    return structs.replace(report, sequence=0, usage={}) == structs.replace(before, sequence=0, usage={})


def _order(report: AgentReport) -> tuple[int, int]:
    return report.started_at_us, report.sequence


def _missing(
    session: Session, agent_id: AgentId, reports: dict[KernelId, KernelReport], *, told: bool
) -> frozenset[KernelId]:
    """Kernels that the agent should have told of. One that it has confirmed before must be in every report; one that it may not
    have heard of yet counts as missing only when the agent has accepted the newest desired set."""
    return frozenset(
        kernel.id
        for kernel in session.kernels
        if kernel.agent_id == agent_id
        and kernel.status.occupying
        and kernel.id not in reports
        and (told or kernel.status in (SessionStatus.PREPARING, SessionStatus.RUNNING))
    )


def zombies(report: AgentReport, live: frozenset[KernelId]) -> list[KernelReport]:
    """Kernels that the agent still has, though their rows say that they are over."""
    return [
        kernel
        for kernel in report.kernels
        if KernelId(kernel.kernel_id) not in live and kernel.state is not KernelState.TERMINATED
    ]
