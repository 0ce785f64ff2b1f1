"""What limits, presets and accounting are read from. Nothing here is kept in counters: all is summed from rows."""

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.ids import AccessKey, ProjectId
from ai.backend.common.quantity import ResourceSlots

from ..access.model import Principal
from ..db.schema import (
    agents,
    domains,
    kernels,
    keypair_policies,
    projects,
    resource_group_domains,
    resource_group_keypairs,
    resource_group_projects,
    resource_groups,
    resource_presets,
    sessions,
    users,
)
from ..db.statement import one_of
from ..session.store import OCCUPYING
from .model import Holding, KernelUse, Limit, Preset, ResourceGroup
from .policy import began_at, usable


def _given(table: sa.Table, column: str, kind: Any = None) -> sa.ColumnElement[bool]:
    return sa.exists().where(
        table.c.resource_group == resource_groups.c.name,
        table.c[column] == sa.bindparam(column, type_=kind or table.c[column].type),
    )


_GROUPS = sa.select(
    resource_groups.c.name,
    resource_groups.c.is_active,
    resource_groups.c.is_public,
    resource_groups.c.wsproxy_addr,
    _given(resource_group_domains, "domain_name").label("of_domain"),
    _given(resource_group_projects, "project_id", sa.Uuid()).label("of_project"),
    _given(resource_group_keypairs, "access_key").label("of_keypair"),
).order_by(resource_groups.c.name)


def groups(
    conn: sa.Connection,
    domain_name: str | None = None,
    project_id: UUID | None = None,
    access_key: AccessKey | None = None,
) -> list[ResourceGroup]:
    """All resource groups, by name, each with whether the domain, the project or the keypair was given it (None: that is not asked)."""
    whose = {"domain_name": domain_name, "project_id": project_id, "access_key": access_key}
    return [
        ResourceGroup(
            name=row.name,
            is_active=row.is_active,
            is_public=row.is_public,
            of_domain=row.of_domain,
            of_project=row.of_project,
            of_keypair=row.of_keypair,
            wsproxy_addr=row.wsproxy_addr,
        )
        for row in conn.execute(_GROUPS, whose)
    ]


def usable_groups(
    conn: sa.Connection, principal: Principal, domain_name: str, project_id: ProjectId
) -> frozenset[str]:
    """Where the principal's sessions of that project may run. For session creation: one statement, made once."""
    return usable(groups(conn, domain_name, project_id, principal.access_key), principal)


def presets(conn: sa.Connection, resource_group: str | None = None, name: str | None = None) -> list[Preset]:
    """By name; of one resource group (and those for every one), of one name, or all."""
    query = sa.select(resource_presets).order_by(resource_presets.c.name, resource_presets.c.resource_group)
    if resource_group is not None:
        query = query.where(resource_presets.c.resource_group.in_(["", resource_group]))
    if name is not None:
        query = query.where(resource_presets.c.name == name)
    return [
        Preset(
            id=row.id,
            name=row.name,
            slots=ResourceSlots(row.resource_slots),
            shared_memory_bytes=row.shared_memory_bytes,
            resource_group=row.resource_group,
        )
        for row in conn.execute(query)
    ]


def _limit(amounts: dict[str, int], *, rest_is_unlimited: bool = True) -> Limit:
    return Limit(slots=ResourceSlots(amounts), named=frozenset(amounts), rest_is_unlimited=rest_is_unlimited)


def keypair_limit(conn: sa.Connection, policy_name: str) -> Limit:
    policies = keypair_policies.c
    row = conn.execute(
        sa.select(policies.total_resource_slots, policies.default_for_unspecified).where(
            policies.name == policy_name
        )
    ).one()
    return _limit(
        row.total_resource_slots, rest_is_unlimited=row.default_for_unspecified.upper() != "LIMITED"
    )


def project_limit(conn: sa.Connection, project_id: ProjectId) -> Limit:
    query = sa.select(projects.c.total_resource_slots).where(projects.c.id == project_id)
    return _limit(conn.execute(query).scalar_one())


def domain_limit(conn: sa.Connection, name: str) -> Limit:
    query = sa.select(domains.c.total_resource_slots).where(domains.c.name == name)
    return _limit(conn.execute(query).scalar_one())


