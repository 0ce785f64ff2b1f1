"""Images and aliases in the database."""

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

from ai.backend.common.wire.rpc import AgentReport

from ..db.schema import agent_images, image_aliases, images
from ..db.upsert import upsert
from ..directory.model import Listing
from ..listing.statement import Fields, condition, ordering
from .model import Image

_ALL = sa.select(images).order_by(images.c.name, images.c.architecture)
NAMES: Fields = {
    "name": images.c.name,
    "architecture": images.c.architecture,
    "digest": images.c.digest,
    "size_bytes": images.c.size_bytes,
    "created_at": images.c.created_at,
}
"""By what lists of images may be filtered and ordered."""
_ALIASES = sa.select(image_aliases)
_ON_AGENTS = sa.select(agent_images)


def all_images(conn: sa.Connection) -> list[Image]:
    return [
        Image(
            name=row.name,
            architecture=row.architecture,
            digest=row.digest,
            size_bytes=row.size_bytes,
            labels=row.labels,
        )
        for row in conn.execute(_ALL)
    ]


def matching(conn: sa.Connection, asked: Listing) -> list[tuple[str, str]]:
    """Name and architecture of all that pass the filter, in the order asked for; how many are shown is the caller's business. Raises
    InvalidInput."""
    wanted = condition(asked.filter, NAMES)
    query = sa.select(images.c.name, images.c.architecture).where(*([] if wanted is None else [wanted]))
    order = [*ordering(asked.order, NAMES), images.c.name, images.c.architecture]
    return [(row.name, row.architecture) for row in conn.execute(query.order_by(*order))]


def aliases(conn: sa.Connection) -> dict[tuple[str, str], str]:
    return {(row.alias, row.architecture): row.image_name for row in conn.execute(_ALIASES)}


def on_agents(conn: sa.Connection) -> dict[str, set[str]]:
    """Agent id to the names of the images that it holds."""
    found: dict[str, set[str]] = {}
    for row in conn.execute(_ON_AGENTS):
        found.setdefault(row.agent_id, set()).add(row.image_name)
    return found


def of_report(report: AgentReport) -> list[Image]:
    return [
        Image(
            name=image.name,
            architecture=image.architecture,
            digest=image.digest,
            size_bytes=image.size_bytes,
            labels=image.labels,
        )
        for image in report.images
    ]


def report(conn: sa.Connection, agent_id: str, reported: Iterable[Image], now: datetime) -> None:
    """Makes the rows say what an agent holds now; images that no agent holds any more are kept for old sessions' sake."""
    rows = [
        {
            "name": image.name,
            "architecture": image.architecture,
            "digest": image.digest,
            "size_bytes": image.size_bytes,
            "labels": image.labels,
            "created_at": now,
        }
        for image in {(image.name, image.architecture): image for image in reported}.values()
    ]
    upsert(conn, images, rows, key=("name", "architecture"), update=("digest", "size_bytes", "labels"))
    conn.execute(sa.delete(agent_images).where(agent_images.c.agent_id == agent_id))
    names = sorted({image.name for image in reported})
    if names:
        conn.execute(sa.insert(agent_images), [{"agent_id": agent_id, "image_name": name} for name in names])


def add(conn: sa.Connection, agent_id: str, image: Image, now: datetime) -> None:
    """An image that the agent holds besides those that it has reported."""
    row = {
        "name": image.name,
        "architecture": image.architecture,
        "digest": image.digest,
        "size_bytes": image.size_bytes,
        "labels": image.labels,
        "created_at": now,
    }
    upsert(conn, images, row, key=("name", "architecture"), update=("digest", "size_bytes", "labels"))
    held = {"agent_id": agent_id, "image_name": image.name}
    upsert(conn, agent_images, held, key=("agent_id", "image_name"))


def add_alias(conn: sa.Connection, alias: str, image_name: str, architecture: str) -> None:
    row = {"alias": alias, "image_name": image_name, "architecture": architecture}
    conn.execute(sa.insert(image_aliases).values(row))


def remove_alias(conn: sa.Connection, alias: str) -> bool:
    return conn.execute(sa.delete(image_aliases).where(image_aliases.c.alias == alias)).rowcount > 0
