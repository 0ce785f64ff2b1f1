"""What would be, were these sessions asked for: drafts and facts in, what the scheduler looks at out, and its plan in words. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from ai.backend.common.errors import BackendError, ImageNotFound, InvalidInput, ResourceGroupNotFound
from ai.backend.common.quantity import ResourceSlots, parse_slots
from ai.backend.scheduler.model import AgentView, Group, KernelRequest, Plan, Snapshot, Workload
from ai.backend.scheduler.unblock import sentence

from ..image.model import Image
from ..image.policy import architecture_of, resolve
from .model import AgentDraft, Placed, Refused, Simulated, SimulationDraft, WorkloadDraft, limits_of

COPIES_MAX = 10_000
KERNELS_MAX = 256
"""Of one session."""
ALL_KERNELS_MAX = 50_000
AGENTS_MAX = 10_000
IMAGES_MAX = 1000
"""Of one agent that is given."""
SLOTS_MAX = 32
NAME_CHARS_MAX = 512
AMOUNT_MAX = 2**50
"""Sums of all that may be given stay within 64 bits."""
PRIORITY_MAX = 100
ANY_IMAGE = ""
"""The name of an image that every agent of a simulation has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """`groups`: all there are. `live`: the cluster as it is, with the sessions that wait."""

    groups: tuple[Group, ...]
    images: Sequence[Image]
    aliases: Mapping[tuple[str, str], str]
    live: Snapshot


def snapshot_for(draft: SimulationDraft, facts: Facts, *, now: datetime) -> Snapshot:
    """The drafts stand behind those that wait with the same priority, in their order, and are nobody's: no limit counts them. Raises
    InvalidInput, ImageNotFound or ResourceGroupNotFound; `detail` says with `workload` or `agent` which one it is about, from 0."""
    group = draft.resource_group
    known = [one for one in facts.groups if one.name == group]
    if not known and draft.agents is None:
        names = ", ".join(sorted(one.name for one in facts.groups)[:10])
        raise ResourceGroupNotFound(f"no resource group {group[:80]!r}", hint=f"One of {names}.")
    if draft.agents is None:
        live = facts.live
        agents, ahead, shares, limits = live.agents, live.workloads, live.shares, live.limits
        running = live.running
        ahead = tuple(one for one in ahead if one.resource_group == group)
    else:
        asked = frozenset(one.image for one in draft.workloads)
        agents, ahead, shares, limits = _given(draft.agents, group, asked), (), (), ()
        running = ()
    return Snapshot(
        agents=tuple(replace(one, images=one.images | {ANY_IMAGE}) for one in agents),
        workloads=(*ahead, *_workloads(draft, facts, agents, now=now)),
        groups=tuple(known) or (Group(name=group),),
        shares=shares,
        limits=limits,
        running=running,
        now=now,
    )


def _given(drafts: Sequence[AgentDraft], group: str, asked: frozenset[str]) -> tuple[AgentView, ...]:
    """`asked`: the images of an agent of which nothing is said."""
    if len(drafts) > AGENTS_MAX:
        raise InvalidInput(f"at most {AGENTS_MAX} agents, not {len(drafts)}", field="snapshot")
    found: dict[str, AgentView] = {}
    for number, one in enumerate(drafts):
        where: dict[str, Any] = {"field": "snapshot", "agent": number}
        title = f"agent {number + 1} ({one.id[:40]!r})"
        _name(one.id, title, where)
        if one.id in found:
            raise InvalidInput(f"{title}: this id is there already", hint="Each has its own.", **where)
        images = one.images or ()
        if len(images) > IMAGES_MAX:
            raise InvalidInput(f"{title}: at most {IMAGES_MAX} images", **where)
        found[one.id] = AgentView(
            id=one.id,
            resource_group=group,
            architecture=architecture_of(one.architecture),
            capacity=_slots(one.slots, title, where),
            occupied=_slots(one.occupied, title, where),
            images=frozenset(asked if one.images is None else images),
            schedulable=one.schedulable,
            problem="" if one.schedulable else "is excluded in the snapshot",
        )
    return tuple(found.values())


def _workloads(
    draft: SimulationDraft, facts: Facts, agents: Sequence[AgentView], *, now: datetime
) -> list[Workload]:
    copies = sum(max(one.count, 0) for one in draft.workloads)
    if not draft.workloads:
        raise InvalidInput("no workloads", hint="Give some in workloads.", field="workloads")
    kernels = sum(max(one.count, 0) * max(one.kernels, 0) for one in draft.workloads)
    if copies > COPIES_MAX or kernels > ALL_KERNELS_MAX:
        raise InvalidInput(
            f"{copies} sessions with {kernels} kernels are too many",
            hint=f"At most {COPIES_MAX} with {ALL_KERNELS_MAX} kernels, all counts added.",
            field="workloads",
        )
    found: list[Workload] = []
    for number, one in enumerate(draft.workloads):
        try:
            found += _copies(number, one, draft, facts, agents, now=now)
        except BackendError as exc:
            exc.message = f"workload {number + 1} ({one.name[:40]!r}): {exc.message}"
            exc.detail |= {"workload": number}
            raise
    return found


