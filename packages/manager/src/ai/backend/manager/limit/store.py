"""What limits there are, and what is used of them: summed from the rows of sessions that hold slots of agents. What waits uses nothing."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.ids import AccessKey, ProjectId
from ai.backend.common.quantity import ResourceSlots, sum_slots
from ai.backend.scheduler.model import Limit, Scope

from ..db.schema import domains, keypair_policies, keypairs, projects, sessions, users
from ..db.statement import Query, one_of
from ..resource.policy import VISIBILITY_KEY
from ..session.model import SessionStatus
from ..session.store import OCCUPYING
from ..setting import store as setting_store
from .policy import Quota


class _Owner(NamedTuple):
    """A keypair in a project, and all that limits its sessions there. In the order of `_COLUMNS`."""

    access_key: str
    user_id: UUID
    email: str
    project_id: UUID
    project_name: str
    domain_name: str
    sessions_max: int
    slots_max: Mapping[str, int]
    rest: str
    main_slots_max: Mapping[str, int] | None
    main_rest: str | None
    has_other_keys: bool
    project_slots_max: Mapping[str, int]
    domain_slots_max: Mapping[str, int]
    containers_max: int
    pending_max: int | None
    pending_slots_max: Mapping[str, int] | None


_main, _main_policies, _any = keypairs.alias(), keypair_policies.alias(), keypairs.alias()
_MAIN_KEY = sa.func.coalesce(
    users.c.main_access_key,
    sa.select(_any.c.access_key)
    .where(_any.c.user_id == users.c.id)
    .order_by(_any.c.is_admin.desc(), _any.c.created_at)
    .limit(1)
    .correlate(users)
    .scalar_subquery(),
)
_COLUMNS = (
    keypairs.c.access_key,
    users.c.id,
    users.c.email,
    projects.c.id.label("project_id"),
    projects.c.name.label("project_name"),
    domains.c.name.label("domain_name"),
    keypair_policies.c.max_concurrent_sessions,
    keypair_policies.c.total_resource_slots,
    keypair_policies.c.default_for_unspecified,
    _main_policies.c.total_resource_slots.label("main_slots"),
    _main_policies.c.default_for_unspecified.label("main_rest"),
    sa.exists()
    .where(_any.c.user_id == users.c.id, _any.c.access_key != _main.c.access_key)
    .correlate(users, _main)
    .label("others"),
    projects.c.total_resource_slots.label("project_slots"),
    domains.c.total_resource_slots.label("domain_slots"),
    keypair_policies.c.max_containers_per_session,
    keypair_policies.c.max_pending_session_count,
    keypair_policies.c.max_pending_session_resource_slots,
)


def _owners(base: Any, access_key: Any, project_id: Any, domain_name: Any) -> Query:
    """One row for each owner; `base`: where they come from."""
    source = (
        base.join(keypair_policies, keypair_policies.c.name == keypairs.c.policy_name)
        .join(users, users.c.id == keypairs.c.user_id)
        .join(projects, projects.c.id == project_id)
        .join(domains, domains.c.name == domain_name)
        .outerjoin(_main, _main.c.access_key == _MAIN_KEY)
        .outerjoin(_main_policies, _main_policies.c.name == _main.c.policy_name)
    )
    return Query(sa.select(*_COLUMNS).select_from(source).where(keypairs.c.access_key == access_key))


_PENDING = one_of(sessions.c.status, [SessionStatus.PENDING.value])
_waiting = (
    sa.select(sessions.c.access_key, sessions.c.project_id, sessions.c.domain_name)
    .where(_PENDING)
    .distinct()
    .subquery()
)
_OWNERS = _owners(
    _waiting.join(keypairs, keypairs.c.access_key == _waiting.c.access_key),
    _waiting.c.access_key,
    _waiting.c.project_id,
    _waiting.c.domain_name,
)
_OWNER = _owners(
    keypairs,
    sa.bindparam("access_key", ""),
    sa.bindparam("project_id", UUID(int=0), projects.c.id.type),
    sa.bindparam("domain_name", ""),
)
_COUNTS = Query(
    sa.select(sessions.c.access_key, sa.func.count())
    .where(one_of(sessions.c.status, OCCUPYING))
    .group_by(sessions.c.access_key)
)
_WHOSE = (sessions.c.access_key, sessions.c.user_id, sessions.c.project_id, sessions.c.domain_name)
# Most sessions ask for the same: a row for each amount is decoded faster than one for each session.
_USED = Query(
    sa.select(*_WHOSE, sessions.c.requested_slots, sa.func.count())
    .where(one_of(sessions.c.status, OCCUPYING))
    .group_by(*_WHOSE, sessions.c.requested_slots)
)
_WAITS = Query(
    sa.select(sessions.c.requested_slots, sa.func.count())
    .where(sessions.c.access_key == sa.bindparam("access_key", ""), _PENDING)
    .group_by(sessions.c.requested_slots)
)


def limits(conn: sa.Connection) -> tuple[Limit, ...]:
    """Of everybody who has a session that waits, with what is used of them now. At most four statements for any number of sessions."""
    found: dict[tuple[Scope, str], Limit] = {}
    for row in _OWNERS(conn):
        found |= {(limit.scope, limit.name): limit for limit in _allowances(_Owner(*row))}
    if not any(map(_limits_slots, found.values())):
        held = {row[0]: row[1] for row in _COUNTS(conn)}
        return tuple(replace(limit, sessions_used=held.get(limit.name, 0)) for limit in found.values())
    counts = dict.fromkeys(found, 0)
    used: dict[tuple[Scope, str], list[ResourceSlots]] = {key: [] for key in found}
    for access_key, user_id, project_id, domain_name, slots, count in _USED(conn):
        held_slots = _times(slots, count)
        for key in (
            (Scope.KEYPAIR, access_key),
            (Scope.USER, str(user_id)),
            (Scope.PROJECT, str(project_id)),
            (Scope.DOMAIN, domain_name),
        ):
            if key in found:
                counts[key] += count
                used[key].append(held_slots)
    return _shown(
        conn,
        (
            replace(limit, sessions_used=counts[key], slots_used=sum_slots(used[key]))
            for key, limit in found.items()
        ),
    )


def quota(conn: sa.Connection, access_key: AccessKey, project_id: ProjectId, domain_name: str) -> Quota:
    """What a new session of that keypair is measured by."""
    (row,) = _OWNER(conn, access_key=access_key, project_id=project_id, domain_name=domain_name)
    owner = _Owner(*row)
    waiting = Limit(
        scope=Scope.KEYPAIR,
        name=owner.access_key,
        label=owner.access_key,
        sessions=owner.pending_max,
        slots=owner.pending_slots_max or {},
    )
    if waiting.sessions is not None or waiting.slots:
        rows = _WAITS(conn, access_key=access_key)
        waiting = replace(
            waiting,
            sessions_used=sum(count for _, count in rows),
            slots_used=sum_slots([_times(slots, count) for slots, count in rows]),
        )
    return Quota(
        containers_per_session_max=owner.containers_max,
        allowances=_shown(conn, _allowances(owner)),
        waiting=waiting,
    )


def _times(slots: Mapping[str, int], count: int) -> ResourceSlots:
    return ResourceSlots({name: amount * count for name, amount in slots.items()})


def _allowances(owner: _Owner) -> Iterator[Limit]:
    yield Limit(
        scope=Scope.KEYPAIR,
        name=owner.access_key,
        label=owner.access_key,
        sessions=owner.sessions_max,
        slots=owner.slots_max,
        rest=_rest(owner.rest),
    )
    wider = [
        Limit(
            scope=Scope.PROJECT,
            name=str(owner.project_id),
            label=owner.project_name,
            slots=owner.project_slots_max,
        ),
        Limit(
            scope=Scope.DOMAIN, name=owner.domain_name, label=owner.domain_name, slots=owner.domain_slots_max
        ),
    ]
    # Of several keypairs, the main one's policy says what all of them may hold together; of one alone it would say the same twice.
    if owner.has_other_keys and owner.main_slots_max is not None and owner.main_rest is not None:
        user = Limit(
            scope=Scope.USER,
            name=str(owner.user_id),
            label=owner.email,
            slots=owner.main_slots_max,
            rest=_rest(owner.main_rest),
        )
        wider.insert(0, user)
    yield from filter(_limits_slots, wider)


def _rest(default_for_unspecified: str) -> int | None:
    return 0 if default_for_unspecified.upper() == "LIMITED" else None


def _limits_slots(limit: Limit) -> bool:
    return bool(limit.slots) or limit.rest is not None


def _shown(conn: sa.Connection, limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """A setting hides the numbers of projects from their members."""
    found = tuple(limits)
    if (
        any(one.scope is Scope.PROJECT for one in found)
        and setting_store.get(conn, VISIBILITY_KEY) == "false"
    ):
        return tuple(replace(one, hidden=one.scope is Scope.PROJECT) for one in found)
    return found
