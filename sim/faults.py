"""What goes wrong, and when: a seed's plan of faults, drawn before the run starts.

Pure: a generator in, a list of values out. The world applies them (`sim.world`). Crashes are given in steps of the loop after a moment,
not in seconds, so that over many seeds they fall on every await point.
"""

import enum
from dataclasses import dataclass
from random import Random

from .network import CALM, Weather


class Kind(enum.StrEnum):
    MANAGER_CRASH = "manager-crash"
    """The manager dies after `steps` steps and starts again after `duration_s`."""
    COMMIT_THEN_CRASH = "commit-then-crash"
    """The manager dies right after its next commit, before it can act on it."""
    AGENT_CRASH = "agent-crash"
    """An agent dies after `steps` steps; its containers run on; it starts again after `duration_s`."""
    NODE_REBOOT = "node-reboot"
    """An agent and all processes of its containers die; the agent starts again after `duration_s`."""
    STORM = "storm"
    """Bad weather on the network for `duration_s`."""
    PARTITION = "partition"
    """One agent is cut off for `duration_s`."""
    ENGINE_ERROR = "engine-error"
    """The container engine's next call of one kind fails."""
    ENGINE_PAUSE = "engine-pause"
    """The container engine refuses everything for `duration_s`."""
    OUT_OF_MEMORY = "out-of-memory"
    """The kernel kills a running container for its memory use."""
    SELF_EXIT = "self-exit"
    """A running container's main process ends by itself."""
    CLOCK_JUMP = "clock-jump"
    """The wall clock of every process jumps by `duration_s` (which may be negative)."""


ENGINE_CALLS = (
    *("create", "start", "stop", "remove", "inspect", "list", "images", "logs", "usage"),
    *("ensure_network", "remove_network", "networks"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    at_s: float
    kind: Kind
    node: int = 0
    """Which agent, container host or (modulo their number) container."""
    steps: int = 0
    duration_s: float = 0.0
    call: str = ""
    """The engine's call that fails."""
    weather: Weather = CALM

    @property
    def over_at_s(self) -> float:
        """When the last direct effect of this fault is gone."""
        return self.at_s + max(self.duration_s, 0.0)

    def __str__(self) -> str:
        parts = [self.kind.value, f"node {self.node}"]
        if self.steps:
            parts.append(f"after {self.steps} steps")
        if self.duration_s:
            parts.append(f"{self.duration_s:.1f} s")
        if self.call:
            parts.append(self.call)
        return " ".join(parts)


def plan(rng: Random, *, nodes: int, from_s: float, until_s: float, count_max: int = 12) -> list[Fault]:
    """A seed's faults in the order of time; all effects are over at `until_s`. Some seeds have none, some one kind, some all."""
    kinds = rng.sample(list(Kind), rng.randint(0, len(Kind)))
    if not kinds:
        return []
    faults = [_draw(rng, rng.choice(kinds), nodes, from_s, until_s) for _ in range(rng.randint(1, count_max))]
    return sorted(faults, key=lambda fault: fault.at_s)


def _draw(rng: Random, kind: Kind, nodes: int, from_s: float, until_s: float) -> Fault:
    at_s = rng.uniform(from_s, until_s)
    room_s = until_s - at_s
    node = rng.randrange(nodes)
    steps = rng.randrange(400)
    match kind:
        case Kind.CLOCK_JUMP:
            return Fault(at_s=at_s, kind=kind, duration_s=rng.choice((-1, 1)) * rng.uniform(0.0, room_s))
        case Kind.MANAGER_CRASH | Kind.AGENT_CRASH:
            return Fault(
                at_s=at_s, kind=kind, node=node, steps=steps, duration_s=min(room_s, rng.uniform(0.1, 20.0))
            )
        case Kind.COMMIT_THEN_CRASH | Kind.NODE_REBOOT:
            return Fault(at_s=at_s, kind=kind, node=node, duration_s=min(room_s, rng.uniform(0.1, 20.0)))
        case Kind.STORM:
            return Fault(
                at_s=at_s, kind=kind, duration_s=min(room_s, rng.uniform(5.0, 60.0)), weather=storm(rng)
            )
        case Kind.PARTITION | Kind.ENGINE_PAUSE:
            return Fault(at_s=at_s, kind=kind, node=node, duration_s=min(room_s, rng.uniform(1.0, 60.0)))
        case Kind.ENGINE_ERROR:
            return Fault(at_s=at_s, kind=kind, node=node, call=rng.choice(ENGINE_CALLS))
        case Kind.OUT_OF_MEMORY | Kind.SELF_EXIT:
            return Fault(at_s=at_s, kind=kind, node=rng.randrange(1000))


def storm(rng: Random) -> Weather:
    """Up to half of all messages lost, a third doubled, a fifth late by ten seconds."""
    return Weather(
        loss=rng.uniform(0.0, 0.5),
        duplication=rng.uniform(0.0, 0.33),
        lateness=rng.uniform(0.0, 0.2),
        delay_s=(0.001, rng.uniform(0.01, 2.0)),
    )