def holdings(conn: sa.Connection, domain_name: str) -> list[Holding]:
    """Of every session of a domain that holds slots of agents; those that wait use nothing of a limit."""
    columns = (
        sessions.c.access_key,
        sessions.c.user_id,
        sessions.c.project_id,
        sessions.c.resource_group,
        sessions.c.requested_slots,
    )
    return [
        Holding(
            access_key=row.access_key,
            user_id=row.user_id,
            project_id=row.project_id,
            domain_name=domain_name,
            resource_group=row.resource_group,
            slots=ResourceSlots(row.requested_slots),
        )
        for row in conn.execute(
            sa.select(*columns).where(
                one_of(sessions.c.status, OCCUPYING), sessions.c.domain_name == domain_name
            )
        )
    ]


_USE = (
    sa.select(
        kernels.c.id,
        kernels.c.session_id,
        kernels.c.cluster_role,
        kernels.c.container_id,
        kernels.c.agent_id,
        kernels.c.image_name,
        kernels.c.requested_slots,
        kernels.c.shm_bytes,
        kernels.c.stats,
        kernels.c.status,
        kernels.c.status_changed_at,
        kernels.c.attempt,
        sessions.c.attempts,
        sessions.c.name.label("session_name"),
        sessions.c.domain_name,
        sessions.c.project_id,
        sessions.c.user_id,
        sessions.c.access_key,
        sessions.c.reason,
        sessions.c.status_history,
        sessions.c.created_at,
        sessions.c.terminated_at,
        sessions.c.cluster_mode,
        projects.c.name.label("project_name"),
        users.c.email,
        users.c.full_name,
    )
    .join(sessions, sessions.c.id == kernels.c.session_id)
    .join(projects, projects.c.id == sessions.c.project_id)
    .join(users, users.c.id == sessions.c.user_id)
    .order_by(sessions.c.created_at, sessions.c.id, kernels.c.cluster_role, kernels.c.cluster_idx)
)


def use(
    conn: sa.Connection,
    begin: datetime,
    end: datetime,
    *,
    project_ids: Collection[UUID] | None = None,
    user_id: UUID | None = None,
) -> list[KernelUse]:
    """Kernels of sessions that lived in that time and were placed on an agent at all."""
    where: list[sa.ColumnElement[bool]] = [
        kernels.c.agent_id.is_not(None),
        sessions.c.created_at < end,
        sa.or_(sessions.c.terminated_at.is_(None), sessions.c.terminated_at >= begin),
    ]
    if project_ids is not None:
        where.append(sessions.c.project_id.in_(list(project_ids)))
    if user_id is not None:
        where.append(sessions.c.user_id == user_id)
    found = []
    for row in conn.execute(_USE.where(*where)):
        history, ended_at = row.status_history, row.terminated_at
        if row.attempt:
            # Of one that was over before its session was: only the newest are remembered.
            past = next((one for one in row.attempts if one["number"] == row.attempt), None)
            if past is None:
                continue
            history, ended_at = past["history"], datetime.fromisoformat(past["ended_at"])
        began = began_at(history)
        if began is None or began >= end or (ended_at is not None and ended_at < begin):
            continue
        found.append(
            KernelUse(
                kernel_id=row.id,
                session_id=row.session_id,
                session_name=row.session_name,
                is_main=row.cluster_role == "main",
                container_id=row.container_id,
                domain_name=row.domain_name,
                project_id=row.project_id,
                project_name=row.project_name,
                user_id=row.user_id,
                email=row.email,
                full_name=row.full_name,
                access_key=row.access_key,
                agent_id=row.agent_id,
                image_name=row.image_name,
                slots=ResourceSlots(row.requested_slots),
                shm_bytes=row.shm_bytes,
                stats=row.stats,
                cluster_mode=row.cluster_mode,
                status=row.status,
                reason=row.reason,
                status_changed_at=row.status_changed_at,
                status_history=history,
                created_at=row.created_at,
                began_at=began,
                terminated_at=ended_at,
            )
        )
    return found


def agent_exists(conn: sa.Connection, agent_id: str) -> bool:
    return conn.execute(sa.select(agents.c.id).where(agents.c.id == agent_id)).first() is not None
