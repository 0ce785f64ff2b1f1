"""Why a demand is refused: the rule that refused the agent which came furthest, with asked and available amounts; how many agents each
rule refused; and what would let it start (`unblock`)."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from ai.backend.common.quantity import Shortfall, format_amount

from .demand import WHOLE, Demand
from .fleet import Fleet, Rows
from .model import AgentView, Need, Refusal, Remedy, Rule, Workload
from .unblock import LASTING, agent_needed, needs_of


class Finding(NamedTuple):
    rule: Rule
    message: str
    shortfalls: tuple[Shortfall, ...] = ()
    unblock: tuple[Need, ...] = ()
    considered: tuple[tuple[Rule, int], ...] = ()


Stage = tuple[Rule, Callable[[AgentView], bool]]


def stages(demand: Demand) -> tuple[Stage, ...]:
    """What an agent of the group is looked at for, in this order, before its amounts are."""
    return (
        (Rule.NOT_SCHEDULABLE, lambda agent: agent.schedulable),
        (Rule.ARCHITECTURE, lambda agent: demand.architecture <= {agent.architecture}),
        (Rule.IMAGE, lambda agent: demand.images <= agent.images),
        (
            Rule.MODEL,
            lambda agent: not demand.models or any(one.model in demand.models for one in agent.devices),
        ),
    )


def finding_of(fleet: Fleet, demand: Demand, *, anywhere: int) -> Finding:
    """The rule that no agent of the fleet passes after having passed those before it. `anywhere`: how many agents the cluster has."""
    if not anywhere:
        return Finding(
            Rule.NO_AGENT, "No agent has joined the cluster.", unblock=(agent_needed(fleet, demand),)
        )
    refused = {Rule.RESOURCE_GROUP: anywhere - len(fleet.agents)}
    found = _found(fleet, demand, refused)
    return found._replace(considered=tuple((rule, count) for rule, count in refused.items() if count))


def _found(fleet: Fleet, demand: Demand, refused: dict[Rule, int]) -> Finding:
    """Counts into `refused` whom each rule refuses."""
    rows = list(range(len(fleet.agents)))
    if demand.chosen:
        refused[Rule.CHOSEN] = len(rows)
        rows = [row for row in rows if fleet.agents[row].id == demand.chosen]
        refused[Rule.CHOSEN] -= len(rows)
        if not rows:
            return Finding(
                Rule.CHOSEN,
                f"The agent {demand.chosen}, which was chosen for it, is not there.",
                unblock=(agent_needed(fleet, demand),),
            )
    if not rows:
        return Finding(
            Rule.RESOURCE_GROUP,
            f"No agent belongs to the resource group {demand.resource_group!r}.",
            unblock=(agent_needed(fleet, demand),),
        )
    for rule, passes in stages(demand):
        left = [row for row in rows if passes(fleet.agents[row])]
        refused[rule] = len(rows) - len(left)
        if not left:
            row = _nearest(fleet, demand, rows)
            return Finding(rule, _message(rule, fleet, demand, row), unblock=_needs(fleet, demand, row))
        rows = left
    return _short(fleet, demand, np.array(rows), refused)


def _nearest(fleet: Fleet, demand: Demand, rows: list[int]) -> int:
    """The agent that could be made to do, if one could, and of those the one that passes most of the stages."""
    asked, looks = fleet.amounts(demand), stages(demand)

    def missing(row: int) -> tuple[bool, int, int]:
        failed = {rule for rule, passes in looks if not passes(fleet.agents[row])}
        never = bool(failed & LASTING or (fleet.capacity[row] < asked).any())
        return never, len(failed), int((fleet.free[row] < asked).sum())

    return min(rows, key=missing)


def _needs(fleet: Fleet, demand: Demand, row: int) -> tuple[Need, ...]:
    agent = fleet.agents[row]
    return needs_of(fleet, demand, row, [rule for rule, passes in stages(demand) if not passes(agent)])


def _message(rule: Rule, fleet: Fleet, demand: Demand, row: int) -> str:
    agent = fleet.agents[row]
    match rule:
        case Rule.NOT_SCHEDULABLE:
            return f"No agent takes new sessions now: agent {agent.id} {agent.problem}".rstrip() + "."
        case Rule.ARCHITECTURE:
            return f"No agent has the architecture {' and '.join(sorted(demand.architecture))}."
        case Rule.IMAGE:
            return f"No agent that could take it has the image {' and '.join(sorted(demand.images))}."
        case _:
            return (
                f"No agent that could take it has a device of the model {' or '.join(sorted(demand.models))}."
            )


def _short(fleet: Fleet, demand: Demand, rows: Rows, refused: dict[Rule, int]) -> Finding:
    """The agent that lacks least: one that is large enough, if there is; then fewer slots that fall short, then less of them."""
    asked = fleet.amounts(demand)
    short = np.maximum(0, asked - np.maximum(fleet.free[rows], 0))
    lack = (short / np.maximum(asked, 1)).sum(axis=1)
    small = (fleet.capacity[rows] < asked).any(axis=1)
    best = int(rows[np.lexsort((lack, (short > 0).sum(axis=1), small))[0]])
    unknown = fleet.lacking(demand.slots)
    lacking = len(rows) if unknown else int((short > 0).any(axis=1).sum())
    refused |= {Rule.SLOTS: lacking, Rule.DEVICES: len(rows) - lacking}
    found = [*demand.slots.shortfalls(fleet.free_of(best))]
    where = f"agent {fleet.agents[best].id}"
    unblock = _needs(fleet, demand, best)
    if not found and demand.device_milli:
        shares = "a share" if demand.times == 1 else f"{demand.times} shares"
        what = f"{shares} of {demand.share / WHOLE:g} of one" if demand.share else f"{demand.devices} whole"
        return Finding(
            Rule.DEVICES,
            f"There is enough {demand.family} free, but in pieces: it asks for {what} device(s), and the nearest is {where}.",
            unblock=unblock,
        )
    told = ", ".join(
        f"{s.slot}: asked {format_amount(s.slot, s.asked)}, free {format_amount(s.slot, s.available)}"
        for s in found
    )
    large = not unknown and not small.all()
    what = "Not enough is free" if large else "No agent is large enough"
    return Finding(Rule.SLOTS, f"{what}; the nearest is {where} ({told}).", tuple(found), unblock)


def held_for_another(finding: Finding, agent: AgentView) -> Finding:
    """There would be room if it were not held."""
    need = Need(
        remedy=Remedy.TURN,
        text=f"the session that agent {agent.id} is held for has started, or enough gets free besides",
        agent_id=agent.id,
    )
    message = f"What is free on agent {agent.id} is held for a session that has waited longer."
    return finding._replace(rule=Rule.HELD, message=message, unblock=(need,))


def making_room(finding: Finding, agents: Sequence[str], victims: int) -> Finding:
    """`victims`: how many are told to go now; those that were told before are not counted."""
    where = " and ".join(f"agent {name}" for name in agents)
    who = f"{victims} session(s)" if victims else "Sessions"
    need = Need(remedy=Remedy.FREE, text=f"the sessions that make room for it on {where} have ended")
    message = f"{who} of a lower job priority on {where} are ending to make room for it."
    return finding._replace(rule=Rule.PREEMPTING, message=message, unblock=(need,))


def reserved(finding: Finding, agents: Sequence[str], at: datetime | None) -> Finding:
    where = " and ".join(f"agent {name}" for name in agents)
    when = (
        f"from {at:%Y-%m-%d %H:%M:%S} UTC at the latest" if at else "as soon as enough of what runs has ended"
    )
    return finding._replace(message=f"{finding.message} Its place is reserved on {where}, {when}.")


def refusal_of(workload: Workload, finding: Finding, position: int) -> Refusal:
    return Refusal(
        workload_id=workload.id,
        rule=finding.rule,
        message=finding.message,
        position=position,
        shortfalls=finding.shortfalls,
        unblock=finding.unblock,
        considered=finding.considered,
    )
