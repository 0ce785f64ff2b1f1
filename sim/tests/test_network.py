"""The simulated network is a bus like any other in calm weather, and does what its weather says otherwise."""

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from ai.backend.common.errors import AgentUnreachable, Timeout
from ai.backend.common.wire import rpc
from ai.backend.testkit.bus_contract import AGENT, COMPLETE, BusContract, Ends, echo, report, serving
from sim.loop import VirtualTimeLoop
from sim.network import Network, Weather


class TestCalmNetwork(BusContract):
    @pytest.fixture
    async def ends(self) -> AsyncIterator[Ends]:
        network = Network(Random(1), weather=Weather(delay_s=(0.0, 0.002)))
        yield Ends(manager=network.manager(), agent=network.agent())


def run(main: Any, seed: int = 0) -> Any:
    return VirtualTimeLoop(Random(seed)).run(main)


async def reports_through(weather: Weather, count: int = 200) -> list[int]:
    network = Network(Random(5), weather=weather)
    got: list[int] = []

    async def handler(one: rpc.AgentReport) -> None:
        got.append(one.sequence)

    network.manager().on_report(handler)
    agent = network.agent()
    for number in range(count):
        await agent.report(report(number))
        await asyncio.sleep(0.1)
    await asyncio.sleep(1000)
    return got


def test_loss() -> None:
    got = run(reports_through(Weather(loss=0.3)))
    assert 100 < len(got) < 180
    assert got == sorted(got)


def test_duplication() -> None:
    got = run(reports_through(Weather(duplication=0.3)))
    assert set(got) == set(range(200))
    assert 220 < len(got) < 300


def test_lateness_reorders() -> None:
    got = run(reports_through(Weather(lateness=0.2)))
    assert sorted(got) == list(range(200))
    assert got != sorted(got)


def test_a_partition_drops_what_is_under_way_too() -> None:
    async def main() -> None:
        network = Network(Random(0), weather=Weather(delay_s=(1.0, 1.0)))
        manager, agent = network.manager(), network.agent()
        async with serving(agent, echo):
            call = asyncio.create_task(manager.call(AGENT, COMPLETE, rpc.CompleteReply, timeout_s=10))
            await asyncio.sleep(0.5)
            network.cut.add(AGENT)
            with pytest.raises(Timeout):
                await call
            network.cut.clear()
            await manager.call(AGENT, COMPLETE, rpc.CompleteReply, timeout_s=10)

    run(main())


def test_a_dead_manager_hears_nothing() -> None:
    async def main() -> list[str]:
        network = Network(Random(0), weather=Weather(delay_s=(1.0, 1.0)))
        heard: list[str] = []

        def ear(name: str) -> Any:
            async def handler(one: rpc.AgentReport) -> None:
                await asyncio.sleep(5)
                heard.append(name)

            return handler

        first = network.manager()
        first.on_report(ear("first"))
        agent = network.agent()
        await agent.report(report(1))
        await asyncio.sleep(2)
        first.die()
        second = network.manager()
        second.on_report(ear("second"))
        await agent.report(report(2))
        await asyncio.sleep(20)
        return heard

    assert run(main()) == ["second"]


def test_a_dead_agent_ends_its_calls_and_says_nothing() -> None:
    async def main() -> None:
        network = Network(Random(0), weather=Weather(delay_s=(0.1, 0.1)))
        manager, agent = network.manager(), network.agent()
        entered = asyncio.Event()

        async def handler(request: rpc.Request) -> rpc.Reply:
            entered.set()
            await asyncio.sleep(50)
            raise AssertionError("a dead process went on")

        async with serving(agent, handler):
            call = asyncio.create_task(manager.call(AGENT, COMPLETE, rpc.CompleteReply, timeout_s=100))
            await entered.wait()
            agent.die()
            with pytest.raises(AgentUnreachable):
                await call

    run(main())
