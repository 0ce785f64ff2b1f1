"""What the scheduler has to know beside agents and sessions: how resource groups schedule, and who holds what in them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.quantity import ResourceSlots, sum_slots
from ai.backend.scheduler.demand import Mix, family_of, usual
from ai.backend.scheduler.model import (
    Group,
    Held,
    Preemption,
    PreemptionMode,
    PreemptionOrder,
    Running,
    Scope,
    Selection,
    Share,
)
from ai.backend.scheduler.queue import QUEUES, Factory

from ..agents.model import Agent
from ..db.schema import kernels, resource_groups, sessions
from ..db.statement import Query, one_of
from ..session.model import SessionStatus
from ..session.store import OCCUPYING

_GROUPS = Query(
    sa.select(resource_groups.c.name, resource_groups.c.scheduler, resource_groups.c.scheduler_opts)
)
_HELD = Query(
    sa.select(sessions.c.user_id, sessions.c.requested_slots).where(
        sessions.c.resource_group == sa.bindparam("resource_group", ""), one_of(sessions.c.status, OCCUPYING)
    )
)
_RUNNING = Query(
    sa.select(
        sessions.c.id,
        sessions.c.version,
        sessions.c.status,
        sessions.c.status_changed_at,
        sessions.c.deadline_at,
        sessions.c.resource_group,
        sessions.c.access_key,
        sessions.c.user_id,
        sessions.c.project_id,
        sessions.c.domain_name,
        sessions.c.job_priority,
        sessions.c.preemptible,
        kernels.c.agent_id,
        kernels.c.requested_slots,
        kernels.c.devices,
    )
    .join(sessions, sessions.c.id == kernels.c.session_id)
    .where(one_of(kernels.c.status, OCCUPYING), kernels.c.agent_id.is_not(None))
    .order_by(sessions.c.id, kernels.c.id)
)
USUAL_MAX = 300
_LATEST = Query(
    sa.select(kernels.c.requested_slots)
    .join(sessions, sessions.c.id == kernels.c.session_id)
    .where(sessions.c.resource_group == sa.bindparam("resource_group", ""), kernels.c.attempt == 0)
    .order_by(sessions.c.created_at.desc(), kernels.c.id)
    .limit(USUAL_MAX)
)
"""What was asked for last in a group, whatever became of it."""
SELECTIONS = {**{str(one): one for one in Selection}, "legacy": Selection.DISPERSED}
"""By the option `agent_selection_strategy`; "legacy" is the published name of picking the emptiest."""
RESERVE_AFTER_S = 60
BY_AGE = frozenset({"fifo", "lifo"})
"""Queues that don't ask who holds what."""


def groups(conn: sa.Connection, queues: Mapping[str, Factory]) -> tuple[Group, ...]:
    return tuple(group_of(name, scheduler, options, queues) for name, scheduler, options in _GROUPS(conn))


def group_of(
    name: str, scheduler: str, options: Mapping[str, Any], queues: Mapping[str, Factory] = QUEUES
) -> Group:
    """As published, a group whose scheduler is not known is scheduled by DRF."""
    order = scheduler if scheduler in queues else "drf"
    return Group(
        name=name,
        order=order,
        queue=queues[order],
        queue_options=_object(options.get("config")),
        selection=SELECTIONS.get(str(options.get("agent_selection_strategy")), Selection.DISPERSED),
        preemption=_preemption(_object(options.get("preemption"))),
        reserve_after_s=_whole(options.get("reserve_after"), RESERVE_AFTER_S),
    )


def _object(value: Any) -> Mapping[str, Any]:
    """What an older release may have let in is passed over: one group's settings never stop the others."""
    return value if isinstance(value, dict) else {}


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and value >= 0 else otherwise


def _preemption(options: Mapping[str, Any]) -> Preemption | None:
    if not options.get("enabled"):
        return None
    scope = options.get("scope", Scope.USER)
    try:
        return Preemption(
            mode=PreemptionMode(options.get("mode", PreemptionMode.TERMINATE)),
            order=PreemptionOrder(options.get("order", PreemptionOrder.NEWEST)),
            scope=None if scope == "resource-group" else Scope(scope),
            min_run_time_s=_whole(options.get("min_runtime"), 0),
        )
    except ValueError:  # of an older release, as in `_object`
        return None


def with_mix(conn: sa.Connection, group: Group, agents: Iterable[Agent]) -> Group:
    """The group with what is usually asked for there, if its strategy looks at that."""
    if group.selection is not Selection.FRAGMENTATION:
        return group
    families = sorted(
        {family_of(d.slot) for a in agents if a.resource_group == group.name for d in a.devices}
    )
    asked = (ResourceSlots(slots) for (slots,) in _LATEST(conn, resource_group=group.name))
    return replace(group, mix=Mix.of(usual(slots, families) for slots in asked))


def running(conn: sa.Connection) -> tuple[Running, ...]:
    """What holds slots of agents, whose it is, and until when at the most if that is known."""
    found: dict[UUID, Running] = {}
    for row in _RUNNING(conn):
        session_id, version, status, since, deadline, group, access_key, user, project, domain, *rest = row
        job_priority, preemptible, agent_id, slots, devices = rest
        held = Held(agent_id=agent_id, slots=ResourceSlots(slots), devices=tuple(sorted(devices.items())))
        before = found.get(session_id)
        if before is not None:
            found[session_id] = replace(before, held=(*before.held, held))
            continue
        runs = status == SessionStatus.RUNNING.value
        found[session_id] = Running(
            id=session_id,
            version=version,
            resource_group=group,
            held=(held,),
            started_at=since,
            ends_at=deadline if runs else None,  # else it is a limit of the status, not of the session
            ending=status == SessionStatus.TERMINATING.value,
            # One that is just starting or restarting has no time on its account yet: it is left alone.
            preemptible=preemptible and runs,
            job_priority=job_priority,
            keypair=access_key,
            user=str(user),
            project=str(project),
            domain=domain,
        )
    return tuple(found.values())


def shares(conn: sa.Connection, asked: Iterable[Group]) -> tuple[Share, ...]:
    """What each user holds in those of the groups that may look at it."""
    found: list[Share] = []
    for group in asked:
        if group.order in BY_AGE:
            continue
        held: dict[str, list[ResourceSlots]] = {}
        for user_id, slots in _HELD(conn, resource_group=group.name):
            held.setdefault(str(user_id), []).append(ResourceSlots(slots))
        found += [
            Share(user=user, resource_group=group.name, held=sum_slots(all_of))
            for user, all_of in held.items()
        ]
    return tuple(found)
