"""May a pending session be placed at all? Pure: what it waits for and the time in, a verdict out.

Only sessions whose reason is one of `HELD` are asked about: it is given to them when they are enqueued with something to wait for, and once
they are let go another reason takes its place. So an ordinary session costs the queue nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ai.backend.common.ids import AgentId
from ai.backend.scheduler.model import Start

from ..session.model import (
    FAILED_DEPENDENCY,
    WAITS_FOR_DEPENDENCIES,
    WAITS_FOR_TIME,
    Dependency,
    Session,
    SessionResult,
)

HELD = frozenset({WAITS_FOR_TIME, WAITS_FOR_DEPENDENCIES})
NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """It waits; `until` is when that alone may change, None when only other sessions change it."""

    reason: str
    message: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Doom:
    """It can never start."""

    reason: str
    message: str


def verdict(session: Session, dependencies: Sequence[Dependency], now: datetime) -> Hold | Doom | None:
    """None: it may be placed."""
    failed = [one for one in dependencies if one.status.terminal and one.result != SessionResult.SUCCESS]
    if failed:
        return Doom(
            reason=FAILED_DEPENDENCY,
            message=f"{_names(failed)} ended without success, and this session depends on that.",
        )
    open_ = [one for one in dependencies if not one.status.terminal]
    if open_:
        return Hold(
            reason=WAITS_FOR_DEPENDENCIES,
            message=f"It starts when {_names(open_)} will have ended with success.",
        )
    if session.starts_at is not None and session.starts_at > now:
        return Hold(
            reason=WAITS_FOR_TIME,
            message=f"It starts at {session.starts_at:%Y-%m-%d %H:%M:%S} UTC, as was asked for.",
            until=session.starts_at,
        )
    return None


def _names(many: Sequence[Dependency]) -> str:
    shown = ", ".join(one.name for one in many[:NAMES_SHOWN])
    more = len(many) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def one_each(
    starts: Sequence[Start], trying: Mapping[AgentId, datetime]
) -> tuple[list[Start], dict[AgentId, datetime]]:
    """Of agents that are only tried, each gets the first session; the others are planned anew. Returns what starts, and those of `trying`
    that got one."""
    kept: list[Start] = []
    got: dict[AgentId, datetime] = {}
    for start in starts:
        tried = {AgentId(one.agent_id) for one in start.placements} & trying.keys()
        if tried & got.keys():
            continue
        kept.append(start)
        got |= {agent: trying[agent] for agent in tried}
    return kept, got
