"""What the scheduler has to know beside agents and sessions: how resource groups schedule, and who holds what in them."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.quantity import ResourceSlots, sum_slots
from ai.backend.scheduler.forecast import End
from ai.backend.scheduler.model import Group, Order, Selection, Share

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
_KNOWN_ENDS = Query(
    sa.select(
        sessions.c.id,
        sessions.c.deadline_at,
        sessions.c.resource_group,
        sessions.c.access_key,
        sessions.c.user_id,
        sessions.c.project_id,
        sessions.c.domain_name,
        kernels.c.agent_id,
        kernels.c.requested_slots,
    )
    .join(sessions, sessions.c.id == kernels.c.session_id)
    .where(
        one_of(sessions.c.status, [SessionStatus.RUNNING.value]),
        sessions.c.deadline_at.is_not(None),
        kernels.c.agent_id.is_not(None),
    )
    .order_by(sessions.c.deadline_at, kernels.c.id)
)
SELECTIONS = {**{str(one): one for one in Selection}, "legacy": Selection.DISPERSED}
"""By the option `agent_selection_strategy`; "legacy" is the published name of picking the emptiest."""


def groups(conn: sa.Connection) -> tuple[Group, ...]:
    return tuple(group_of(name, scheduler, options) for name, scheduler, options in _GROUPS(conn))


def group_of(name: str, scheduler: str, options: Mapping[str, Any]) -> Group:
    """As published, a group whose scheduler is not known is scheduled by DRF."""
    return Group(
        name=name,
        order=Order(scheduler) if scheduler in set(Order) else Order.DRF,
        selection=SELECTIONS.get(str(options.get("agent_selection_strategy")), Selection.DISPERSED),
    )


def shares(conn: sa.Connection, asked: Iterable[Group]) -> tuple[Share, ...]:
    """What each user holds in those of the groups that look at it."""
    found: list[Share] = []
    for group in asked:
        if group.order is not Order.DRF:
            continue
        held: dict[str, list[ResourceSlots]] = {}
        for user_id, slots in _HELD(conn, resource_group=group.name):
            held.setdefault(str(user_id), []).append(ResourceSlots(slots))
        found += [
            Share(user=user, resource_group=group.name, held=sum_slots(all_of))
            for user, all_of in held.items()
        ]
    return tuple(found)


def known_ends(conn: sa.Connection) -> list[End]:
    """When running sessions will be ended, where a limit says so: the deadline of a session that runs is its time limit."""
    found: dict[UUID, End] = {}
    for session_id, at, group, access_key, user_id, project_id, domain, agent_id, slots in _KNOWN_ENDS(conn):
        before = found.get(session_id)
        found[session_id] = End(
            at=at,
            held=(*(before.held if before else ()), (agent_id, ResourceSlots(slots))),
            resource_group=group,
            keypair=access_key,
            user=str(user_id),
            project=str(project_id),
            domain=domain,
        )
    return list(found.values())
