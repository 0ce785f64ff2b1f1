"""A cluster in virtual time, of agents with processors alone, that does what plans say."""

import heapq
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from ai.backend.common.quantity import ResourceSlots
from ai.backend.scheduler.cycle import plan
from ai.backend.scheduler.model import (
    AgentView,
    Group,
    Held,
    KernelRequest,
    Plan,
    PreemptionMode,
    Running,
    Snapshot,
    Workload,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def job(
    number: int,
    *cpus: int,
    lasts_s: int | None = None,
    at_s: float = 0,
    single_node: bool = False,
    **more: object,
) -> Workload:
    """Each of `cpus` is a kernel, in milli. `lasts_s` is what is known of its run time."""
    return Workload(
        id=UUID(int=number),
        resource_group="default",
        priority=10,
        created_at=START + timedelta(seconds=at_s),
        single_node=single_node,
        run_time_s=lasts_s,
        kernels=tuple(
            KernelRequest(
                id=UUID(int=number * 1000 + place),
                slots=ResourceSlots({"cpu": cpu}),
                image="python",
                architecture="x86_64",
            )
            for place, cpu in enumerate(cpus)
        ),
        **more,  # type: ignore[arg-type]
    )


def session(
    number: int, *held: tuple[str, int], since_s: float = 0, ends_s: float | None = None, **more: object
) -> Running:
    """`held`: agents, and milli-processors on them."""
    return Running(
        id=UUID(int=number),
        version=1,
        resource_group="default",
        started_at=START + timedelta(seconds=since_s),
        ends_at=None if ends_s is None else START + timedelta(seconds=ends_s),
        held=tuple(Held(agent_id=name, slots=ResourceSlots({"cpu": cpu})) for name, cpu in held),
        **more,  # type: ignore[arg-type]
    )


@dataclass
class World:
    """`cpus`: milli-processors of each agent. `lasts_s`: how long workloads really run, by number."""

    cpus: dict[str, int]
    lasts_s: dict[int, float]
    group: Group = field(default_factory=lambda: Group(name="default", reserve_after_s=0))
    now: datetime = START
    waiting: dict[UUID, Workload] = field(default_factory=dict)
    running: dict[UUID, Running] = field(default_factory=dict)
    started: dict[UUID, datetime] = field(default_factory=dict)
    reserved: dict[UUID, list[datetime | None]] = field(default_factory=dict)
    _ends: list[tuple[datetime, int, UUID]] = field(default_factory=list)
    _begun: int = 0

    def snapshot(self) -> Snapshot:
        used = dict.fromkeys(self.cpus, 0)
        for one in self.running.values():
            for held in one.held:
                used[held.agent_id] += held.slots.amounts().get("cpu", 0)
        assert all(used[name] <= self.cpus[name] for name in used), "nothing is given twice"
        return Snapshot(
            agents=tuple(
                AgentView(
                    id=name,
                    resource_group="default",
                    architecture="x86_64",
                    capacity=ResourceSlots({"cpu": cpu}),
                    occupied=ResourceSlots({"cpu": used[name]}),
                    images=frozenset({"python"}),
                )
                for name, cpu in self.cpus.items()
            ),
            workloads=tuple(self.waiting.values()),
            running=tuple(self.running.values()),
            groups=(self.group,),
            now=self.now,
        )

    def cycle(self) -> Plan:
        made = plan(self.snapshot())
        for start in made.starts:
            workload = self.waiting.pop(start.workload_id)
            assert {one.kernel_id for one in start.placements} == {one.id for one in workload.kernels}
            slots = {kernel.id: kernel.slots for kernel in workload.kernels}
            known = workload.run_time_s
            self.running[workload.id] = Running(
                id=workload.id,
                version=1,
                resource_group="default",
                started_at=self.now,
                ends_at=None if known is None else self.now + timedelta(seconds=known),
                job_priority=workload.job_priority,
                preemptible=True,
                user=workload.user,
                held=tuple(
                    Held(agent_id=one.agent_id, slots=slots[one.kernel_id]) for one in start.placements
                ),
            )
            self.started[workload.id] = self.now
            self._begun += 1
            lasts = timedelta(seconds=self.lasts_s[workload.id.int])
            heapq.heappush(self._ends, (self.now + lasts, self._begun, workload.id))
        for reservation in made.reservations:
            self.reserved.setdefault(reservation.workload_id, []).append(reservation.at)
        for refusal in made.refusals:
            workload = self.waiting[refusal.workload_id]
            preempting = str(refusal.rule) == "waits-for-preempted"
            self.waiting[workload.id] = replace(workload, preempting=preempting)
        for victim in made.victims:
            one = self.running[victim.session_id]
            assert victim.mode is PreemptionMode.TERMINATE and not one.ending
            self.running[one.id] = replace(one, ending=True)
            self._begun += 1
            heapq.heappush(self._ends, (self.now + timedelta(seconds=1), self._begun, one.id))
        assert not (self.running.keys() & self.waiting.keys())
        return made

    def next_end(self) -> datetime | None:
        while self._ends and self._ends[0][2] not in self.running:
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def go_to(self, moment: datetime) -> None:
        """Ends what ends until then, with a cycle after each."""
        while (end := self.next_end()) is not None and end <= moment:
            self.now = end
            while self._ends and self._ends[0][0] == end:
                self.running.pop(heapq.heappop(self._ends)[2], None)
            self.cycle()
        self.now = moment

    def add(self, workload: Workload) -> None:
        self.go_to(workload.created_at)
        self.waiting[workload.id] = workload
        self.cycle()

    def settle(self) -> None:
        """Until nothing more ends."""
        while (end := self.next_end()) is not None:
            self.go_to(end)
