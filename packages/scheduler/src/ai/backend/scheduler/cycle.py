"""One scheduling cycle: snapshot -> plan. Deterministic; first fit with exact accounting.

1. *Order* the workloads: higher priority first, then older first, then by id.
2. For each, *filter* the agents for each of its kernels (for all of them together, if they must share a node), in the order of
   their ids; the first that passes is taken (*first fit*).
3. *Reserve* its slots in the ledger. A workload whose kernels cannot all be placed gives back what it reserved (all or nothing).
4. *Explain*: a refused workload carries the rule that refused the agent which came furthest, with asked and available amounts.
"""

from typing import NamedTuple

from ai.backend.common.quantity import ResourceSlots, format_amount, sum_slots

from .ledger import Ledger
from .model import AgentView, KernelRequest, Placement, Plan, Refusal, Rule, Snapshot, Start, Workload

# An agent refused by a later rule came closer to being taken: this order decides which refusal is told.
_PROGRESS = (
    Rule.NO_AGENT,
    Rule.CHOSEN,
    Rule.RESOURCE_GROUP,
    Rule.NOT_SCHEDULABLE,
    Rule.ARCHITECTURE,
    Rule.IMAGE,
    Rule.SLOTS,
)


class Unit(NamedTuple):
    """Kernels that go to one agent together."""

    kernels: tuple[KernelRequest, ...]
    slots: ResourceSlots


def units_of(workload: Workload) -> list[Unit]:
    if workload.single_node:
        return [Unit(workload.kernels, sum_slots([kernel.slots for kernel in workload.kernels]))]
    return [Unit((kernel,), kernel.slots) for kernel in workload.kernels]


def plan(snapshot: Snapshot) -> Plan:
    """What starts now and where, and why the rest does not."""
    agents = sorted(snapshot.agents, key=lambda agent: agent.id)
    ledger = Ledger(agents)
    starts: list[Start] = []
    refusals: list[Refusal] = []
    for workload in sorted(snapshot.workloads, key=lambda w: (-w.priority, w.created_at, w.id)):
        outcome = _place(workload, agents, ledger)
        if isinstance(outcome, Start):
            starts.append(outcome)
        else:
            unit, rule, agent = outcome
            refusals.append(_explain(workload, unit, rule, agent, ledger, position=len(refusals) + 1))
    return Plan(starts=tuple(starts), refusals=tuple(refusals))


def refusing_rule(agent: AgentView, workload: Workload, unit: Unit, ledger: Ledger) -> Rule | None:
    """The first rule that keeps these kernels off this agent, or None."""
    if any(kernel.agent_id not in ("", agent.id) for kernel in unit.kernels):
        return Rule.CHOSEN
    if agent.resource_group != workload.resource_group:
        return Rule.RESOURCE_GROUP
    if not agent.schedulable:
        return Rule.NOT_SCHEDULABLE
    if any(agent.architecture != kernel.architecture for kernel in unit.kernels):
        return Rule.ARCHITECTURE
    if any(kernel.image not in agent.images for kernel in unit.kernels):
        return Rule.IMAGE
    if not unit.slots.fits(ledger.free(agent.id)):
        return Rule.SLOTS
    return None


def _place(
    workload: Workload, agents: list[AgentView], ledger: Ledger
) -> Start | tuple[Unit, Rule, AgentView | None]:
    placed: list[tuple[AgentView, Unit]] = []
    for unit in units_of(workload):
        nearest: tuple[Rule, AgentView | None] = (Rule.NO_AGENT, None)
        for agent in agents:
            rule = refusing_rule(agent, workload, unit, ledger)
            if rule is None:
                ledger.reserve(agent.id, unit.slots)
                placed.append((agent, unit))
                break
            if _PROGRESS.index(rule) > _PROGRESS.index(nearest[0]) or (
                rule is nearest[0] and _roomier(agent, nearest[1], unit, ledger)
            ):
                nearest = (rule, agent)
        else:
            for agent, other in placed:
                ledger.release(agent.id, other.slots)
            return unit, *nearest
    placements = tuple(
        Placement(kernel_id=kernel.id, agent_id=agent.id) for agent, unit in placed for kernel in unit.kernels
    )
    return Start(workload_id=workload.id, version=workload.version, placements=placements)


def _roomier(agent: AgentView, other: AgentView | None, unit: Unit, ledger: Ledger) -> bool:
    """Whether `agent` lacks less: fewer slots that fall short, then more of them free."""
    if other is None:
        return True

    def lack(one: AgentView) -> tuple[int, float]:
        short = unit.slots.shortfalls(ledger.free(one.id))
        return len(short), sum((s.asked - s.available) / s.asked for s in short)

    return lack(agent) < lack(other)


def _explain(
    workload: Workload,
    unit: Unit,
    rule: Rule,
    agent: AgentView | None,
    ledger: Ledger,
    *,
    position: int,
) -> Refusal:
    first = unit.kernels[0]
    shortfalls = tuple(unit.slots.shortfalls(ledger.free(agent.id))) if agent and rule is Rule.SLOTS else ()
    where = f"agent {agent.id}" if agent else ""
    match rule:
        case Rule.NO_AGENT:
            message = "No agent has joined the cluster."
        case Rule.CHOSEN:
            chosen = next(kernel.agent_id for kernel in unit.kernels if kernel.agent_id)
            message = f"The agent {chosen}, which was chosen for it, is not there."
        case Rule.RESOURCE_GROUP:
            message = f"No agent belongs to the resource group {workload.resource_group!r}."
        case Rule.NOT_SCHEDULABLE:
            message = (
                f"No agent takes new sessions now: {where} {agent.problem if agent else ''}".rstrip() + "."
            )
        case Rule.ARCHITECTURE:
            message = f"No agent has the architecture {first.architecture}."
        case Rule.IMAGE:
            message = f"No agent that could take it has the image {first.image}."
        case Rule.SLOTS:
            asked = ", ".join(
                f"{s.slot}: asked {format_amount(s.slot, s.asked)}, free {format_amount(s.slot, s.available)}"
                for s in shortfalls
            )
            message = (
                f"Not enough is free; the nearest is {where} ({asked}). It starts when other sessions end."
            )
    return Refusal(
        workload_id=workload.id, rule=rule, message=message, position=position, shortfalls=shortfalls
    )
