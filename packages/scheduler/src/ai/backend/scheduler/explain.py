"""Why a demand is refused: the rule that refused the agent which came furthest, with asked and available amounts."""

from typing import NamedTuple

import numpy as np

from ai.backend.common.quantity import Shortfall, format_amount

from .demand import WHOLE, Demand
from .fleet import Fleet, Rows
from .model import Refusal, Rule, Workload


class Finding(NamedTuple):
    rule: Rule
    message: str
    shortfalls: tuple[Shortfall, ...] = ()


def finding_of(fleet: Fleet, demand: Demand, *, anywhere: int) -> Finding:
    """The rule that no agent of the fleet passes after having passed those before it. `anywhere`: how many agents the cluster has."""
    if not anywhere:
        return Finding(Rule.NO_AGENT, "No agent has joined the cluster.")
    rows = list(range(len(fleet.agents)))
    if demand.chosen:
        rows = [row for row in rows if fleet.agents[row].id == demand.chosen]
        if not rows:
            return Finding(Rule.CHOSEN, f"The agent {demand.chosen}, which was chosen for it, is not there.")
    if not rows:
        return Finding(
            Rule.RESOURCE_GROUP, f"No agent belongs to the resource group {demand.resource_group!r}."
        )
    stages = (
        (Rule.NOT_SCHEDULABLE, lambda agent: agent.schedulable),
        (Rule.ARCHITECTURE, lambda agent: demand.architecture <= {agent.architecture}),
        (Rule.IMAGE, lambda agent: demand.images <= agent.images),
        (
            Rule.MODEL,
            lambda agent: not demand.models or any(one.model in demand.models for one in agent.devices),
        ),
    )
    for rule, passes in stages:
        left = [row for row in rows if passes(fleet.agents[row])]
        if not left:
            return Finding(rule, _message(rule, fleet, demand, rows[0]))
        rows = left
    return _short(fleet, demand, np.array(rows))


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


def _short(fleet: Fleet, demand: Demand, rows: Rows) -> Finding:
    """The agent that lacks least: fewer slots that fall short, then less of them."""
    asked = fleet.amounts(demand)
    unknown = [
        Shortfall(name, amount, 0) for name, amount in demand.slots.items() if name not in fleet.columns
    ]
    short = np.maximum(0, asked - np.maximum(fleet.free[rows], 0))
    lack = (short / np.maximum(asked, 1)).sum(axis=1)
    best = int(rows[np.lexsort((lack, (short > 0).sum(axis=1)))[0]])
    found = [*demand.slots.shortfalls(fleet.free_of(best))]
    where = f"agent {fleet.agents[best].id}"
    if not found and not unknown and demand.device_milli:
        what = f"a share of {demand.share / WHOLE:g} of one" if demand.share else f"{demand.devices} whole"
        return Finding(
            Rule.DEVICES,
            f"There is enough {demand.family} free, but in pieces: it asks for {what} device(s), and the nearest is {where}. It starts "
            "when other sessions end.",
        )
    told = ", ".join(
        f"{s.slot}: asked {format_amount(s.slot, s.asked)}, free {format_amount(s.slot, s.available)}"
        for s in found
    )
    return Finding(
        Rule.SLOTS,
        f"Not enough is free; the nearest is {where} ({told}). It starts when other sessions end.",
        tuple(found),
    )


def refusal_of(workload: Workload, finding: Finding, position: int) -> Refusal:
    return Refusal(
        workload_id=workload.id,
        rule=finding.rule,
        message=finding.message,
        position=position,
        shortfalls=finding.shortfalls,
    )
