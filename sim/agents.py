"""The agent programs that a run can choose from, by name: the real one, and the model of one."""

import asyncio
import tempfile
from pathlib import Path
from random import Random

from ai.backend.accelerator_mock.plugin import create
from ai.backend.agent.config import AgentConfig
from ai.backend.agent.container.errors import ContainerError
from ai.backend.agent.resource.accelerator import Caller
from ai.backend.agent.resource.device import Devices
from ai.backend.agent.service import Agent
from ai.backend.common.clock import Clock
from ai.backend.common.ids import Random as RandomPort
from ai.backend.testkit.fake_runner import Runners

from .container import MortalBackend
from .network import AgentEnd
from .scenario import make_model_agent
from .world import AgentProgram, MakeAgent, Node

CONFIG = AgentConfig(heartbeat_s=5.0, start_timeout_s=30.0, stop_grace_s=2.0, scratch_free_min="0")
OPEN_AGAIN_S = 1.0
DISK = next((path for path in ("/dev/shm",) if Path(path).is_dir()), None)  # noqa: S108
"""Where agents' folders lie: in memory where there is such a place, for every journal entry is synced."""


class RealAgent:
    """The agent of this project, its supervisor included: an engine that does not answer at start is asked again."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def run(self) -> None:
        while True:
            try:
                await self._agent.backend.open()
                break
            except ContainerError:
                await asyncio.sleep(OPEN_AGAIN_S)
        await self._agent.run(ready=asyncio.Event())


async def make_real_agent(
    node: Node, backend: MortalBackend, bus: AgentEnd, clock: Clock, rng: RandomPort
) -> AgentProgram:
    if "folder" not in node.disk:
        node.disk["folder"] = tempfile.TemporaryDirectory(prefix="sim-", dir=DISK)
        node.disk["runners"] = Runners(node.engine, Random(rng.getrandbits(64)))
    folder, runners = Path(node.disk["folder"].name), node.disk["runners"]
    gpus = create({"count": node.gpus, "fractional": True})
    agent = Agent(
        config=CONFIG,
        clock=clock,
        bus=bus,
        backend=backend,
        agent_id=node.agent_id,
        state_dir=folder / "state",
        scratch_dir=folder / "scratch",
        runner_volume=folder,
        link=lambda kernel_id, _scratch, _uid, on_message: runners.link(kernel_id, on_message),
        architecture="x86_64",
        own_uid=None,
        capacity=node.capacity,
        devices=Devices([Caller("mock", "1", gpus)] if gpus is not None else []),
    )
    return RealAgent(agent)


MAKERS: dict[str, MakeAgent] = {"real": make_real_agent, "model": make_model_agent}
