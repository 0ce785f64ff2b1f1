"""Which agents get no sessions for a while because starts keep failing there. Pure.

Evidence is what counts: a failed start speaks against its agent once the same session has started on another one, so that a broken
image or command speaks against nobody. After `FAILURES_MAX` such failures in a row the agent rests; when its rest is over it gets one
session, the canary. If that one starts the agent is as good as new; if it fails, the next rest is twice as long. The last agents of a kind
never rest.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from ai.backend.common.ids import AgentId

from .model import Agent

FAILURES_MAX = 3
REST = timedelta(seconds=60)
REST_MAX = timedelta(hours=1)


def rest(failures: int) -> timedelta:
    """How long an agent rests after so many failures in a row."""
    if failures < FAILURES_MAX:
        return timedelta()
    return min(REST * (1 << min(failures - FAILURES_MAX, 16)), REST_MAX)


def resting(agents: Sequence[Agent], now: datetime) -> dict[AgentId, str]:
    """Those that get nothing now, and why, in words that go on after the agent's name."""
    return {
        agent.id: f"rests after {agent.start_failures} starts in a row that failed there and worked elsewhere; "
        f"it gets one session to try at {agent.rests_until:%Y-%m-%d %H:%M:%S} UTC"
        for agent in _doubted(agents)
        if agent.rests_until is not None and agent.rests_until > now
    }


def canaries(agents: Sequence[Agent], now: datetime) -> dict[AgentId, datetime]:
    """Those that may get one session now; and until when they rest again from then on."""
    return {
        agent.id: now + rest(agent.start_failures)
        for agent in _doubted(agents)
        if agent.rests_until is None or agent.rests_until <= now
    }


def _doubted(agents: Iterable[Agent]) -> list[Agent]:
    """With too many failures, where there are better ones."""
    usable = [agent for agent in agents if agent.takes_sessions]
    good = {
        (agent.resource_group, agent.architecture) for agent in usable if agent.start_failures < FAILURES_MAX
    }
    return [
        agent
        for agent in usable
        if agent.start_failures >= FAILURES_MAX and (agent.resource_group, agent.architecture) in good
    ]
