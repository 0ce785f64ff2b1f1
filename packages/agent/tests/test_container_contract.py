"""The container contract, run against the fake and against the sandbox."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from ai.backend.agent.container.model import ExitCause, ExitInfo
from ai.backend.testkit.container_contract import EAT_MEMORY, ContainerContract, RealContainerContract
from ai.backend.testkit.fake_container import FAKE_IMAGE, FakeBackend, FakeContainer, FakeWorld
from ai.backend.testkit.network_contract import NetworkContract, RealNetworkContract
from ai.backend.testkit.sandbox_container import SandboxHarness, sandbox_harness


class FakeHarness:
    """Plays the few shell lines that the contract runs."""

    image = small_image = FAKE_IMAGE.name
    ids = (1000, 1000)
    shared_dir = Path("/nonexistent")

    def __init__(self) -> None:
        self.world = FakeWorld(Random(7), latency_s=(0.0, 0.001), network_range="10.213.77.0/24")
        self.world.on_start.append(self._play)
        self.backend = FakeBackend(self.world)
        self._commands: dict[str, str] = {}

    async def reopen(self) -> FakeBackend:
        self.backend = FakeBackend(self.world)
        await self.backend.open()
        return self.backend

    async def leftovers(self, name: str) -> list[str]:
        return [name] if name in self.world.containers else []

    async def leftover_images(self) -> list[str]:
        return []

    async def network_leftovers(self) -> list[str]:
        return [*self.world.networks]

    def script(self, name: str, line: str) -> None:
        self._commands[name] = line

    def _play(self, container: FakeContainer) -> None:
        name, loop = container.spec.name, asyncio.get_running_loop()
        command = self._commands[name]
        trap = re.match(r"trap '(?:echo (\w+); exit (\d+))?' TERM; ", command)
        rest = command[trap.end() :] if trap else command
        for word in re.findall(r"echo (\w+)", rest):
            self.world.write_log(name, word.encode() + b"\n")
        if trap and trap[1]:
            container.on_sigterm = lambda: self._end(name, trap[1], int(trap[2]))
        elif trap:
            container.on_sigterm = lambda: None
        elif command == EAT_MEMORY:
            loop.call_soon(self.world.oom, name)
        elif code := re.search(r"exit (\d+)$", command):
            loop.call_soon(self._end, name, "", int(code[1]))

    def _end(self, name: str, last_word: str, code: int) -> None:
        self.world.write_log(name, last_word.encode())
        self.world.exit(name, ExitInfo(cause=ExitCause.EXITED, exit_code=code))


class TestFake(NetworkContract, ContainerContract):
    @pytest.fixture
    async def harness(self) -> FakeHarness:
        harness = FakeHarness()
        await harness.backend.open()
        return harness


@pytest.mark.sandbox
class TestSandbox(RealNetworkContract, RealContainerContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[SandboxHarness]:
        async with sandbox_harness() as harness:
            yield harness
