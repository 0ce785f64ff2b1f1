"""Rows of agents. What an agent's kernels occupy is summed from the kernels' rows, never stored."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from ai.backend.common.ids import AgentId
from ai.backend.common.quantity import ResourceSlots, sum_slots
from ai.backend.common.wire.rpc import AgentReport

from ..db.schema import agents, kernels
from ..db.statement import one_of, update_row, update_rows
from ..directory.model import Listing
from ..image import store as image_store
from ..listing.statement import Field, Fields, condition, ordering
from ..session.store import OCCUPYING
from .model import Accelerator, Agent, AgentStatus, Device, SlotInfo
from .rotation import rest

_HELD = sa.select(kernels.c.agent_id, kernels.c.requested_slots, kernels.c.devices).where(
    kernels.c.agent_id.is_not(None), one_of(kernels.c.status, OCCUPYING)
)
_ALL = sa.select(agents).order_by(agents.c.id)
_OF_ID = agents.c.id == sa.bindparam("agent_id")
_ORDER = sa.select(agents.c.started_at_us, agents.c.sequence, agents.c.generation).where(_OF_ID)
_STATUS = sa.select(agents.c.status).where(_OF_ID)
_WORKED = (
    sa.update(agents)
    .where(agents.c.id.in_(sa.bindparam("ids", expanding=True)), agents.c.start_failures > 0)
    .values(start_failures=0, rests_until=None)
)
_GENERATIONS = sa.select(agents.c.id, agents.c.generation)


def all_agents(conn: sa.Connection) -> list[Agent]:
    held: dict[str, list[ResourceSlots]] = {}
    of_device: dict[tuple[str, str], int] = defaultdict(int)
    for row in conn.execute(_HELD):
        held.setdefault(row.agent_id, []).append(ResourceSlots(row.requested_slots))
        for device, milli in row.devices.items():
            of_device[row.agent_id, device] += milli
    images = image_store.on_agents(conn)
    return [
        _agent(row, sum_slots(held.get(row.id, [])), of_device, frozenset(images.get(row.id, ())))
        for row in conn.execute(_ALL)
    ]


def _agent(
    row: Any, occupied: ResourceSlots, held: Mapping[tuple[str, str], int], images: frozenset[str]
) -> Agent:
    return Agent(
        id=row.id,
        status=AgentStatus(row.status),
        resource_group=row.resource_group,
        schedulable=row.schedulable,
        generation=row.generation,
        started_at_us=row.started_at_us,
        sequence=row.sequence,
        last_seen_at=row.last_seen_at,
        first_contact_at=row.first_contact_at,
        status_changed_at=row.status_changed_at,
        lost_at=row.lost_at,
        region=row.region,
        capacity=ResourceSlots(row.capacity),
        occupied=occupied,
        architecture=row.architecture,
        backend=row.backend,
        version=row.version,
        address=row.address,
        healthy=row.healthy,
        problem=row.problem,
        images=images,
        start_failures=row.start_failures,
        rests_until=row.rests_until,
        devices=tuple(
            _device(one, held.get((row.id, one["id"]), 0), row.device_usage.get(one["id"], {}))
            for one in row.devices
        ),
        accelerators=tuple(map(_accelerator, row.accelerators)),
    )


def _device(one: Mapping[str, Any], held: int, usage: Mapping[str, Any]) -> Device:
    return Device(
        id=one["id"],
        slot=one["slot"],
        model=one["model"],
        memory_bytes=one["memory_bytes"],
        units=one["units"],
        numa_node=one["numa_node"],
        location=one["location"],
        problem=one["problem"],
        held=held,
        percent=usage.get("percent"),
        used_bytes=usage.get("memory_bytes"),
    )


def _accelerator(one: Mapping[str, Any]) -> Accelerator:
    return Accelerator(
        key=one["key"],
        version=one["version"],
        facts=one["facts"],
        slots=tuple(
            SlotInfo(slot=slot["slot"], shared=slot["shared"], quantum=slot["quantum"])
            for slot in one["slots"]
        ),
        problem=one["problem"],
    )


def order_of(conn: sa.Connection, agent_id: AgentId) -> tuple[int, int, int] | None:
    """(started_at_us, sequence, generation) as last written; None for an agent never seen."""
    row = conn.execute(_ORDER, {"agent_id": agent_id}).first()
    return (row.started_at_us, row.sequence, row.generation) if row else None


def generations(conn: sa.Connection) -> dict[AgentId, int]:
    return {row.id: row.generation for row in conn.execute(_GENERATIONS)}


def raise_generation(conn: sa.Connection, agent_id: AgentId, at_least: int) -> None:
    """After a database was restored from an older copy, agents know a newer generation: go beyond it."""
    conn.execute(
        sa.update(agents)
        .where(agents.c.id == agent_id, agents.c.generation < at_least)
        .values(generation=at_least)
    )


def claim(conn: sa.Connection, seen: Mapping[str, int]) -> None:
    """The desired sets of these agents change; their generations were looked at in this transaction."""
    rows = [({"id": one, "generation": old}, {"generation": old + 1}) for one, old in sorted(seen.items())]
    update_rows(conn, agents, rows)


def worked(conn: sa.Connection, agent_ids: Collection[AgentId]) -> None:
    """A session has started there."""
    conn.execute(_WORKED, {"ids": sorted(agent_ids)})


def blame(conn: sa.Connection, agent_ids: Collection[AgentId], now: datetime) -> None:
    """A session failed to start there that started elsewhere."""
    for row in conn.execute(
        sa.select(agents.c.id, agents.c.start_failures).where(agents.c.id.in_(agent_ids))
    ):
        failures = row.start_failures + 1
        update_row(
            conn, agents, {"id": row.id}, {"start_failures": failures, "rests_until": now + rest(failures)}
        )


def rest_until(conn: sa.Connection, until: Mapping[AgentId, datetime]) -> None:
    """These have got the one session with which they are tried."""
    for agent_id, when in until.items():
        update_row(conn, agents, {"id": agent_id}, {"rests_until": when})


def heard(conn: sa.Connection, report: AgentReport, now: datetime, *, images_changed: bool) -> None:
    """Writes what a report says of the agent itself; a new agent joins the resource group "default"."""
    status = AgentStatus.TERMINATED if report.leaving else AgentStatus.ALIVE
    values: dict[str, Any] = {
        "status": status.value,
        "started_at_us": report.started_at_us,
        "sequence": report.sequence,
        "last_seen_at": now,
        "capacity": report.capacity,
        "architecture": report.architecture,
        "backend": report.backend,
        "version": report.version,
        "address": report.address,
        "healthy": report.healthy,
        "problem": report.problem,
        "devices": msgspec.to_builtins(report.devices),
        "accelerators": msgspec.to_builtins(report.accelerators),
        "device_usage": msgspec.to_builtins(report.usage),
    }
    known = conn.execute(_STATUS, {"agent_id": report.agent_id}).first()
    if known is None:
        conn.execute(
            sa.insert(agents).values(
                id=report.agent_id,
                resource_group="default",
                first_contact_at=now,
                status_changed_at=now,
                generation=report.generation,
                **values,
            )
        )
    else:
        if known.status != status.value:
            values["status_changed_at"] = now
        update_row(conn, agents, {"id": report.agent_id}, values)
    if images_changed or known is None:
        image_store.report(conn, report.agent_id, image_store.of_report(report), now)


def mark_lost(conn: sa.Connection, silent_since: datetime, now: datetime) -> list[str]:
    """Agents that were alive and have been silent since then; returns those newly lost."""
    where = (agents.c.status == AgentStatus.ALIVE.value, agents.c.last_seen_at < silent_since)
    lost = list(conn.execute(sa.select(agents.c.id).where(*where)).scalars())
    if lost:
        conn.execute(
            sa.update(agents)
            .where(agents.c.id.in_(lost), *where)
            .values(status=AgentStatus.LOST.value, status_changed_at=now, lost_at=now)
        )
    return lost


NAMES: Fields = {
    "id": agents.c.id,
    "status": Field(agents.c.status, upper=True, words={*AgentStatus, "RESTARTING"}),
    "status_changed": agents.c.status_changed_at,
    "region": agents.c.region,
    "scaling_group": agents.c.resource_group,
    "schedulable": agents.c.schedulable,
    "addr": agents.c.address,
    "first_contact": agents.c.first_contact_at,
    "lost_at": agents.c.lost_at,
    "version": agents.c.version,
    "available_slots": sa.cast(agents.c.capacity, sa.String),
}


def narrow(conn: sa.Connection, ids: Sequence[AgentId], asked: Listing) -> tuple[list[AgentId], int]:
    """Which of these agents pass a filter, and how many in all."""
    where: list[sa.ColumnElement[bool]] = [agents.c.id.in_(ids)]
    wanted = condition(asked.filter, NAMES)
    if wanted is not None:
        where.append(wanted)
    order = [*ordering(asked.order, NAMES), agents.c.id]
    query = sa.select(agents.c.id).where(*where).order_by(*order).limit(asked.limit).offset(asked.offset)
    total = conn.execute(sa.select(sa.func.count()).select_from(agents).where(*where)).scalar_one()
    return list(conn.execute(query).scalars()), total
