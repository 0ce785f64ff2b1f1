"""Devices of a node: what plugins tell, what kernels are given of it, and plugins that fail or hang."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.accelerator_mock.plugin import create
from ai.backend.agent.resource import accelerator
from ai.backend.agent.resource.accelerator import Caller, Silent, load_accelerators
from ai.backend.agent.resource.device import Devices, DevicesUnavailable
from ai.backend.agent.resource.numa import cores_near, parse_cores
from ai.backend.plugin.accelerator import (
    Accelerator,
    Attachment,
    Bind,
    Device,
    EngineRequest,
    Given,
    Node,
    SlotInfo,
    Usage,
)
from ai.backend.plugin.host import ACCELERATOR, Plugin

ONE, TWO, THREE = (UUID(int=number) for number in (1, 2, 3))


class Npu:
    """A third party's plugin, in as many lines as one needs."""

    key = "npu"
    slots: Sequence[SlotInfo] = (SlotInfo(slot="npu.device", description="NPUs", name="NPU", unit="NPU"),)

    def __init__(self, count: int = 2) -> None:
        self.problems = [""] * count
        self.wait: Callable[[], object] = lambda: None

    def facts(self) -> Mapping[str, str]:
        return {"firmware": "7"}

    def devices(self) -> Sequence[Device]:
        self.wait()
        return [
            Device(id=str(number), slot="npu.device", model="N1", problem=problem)
            for number, problem in enumerate(self.problems)
        ]

    def usage(self) -> Mapping[str, Usage]:
        return {"0": Usage(percent=50.0)}

    def attach(self, given: Sequence[Given], *, engine: bool) -> Attachment:
        return Attachment(
            environ={"NPUS": ",".join(one.device.id for one in given)},
            nodes=tuple(
                Node(source=PurePosixPath("/dev/null"), target=PurePosixPath(f"/dev/npu{g.device.id}"))  # type: ignore[arg-type]
                for g in given
            ),
            binds=(Bind(source=PurePosixPath("/usr"), target=PurePosixPath("/opt/npu")),),  # type: ignore[arg-type]
            requests=(EngineRequest(driver="cdi", ids=("npu",)),) if engine else (),
        )

    def close(self) -> None:
        pass


def mock(**options: Any) -> Caller:
    made = create({"count": 2, "fractional": True, **options})
    assert made is not None
    return Caller("mock", "1", made)


async def opened(*callers: Caller) -> Devices:
    devices = Devices(callers)
    await devices.open()
    return devices


async def test_several_plugins_together() -> None:
    npu = Npu()
    devices = await opened(mock(), Caller("npu", "2", npu))
    assert devices.capacity == {"cuda.shares": 2000, "npu.device": 2000}
    held = devices.give(ONE, {"cpu": 1000, "cuda.shares": 250, "npu.device": 2000}, {"cuda/1": 250})
    assert held == {"cuda.shares": {"cuda/1": 250}, "npu.device": {"npu/0": 1000, "npu/1": 1000}}
    assert devices.give(ONE, {"cuda.shares": 250, "npu.device": 2000}, {}) == held, "again is the same"
    grant = await devices.grant(held, engine=False)
    assert grant.environ["NPUS"] == "0,1" and grant.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert grant.environ["GPU_COUNT"] == "3" and not grant.engine_requests
    assert [str(one.target) for one in grant.device_files] == ["/dev/npu0", "/dev/npu1"]
    assert (await devices.grant(held, engine=True)).engine_requests[0].ids == ("npu",)
    with pytest.raises(DevicesUnavailable, match=r"2 of npu\.device"):
        devices.give(TWO, {"cuda.shares": 250, "npu.device": 2000}, {})
    assert devices.give(THREE, {"cuda.shares": 750}, {}) == {"cuda.shares": {"cuda/1": 750}}, "nothing leaked"
    devices.take_back(ONE)
    assert devices.give(TWO, {"npu.device": 2000}, {})


async def test_a_device_that_breaks_is_given_no_more_and_kept_by_who_has_it() -> None:
    npu = Npu()
    devices = await opened(Caller("npu", "2", npu))
    devices.give(ONE, {"npu.device": 1000}, {"npu/0": 1000})
    npu.problems[0] = "it is hot"
    assert await devices.refresh()
    assert devices.capacity == {"npu.device": 1000}
    assert [one.problem for one in devices.reports()] == ["it is hot", ""]
    devices.take_back(ONE)
    assert devices.give(TWO, {"npu.device": 1000}, {"npu/0": 1000}) == {"npu.device": {"npu/1": 1000}}
    with pytest.raises(DevicesUnavailable):
        devices.give(THREE, {"npu.device": 1000}, {})
    npu.problems[0] = ""
    assert await devices.refresh()
    assert devices.give(THREE, {"npu.device": 1000}, {}) == {"npu.device": {"npu/0": 1000}}
    assert not await devices.refresh(), "nothing is new"


