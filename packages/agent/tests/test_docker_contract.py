"""The container contract, run against a private Docker Engine."""

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from aiodocker import Docker

from ai.backend.agent.container import docker_commit
from ai.backend.agent.container.docker import DockerBackend
from ai.backend.agent.container.docker_network import DockerNetworks
from ai.backend.agent.container.model import Image
from ai.backend.testkit.container_contract import (
    RealContainerContract,
    commit_spec,
    make_spec,
    nothing,
)
from ai.backend.testkit.dockerd import PrivateDockerd
from ai.backend.testkit.network_contract import TRIO, RealNetworkContract
from ai.backend.testkit.sandbox_container import sandbox_harness

pytest_plugins = ["ai.backend.testkit.dockerd"]
pytestmark = pytest.mark.docker
RANGE = "10.213.77.0/24"
NETWORKS = ("trio", "theirs", "one", "two", "three")
_numbers = itertools.count(1)


class DockerHarness:
    """Each one is an owner of its own on the run's engine."""

    def __init__(self, engine: PrivateDockerd, image: str, folder: Path) -> None:
        self.image = self.small_image = image
        self.engine = engine
        self._state_dir = folder / "state"
        self._owner = f"contract-{next(_numbers)}"
        self.ids = (500_000 + os.getpid() % 100_000,) * 2
        self.shared_dir = folder / "shared"
        self.shared_dir.mkdir()
        os.chown(self.shared_dir, *self.ids)
        self.backend = self._make()

    def _make(self) -> DockerBackend:
        return DockerBackend(self.engine.url, self._owner, state_dir=self._state_dir, network_range=RANGE)

    async def reopen(self) -> DockerBackend:
        await self.backend.close()
        self.backend = self._make()
        await self.backend.open()
        return self.backend

    async def leftovers(self, name: str) -> list[str]:
        async with asyncio.timeout(10):
            # The engine's shim for the container ends a moment after the container is gone.
            while (found := self.engine.leftovers()) and all(line.startswith("process") for line in found):
                await asyncio.sleep(0.02)
        return found

    async def leftover_images(self) -> list[str]:
        async with Docker(self.engine.url) as engine:
            return [one["Id"] for one in await engine.images.list() if not one["RepoTags"]]

    async def network_leftovers(self) -> list[str]:
        own = DockerNetworks(self._owner, IPv4Network(RANGE))
        devices = {own.device(name) for name in NETWORKS}
        found = [f"device {name}" for _, name in socket.if_nameindex() if name in devices]
        return found + [f"network {name}" for name in await self.backend.networks()]

    def script(self, name: str, line: str) -> None:
        """Real processes need no script."""


class TestDocker(RealNetworkContract, RealContainerContract):
    @pytest.fixture
    async def harness(
        self, dockerd: PrivateDockerd, python_image: Image, tmp_path: Path
    ) -> AsyncIterator[DockerHarness]:
        harness = DockerHarness(dockerd, python_image.name, tmp_path)
        await harness.backend.open()
        try:
            yield harness
        finally:
            backend = await harness.reopen()
            for container in await backend.list():
                await backend.remove(container.name)
            for name in await backend.networks():
                await backend.remove_network(name)
            await backend.close()

    async def test_what_a_killed_commit_left_is_removed_at_the_next_start(
        self, harness: DockerHarness
    ) -> None:
        theirs = "another-owner"
        async with Docker(harness.engine.url) as engine:
            for owner in (harness._owner, theirs):
                labels = {docker_commit.LABEL: owner}
                config = {"Image": harness.image, "Cmd": ["true"], "Labels": labels}
                container = await engine.containers.create(config)
                await container.commit(config={"Labels": labels})
            await harness.reopen()

            async def left(owner: str) -> tuple[int, int]:
                mine = {"label": [f"{docker_commit.LABEL}={owner}"]}
                containers = await engine.containers.list(all=True, filters=mine)
                return len(containers), len(await engine.images.list(filters=mine))

            assert (await left(harness._owner), await left(theirs)) == ((0, 0), (1, 1))
            await docker_commit.sweep(engine, theirs)

    @pytest.mark.sandbox
    async def test_an_engine_loads_what_the_sandbox_has_archived(
        self, harness: DockerHarness, tmp_path: Path
    ) -> None:
        archive = tmp_path / "made.tar.gz"
        async with sandbox_harness() as origin:
            spec = make_spec(origin, "origin", image=origin.small_image)
            await origin.backend.create(spec)
            await origin.backend.start("origin")
            wanted = commit_spec(tmp_path, archive=archive)
            made = await origin.backend.commit("origin", wanted, room=lambda _: None, tell=nothing)

        async def content() -> AsyncIterator[bytes]:
            yield archive.read_bytes()

        await harness.backend.load_image(content())
        found = {image.name: image.digest for image in await harness.backend.images()}
        assert found[wanted.name] == made.digest
        said = await self.output(
            harness, "reader", "read line < /home/work/hello.txt; echo $line", image=wanted.name
        )
        assert said == "hello\n"
        await harness.backend.remove_image(wanted.name, made.digest)

    async def test_a_network_has_no_ipv6_and_no_name_server(self, harness: DockerHarness) -> None:
        """The machine's end of the bridge has a link-local address, and older engines forward what is looked up."""
        network = await harness.backend.ensure_network(TRIO)
        assert any(line.startswith("device") for line in await harness.network_leftovers())
        line = "grep -c eth0 /proc/net/if_inet6; python3 -c 'import socket; socket.getaddrinfo(\"example.com\", 80)'"
        said = await self.output(harness, "asks", line, hostname="main1", network=network)
        assert said.startswith("0\n") and "gaierror" in said, said
        await harness.backend.remove_network("trio")

    async def test_networks_of_another_agent_are_not_ours(
        self, harness: DockerHarness, tmp_path: Path
    ) -> None:
        (tmp_path / "other").mkdir()
        other = DockerHarness(harness.engine, harness.image, tmp_path / "other")
        await other.backend.open()
        theirs, ours = await other.backend.ensure_network(TRIO), await harness.backend.ensure_network(TRIO)
        assert ours.subnet != theirs.subnet
        await harness.backend.remove_network("trio")
        assert (await harness.backend.networks(), await other.backend.networks()) == ([], ["trio"])
        await other.backend.remove_network("trio")
        await other.backend.close()
