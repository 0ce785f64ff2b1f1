"""Accelerators as the manager keeps them: chosen with the agent, corrected by its report, and never counted for more than there is."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from ai.backend.common.wire import rpc
from ai.backend.manager.db.schema import kernels

from .conftest import PlayedAgent, World
from .test_limits import create, until
from .test_requeue import full, joined, rows


@dataclass
class Obstinate(PlayedAgent):
    """Gives another device than the one that was chosen, once it is told to."""

    instead: str = ""

    def given(self, kernel: rpc.DesiredKernel) -> dict[str, int]:
        return dict.fromkeys([self.instead], 500) if self.instead else kernel.devices


def gpu_agent(world: World, *models: str, shared: bool = True) -> Obstinate:
    slot = "cuda.shares" if shared else "cuda.device"
    info = rpc.SlotReport(
        slot=slot, description="", name="GPU", unit="GPU", shared=shared, quantum=10 if shared else 1000
    )
    return Obstinate(
        world.agent.bus,
        name="g1",
        capacity={"cpu": 32000, "mem": 64 << 30, slot: 1000 * len(models)},
        devices=[
            rpc.DeviceReport(id=f"cuda/{number}", slot=slot, model=model, memory_bytes=80 << 30)
            for number, model in enumerate(models)
        ],
        accelerators=[
            rpc.AcceleratorReport(key="cuda", version="1.0", facts={"driver_version": "999"}, slots=[info])
        ],
    )


async def gpu(world: World, name: str, amount: str, slot: str = "cuda.shares", **options: str) -> Any:
    resources = {"cpu": "1", "mem": "128m", slot: amount}
    return await create(world, name, config={"resources": resources, "resource_opts": options})


async def held(world: World) -> dict[str, str]:
    items = (await world.call("GET", "/agents", key="root")).json["items"]
    return {one["id"]: one["held"] for agent in items for one in agent["devices"]}


async def test_devices_are_chosen_told_and_shown(world: World) -> None:
    agent = gpu_agent(world, "A100", "A100", "H100")
    agent.usage = {"cuda/2": rpc.DeviceUsage(percent=40.0, memory_bytes=8 << 30)}
    await full(world)
    async with joined(world, agent):
        assert (await world.call("GET", "/config/resource-slots")).json["cuda.shares"] == "count"
        await gpu(world, "h100-half", "0.5", device_models="H100")
        await until(world, "h100-half", "RUNNING")
        (wished,) = agent.syncs[-1].kernels
        assert wished.devices == {"cuda/2": 500}
        assert await held(world) == {"cuda/0": "0", "cuda/1": "0", "cuda/2": "0.5"}
        asked = '{ agent(agent_id: "g1") { compute_plugins hardware_metadata live_stat occupied_slots } }'
        answer = await world.call("POST", "/admin/gql", {"query": asked, "variables": {}}, key="root")
        told = {name: msgspec.json.decode(text) for name, text in answer.json["data"]["agent"].items()}
        assert told["compute_plugins"] == {"cuda": {"version": "1.0", "driver_version": "999"}}
        assert told["hardware_metadata"]["cuda"]["status"] == "healthy"
        assert told["live_stat"]["devices"]["cuda_util"]["cuda/2"]["pct"] == "40.00"
        assert told["live_stat"]["node"]["cuda_mem"]["pct"] == "10.00"
        assert told["occupied_slots"]["cuda.shares"] == "0.5"


async def test_what_the_agent_gives_counts_and_not_what_was_chosen(world: World) -> None:
    agent = gpu_agent(world, "A100", "A100")
    await full(world)
    async with joined(world, agent):
        agent.instead = "cuda/1"
        await gpu(world, "half", "0.5")
        await until(world, "half", "RUNNING")
        assert await held(world) == {"cuda/0": "0", "cuda/1": "0.5"}
        agent.instead = ""
        await gpu(world, "whole", "1")
        await until(world, "whole", "RUNNING")
        wished = {one.session_name: one.devices for one in agent.syncs[-1].kernels}
        assert wished == {"half": {"cuda/1": 500}, "whole": {"cuda/0": 1000}}


async def test_a_broken_device_that_somebody_holds_blocks_nobody_else(world: World) -> None:
    agent = gpu_agent(world, "A100", "A100", "A100", shared=False)
    await full(world)
    async with joined(world, agent):
        await gpu(world, "holder", "1", "cuda.device")
        await until(world, "holder", "RUNNING")
        (mine,) = [name for name, amount in (await held(world)).items() if amount == "1"]
        agent.devices = [
            msgspec.structs.replace(one, problem="it is hot" if one.id == mine else "")
            for one in agent.devices
        ]
        agent.capacity = agent.capacity | {"cuda.device": 2000}
        await agent.report()
        await gpu(world, "pair", "2", "cuda.device")
        await until(world, "pair", "RUNNING")
        assert set((await held(world)).values()) == {"1"}
        refused = await gpu(world, "three", "3", "cuda.device")
        assert refused.status == 400 and "asked 3, the largest has 2" in str(refused.json)


@pytest.mark.parametrize(
    ("amount", "options", "said"),
    [
        ("1.2", {}, "neither a share of one device nor a number of whole ones"),
        ("0.123", {}, "steps of 0.01"),
        ("2", {"device_models": "H100"}, "no agent has so many devices of the model H100"),
        ("1", {"device_models": "B200"}, "Models here: A100, H100"),
        ("0", {"device_models": "A100"}, "Ask for devices too"),
    ],
)
async def test_what_no_agent_could_give_is_refused(
    world: World, amount: str, options: dict[str, str], said: str
) -> None:
    async with joined(world, gpu_agent(world, "A100", "H100")):
        answer = await gpu(world, "never", amount, **options)
        assert answer.status in (400, 412) and said in str(answer.json)
        assert await rows(world, kernels) == []
