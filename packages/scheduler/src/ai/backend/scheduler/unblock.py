"""What would let a refused demand start: sentences for people, kinds and numbers for programs. All that is named for a demand is enough
for it, as long as nothing else changes; a test takes each blocker away and looks."""

from collections.abc import Sequence

import numpy as np

from ai.backend.common.quantity import ResourceSlots, SlotName, format_amount, format_size, slot_type

from .demand import WHOLE, Demand
from .fleet import Fleet
from .model import Need, Remedy, Rule

LASTING = frozenset({Rule.ARCHITECTURE, Rule.MODEL})
"""Rules by which an agent refuses for good."""


def sentence(needs: Sequence[Need]) -> str:
    """Empty when nothing is known."""
    return f"It starts when {', and '.join(need.text for need in needs)}." if needs else ""


def needs_of(fleet: Fleet, demand: Demand, row: int, failed: Sequence[Rule]) -> tuple[Need, ...]:
    """What has to become true for the demand to find this agent, which refuses it by the rules `failed` and perhaps has too little free."""
    agent = fleet.agents[row]
    large = not fleet.lacking(demand.slots) and bool((fleet.capacity[row] >= fleet.amounts(demand)).all())
    if (
        not large
        or LASTING & set(failed)
        or (demand.device_milli and _devices_at_most(fleet, demand, row) < 1)
    ):
        return (agent_needed(fleet, demand),)
    needs: list[Need] = []
    if Rule.NOT_SCHEDULABLE in failed:
        why = f" (it {agent.problem})" if agent.problem else ""
        needs.append(
            Need(
                remedy=Remedy.SCHEDULABLE,
                text=f"agent {agent.id} takes new sessions again{why}",
                agent_id=agent.id,
            )
        )
    if Rule.IMAGE in failed:
        lacking = tuple(sorted(demand.images - agent.images))
        needs.append(
            Need(
                remedy=Remedy.IMAGE,
                text=f"the image {' and '.join(lacking)} is built or pulled on agent {agent.id}",
                agent_id=agent.id,
                images=lacking,
            )
        )
    return (*needs, *_room(fleet, demand, row))


def _room(fleet: Fleet, demand: Demand, row: int) -> list[Need]:
    agent = fleet.agents[row]
    free = fleet.free_of(row)
    short = ResourceSlots({s.slot: s.asked - s.available for s in demand.slots.shortfalls(free)})
    needs = []
    if short:
        text = f"{told(short)} get free on agent {agent.id}"
        needs.append(Need(remedy=Remedy.FREE, text=text, agent_id=agent.id, slots=short))
    devices = fleet.devices_for(demand, np.array([row]))[0]
    if demand.devices and int((devices == WHOLE).sum()) < demand.devices:
        what = f"{demand.devices} whole devices of {demand.family} are"
    elif demand.share and int((devices // demand.share).sum()) < demand.times:
        what = f"{demand.share / WHOLE:g} of one device of {demand.family} is"
        if demand.times > 1:
            what = f"{demand.times} times {what}"
    else:
        return needs
    slots = ResourceSlots(
        {name: n for name, n in demand.slots.items() if name.startswith(f"{demand.family}.")}
    )
    text = f"{what} free on agent {agent.id}"
    return [*needs, Need(remedy=Remedy.DEVICES, text=text, agent_id=agent.id, slots=slots)]


def _devices_at_most(fleet: Fleet, demand: Demand, row: int) -> int:
    """How often the demand's devices would fit into this agent, were all of them free."""
    have = int(fleet.right(demand)[fleet.kind[row]].sum())
    return have // demand.devices if demand.devices else have * (WHOLE // demand.share) // demand.times


def agent_needed(fleet: Fleet, demand: Demand) -> Need:
    """No agent that is there will do, whatever gets free."""
    images = tuple(sorted(one for one in demand.images if one))
    architecture = " and ".join(sorted(demand.architecture))
    has = [told(demand.slots)] if demand.slots else []
    if demand.models:
        has.append(f"a device of the model {' or '.join(sorted(demand.models))}")
    if images:
        has.append(f"the image {' and '.join(images)}")
    which = f"the agent {demand.chosen}" if demand.chosen else "an agent"
    where = f"of the architecture {architecture} joins the resource group {demand.resource_group}"
    return Need(
        remedy=Remedy.AGENT,
        text=f"{which} {where}" + (f", with {', '.join(has)}" if has else ""),
        agent_id=demand.chosen,
        resource_group=demand.resource_group,
        architecture=architecture,
        images=images,
        models=tuple(sorted(demand.models)),
        slots=demand.slots,
    )


def told(slots: ResourceSlots) -> str:
    """Amounts for people: "1.5 cpu and 2 GiB of mem"."""
    return " and ".join(_amount(name, amount) for name, amount in slots.items())


def _amount(name: SlotName, amount: int) -> str:
    return (
        f"{format_size(amount)} of {name}"
        if slot_type(name) == "bytes"
        else f"{format_amount(name, amount)} {name}"
    )
