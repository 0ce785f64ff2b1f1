"""Devices of a node: examples, and that no sequence of operations gives anything twice or loses it."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from ai.backend.agent.resource.alloc import (
    WHOLE,
    Allocation,
    Allocations,
    Device,
    Pool,
    Refused,
    Strategy,
)

WHOLES, SHARES, CPU = "cuda.device", "cuda.shares", "cpu"


def gpus(*nodes: int, strategy: Strategy = Strategy.FILL) -> Pool:
    devices = tuple(Device(id=f"gpu{number}", numa_node=node) for number, node in enumerate(nodes))
    return Pool(slots=frozenset({WHOLES, SHARES}), devices=devices, strategy=strategy)


def cores(many: int, strategy: Strategy = Strategy.FILL) -> Pool:
    devices = tuple(Device(id=f"core{number}") for number in range(many))
    return Pool(slots=frozenset({CPU}), devices=devices, strategy=strategy, quantum=1, divisible=True)


def parts(result: Allocation | Refused, slot: str) -> dict[str, int]:
    assert isinstance(result, Allocation), result
    return dict(result.parts[slot])


def test_shares_are_of_one_device_and_wholes_of_idle_ones() -> None:
    node = Allocations([gpus(-1, -1, -1)])
    assert parts(node.allocate("k1", {SHARES: 500}), SHARES) == {"gpu0": 500}
    assert parts(node.allocate("k2", {SHARES: 300}), SHARES) == {"gpu0": 300}, "fill: the one in use"
    assert parts(node.allocate("k3", {SHARES: 300}), SHARES) == {"gpu1": 300}, (
        "it fits in no part of the first"
    )
    assert parts(node.allocate("k4", {WHOLES: 1000}), WHOLES) == {"gpu2": 1000}
    refused = node.allocate("k5", {WHOLES: 1000})
    assert isinstance(refused, Refused) and (refused.asked, refused.available) == (1000, 700)
    node.release("k3")
    assert parts(node.allocate("k5", {WHOLES: 1000}), WHOLES) == {"gpu1": 1000}


def test_even_spreads_and_more_than_a_device_is_wholes_and_a_rest() -> None:
    node = Allocations([gpus(-1, -1, -1, strategy=Strategy.EVEN)])
    assert parts(node.allocate("k1", {SHARES: 500}), SHARES) == {"gpu0": 500}
    assert parts(node.allocate("k2", {SHARES: 500}), SHARES) == {"gpu1": 500}
    assert parts(node.allocate("k3", {SHARES: 1500}), SHARES) == {"gpu0": 500, "gpu2": 1000}


def test_near_one_numa_node_where_possible_and_told_where_not() -> None:
    node = Allocations([gpus(0, 1, 0, 1)])
    both = node.allocate("k1", {WHOLES: 2000})
    assert parts(both, WHOLES) in ({"gpu0": 1000, "gpu2": 1000}, {"gpu1": 1000, "gpu3": 1000})
    assert isinstance(both, Allocation) and not both.across_nodes
    node.allocate("k2", {SHARES: 100})
    node.release("k1")
    apart = node.allocate("k3", {WHOLES: 3000})
    assert isinstance(apart, Allocation) and apart.across_nodes == {WHOLES}


def test_steps_hints_and_what_is_nobodys() -> None:
    node = Allocations([gpus(-1, -1), cores(2)])
    refused = node.allocate("k1", {SHARES: 333})
    assert isinstance(refused, Refused) and "0.33 or 0.34, not 0.333" in refused.message
    assert parts(node.allocate("k1", {SHARES: 500, "mem": 1 << 30}, {"gpu1": 500}), SHARES) == {"gpu1": 500}
    assert parts(node.allocate("k2", {WHOLES: 1000}, {"gpu1": 1000}), WHOLES) == {"gpu0": 1000}, (
        "it is too late"
    )
    assert parts(node.allocate("k3", {CPU: 1500}), CPU) == {"core0": 1000, "core1": 500}
    assert node.allocate("k3", {CPU: 500}) == node.held["k3"], "a kernel that asks twice gets what it has"


def test_all_of_it_or_nothing() -> None:
    node = Allocations([gpus(-1), cores(1)])
    node.allocate("k1", {WHOLES: 1000})
    before = node.free
    assert isinstance(node.allocate("k2", {CPU: 1000, WHOLES: 1000}), Refused)
    assert node.free == before and "k2" not in node.held


def test_adoption_tells_what_is_wrong() -> None:
    first = Allocations([gpus(-1, -1)])
    mine = first.allocate("k1", {SHARES: 600})
    assert isinstance(mine, Allocation)
    again = Allocations([gpus(-1, -1)])
    assert again.adopt("k1", mine) == "" and again.adopt("k1", mine) == ""
    assert again.free == first.free
    assert "of device gpu0 0.4 is free, and it holds 0.6" in again.adopt("k2", mine)
    assert "no device gpu9" in again.adopt("k3", Allocation(parts={SHARES: (("gpu9", 100),)}))
    assert again.free == first.free and set(again.held) == {"k1"}


class Node(RuleBasedStateMachine):
    """Against a ledger that only adds up."""

    kernels = Bundle("kernels")

    @initialize(
        nodes=st.lists(st.integers(-1, 1), min_size=1, max_size=5),
        strategy=st.sampled_from(Strategy),
        many=st.integers(1, 4),
    )
    def begin(self, nodes: list[int], strategy: Strategy, many: int) -> None:
        self.pools = [gpus(*nodes, strategy=strategy), cores(many, strategy)]
        self.node = Allocations(self.pools)
        self.count = 0

    @rule(
        target=kernels,
        wholes=st.integers(0, 3),
        shares=st.integers(0, 25),
        cpu=st.integers(0, 3000),
        hint=st.dictionaries(st.sampled_from(["gpu0", "gpu1", "core0"]), st.integers(0, 1000)),
    )
    def allocate(self, wholes: int, shares: int, cpu: int, hint: dict[str, int]) -> str:
        self.count += 1
        kernel = f"k{self.count}"
        asked = {WHOLES: wholes * 1000, SHARES: shares * 100, CPU: cpu}
        before = self.node.free
        made = self.node.allocate(kernel, asked, hint)
        if isinstance(made, Refused):
            assert self.node.free == before
            assert made.available < made.asked, "what could be given is given"
            return kernel
        for slot, amount in asked.items():
            given = dict(made.parts.get(slot, ()))
            assert sum(given.values()) == amount
            if slot == WHOLES:
                assert set(given.values()) <= {WHOLE}
            if slot == SHARES:
                assert sum(milli < WHOLE for milli in given.values()) <= 1
        return kernel

    @rule(kernel=kernels)
    def release(self, kernel: str) -> None:
        self.node.release(kernel)
        assert kernel not in self.node.held

    @rule()
    def start_anew(self) -> None:
        """As after a crash: everything is adopted from what was written down."""
        held = self.node.held
        again = Allocations(self.pools)
        assert [again.adopt(kernel, one) for kernel, one in held.items()] == [""] * len(held)
        assert again.free == self.node.free
        self.node = again

    @invariant()
    def adds_up(self) -> None:
        if not hasattr(self, "node"):
            return
        used = dict.fromkeys(self.node.free, 0)
        for one in self.node.held.values():
            for some in one.parts.values():
                for device, milli in some:
                    used[device] += milli
        assert {device: WHOLE - milli for device, milli in used.items()} == self.node.free
        assert all(0 <= milli <= WHOLE for milli in self.node.free.values())


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@given(shares=st.lists(st.integers(1, 10), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_fill_leaves_no_fewer_idle_devices_than_even(shares: list[int]) -> None:
    def idle(how: Strategy) -> tuple[int, int]:
        node: Any = Allocations([gpus(*[-1] * 6, strategy=how)])
        placed = sum(
            isinstance(node.allocate(f"k{number}", {SHARES: share * 100}), Allocation)
            for number, share in enumerate(shares)
        )
        return placed, sum(free == WHOLE for free in node.free.values())

    (placed_fill, idle_fill), (placed_even, idle_even) = idle(Strategy.FILL), idle(Strategy.EVEN)
    if placed_fill == placed_even == len(shares):
        assert idle_fill >= idle_even
