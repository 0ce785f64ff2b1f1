"""Placement: strategies on devices whole and shared, against brute force, and what may never happen whatever the order."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ai.backend.common.quantity import ResourceSlots, SlotName
from ai.backend.scheduler.demand import WHOLE, Demand, Mix
from ai.backend.scheduler.fleet import Fleet, Taken
from ai.backend.scheduler.fragmentation import STRANDED_WEIGHT, Fragmentation
from ai.backend.scheduler.model import AgentView, Device
from ai.backend.scheduler.packing import (
    BestFit,
    Concentrated,
    Dispersed,
    DotProduct,
    GpuClustering,
    GpuPacking,
    Random,
    RoundRobin,
)
from ai.backend.scheduler.placer import Placer, Strategy

STRATEGIES = [
    "best-fit",
    "dot",
    "packing",
    "clustering",
    "random",
    "concentrated",
    "dispersed",
    "roundrobin",
    "fgd",
]


def agent(number: int, cpu: int, devices: tuple[int, ...] = (), model: str = "A") -> AgentView:
    return AgentView(
        id=f"a{number:03}",
        resource_group="",
        architecture="",
        capacity=ResourceSlots({"cpu": cpu, "mem": cpu << 20}),
        occupied=ResourceSlots(),
        images=frozenset(),
        devices=tuple(
            Device(family="cuda", model=model[place % len(model)], free=free, id=f"d{place}")
            for place, free in enumerate(devices)
        ),
    )


def demand(cpu: int, milli: int = 0, models: tuple[str, ...] = (), times: int = 1) -> Demand:
    whole, share = divmod(milli, WHOLE)
    return Demand(
        slots=ResourceSlots({"cpu": cpu, "mem": cpu << 20}),
        devices=0 if share else whole,
        share=share,
        times=times if share else 1,
        family="cuda" if milli else "",
        models=frozenset(models),
    )


def strategy(name: str, fleet: Fleet, mix: Mix = Mix()) -> Strategy:  # noqa: B008 -- immutable
    made: dict[str, Any] = {
        "best-fit": BestFit, "dot": DotProduct, "packing": GpuPacking, "clustering": lambda: GpuClustering({}),
        "random": lambda: Random(7), "concentrated": Concentrated, "dispersed": Dispersed, "roundrobin": RoundRobin,
        "fgd": lambda: Fragmentation(fleet, mix),
    }  # fmt: skip
    found: Strategy = made[name]()
    return found


agents_st = st.lists(
    st.tuples(
        st.integers(0, 16),
        st.lists(st.sampled_from([0, 300, 500, 1000]), max_size=4),
        st.sampled_from(["A", "B"]),
    ),
    min_size=1,
    max_size=6,
)
demands_st = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from([0, 100, 300, 500, 700, 1000, 2000, 3000]),
        st.sampled_from([(), ("A",), ("B",), ("A", "B"), ("C",)]),
    ),
    min_size=1,
    max_size=25,
)


mixed_agents_st = st.lists(
    st.tuples(
        st.integers(0, 16),
        st.lists(st.sampled_from([0, 300, 500, 1000]), max_size=4),
        st.sampled_from(["A", "B", "AB", "BBA"]),
    ),
    min_size=1,
    max_size=6,
)
"""With devices of several models on one agent."""
mixed_demands_st = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from([0, 100, 300, 500, 700, 1000, 2000, 3000]),
        st.sampled_from([(), ("A",), ("B",), ("A", "B"), ("C",)]),
        st.sampled_from([1, 1, 2, 3]),
    ),
    min_size=1,
    max_size=25,
)


def built(nodes: list[tuple[int, list[int], str]]) -> Fleet:
    return Fleet([agent(i, cpu, tuple(devices), model) for i, (cpu, devices, model) in enumerate(nodes)])


def could(fleet: Fleet, row: int, asked: Demand) -> bool:
    """By hand: whether the agent has enough, without the code under test."""
    devices = fleet.devices[row].tolist()
    own = fleet.agents[row].devices
    free = fleet.free_of(row)
    if any(amount > free[name] for name, amount in asked.slots.items()):
        return False
    right = [free for free, one in zip(devices, own, strict=False) if one.model in (asked.models or "AB")]
    if asked.device_milli and not right:
        return False
    if asked.share:
        return sum(free // asked.share for free in right) >= asked.times
    return bool(right.count(WHOLE) >= asked.devices)


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("name", STRATEGIES)
@given(mixed_agents_st, mixed_demands_st, st.randoms(use_true_random=False))
def test_nothing_is_given_twice_or_lost(name: str, nodes: Any, asked: Any, rng: Any) -> None:
    fleet = built(nodes)
    free, devices = fleet.free.copy(), fleet.devices.copy()
    demands = [demand(*one) for one in asked]
    placer = Placer(fleet, strategy(name, fleet, Mix.of(demands)))
    held: list[Taken] = []
    for one in demands:
        before = fleet.devices.copy()
        able = [row for row in range(len(fleet.agents)) if could(fleet, row, one)]
        taken = placer.place(one)
        assert (taken is None) == (not able), "refused if and only if nobody has enough"
        if taken is None:
            continue
        held.append(taken)
        assert taken.row in able
        models = [fleet.agents[taken.row].devices[place].model for place in taken.devices]
        assert not one.models or set(models) <= one.models
        assert len(models) == (one.times if one.share else one.devices)
        assert (fleet.free >= 0).all() and (fleet.devices >= 0).all()
        assert (before - fleet.devices).sum() == one.device_milli
        if held and rng.random() < 0.3:
            fleet.give_back(held.pop(rng.randrange(len(held))))
    for taken in held:
        fleet.give_back(taken)
    assert (fleet.free == free).all() and (fleet.devices == devices).all()


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ("random", "roundrobin")])
@given(mixed_agents_st, mixed_demands_st)
def test_what_is_remembered_is_what_would_be_found_anew(name: str, nodes: Any, asked: Any) -> None:
    fleet = built(nodes)
    demands = [demand(*one) for one in asked]
    mix = Mix.of(demands)
    kept = Placer(fleet, strategy(name, fleet, mix))
    for one in demands:
        fresh = Placer(fleet, strategy(name, fleet, mix))
        assert kept.find(one) == fresh.find(one)
        kept.place(one)


def spoiled(fleet: Fleet, row: int, free: dict[str, int], devices: list[int], mix: Mix) -> float:
    """The measure of one agent, from its definition and nothing else."""
    usual = [(one, count) for one, count in mix.counts if one.device_milli]
    total, left, own = sum(count for _, count in usual), sum(devices), fleet.agents[row].devices
    measure = 0.0
    for one, count in usual:
        takes, needs = one.share or WHOLE, max(one.devices, 1)
        able = (
            all(amount <= free.get(name, 0) for name, amount in one.slots.items())
            and own
            and (not one.models or own[0].model in one.models)
            and sum(device >= takes for device in devices) >= needs
        )
        measure += count / total * (sum(device for device in devices if device < takes) if able else left)
    milli = sum(one.device_milli * count for one, count in usual)
    fed = []
    for name, amount in free.items():
        spent = sum(one.slots[SlotName(name)] * count for one, count in usual)
        if spent:
            fed.append(amount * milli / spent)
    return measure + STRANDED_WEIGHT * max(0.0, left - min(fed, default=float("inf")))


@settings(max_examples=150, deadline=None)
@example([(0, [300], "A")], [(0, 100, ()), (1, 100, ())])  # one asks for a slot that no agent has
@given(agents_st, demands_st)
def test_fragmentation_is_measured_as_defined(nodes: Any, asked: Any) -> None:
    fleet = built(nodes)
    mix = Mix.of(demand(*one) for one in asked)
    if not any(one.device_milli for one, _ in mix.counts):
        return
    fragmentation = Fragmentation(fleet, mix)
    for one in {demand(*fields) for fields in asked}:
        rows = np.array([row for row in range(len(fleet.agents)) if could(fleet, row, one)], np.intp)
        if not len(rows):
            continue
        growths, devices = fragmentation.score(fleet, one, rows)
        for row, growth, device in zip(rows.tolist(), growths.tolist(), devices.tolist(), strict=True):
            free = {name: int(fleet.free[row, place]) for name, place in fleet.columns.items()}
            after = {name: amount - one.slots[SlotName(name)] for name, amount in free.items()}
            now = fleet.devices[row].tolist()
            found = []
            able = [place for place, left in enumerate(now) if left >= one.share]
            choices = able if one.share else [-1]
            for choice in choices:
                then = list(now)
                if choice >= 0:
                    then[choice] -= one.share
                for _ in range(one.devices):
                    then[then.index(WHOLE)] = 0
                found.append(spoiled(fleet, row, after, then, mix) - spoiled(fleet, row, free, now, mix))
            assert growth == pytest.approx(min(found), abs=0.01)
            if one.share:
                assert found[choices.index(device)] == pytest.approx(min(found), abs=0.01)


def test_a_share_goes_where_it_spoils_least() -> None:
    """Whole devices are what is asked for: a share goes to a device in use, or to an agent whose processors are spent."""
    mix = Mix.of([demand(4, 1000)] * 9 + [demand(1, 300)])
    fleet = Fleet([agent(0, 64, (1000, 1000)), agent(1, 64, (1000, 500)), agent(2, 2, (1000, 1000))])
    placer = Placer(fleet, Fragmentation(fleet, mix))
    taken = placer.place(demand(1, 300))
    assert taken is not None and (taken.row, taken.devices) in ((1, (1,)), (2, (0,)))


def test_strategies_prefer_what_they_say() -> None:
    fleet = Fleet([agent(0, 10), agent(1, 30), agent(2, 20, (1000,))])
    rows = np.array([0, 1, 2], np.intp)

    def best(made: Strategy, asked: Demand) -> int:
        return int(made.score(fleet, asked, rows)[0].argmin())

    assert best(Concentrated(), demand(2)) == 0
    assert best(Dispersed(), demand(2)) == 1, "the emptiest of those without devices"
    turns = RoundRobin()
    assert [best(turns, demand(1)) for _ in range(4)] == [0, 1, 2, 0]
    assert best(BestFit(), demand(2)) == 0
    packed = Fleet([agent(0, 10, (1000,)), agent(1, 10, (400, 1000)), agent(2, 10, (1000, 1000))])
    _, devices = GpuPacking().score(packed, demand(1, 300), rows)
    assert int(GpuPacking().score(packed, demand(1, 300), rows)[0].argmin()) == 1 and devices[1] == 0
    held = {(2, 0, 300): 1}
    assert int(GpuClustering(held).score(packed, demand(1, 300), rows)[0].argmin()) == 2


def test_a_row_that_is_avoided_is_taken_only_if_there_is_no_other() -> None:
    fleet = Fleet([agent(number, cpu=2) for number in range(3)])
    placer = Placer(fleet, BestFit())
    got = [placer.place(demand(1), avoid) for avoid in ([0], [0, 1], [0, 1], [2], [0, 1, 2], [], [0, 1])]
    assert [None if one is None else one.row for one in got] == [1, 2, 2, 1, 0, 0, None]


def test_whole_devices_are_near_each_other() -> None:
    """Of the NUMA node where the fewest are left over, if one has enough; else of as few nodes as possible."""
    nodes = [0, 0, 0, 1, 1, 1, 1, 2, 2]
    one = AgentView(
        id="a",
        resource_group="",
        architecture="",
        capacity=ResourceSlots({"cpu": 64, "mem": 64 << 20}),
        occupied=ResourceSlots(),
        images=frozenset(),
        devices=tuple(
            Device(family="cuda", model="A", free=WHOLE, id=f"d{place}", numa_node=node)
            for place, node in enumerate(nodes)
        ),
    )
    fleet = Fleet([one])
    for asked, expected in ((2, {2}), (3, {0}), (2, {1}), (2, {1})):
        taken = Placer(fleet, BestFit()).place(demand(1, asked * WHOLE))
        assert taken is not None and {nodes[place] for place in taken.devices} == expected
    fleet = Fleet([one])
    taken = Placer(fleet, BestFit()).place(demand(1, 6 * WHOLE))
    assert taken is not None and {nodes[place] for place in taken.devices} == {0, 1}
