"""The shell around Sokovan: load a snapshot, ask the scheduler, apply its plan guarded.

Each start is applied only if its session and every agent that it uses are as the snapshot saw them; what is stale is dropped and
counted, and the next run decides anew.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.ids import AgentId, KernelId, SessionId
from ai.backend.common.log import get_logger
from ai.backend.common.quantity import ResourceSlots
from ai.backend.scheduler.cycle import looks_at_running, plan
from ai.backend.scheduler.demand import family_of, is_by_device
from ai.backend.scheduler.limit import Limits, texts
from ai.backend.scheduler.model import (
    AgentView,
    Device,
    Fault,
    Group,
    KernelRequest,
    Limit,
    Plan,
    PreemptionMode,
    Refusal,
    Rule,
    Running,
    Share,
    Snapshot,
    Start,
    Victim,
    Workload,
)
from ai.backend.scheduler.queue import QUEUES, Factory
from ai.backend.scheduler.unblock import sentence

from ..agents import store as agent_store
from ..agents.model import Agent
from ..agents.rotation import canaries, resting
from ..config import ManagerConfig
from ..db.database import Database
from ..event import store as event_store
from ..limit import store as limit_store
from ..loop import Loop
from ..session import store as session_store
from ..session.attempt import avoided
from ..session.machine import Event
from ..session.model import ClusterMode, Dependency, Session, SessionStatus
from ..session.policy import device_models
from ..session.transition import (
    advance,
    announcement_of,
    change,
    end_kernels,
    stop_kernels,
    waiting_announcement,
)
from . import store
from .model import need_row
from .policy import HELD, Doom, Hold, one_each, verdict

log = get_logger(__name__)

PREEMPTED = "preempted"
CLOCK_STEP_S = 0.002
"""Timers may go off a moment early."""


def _chosen(session: Session, number: int) -> str:
    """The agent that was chosen for the kernel of this number; one alone is for all."""
    chosen = session.agent_list
    return chosen[number if len(chosen) > 1 else 0] if chosen else ""


def _broken(agent: Agent) -> ResourceSlots:
    """What is held of devices that can't be given: the capacity does not count them any more."""
    held: dict[str, int] = {}
    for device in agent.devices:
        if device.problem:
            held[device.slot] = held.get(device.slot, 0) + device.held
    return ResourceSlots(held)


def snapshot_of(
    agents: list[Agent],
    pending: list[Session],
    groups: tuple[Group, ...] = (),
    shares: tuple[Share, ...] = (),
    limits: tuple[Limit, ...] = (),
    *,
    now: datetime,
    running: tuple[Running, ...] = (),
) -> Snapshot:
    """Rows as the scheduler sees them."""
    rests = resting(agents, now)
    return Snapshot(
        now=now,
        running=running,
        groups=groups,
        shares=shares,
        limits=limits,
        agents=tuple(
            AgentView(
                id=agent.id,
                resource_group=agent.resource_group,
                architecture=agent.architecture,
                capacity=agent.capacity,
                occupied=agent.occupied - _broken(agent),
                devices=tuple(
                    Device(
                        id=device.id,
                        family=family_of(device.slot),
                        model=device.model,
                        free=device.free,
                        numa_node=device.numa_node,
                    )
                    for device in agent.devices
                    if not device.problem and is_by_device(device.slot)
                ),
                images=agent.images,
                schedulable=agent.takes_sessions and agent.id not in rests,
                problem=agent.why_not or rests.get(agent.id, ""),
                generation=agent.generation,
            )
            for agent in agents
        ),
        workloads=tuple(
            Workload(
                id=session.id,
                resource_group=session.resource_group,
                priority=session.priority,
                created_at=session.created_at,
                version=session.version,
                kernels=tuple(
                    KernelRequest(
                        id=kernel.id,
                        slots=kernel.requested_slots,
                        image=kernel.image_name,
                        architecture=kernel.architecture,
                        models=device_models(session.resource_opts),
                        agent_id=_chosen(session, number),
                    )
                    for number, kernel in enumerate(session.kernels)
                ),
                single_node=session.cluster_mode is ClusterMode.SINGLE_NODE,
                keypair=session.access_key,
                user=str(session.user_id),
                project=str(session.project_id),
                domain=session.domain_name,
                job_priority=session.job_priority,
                run_time_s=session.batch_timeout_s,
                avoid=avoided(session),
                preempting=session.reason == Rule.PREEMPTING.value,
            )
            for session in pending
        ),
    )