def _copies(
    number: int,
    one: WorkloadDraft,
    draft: SimulationDraft,
    facts: Facts,
    agents: Sequence[AgentView],
    *,
    now: datetime,
) -> list[Workload]:
    where: dict[str, Any] = {"field": "workloads"}
    _name(one.name, "a workload", where)
    for value, least, most, what in (
        (one.count, 1, COPIES_MAX, "count"),
        (one.kernels, 1, KERNELS_MAX, "kernels"),
        (one.priority, 0, PRIORITY_MAX, "priority"),
    ):
        if not least <= value <= most:
            raise InvalidInput(f"{what} is {least} to {most}, not {value}", **where)
    slots = _slots(one.slots, "", where)
    if not slots:
        raise InvalidInput(
            "it asks for nothing", hint='Give amounts such as {"cpu": 1, "mem": "1g"}.', **where
        )
    architecture = architecture_of(one.architecture[:NAME_CHARS_MAX])
    image = _image(one.image, architecture, draft, facts, agents)
    return [
        Workload(
            id=UUID(int=_key(number, copy, 0)),
            resource_group=draft.resource_group,
            priority=one.priority,
            created_at=now,
            single_node=one.single_node,
            kernels=tuple(
                KernelRequest(
                    id=UUID(int=_key(number, copy, kernel + 1)),
                    slots=slots,
                    image=image,
                    architecture=architecture,
                )
                for kernel in range(one.kernels)
            ),
        )
        for copy in range(one.count)
    ]


def _key(number: int, copy: int, kernel: int) -> int:
    """In the order of the drafts; real sessions have random ids, so none is so small."""
    return (number << 40) | (copy << 16) | kernel


def _image(
    wanted: str,
    architecture: str,
    draft: SimulationDraft,
    facts: Facts,
    agents: Sequence[AgentView],
) -> str:
    if not wanted:
        return ANY_IMAGE
    if any(wanted in agent.images for agent in agents if draft.agents is not None):
        return wanted
    found = resolve(wanted[:NAME_CHARS_MAX], architecture, facts.images, facts.aliases)
    if found is None:
        where = "" if draft.agents is None else ", neither here nor on an agent of the snapshot"
        raise ImageNotFound(
            f"no image {wanted[:80]!r} for {architecture}{where}",
            hint="List them with 'backend.ai image ls'.",
        )
    return found.name


def _name(name: str, title: str, where: Mapping[str, Any]) -> None:
    if not name or len(name) > NAME_CHARS_MAX:
        raise InvalidInput(f"{title} has a name of 1 to {NAME_CHARS_MAX} characters", **where)


def _slots(values: Mapping[str, str | int | float], title: str, where: Mapping[str, Any]) -> ResourceSlots:
    before = f"{title}: " if title else ""
    if len(values) > SLOTS_MAX or any(len(name) > 64 for name in values):
        raise InvalidInput(f"{before}at most {SLOTS_MAX} slots, with names of 64 characters", **where)
    try:
        slots = parse_slots(values)
    except InvalidInput as exc:
        exc.message = f"{before}{exc.message}"
        exc.detail |= where
        raise
    if any(amount > AMOUNT_MAX for amount in slots.values()):
        raise InvalidInput(f"{before}an amount is too large", **where)
    return slots


def outcome(
    draft: SimulationDraft, snapshot: Snapshot, made: Plan, estimates: Mapping[UUID, datetime]
) -> Simulated:
    """Of the drafts, in their order."""
    started = {start.workload_id: start for start in made.starts}
    refused = {refusal.workload_id: refusal for refusal in made.refusals}
    placements, refusals = [], []
    for number, one in enumerate(draft.workloads):
        for copy in range(one.count):
            key = UUID(int=_key(number, copy, 0))
            if (start := started.get(key)) is not None:
                agents = {place.kernel_id: place.agent_id for place in start.placements}
                order = tuple(agents[UUID(int=_key(number, copy, at + 1))] for at in range(one.kernels))
                placements.append(Placed(name=one.name, copy=copy + 1, agents=order))
                continue
            why = refused[key]
            refusals.append(
                Refused(
                    name=one.name,
                    copy=copy + 1,
                    rule=why.rule,
                    message=why.message,
                    hint=sentence(why.unblock),
                    position=why.position,
                    shortfalls=why.shortfalls,
                    unblock=why.unblock,
                    considered=why.considered,
                    limits=limits_of(why),
                    estimated_start=estimates.get(key),
                )
            )
    given = sum(one.count for one in draft.workloads)
    return Simulated(
        placements=tuple(placements),
        refusals=tuple(refusals),
        agents=sum(agent.resource_group == draft.resource_group for agent in snapshot.agents),
        waiting=len(snapshot.workloads) - given,
    )
