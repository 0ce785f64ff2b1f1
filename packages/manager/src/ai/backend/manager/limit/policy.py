"""What limits say to a session that is asked for. Pure: numbers in, a refusal out.

Refused is what can never start (it asks for more than a whole allowance) and what would wait beside too many others. What merely finds an
allowance used up by sessions that run is taken, and waits: that is the scheduler's to decide (`scheduler.limit`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ai.backend.common.errors import QuotaExceeded
from ai.backend.common.quantity import ResourceSlots
from ai.backend.scheduler.limit import COUNTED, exceeded, texts, told
from ai.backend.scheduler.model import Excess, Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What whoever asks may have."""

    containers_per_session_max: int
    allowances: tuple[Limit, ...]
    """Of the keypair, user, project and domain, as if nothing of them were used."""
    waiting: Limit
    """Of the keypair's pending sessions; used is what waits now."""


def check_quota(quota: Quota, *, containers: int, slots: ResourceSlots) -> None:
    """`slots`: of all containers together. Raises QuotaExceeded, which tells everything that is exceeded, each with numbers."""
    found = list(_excesses(quota, containers, slots))
    if not found:
        return
    words = list(dict.fromkeys(word for word, _ in found))
    first = texts(found[0][1])
    raise QuotaExceeded(
        "; ".join(
            f"{_WHAT[word]}: {told(excess for other, excess in found if other == word)}" for word in words
        ),
        hint=_WAITS if all(word in _PENDING for word in words) else _NEVER,
        limit=words[0],
        **{name: first[name] for name in ("used", "allowed") if name in first},
        limits=[{"limit": word, **texts(excess)} for word, excess in found],
    )


CONTAINERS, SESSIONS, SLOTS = "max_containers_per_session", "max_concurrent_sessions", "total_resource_slots"
PENDING, PENDING_SLOTS = "max_pending_session_count", "max_pending_session_resource_slots"
_PENDING = (PENDING, PENDING_SLOTS)
_WHAT = {
    CONTAINERS: "more containers for one session than are allowed",
    SESSIONS: "no session at all is allowed",
    SLOTS: "more than could ever start",
    PENDING: "too many sessions wait already",
    PENDING_SLOTS: "what waits already asks for too much",
}
_WAITS = (
    "Wait until some of those that wait have started, end one, or ask an administrator for a higher limit."
)
_NEVER = "Ask for less, or ask an administrator for a higher limit."


def _excesses(quota: Quota, containers: int, slots: ResourceSlots) -> Iterator[tuple[str, Excess]]:
    """Each with the published name of the limit, by `_WHAT`'s order."""
    most = quota.containers_per_session_max
    if containers > most:
        yield (
            CONTAINERS,
            Excess(limit=quota.waiting, what="containers", asked=containers, used=0, allowed=most),
        )
    for words, limits in (((SESSIONS, SLOTS), quota.allowances), (_PENDING, (quota.waiting,))):
        for limit in limits:
            for excess in exceeded(limit, slots):
                yield words[excess.what not in COUNTED], excess
