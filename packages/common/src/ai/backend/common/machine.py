"""Total transition tables: the one form of every state machine here.

A table maps each (state, event) to the next state, to STALE (late or doubled news: drop it) or to NEVER (a bug: quarantine that one
entity and count it). It must be total, so that "nobody thought of this" cannot happen at run time. Diagrams are drawn from tables.
"""

import enum
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar


class Drop(enum.Enum):
    STALE = "stale"
    NEVER = "never"


STALE = Drop.STALE
NEVER = Drop.NEVER

S = TypeVar("S", bound=enum.Enum)
E = TypeVar("E", bound=enum.Enum)


def row(events: type[E], **targets: S) -> dict[E, S | Drop]:
    """A table's row by names of events; news that is not named is late or doubled: STALE."""
    unknown = targets.keys() - {event.name for event in events}
    if unknown:
        raise ValueError(f"no such events: {sorted(unknown)}")
    return {event: targets.get(event.name, STALE) for event in events}


class Table(Generic[S, E]):
    """`rows[state][event]` is the next state or a Drop. Raises ValueError at import when it is not total."""

    def __init__(
        self, name: str, rows: Mapping[S, Mapping[E, S | Drop]], *, states: Iterable[S], events: Iterable[E]
    ) -> None:
        self.name = name
        self.rows = rows
        self.states = tuple(states)
        self.events = tuple(events)
        missing = [(s.name, e.name) for s in self.states for e in self.events if e not in rows.get(s, {})]
        if missing:
            raise ValueError(f"{name}: the table has no answer for {missing}")

    def next(self, state: S, event: E) -> S | Drop:
        return self.rows[state][event]

    def mermaid(self) -> str:
        """A Mermaid state diagram; STALE and NEVER are left out."""
        lines = ["stateDiagram-v2"]
        for state in self.states:
            for event in self.events:
                target = self.rows[state][event]
                if not isinstance(target, Drop) and target is not state:
                    lines.append(f"    {state.name} --> {target.name}: {event.name}")
        return "\n".join(lines)
