"""When the workloads that wait would start, as far as that is known: the plan is made again after each end that is known to come.

Only ends by a limit are known (`End`); what may run for ever is taken to do so. So an estimate is when it starts at the latest, if nobody
comes in between with precedence and the agents stay as they are; a workload whose start hangs on anything else has none. Pure: instants
come with the ends.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from ai.backend.common.quantity import ResourceSlots, sum_slots

from .cycle import plan
from .model import AgentView, Held, Limit, Plan, Running, Scope, Share, Snapshot, Start, Workload

NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """At that time a session ends at the latest. `held`: what gets free then; the rest says whose it is."""

    at: datetime
    held: tuple[Held, ...]
    resource_group: str = ""
    keypair: str = ""
    user: str = ""
    project: str = ""
    domain: str = ""


def ends_of(running: Iterable[Running]) -> list[End]:
    """Those that are known."""
    return [
        End(
            at=one.ends_at,
            held=one.held,
            resource_group=one.resource_group,
            keypair=one.keypair,
            user=one.user,
            project=one.project,
            domain=one.domain,
        )
        for one in running
        if one.ends_at is not None
    ]


def forecast(
    snapshot: Snapshot,
    made: Plan,
    ends: Iterable[End],
    *,
    now: datetime,
    lasting: Mapping[UUID, timedelta],
    until: UUID | None = None,
    steps_max: int,
) -> dict[UUID, datetime]:
    """Estimated starts of those that `made`, the plan for this snapshot, refuses. `lasting`: how long workloads run at the most, where
    there is such a limit. It looks at no more than `steps_max` ends, and no further than the start of `until`."""
    # What runs is told by `ends` from here on. So nothing is held for anybody: those who are refused now all come in their turn.
    snapshot = replace(snapshot, running=())
    coming: dict[datetime, list[End]] = defaultdict(list)
    for end in ends:
        coming[end.at].append(end)
    found: dict[UUID, datetime] = {}
    workloads = {one.id: one for one in snapshot.workloads}
    for step in range(steps_max + 1):
        begun = [_begun(workloads[start.workload_id], start, now, lasting) for start in made.starts]
        if step:
            found |= {start.workload_id: now for start in made.starts}
        for end in begun:
            if end.at != NEVER:
                coming[end.at].append(end)
        gone = {start.workload_id for start in made.starts}
        left = tuple(one for one in snapshot.workloads if one.id not in gone)
        snapshot = _moved(replace(snapshot, workloads=left), begun, sign=1)
        if not left or not coming or until in found or step == steps_max:
            break
        # An end that is overdue comes now: the limit has been told, and is being carried out.
        at = min(coming)
        now = max(now, at)
        snapshot = _moved(snapshot, coming.pop(at), sign=-1)
        made = plan(snapshot)
    return found


def _begun(workload: Workload, start: Start, now: datetime, lasting: Mapping[UUID, timedelta]) -> End:
    slots = {kernel.id: kernel.slots for kernel in workload.kernels}
    return End(
        at=now + lasting[workload.id] if workload.id in lasting else NEVER,
        held=tuple(
            Held(agent_id=one.agent_id, slots=slots[one.kernel_id], devices=one.devices)
            for one in start.placements
        ),
        resource_group=workload.resource_group,
        keypair=workload.keypair,
        user=workload.user,
        project=workload.project,
        domain=workload.domain,
    )


def _moved(snapshot: Snapshot, sessions: Iterable[End], *, sign: int) -> Snapshot:
    """With these sessions begun (1) or ended (-1)."""
    by_device: dict[tuple[str, str], int] = defaultdict(int)
    by_agent: dict[str, list[ResourceSlots]] = defaultdict(list)
    by_user: dict[tuple[str, str], list[ResourceSlots]] = defaultdict(list)
    by_scope: dict[tuple[Scope, str], list[ResourceSlots]] = defaultdict(list)
    for one in sessions:
        amounts = [
            ResourceSlots({name: sign * amount for name, amount in held.slots.items()}) for held in one.held
        ]
        for held, slots in zip(one.held, amounts, strict=True):
            by_agent[held.agent_id].append(slots)
            for device, milli in held.devices:
                by_device[held.agent_id, device] += sign * milli
        by_user[one.user, one.resource_group] += amounts
        whole = sum_slots(amounts)
        for key in (
            (Scope.KEYPAIR, one.keypair),
            (Scope.USER, one.user),
            (Scope.PROJECT, one.project),
            (Scope.DOMAIN, one.domain),
        ):
            by_scope[key].append(whole)

    def agent_after(agent: AgentView) -> AgentView:
        if agent.id not in by_agent:
            return agent
        devices = tuple(
            replace(device, free=device.free - by_device.get((agent.id, device.id), 0))
            for device in agent.devices
        )
        occupied = agent.occupied + sum_slots(by_agent[agent.id])
        return replace(agent, occupied=occupied, devices=devices)

    def limit_after(limit: Limit) -> Limit:
        more = by_scope.get((limit.scope, limit.name))
        if more is None:
            return limit
        return replace(
            limit,
            sessions_used=limit.sessions_used + sign * len(more),
            slots_used=limit.slots_used + sum_slots(more),
        )

    shares = {(one.user, one.resource_group): one for one in snapshot.shares}
    for (user, group), more in by_user.items():
        share = shares.get((user, group), Share(user=user, resource_group=group))
        shares[user, group] = replace(share, held=sum_slots([share.held, *more]))
    return replace(
        snapshot,
        agents=tuple(map(agent_after, snapshot.agents)),
        limits=tuple(map(limit_after, snapshot.limits)),
        shares=tuple(shares.values()),
    )
