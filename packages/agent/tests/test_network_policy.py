"""Which addresses networks get, and when they go: the pure parts."""

from dataclasses import dataclass
from ipaddress import IPv4Network
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.agent.config import AgentConfig
from ai.backend.agent.container.errors import AddressesExhausted
from ai.backend.agent.container.model import NetworkSpec
from ai.backend.agent.container.network import choose_subnet, network_of, parse_range, routed
from ai.backend.agent.kernel.network import idle
from ai.backend.common.wire.rpc import DesiredKernel

RANGE = IPv4Network("10.213.0.0/22")
subnets = st.builds(
    lambda number, prefix: IPv4Network((0x0AD50000 - 512 + number, prefix), strict=False),
    st.integers(0, 2048),
    st.integers(16, 32),
)


@given(st.lists(subnets, max_size=30), st.integers(1, 256))
def test_a_subnet_is_free_and_the_lowest_and_has_room(taken: list[IPv4Network], hosts: int) -> None:
    def fits(one: IPv4Network) -> bool:
        return not any(one.overlaps(other) for other in taken)

    prefix = next(length for length in range(32, 0, -1) if 1 << (32 - length) >= hosts + 3)
    free = [one for one in RANGE.subnets(new_prefix=prefix) if fits(one)]
    if free:
        assert choose_subnet(RANGE, hosts, taken) == free[0]
    else:
        with pytest.raises(AddressesExhausted, match=f"of {hosts} containers"):
            choose_subnet(RANGE, hosts, taken)


def test_a_network_larger_than_the_range() -> None:
    with pytest.raises(AddressesExhausted):
        choose_subnet(IPv4Network("10.0.0.0/29"), 6, [])
    assert choose_subnet(IPv4Network("10.0.0.0/29"), 5, []) == IPv4Network("10.0.0.0/29")


def test_addresses_leave_the_first_one_to_the_engine() -> None:
    network = network_of(NetworkSpec(name="n", hosts=("main1", "sub1")), IPv4Network("10.0.0.8/29"))
    assert network.addresses == (("main1", "10.0.0.10"), ("sub1", "10.0.0.11"))


def test_routes_but_the_default_one() -> None:
    table = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "tun0\t0000D50A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "tun1\t0000D60A\t00000000\t0000\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    )
    assert routed(table) == [IPv4Network("192.0.2.0/24"), IPv4Network("10.213.0.0/16")]
    with pytest.raises(AddressesExhausted):
        choose_subnet(RANGE, 2, routed(table))


@pytest.mark.parametrize(
    "text", ["8.8.0.0/16", "10.1.2.3/16", "127.0.0.0/8", "here", "fd00::/64", "169.254.0.0/16"]
)
def test_other_ranges_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_range(text)
    with pytest.raises(ValueError, match=r"."):
        AgentConfig(network_range=text)


@dataclass
class Kernel:
    desired: DesiredKernel
    uses_network: bool


def test_a_network_is_idle_when_no_kernel_of_its_session_uses_it() -> None:
    first, second = UUID(int=1), UUID(int=2)

    def kernel(session_id: UUID, uses: bool) -> Kernel:
        wish = DesiredKernel(kernel_id=UUID(int=9), session_id=session_id, target="run")
        return Kernel(wish, uses)

    users = [kernel(first, False), kernel(first, True), kernel(second, False)]
    assert idle([str(first), str(second), "stranger"], users) == [str(second), "stranger"]
