"""What would let a workload start is true: each blocker that is named is taken away, by what was said of it alone, and the same workload
starts; with less than that it does not."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.backend.common.quantity import ResourceSlots
from ai.backend.scheduler.cycle import plan
from ai.backend.scheduler.forecast import End, forecast
from ai.backend.scheduler.model import (
    AgentView,
    Device,
    Held,
    KernelRequest,
    Limit,
    Need,
    Refusal,
    Remedy,
    Rule,
    Scope,
    Snapshot,
    Workload,
)
from ai.backend.scheduler.unblock import sentence

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 1 << 30


def agent(name: str = "a", *, used: dict[str, int] | None = None, **more: Any) -> AgentView:
    fields: dict[str, Any] = {
        "resource_group": "default",
        "architecture": "x86_64",
        "images": frozenset({"python"}),
        "capacity": ResourceSlots({"cpu": 4000, "mem": 8 * GIB}),
        **more,
    }
    return AgentView(id=name, occupied=ResourceSlots(used or {}), **fields)


def gpus(*free: int, model: str = "A100") -> dict[str, Any]:
    whole = len(free) * 1000
    return {
        "capacity": ResourceSlots({"cpu": 4000, "mem": 8 * GIB, "cuda.shares": whole}),
        "used": {"cuda.shares": whole - sum(free)},
        "devices": tuple(
            Device(family="cuda", model=model, free=one, id=f"d{place}") for place, one in enumerate(free)
        ),
    }


def workload(number: int = 1, *kernels: dict[str, int], single_node: bool = True, **more: Any) -> Workload:
    wanted = kernels or ({"cpu": 1000, "mem": GIB},)
    of_kernel = {"image": "python", "architecture": "x86_64", **more}
    return Workload(
        id=UUID(int=number),
        resource_group="default",
        priority=10,
        created_at=NOW + timedelta(seconds=number),
        single_node=single_node,
        kernels=tuple(
            KernelRequest(id=UUID(int=number * 1000 + i), slots=ResourceSlots(slots), **of_kernel)
            for i, slots in enumerate(wanted)
        ),
    )


def granted(snapshot: Snapshot, need: Need) -> Snapshot:
    """The snapshot in which this has become true, and nothing else."""

    def changed(**values: Callable[[AgentView], Any]) -> Snapshot:
        assert any(one.id == need.agent_id for one in snapshot.agents), "the agent is named"
        agents = tuple(
            replace(one, **{name: value(one) for name, value in values.items()})
            if one.id == need.agent_id
            else one
            for one in snapshot.agents
        )
        return replace(snapshot, agents=agents)

    match need.remedy:
        case Remedy.AGENT:
            devices = tuple(Device(family="cuda", model=model, free=1000) for model in need.models)
            new = agent(
                need.agent_id or "new",
                resource_group=need.resource_group,
                architecture=need.architecture,
                images=frozenset(need.images),
                capacity=need.slots,
                devices=devices,
            )
            return replace(snapshot, agents=(*(one for one in snapshot.agents if one.id != new.id), new))
        case Remedy.SCHEDULABLE:
            return changed(schedulable=lambda one: True)
        case Remedy.IMAGE:
            return changed(images=lambda one: one.images | set(need.images))
        case Remedy.FREE:
            return changed(occupied=lambda one: one.occupied - need.slots)
        case Remedy.DEVICES:
            # Somebody else's pieces end: the devices with most free get free.
            left = max(-(-sum(need.slots.values()) // 1000), 1)

            def whole(one: AgentView) -> tuple[Device, ...]:
                order = sorted(one.devices, key=lambda device: -device.free)
                return tuple(replace(device, free=1000) for device in order[:left]) + tuple(order[left:])

            return changed(devices=whole)


def all_granted(snapshot: Snapshot, needs: Iterable[Need]) -> Snapshot:
    for need in needs:
        snapshot = granted(snapshot, need)
    return snapshot


def refusal(snapshot: Snapshot, number: int = 1) -> Refusal | None:
    made = plan(snapshot)
    return next((one for one in made.refusals if one.workload_id.int == number), None)


CAUSES: dict[str, tuple[Rule, tuple[Remedy, ...], tuple[AgentView, ...], tuple[Workload, ...], str]] = {
    "no agent": (
        Rule.NO_AGENT, (Remedy.AGENT,), (), (workload(),),
        "joins the resource group default, with 1 cpu and 1 GiB of mem, the image python.",
    ),
    "another resource group": (
        Rule.RESOURCE_GROUP, (Remedy.AGENT,), (agent(resource_group="other"),), (workload(),), "joins the resource group default",
    ),
    "the chosen agent is not there": (
        Rule.CHOSEN, (Remedy.AGENT,), (agent(),), (workload(agent_id="gone"),), "It starts when the agent gone of",
    ),
    "cordoned": (
        Rule.NOT_SCHEDULABLE, (Remedy.SCHEDULABLE,),
        (agent(schedulable=False, problem="is excluded"), agent("b", schedulable=False, used={"cpu": 4000})), (workload(),),
        "It starts when agent a takes new sessions again (it is excluded).",
    ),
    "architecture": (
        Rule.ARCHITECTURE, (Remedy.AGENT,), (agent(architecture="aarch64"),), (workload(),), "of the architecture x86_64",
    ),
    "image": (
        Rule.IMAGE, (Remedy.IMAGE,), (agent("b", images=frozenset(), used={"cpu": 4000}), agent(images=frozenset())), (workload(),),
        "It starts when the image python is built or pulled on agent a.",
    ),
    "model of device": (
        Rule.MODEL, (Remedy.AGENT,), (agent(**gpus(1000, model="T4")),),
        (workload(1, {"cuda.shares": 1000}, models=frozenset({"A100"})),), "a device of the model A100",
    ),
    "one slot": (
        Rule.SLOTS, (Remedy.FREE,), (agent(used={"cpu": 3500}), agent("b", used={"cpu": 4000})), (workload(),),
        "It starts when 0.5 cpu get free on agent a.",
    ),
    "two slots": (
        Rule.SLOTS, (Remedy.FREE,), (agent(used={"cpu": 4000, "mem": 8 * GIB}),), (workload(),), "1 cpu and 1 GiB of mem get free",
    ),
    "no agent is large enough": (
        Rule.SLOTS, (Remedy.AGENT,), (agent(), agent("b", used={"cpu": 4000})), (workload(1, {"cpu": 9000}),), "with 9 cpu",
    ),
    "a slot that no agent has": (
        Rule.SLOTS, (Remedy.AGENT,), (agent(),), (workload(1, {"cpu": 1000, "tpu.device": 1000}),), "1 cpu and 1 tpu.device",
    ),
    "one is large enough, but full": (
        Rule.SLOTS, (Remedy.FREE,), (agent(capacity=ResourceSlots({"cpu": 1000, "mem": GIB})), agent("b", used={"cpu": 3000})),
        (workload(1, {"cpu": 3000}),), "2 cpu get free on agent b",
    ),
    "devices in pieces": (
        Rule.DEVICES, (Remedy.DEVICES,), (agent(**gpus(500, 500, 1000)),), (workload(1, {"cuda.shares": 2000}),),
        "2 whole devices of cuda are free on agent a",
    ),
    "a share in pieces": (
        Rule.DEVICES, (Remedy.DEVICES,), (agent(**gpus(400, 400)),), (workload(1, {"cuda.shares": 600}),),
        "0.6 of one device of cuda is free on agent a",
    ),
    "those ahead": (
        Rule.SLOTS, (Remedy.FREE,), (agent(),), (workload(9, {"cpu": 2000}), workload(0, {"cpu": 3000})), "1 cpu get free on agent a",
    ),
    "kernels that share a node": (
        Rule.SLOTS, (Remedy.FREE,), (agent(used={"cpu": 1000}), agent("b", used={"cpu": 1000})),
        (workload(1, {"cpu": 2000}, {"cpu": 2000}),), "1 cpu get free on agent a",
    ),
    "the nearer one will never do": (
        Rule.NOT_SCHEDULABLE, (Remedy.SCHEDULABLE, Remedy.IMAGE),
        (agent(schedulable=False, capacity=ResourceSlots({"cpu": 1000})), agent("b", schedulable=False, images=frozenset())),
        (workload(1, {"cpu": 2000}),), "It starts when agent b takes new sessions again, and the image python is",
    ),
    "three blockers at once": (
        Rule.NOT_SCHEDULABLE, (Remedy.SCHEDULABLE, Remedy.IMAGE, Remedy.FREE),
        (agent(schedulable=False, problem="is excluded", images=frozenset(), used={"cpu": 4000}),), (workload(),),
        "(it is excluded), and the image python is built or pulled on agent a, and 1 cpu get free on agent a.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("cause", CAUSES)
def test_without_its_blocker_it_starts(cause: str) -> None:
    rule, remedies, agents, works, text = CAUSES[cause]
    number = max(one.id.int for one in works)
    snapshot = Snapshot(agents=agents, workloads=works)
    found = refusal(snapshot, number)
    assert found is not None
    assert (found.rule, tuple(need.remedy for need in found.unblock)) == (rule, remedies)
    assert text in sentence(found.unblock)
    assert refusal(all_granted(snapshot, found.unblock), number) is None, "it starts"
    for left_out in found.unblock:
        rest = [need for need in found.unblock if need is not left_out]
        assert refusal(all_granted(snapshot, rest), number) is not None, f"it waits for {left_out.text}"
    for need in found.unblock:
        if need.remedy is Remedy.FREE:
            for name in need.slots:
                less = replace(need, slots=need.slots - ResourceSlots({name: 1}))
                others = [one if one is not need else less for one in found.unblock]
                assert refusal(all_granted(snapshot, others), number) is not None, "the amount is exact"
    assert sum(count for _, count in found.considered) == len(agents), "every agent has refused it, once"


def test_agents_are_counted_by_the_first_rule_that_refuses_them() -> None:
    agents = (
        agent("a", resource_group="other"),
        agent("b", schedulable=False),
        agent("c", architecture="aarch64"),
        agent("d", images=frozenset(), used={"cpu": 4000}),
        agent("e", used={"cpu": 4000}),
        agent("f", used={"cpu": 3900}),
    )
    found = refusal(Snapshot(agents=agents, workloads=(workload(),)))
    assert found is not None
    assert dict(found.considered) == {
        Rule.RESOURCE_GROUP: 1,
        Rule.NOT_SCHEDULABLE: 1,
        Rule.ARCHITECTURE: 1,
        Rule.IMAGE: 1,
        Rule.SLOTS: 2,
    }


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 4000),
            st.booleans(),
            st.booleans(),
            st.booleans(),
            st.sampled_from(["default", "other"]),
        ),
        max_size=4,
    ),
    st.integers(1, 6000),
)
def test_what_is_named_is_always_enough(nodes: list[tuple[int, bool, bool, bool, str]], asked: int) -> None:
    agents = tuple(
        agent(
            f"a{i}",
            used={"cpu": used},
            schedulable=schedulable,
            architecture="x86_64" if right else "aarch64",
            images=frozenset({"python"} if image else ()),
            resource_group=group,
        )
        for i, (used, schedulable, right, image, group) in enumerate(nodes)
    )
    snapshot = Snapshot(agents=agents, workloads=(workload(1, {"cpu": asked}),))
    found = refusal(snapshot)
    if found is not None:
        assert found.unblock
        assert refusal(all_granted(snapshot, found.unblock)) is None
        assert sum(count for _, count in found.considered) == len(agents)


# -- estimates ----------------------------------------------------------------------------------------------------------------


def at(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)


def estimates(
    snapshot: Snapshot, *ends: End, lasting: dict[int, int] | None = None, steps_max: int = 50
) -> dict[int, datetime]:
    limits = {UUID(int=one): timedelta(minutes=minutes) for one, minutes in (lasting or {}).items()}
    made = plan(snapshot)
    found = forecast(snapshot, made, ends, now=NOW, lasting=limits, steps_max=steps_max)
    return {one.int: when for one, when in found.items()}


def end(minutes: int, cpu: int, name: str = "a", keypair: str = "") -> End:
    return End(
        at=at(minutes), held=(Held(agent_id=name, slots=ResourceSlots({"cpu": cpu})),), keypair=keypair
    )


def test_it_starts_when_enough_has_ended() -> None:
    full = Snapshot(agents=(agent(used={"cpu": 4000}),), workloads=(workload(1, {"cpu": 2000}),))
    assert estimates(full, end(9, 1000), end(3, 1000), end(20, 2000)) == {1: at(9)}
    assert estimates(full, end(9, 1000)) == {}, "what is not known is not said"
    assert estimates(full) == {}
    assert estimates(full, end(9, 1000), end(3, 1000), steps_max=1) == {}
    assert estimates(full, end(-5, 2000)) == {1: NOW}, "an overdue end comes now"


def test_those_ahead_are_counted_with() -> None:
    full = Snapshot(
        agents=(agent(used={"cpu": 4000}),),
        workloads=(workload(1, {"cpu": 2000}), workload(2, {"cpu": 2000})),
    )
    assert estimates(full, end(5, 2000)) == {1: at(5)}, "the first takes it"
    assert estimates(full, end(5, 2000), end(8, 2000)) == {1: at(5), 2: at(8)}
    assert estimates(full, end(5, 2000), lasting={1: 30}) == {1: at(5), 2: at(35)}, "and has a limit itself"


def test_one_that_starts_now_has_a_limit_too() -> None:
    works = (workload(1, {"cpu": 4000}), workload(2, {"cpu": 4000}))
    assert estimates(Snapshot(agents=(agent(),), workloads=works), lasting={1: 10}) == {2: at(10)}


def test_limits_are_counted_with() -> None:
    limit = Limit(scope=Scope.KEYPAIR, name="mine", label="mine", sessions=1, sessions_used=1)
    mine = tuple(replace(workload(number), keypair="mine") for number in (1, 2))
    waiting = Snapshot(agents=(agent(),), workloads=mine, limits=(limit,))
    found = refusal(waiting)
    assert found is not None and [need.remedy for need in found.unblock] == [Remedy.LIMIT]
    assert refusal(replace(waiting, limits=(replace(limit, sessions_used=0),))) is None, "it starts"
    assert estimates(waiting, end(5, 1000)) == {}, "somebody else's end changes nothing"
    assert estimates(waiting, end(5, 1000, keypair="mine")) == {1: at(5)}, (
        "and the second one waits for the first"
    )


def test_what_no_end_changes_has_no_estimate() -> None:
    cordoned = Snapshot(agents=(agent(schedulable=False, used={"cpu": 4000}),), workloads=(workload(),))
    assert estimates(cordoned, end(5, 4000)) == {}
    two = Snapshot(
        agents=(agent(used={"cpu": 3000}), agent("b", used={"cpu": 3000})),
        workloads=(workload(1, {"cpu": 2000}),),
    )
    assert estimates(two, end(5, 500), end(6, 500, "b")) == {}, "halves on two agents are no whole"


def test_a_device_is_whole_again_once_all_its_shares_are_free() -> None:
    def freed(minutes: int, device: str) -> End:
        slots = ResourceSlots({"cuda.shares": 500})
        return End(at=at(minutes), held=(Held(agent_id="a", slots=slots, devices=((device, 500),)),))

    pieces = Snapshot(agents=(agent(**gpus(500, 0)),), workloads=(workload(1, {"cuda.shares": 1000}),))
    assert estimates(pieces, freed(5, "d1")) == {}, "halves of two devices are no whole one"
    assert estimates(pieces, freed(5, "d1"), freed(6, "d1")) == {1: at(6)}
    works = (workload(1, {"cuda.shares": 500}), workload(2, {"cuda.shares": 1000}))
    held = Snapshot(agents=(agent(**gpus(500, 0)),), workloads=works)
    assert estimates(held, freed(5, "d0"), freed(6, "d1")) == {}, "the first takes a half of one device now"
    assert estimates(held, freed(5, "d1"), freed(6, "d1")) == {2: at(6)}