async def test_what_a_restarted_agent_takes_over() -> None:
    devices = await opened(Caller("npu", "2", Npu(1)))
    devices.adopt(ONE, {"npu.device": {"npu/0": 1000, "npu/7": 1000}})  # 7 has been taken out meanwhile
    with pytest.raises(DevicesUnavailable):
        devices.give(TWO, {"npu.device": 1000}, {})
    devices.adopt(TWO, {"npu.device": {"npu/0": 1000}})
    devices.take_back(TWO)
    with pytest.raises(DevicesUnavailable):
        devices.give(THREE, {"npu.device": 1000}, {})


async def test_a_plugin_that_fails_or_hangs_costs_its_own_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "CALL_S", 0.05)
    npu, blocked = Npu(), threading.Event()
    devices = await opened(mock(), Caller("npu", "2", npu))

    def fail() -> None:
        raise OSError("the bus is gone")

    npu.wait = fail
    await devices.refresh()
    assert devices.capacity == {"cuda.shares": 2000}
    assert {one.problem for one in devices.reports()} == {"", "OSError: the bus is gone"}
    npu.wait = blocked.wait
    try:
        await devices.refresh()
        assert "did not answer within" in devices.plugins()[1].problem
        await devices.refresh()
        assert devices.plugins()[1].problem == "an earlier call still hangs"
        with pytest.raises(DevicesUnavailable, match="an earlier call still hangs"):
            await devices.grant({"npu.device": {"npu/0": 1000}}, engine=False)
    finally:
        blocked.set()
    npu.wait = lambda: None
    await devices.refresh()
    while devices.plugins()[1].problem:
        await devices.refresh()
    assert devices.capacity == {"cuda.shares": 2000, "npu.device": 2000}


class Sloppy(Npu):
    def devices(self) -> Sequence[Device]:
        return [Device(id="a b", slot="npu.device", model="N1"), Device(id="c", slot="cpu", model="")]


async def test_a_plugin_that_tells_nonsense_is_not_used() -> None:
    caller = Caller("sloppy", "0", Sloppy())
    devices = await opened(caller)
    assert devices.capacity == {} and devices.reports() == []
    for said in ("'a b'", "'cpu'", "has no model"):
        assert said in caller.problem
    with pytest.raises(Silent):
        await caller.call(lambda: 1 // 0)


def installed(**factories: Callable[[Mapping[str, Any]], Accelerator | None]) -> list[Plugin]:
    return [
        Plugin(group=ACCELERATOR, name=name, target="x:y", version="1", loaded=made)
        for name, made in factories.items()
    ]


def test_which_plugins_are_loaded() -> None:
    def broken(_: Mapping[str, Any]) -> Accelerator | None:
        raise RuntimeError("no such driver")

    found = installed(first=create, second=create, npu=lambda _: Npu(), absent=lambda _: None, broken=broken)
    options = {"first": {"count": 1}, "second": {"count": 5}}
    assert [one.name for one in load_accelerators(options, found=found)] == ["first", "npu"]
    with pytest.raises(ValueError, match=r"'rocks'.*first, second, npu"):
        load_accelerators({"rocks": {}}, found=found)
    with pytest.raises(ValueError, match=r"accelerators\.broken.*no such driver"):
        load_accelerators({"broken": {"count": 1}}, found=found)
    with pytest.raises(ValueError, match="count"):
        load_accelerators({"first": {"count": -1}}, found=found)


def test_cores_near_devices() -> None:
    nodes = {0: frozenset({0, 1, 2, 3}), 1: frozenset({4, 5, 6, 7})}
    everything = range(8)
    assert cores_near(nodes, {1}, everything, 4000) == (4, 5, 6, 7)
    assert cores_near(nodes, {1}, everything, 4001) == (), "not enough there"
    assert cores_near(nodes, {1}, (0, 1, 5), 1000) == (5,)
    assert cores_near(nodes, {0, 1}, everything, 1000) == (), "near several is near none"
    assert cores_near(nodes, set(), everything, 1000) == ()
    assert cores_near(nodes, {9}, everything, 1000) == (), "a node that the machine does not tell"
    assert cores_near({0: frozenset({0, 1})}, {0}, (0, 1), 1000) == (), "one node is all there is"


@given(st.frozensets(st.integers(0, 300)))
def test_lists_of_cores(cores: frozenset[int]) -> None:
    assert parse_cores(",".join(map(str, sorted(cores))) + "\n") == cores
    assert parse_cores("0-3,8,10-11") == {0, 1, 2, 3, 8, 10, 11}
    with pytest.raises(ValueError):
        parse_cores("0-x")
