"""Settings, and the counts that the manager's status tells."""

from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from ..db.schema import agents, sessions, settings
from ..db.statement import one_of
from ..db.upsert import upsert
from ..session.store import TERMINAL
from .model import ManagerState, Status
from .policy import ANNOUNCEMENT_KEY, STATE_KEY

_TOLD = sa.select(settings).where(one_of(settings.c.key, (STATE_KEY, ANNOUNCEMENT_KEY)))
_ACTIVE = (
    sa.select(sa.func.count())
    .select_from(sessions)
    .where(sessions.c.status.not_in([sa.literal_column(f"'{status}'") for status in TERMINAL]))
)
_VALUE = sa.select(settings.c.value).where(settings.c.key == sa.bindparam("key"))
_PENDING = sa.select(sa.func.count()).select_from(sessions).where(one_of(sessions.c.status, ("PENDING",)))
_SCHEDULABLE = sa.select(sa.func.count()).select_from(agents).where(agents.c.schedulable)


def status(conn: sa.Connection) -> Status:
    told = {row.key: row.value for row in conn.execute(_TOLD)}
    return Status(
        state=ManagerState(told.get(STATE_KEY, ManagerState.RUNNING)),
        active_sessions=conn.execute(_ACTIVE).scalar_one(),
        announcement=told.get(ANNOUNCEMENT_KEY, ""),
    )


def get(conn: sa.Connection, key: str) -> str | None:
    return conn.execute(_VALUE, {"key": key}).scalar_one_or_none()


def _below(prefix: str) -> sa.ColumnElement[bool]:
    """The key itself and all keys under it; everything for the root."""
    if prefix == "":
        return sa.true()
    return sa.or_(settings.c.key == prefix, settings.c.key.startswith(f"{prefix}/", autoescape=True))


def below(conn: sa.Connection, prefix: str) -> dict[str, str]:
    return {row.key: row.value for row in conn.execute(sa.select(settings).where(_below(prefix)))}


def put(conn: sa.Connection, values: Mapping[str, str]) -> None:
    rows = [{"key": key, "value": value} for key, value in values.items()]
    if rows:
        upsert(conn, settings, rows, key=("key",), update=("value",))


def delete(conn: sa.Connection, key: str) -> int:
    return conn.execute(sa.delete(settings).where(settings.c.key == key)).rowcount


def delete_below(conn: sa.Connection, prefix: str) -> int:
    return conn.execute(sa.delete(settings).where(_below(prefix))).rowcount


def set_schedulable(conn: sa.Connection, agent_ids: Iterable[str], *, schedulable: bool) -> list[str]:
    """Returns those that do not exist; if there are any, nothing is changed."""
    wanted = sorted(set(agent_ids))
    known = set(conn.execute(sa.select(agents.c.id).where(agents.c.id.in_(wanted))).scalars())
    unknown = [agent_id for agent_id in wanted if agent_id not in known]
    if not unknown:
        conn.execute(sa.update(agents).where(agents.c.id.in_(wanted)).values(schedulable=schedulable))
    return unknown


def pending_and_schedulable(conn: sa.Connection) -> tuple[int, int]:
    return conn.execute(_PENDING).scalar_one(), conn.execute(_SCHEDULABLE).scalar_one()


def capacity_slots(conn: sa.Connection, resource_group: str | None) -> set[str]:
    """Names of the slots that agents have, those of one resource group or all."""
    query = sa.select(agents.c.capacity, agents.c.devices)
    if resource_group:
        query = query.where(agents.c.resource_group == resource_group)
    found = conn.execute(query).all()
    return {name for row in found for name in (*row.capacity, *(device["slot"] for device in row.devices))}
