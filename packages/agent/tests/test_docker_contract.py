"""The container contract, run against a private Docker Engine."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ai.backend.agent.container.docker import DockerBackend
from ai.backend.agent.container.model import Image
from ai.backend.testkit.container_contract import RealContainerContract
from ai.backend.testkit.dockerd import PrivateDockerd

pytest_plugins = ["ai.backend.testkit.dockerd"]
pytestmark = pytest.mark.docker
_numbers = itertools.count(1)


class DockerHarness:
    """Each one is an owner of its own on the run's engine."""

    def __init__(self, engine: PrivateDockerd, image: Image, folder: Path) -> None:
        self.image = image.name
        self.engine = engine
        self._state_dir = folder / "state"
        self._owner = f"contract-{next(_numbers)}"
        self.ids = (500_000 + os.getpid() % 100_000,) * 2
        self.shared_dir = folder / "shared"
        self.shared_dir.mkdir()
        os.chown(self.shared_dir, *self.ids)
        self.backend = self._make()

    def _make(self) -> DockerBackend:
        return DockerBackend(self.engine.url, self._owner, state_dir=self._state_dir)

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

    def script(self, name: str, line: str) -> None:
        """Real processes need no script."""


class TestDocker(RealContainerContract):
    @pytest.fixture
    async def harness(
        self, dockerd: PrivateDockerd, python_image: Image, tmp_path: Path
    ) -> AsyncIterator[DockerHarness]:
        harness = DockerHarness(dockerd, python_image, tmp_path)
        await harness.backend.open()
        try:
            yield harness
        finally:
            backend = await harness.reopen()
            for container in await backend.list():
                await backend.remove(container.name)
            await backend.close()