class Rows(NamedTuple):
    """What was read for a cycle beside the sessions that wait."""

    agents: list[Agent]
    groups: tuple[Group, ...]
    shares: tuple[Share, ...]
    limits: tuple[Limit, ...]


def load(
    conn: sa.Connection, queues: Mapping[str, Factory], also: str = ""
) -> tuple[list[Session], dict[SessionId, list[Dependency]], "Rows | None"]:
    """What a cycle goes by: the sessions that wait, what those that are held depend on, and the rest, unless nothing waits and no further
    resource group is asked for (`also`)."""
    pending = session_store.pending(conn)
    if not pending and not also:
        return pending, {}, None
    held = [session.id for session in pending if session.reason in HELD]
    needs = session_store.dependencies(conn, held) if held else {}
    asked = {session.resource_group for session in pending} | {also}
    agents = agent_store.all_agents(conn)
    groups = tuple(
        store.with_mix(conn, group, agents) for group in store.groups(conn, queues) if group.name in asked
    )
    return pending, needs, Rows(agents, groups, store.shares(conn, groups), limit_store.limits(conn))


class Scheduling:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        config: ManagerConfig,
        *,
        wake: Callable[[], None],
        queues: Mapping[str, Factory] = QUEUES,
        fault: Callable[[Fault], Awaitable[None]] | None = None,
    ) -> None:
        """`fault` is told once of each queue that is not followed, and why, until it is followed again."""
        self._database = database
        self._clock = clock
        self._config = config
        self._wake = wake
        self._queues = queues
        self._fault = fault
        self._faults: tuple[Fault, ...] = ()
        self.stale = 0
        """Starts dropped because something had changed meanwhile."""
        self._last_agent: dict[str, str] = {}
        """By resource group, whose turn it was last. A manager that starts anew begins with the first."""
        self.loop = Loop("scheduling", self._run, period_s=30.0)

    async def _run(self) -> float | None:
        """Returns the seconds until a session that waits for its time may start."""
        pending, needs, rows = await self._database.read(lambda conn: load(conn, self._queues))
        if not pending:
            return None
        now = self._clock.now()
        verdicts = {
            session.id: verdict(session, needs.get(session.id, ()), now)
            for session in pending
            if session.reason in HELD
        }
        if any(verdicts.values()):
            pending = await self._keep(pending, verdicts)
        await self._place(pending, rows)
        times = [one.until for one in verdicts.values() if isinstance(one, Hold) and one.until is not None]
        if rows is not None:
            times += [
                agent.rests_until
                for agent in rows.agents
                if agent.rests_until is not None and agent.rests_until > now
            ]
        return (min(times) - now).total_seconds() + CLOCK_STEP_S if times else None

    async def _keep(
        self, pending: list[Session], verdicts: Mapping[SessionId, Hold | Doom | None]
    ) -> list[Session]:
        """Tells those that have to wait why, ends those that wait in vain, and returns the rest."""
        doomed = {one for one, said in verdicts.items() if isinstance(said, Doom)}
        news = [
            session
            for session in pending
            if (said := verdicts.get(session.id)) is not None
            and (session.id in doomed or not _told(session, said))
        ]

        def op(conn: sa.Connection) -> None:
            for session in news:
                said = verdicts[session.id]
                if isinstance(said, Hold):
                    session_store.update(
                        conn, session, {"reason": said.reason, "reason_detail": {"message": said.message}}
                    )
                elif said is not None:
                    self._give_up(conn, session, said)

        if news:
            await self._database.run(op)
            self._wake()
        if doomed:
            self.loop.wake()  # others may depend on them
        return [session for session in pending if verdicts.get(session.id) is None]

    def _give_up(self, conn: sa.Connection, session: Session, said: Doom) -> None:
        now = self._clock.now()
        moved = advance(
            conn,
            session,
            Event.STOP_REQUESTED,
            now=now,
            config=self._config,
            reason=said.reason,
            detail={"message": said.message},
        )
        if moved is not None:
            end_kernels(conn, moved, now)

    async def _place(self, pending: list[Session], rows: "Rows | None") -> None:
        if not pending or rows is None:
            return
        groups = tuple(
            replace(group, last_agent_id=self._last_agent.get(group.name, "")) for group in rows.groups
        )
        snapshot = snapshot_of(rows.agents, pending, groups, rows.shares, rows.limits, now=self._clock.now())
        made = plan(snapshot)
        if looks_at_running(made, snapshot):
            # Few cycles get here, and what runs may be much: it is read for them alone.
            snapshot = replace(snapshot, running=await self._database.read(store.running))
            made = plan(snapshot)
        await self._tell_faults(made.faults)
        waiting = {session.id: session for session in pending}
        trying = canaries(rows.agents, snapshot.now)
        for start in made.starts:
            group = waiting[SessionId(start.workload_id)].resource_group
            self._last_agent[group] = start.placements[-1].agent_id
        if not (made.starts or made.victims) and all(
            _is_told(refusal, waiting[SessionId(refusal.workload_id)]) for refusal in made.refusals
        ):
            return
        dropped = await self._database.run(lambda conn: self._apply(conn, made, snapshot, waiting, trying))
        self.stale += dropped
        if dropped:
            self.loop.wake()
        self._wake()

    async def _tell_faults(self, faults: tuple[Fault, ...]) -> None:
        known = {(fault.group, fault.queue) for fault in self._faults}
        news = [fault for fault in faults if (fault.group, fault.queue) not in known]
        self._faults = faults
        for fault in news:
            log.error("queue-not-followed", group=fault.group, queue=fault.queue, problem=fault.message)
            if self._fault is not None:
                await self._fault(fault)

    def _apply(
        self,
        conn: sa.Connection,
        made: Plan,
        snapshot: Snapshot,
        waiting: Mapping[SessionId, Session],
        trying: Mapping[AgentId, datetime],
    ) -> int:
        """Writes the plan as far as its sessions and agents are as the snapshot saw them, and limits still allow it: another manager may
        have started sessions of the same owners on other agents. Returns how many starts are not written."""
        seen = {agent.id: agent.generation for agent in snapshot.agents}
        now_are = agent_store.generations(conn) if made.starts else {}
        versions = session_store.versions(conn, [SessionId(start.workload_id) for start in made.starts])
        fresh = [
            start
            for start in made.starts
            if versions.get(SessionId(start.workload_id)) == start.version
            and all(now_are.get(AgentId(one.agent_id)) == seen[one.agent_id] for one in start.placements)
        ]
        fresh = _allowed(fresh, snapshot, limit_store.limits(conn)) if fresh else []
        fresh, tried = one_each(fresh, trying)
        agent_store.rest_until(conn, tried)
        self._start(conn, fresh, waiting)
        self._preempt(conn, made.victims)
        agent_store.claim(
            conn, {one.agent_id: seen[one.agent_id] for start in fresh for one in start.placements}
        )
        self._explain(conn, made.refusals, waiting)
        return len(made.starts) - len(fresh)

    def _start(self, conn: sa.Connection, starts: list[Start], waiting: Mapping[SessionId, Session]) -> None:
        now = self._clock.now()
        moves: list[tuple[Session, Mapping[str, Any]]] = []
        news: list[dict[str, Any]] = []
        for start in starts:
            session = waiting[SessionId(start.workload_id)]
            values = change(session, Event.PLACED, now=now, config=self._config)
            assert values is not None, "a pending session can always be placed"
            moves.append((session, values))
            news += announcement_of(session, values, now)
        session_store.update_all(conn, moves)
        session_store.update_kernels(
            conn,
            [
                (
                    KernelId(one.kernel_id),
                    {
                        "agent_id": one.agent_id,
                        "devices": dict(one.devices),
                        "status": SessionStatus.SCHEDULED.value,
                        "status_changed_at": now,
                    },
                )
                for start in starts
                for one in start.placements
            ],
        )
        event_store.append_all(conn, news)

    def _preempt(self, conn: sa.Connection, victims: tuple[Victim, ...]) -> None:
        """Tells them to end, as far as they are as the snapshot saw them. If one is not, the plan for whom it makes room is made again."""
        now = self._clock.now()
        seen = {SessionId(victim.session_id): victim for victim in victims}
        for session in session_store.by_ids(conn, sorted(seen)) if seen else ():
            if session.version != seen[session.id].version:
                continue
            again = seen[session.id].mode is PreemptionMode.RESCHEDULE
            moved = advance(
                conn,
                session,
                Event.STOP_REQUESTED,
                now=now,
                config=self._config,
                reason=PREEMPTED,
                detail={
                    "message": "A session of a higher job priority took its place.",
                    "hint": "It waits in the queue again, and starts anew. '--no-preempt' keeps a session from this."
                    if again
                    else "Start it again: it waits for its turn. '--no-preempt' keeps a session from this.",
                },
                requeue=frozenset() if again else None,
            )
            if moved is not None:
                stop_kernels(conn, moved, reason=PREEMPTED, forced=False, now=now)

    def _explain(
        self, conn: sa.Connection, refusals: tuple[Refusal, ...], waiting: Mapping[SessionId, Session]
    ) -> None:
        """Keeps with each session why it waits, and tells the world when that is another rule than before. Losing a race here is fine:
        it is told again at the next run."""
        told: list[tuple[Session, Mapping[str, Any]]] = []
        for refusal in refusals:
            session = waiting[SessionId(refusal.workload_id)]
            if not _is_told(refusal, session):
                told.append((session, {"reason": refusal.rule.value, "reason_detail": _detail(refusal)}))
        versions = session_store.versions(conn, [session.id for session, _ in told])
        told = [(session, values) for session, values in told if versions.get(session.id) == session.version]
        session_store.update_all(conn, told)
        now = self._clock.now()
        event_store.append_all(
            conn,
            [
                waiting_announcement(replace(session, **values), now)
                for session, values in told
                if session.reason != values["reason"]
            ],
        )


def _allowed(starts: list[Start], snapshot: Snapshot, now: tuple[Limit, ...]) -> list[Start]:
    """Those that the limits allow as they are now, in the plan's order."""
    limits, workloads = Limits(now), {one.id: one for one in snapshot.workloads}
    allowed = []
    for start in starts:
        workload = workloads[start.workload_id]
        if not limits.over(workload):
            limits.take(workload)
            allowed.append(start)
    return allowed


def _detail(refusal: Refusal) -> dict[str, object]:
    return {
        "message": refusal.message,
        "hint": sentence(refusal.unblock),
        "position": refusal.position,
        "slots": [short.texts() for short in refusal.shortfalls],
        "unblock": [need_row(need) for need in refusal.unblock],
        **({"limits": [texts(one) for one in refusal.excesses]} if refusal.excesses else {}),
    }


def _told(session: Session, said: Hold | Doom) -> bool:
    return session.reason == said.reason and session.reason_detail == {"message": said.message}


def _is_told(refusal: Refusal, session: Session) -> bool:
    return session.reason == refusal.rule.value and session.reason_detail == _detail(refusal)
