"""The contract of `ContainerBackend`'s networks as tests; a part of `container_contract`, which says how to use it.

`NetworkContract` holds for every adapter; `RealNetworkContract` for those with real processes, whose image has bash and python3. A
harness's range has 256 addresses.
"""

import asyncio
import socket
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from ai.backend.agent.container.errors import AddressesExhausted, ContainerError, ContainerFailed
from ai.backend.agent.container.model import Network, NetworkSpec

from .container_contract import Harness, make_spec, run, wait_for_log

TRIO = NetworkSpec(name="trio", hosts=("main1", "sub1", "sub2"))
TRY = "timeout 5 bash -c 'exec 3<>/dev/tcp/{}/{} && cat <&3' 2>/dev/null || echo nothing"
"""What the other end says, or that there is none."""


class NetworkContract:
    """What holds for every adapter."""

    async def test_a_network_is_made_once_and_found_again(self, harness: Harness) -> None:
        assert await harness.backend.networks() == []
        made = await asyncio.gather(*(harness.backend.ensure_network(TRIO) for _ in range(3)))
        assert made[0] == made[1] == made[2]
        assert [host for host, _ in made[0].addresses] == [*TRIO.hosts]
        assert len({address for _, address in made[0].addresses}) == 3
        backend = await harness.reopen()
        assert await backend.networks() == ["trio"]
        assert await backend.ensure_network(TRIO) == made[0]
        await backend.remove_network("trio")
        await backend.remove_network("trio")
        assert await backend.networks() == []
        assert await harness.network_leftovers() == []

    async def test_networks_have_no_address_in_common(self, harness: Harness) -> None:
        names = ("one", "two", "three")
        made = await asyncio.gather(
            *(harness.backend.ensure_network(replace(TRIO, name=name)) for name in names)
        )
        assert len({address for network in made for _, address in network.addresses}) == 9
        other = await harness.backend.ensure_network(NetworkSpec(name="two", hosts=("main1", "sub1")))
        assert [host for host, _ in other.addresses] == ["main1", "sub1"], "with other hosts it is made anew"
        assert sorted(await harness.backend.networks()) == sorted(names)
        for name in names:
            await harness.backend.remove_network(name)
        assert await harness.network_leftovers() == []

    async def test_what_is_no_network_is_refused(self, harness: Harness) -> None:
        for hosts in ((), ("main1", "main1"), ("a b",), tuple(f"sub{number}" for number in range(300))):
            with pytest.raises(ContainerFailed):
                await harness.backend.ensure_network(NetworkSpec(name="odd", hosts=hosts))
        assert await harness.backend.networks() == []
        await harness.backend.remove_network("nobody")

    async def test_a_full_range_is_told_and_leaves_nothing(self, harness: Harness) -> None:
        """A harness's range has 256 addresses: 250 hosts need all of them."""
        big = tuple(f"sub{number}" for number in range(1, 251))
        await harness.backend.ensure_network(NetworkSpec(name="trio", hosts=TRIO.hosts))
        with pytest.raises(AddressesExhausted, match="network of 250"):
            await harness.backend.ensure_network(NetworkSpec(name="big", hosts=big))
        assert await harness.backend.networks() == ["trio"]
        await harness.backend.remove_network("trio")

    async def test_a_container_needs_its_network(self, harness: Harness) -> None:
        network = await harness.backend.ensure_network(TRIO)
        await harness.backend.remove_network("trio")
        with pytest.raises(ContainerError):
            await harness.backend.create(make_spec(harness, "late", hostname="main1", network=network))
            await harness.backend.start("late")
        await harness.backend.remove("late")
        assert await harness.backend.list() == []


class RealNetworkContract(NetworkContract):
    """What the machine has to do."""

    async def answer(self, harness: Harness, name: str, line: str, network: Network, host: str) -> str:
        """What a container of the network says that runs one shell line and is removed."""
        await run(harness, make_spec(harness, name, line, network=network, hostname=host))
        log = await harness.backend.logs(name, max_bytes=1 << 20)
        await harness.backend.remove(name)
        return log.decode(errors="replace")

    async def serve(self, harness: Harness, name: str, network: Network, host: str) -> None:
        """A container that says its name to whoever connects to port 7000."""
        code = f"import socket;s=socket.create_server(('',7000));print('up',flush=True)\nwhile 1:s.accept()[0].send(b'{name}')"
        await harness.backend.create(
            make_spec(harness, name, f'exec python3 -c "{code}"', hostname=host, network=network)
        )
        await harness.backend.start(name)
        await wait_for_log(harness.backend, name, b"up")

    async def test_members_reach_each_other_by_name(self, harness: Harness) -> None:
        network = await harness.backend.ensure_network(TRIO)
        await self.serve(harness, "served", network, "sub1")
        asking = f"uname -n; {TRY.format('sub1', 7000)}; cat /etc/hosts"
        said = await self.answer(harness, "asks", asking, network, "main1")
        assert said.startswith("main1\nserved")
        for host, address in network.addresses:
            assert any(line.split() == [address, host] for line in said.splitlines()), said
        backend = await harness.reopen()
        again = await self.answer(harness, "later", TRY.format("sub1", 7000), network, "sub2")
        assert again == "served", "the network outlives the agent"
        await backend.remove("served")
        await backend.remove_network("trio")
        assert await harness.network_leftovers() == []

    async def test_a_network_leads_nowhere_else(self, harness: Harness) -> None:
        """Not to another network of the same hosts, not to what listens on all of the machine's addresses, not out."""
        ours = await harness.backend.ensure_network(TRIO)
        theirs = await harness.backend.ensure_network(replace(TRIO, name="theirs"))
        await self.serve(harness, "ours", ours, "sub1")
        await self.serve(harness, "theirs", theirs, "sub2")
        with socket.create_server(("", 0), dualstack_ipv6=False) as listener:
            port = listener.getsockname()[1]
            asked = [
                (dict(theirs.addresses)["sub2"], 7000),
                ("127.0.0.1", port),
                ("host.docker.internal", port),
            ]
            asked += [(address, port) for address in machine_addresses()]
            subnet = IPv4Network(ours.subnet)
            asked += [(str(address), port) for address in subnet.hosts()]
            line = "; ".join(TRY.format(*one) for one in asked)
            line += f"; {TRY.format('sub1', 7000)}"
            said = await self.answer(harness, "asks", line, ours, "main1")
            words = said.splitlines()
            assert words == [*["nothing"] * len(asked), "ours"], said
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
        for name in ("ours", "theirs"):
            await harness.backend.remove(name)
        for name in ("trio", "theirs"):
            await harness.backend.remove_network(name)
        assert await harness.network_leftovers() == []

    async def test_removal_with_a_member_inside(self, harness: Harness) -> None:
        """Not what an agent does; but the network goes, and the container can be removed."""
        network = await harness.backend.ensure_network(TRIO)
        await self.serve(harness, "stays", network, "sub1")
        await harness.backend.remove_network("trio")
        assert await harness.backend.networks() == []
        await harness.backend.remove("stays")
        assert await harness.network_leftovers() == []


def machine_addresses() -> list[str]:
    """The IPv4 address with which the machine speaks to others, if it does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [str(probe.getsockname()[0])]
