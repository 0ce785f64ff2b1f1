"""The agent whole, on the fake backend with fake runners: what it makes, undoes, adopts, refuses and leaves alone."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from ai.backend.agent.config import AgentConfig
from ai.backend.agent.container.errors import (
    AddressesExhausted,
    BackendUnavailable,
    ContainerFailed,
    ImageNotFound,
    NoSpace,
)
from ai.backend.agent.container.model import ExitCause, ExitInfo, NetworkSpec
from ai.backend.agent.kernel.scratch import environment_of
from ai.backend.agent.service import Agent, NoSuchKernel
from ai.backend.common.bus import InProcessBus
from ai.backend.common.clock import SystemClock
from ai.backend.common.errors import AgentUnreachable
from ai.backend.common.wire import rpc
from ai.backend.common.wire.rpc import AgentReport, DesiredKernel, KernelReport, KernelState, Sync
from ai.backend.testkit.fake_container import FakeBackend, FakeWorld
from ai.backend.testkit.fake_runner import Runners

K1, K2 = UUID(int=1), UUID(int=2)


def wish(kernel_id: UUID = K1, *, target: str = "run", incarnation: int = 1, **more: Any) -> DesiredKernel:
    return DesiredKernel(
        kernel_id=kernel_id,
        session_id=UUID(int=100),
        target=target,  # type: ignore[arg-type]
        incarnation=incarnation,
        image="local/python:3.11",
        slots={"cpu": 1000, "mem": 256 << 20},
        **more,
    )


@dataclass
class Node:
    """What outlives an agent: containers, runners, disk, and the manager's ear."""

    folder: Path
    world: FakeWorld = field(default_factory=lambda: FakeWorld(random.Random(1), latency_s=(0, 0)))
    bus: InProcessBus = field(default_factory=InProcessBus)
    reports: list[AgentReport] = field(default_factory=list)
    generation: int = 0

    def __post_init__(self) -> None:
        self.runners = Runners(self.world, random.Random(2))
        self.heard = asyncio.Event()

        async def hear(report: AgentReport) -> None:
            self.reports.append(report)
            self.heard.set()

        self.bus.on_report(hear)

    @asynccontextmanager
    async def agent(self, **config: Any) -> AsyncIterator[Agent]:
        agent = Agent(
            config=AgentConfig(
                heartbeat_s=0.2, start_timeout_s=10, stop_grace_s=0.1, scratch_free_min="0", **config
            ),
            clock=SystemClock(),
            bus=self.bus,
            backend=FakeBackend(self.world),
            agent_id="a1",
            state_dir=self.folder / "state",
            scratch_dir=self.folder / "scratch",
            runner_volume=self.folder,
            link=lambda kernel_id, _scratch, _uid, on_message: self.runners.link(kernel_id, on_message),
            architecture="x86_64",
            own_uid=None,
            capacity={"cpu": 8000, "mem": 8 << 30},
        )
        await agent.backend.open()
        task = asyncio.create_task(agent.run(ready=asyncio.Event()))
        await asyncio.sleep(0)
        self.reports.clear()
        try:
            yield agent
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def sync(self, *kernels: DesiredKernel, generation: int | None = None) -> rpc.SyncReply:
        self.generation = self.generation + 1 if generation is None else generation
        while True:
            try:
                message = Sync(generation=self.generation, kernels=list(kernels))
                return await self.bus.call("a1", message, rpc.SyncReply, timeout_s=5)
            except AgentUnreachable:
                await asyncio.sleep(0.01)

    async def until(self, holds: Callable[[dict[UUID, KernelReport]], bool]) -> dict[UUID, KernelReport]:
        """The kernels of the first report in which `holds`."""
        async with asyncio.timeout(20):
            while True:
                if self.reports:
                    kernels = {k.kernel_id: k for k in self.reports[-1].kernels}
                    if holds(kernels):
                        return kernels
                self.heard.clear()
                await self.heard.wait()

    async def state(self, state: KernelState, kernel_id: UUID = K1) -> KernelReport:
        found = await self.until(lambda kernels: kernel_id in kernels and kernels[kernel_id].state is state)
        return found[kernel_id]

    def nothing_left(self) -> bool:
        scratch = list((self.folder / "scratch").iterdir())
        return not self.world.containers and not self.world.networks and not scratch


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_a_kernel_is_made_used_and_ended(node: Node) -> None:
    async with node.agent():
        await node.sync(wish())
        await node.state(KernelState.RUNNING)
        execute = rpc.Execute(kernel_id=K1, run_id="r", mode="query", code="x")
        reply = await node.bus.call("a1", execute, rpc.ExecuteReply, timeout_s=5)
        assert (reply.status, reply.console) == ("finished", [("stdout", "done\n")])
        node.world.write_log(str(K1), b"said")
        await node.sync(wish(target="stop", stop_reason="user-requested"))
        ended = await node.state(KernelState.TERMINATED)
        assert ended.reason == "user-requested" and node.nothing_left()
        logs = await node.bus.call("a1", rpc.GetLogs(kernel_id=K1), rpc.GetLogsReply, timeout_s=5)
        assert "said" in logs.text
        await node.sync()
        await node.until(lambda kernels: not kernels)
        with pytest.raises(NoSuchKernel):
            await node.bus.call("a1", execute, rpc.ExecuteReply, timeout_s=5)


@pytest.mark.parametrize(
    ("call", "error", "reason"),
    [
        ("create", ImageNotFound("no image"), "image-not-found"),
        ("create", NoSpace("full"), "failed-to-create"),
        ("create", ContainerFailed("refused"), "failed-to-create"),
        ("create", BackendUnavailable("silent"), "failed-to-create"),
        ("start", ContainerFailed("no such program"), "failed-to-create"),
    ],
)
async def test_whatever_step_fails_everything_is_undone_and_the_reason_told(
    node: Node, call: str, error: Any, reason: str
) -> None:
    async with node.agent():
        node.world.fail_next(call, error)
        await node.sync(wish())
        ended = await node.state(KernelState.TERMINATED)
        assert ended.reason == reason and error.message in ended.message and node.nothing_left()


@pytest.mark.parametrize("call", ["stop", "remove", "inspect", "logs"])
async def test_cleaning_up_goes_on_until_it_is_done(
    node: Node, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ai.backend.agent.kernel.driver.RETRY_S", 0.01)
    async with node.agent():
        await node.sync(wish())
        await node.state(KernelState.RUNNING)
        for _ in range(3):
            node.world.fail_next(call, BackendUnavailable("silent"))
        await node.sync(wish(target="stop", stop_reason="user-requested"))
        await node.state(KernelState.TERMINATED)
        assert node.nothing_left()


async def test_a_wish_to_stop_while_it_is_being_made_leaves_nothing(node: Node) -> None:
    node.world.latency_s = (0.02, 0.05)
    async with node.agent():
        for number in range(8):
            await node.sync(wish())
            await asyncio.sleep(number * 0.02)
            await node.sync(wish(target="stop", stop_reason="user-requested"))
            await node.state(KernelState.TERMINATED)
            assert node.nothing_left()
            await node.sync()
            await node.until(lambda kernels: not kernels)


async def test_older_generations_are_refused_and_equal_ones_do_no_harm(node: Node) -> None:
    async with node.agent():
        assert (await node.sync(wish(), generation=5)).accepted
        await node.state(KernelState.RUNNING)
        assert (await node.sync(wish(), generation=5)).accepted
        refused = await node.sync(generation=4)
        assert (refused.accepted, refused.generation) == (False, 5)
        await node.state(KernelState.RUNNING)
    async with node.agent():
        assert not (await node.sync(generation=4)).accepted


async def test_an_unlisted_kernel_is_shown_and_left_alone_then_taken_back(node: Node) -> None:
    async with node.agent():
        await node.sync(wish())
        await node.state(KernelState.RUNNING)
        await node.sync()
        await node.state(KernelState.UNKNOWN)
        assert list(node.world.containers) == [str(K1)]
        await node.sync(wish())
        await node.state(KernelState.RUNNING)


async def test_a_restarted_agent_adopts_what_runs_and_tells_what_ended(node: Node) -> None:
    async with node.agent():
        await node.sync(wish(K1), wish(K2))
        await node.until(
            lambda kernels: {k.state for k in kernels.values()} == {KernelState.RUNNING} and len(kernels) == 2
        )
    assert len(node.world.containers) == 2
    node.world.exit(str(K2), ExitInfo(cause=ExitCause.EXITED, exit_code=3))
    async with node.agent():
        await node.state(KernelState.RUNNING, K1)
        ended = await node.state(KernelState.TERMINATED, K2)
        assert (ended.exit_code, ended.reason) == (3, "self-terminated")
        assert list(node.world.containers) == [str(K1)]


async def test_a_container_without_a_journal_is_unknown_until_it_is_listed(node: Node) -> None:
    async with node.agent():
        await node.sync(wish())
        await node.state(KernelState.RUNNING)
    uid = dict(node.world.containers[str(K1)].spec.labels)["ai.backend.uid"]
    for path in (node.folder / "state" / "kernels").iterdir():
        path.unlink()
    async with node.agent() as agent:
        await node.state(KernelState.UNKNOWN)
        assert str(agent._kernels[K1].uid) == uid
        await node.sync(wish(target="stop", stop_reason="already-terminated"))
        await node.state(KernelState.TERMINATED)
        assert node.nothing_left()


async def test_a_restart_keeps_the_home_and_makes_a_new_container(node: Node) -> None:
    async with node.agent():
        await node.sync(wish())
        await node.state(KernelState.RUNNING)
        kept = node.folder / "scratch" / str(K1) / "work" / "kept"
        kept.write_text("x")
        await node.sync(wish(incarnation=2))
        await node.until(
            lambda kernels: kernels[K1].state is KernelState.RUNNING and kernels[K1].incarnation == 2
        )
        assert kept.exists() and len(node.world.containers) == 1


@pytest.mark.parametrize("main", [True, False])
async def test_out_of_memory_is_told_with_the_limit(node: Node, main: bool) -> None:
    async with node.agent():
        await node.sync(wish())
        await node.state(KernelState.RUNNING)
        if main:
            node.world.oom(str(K1))
        else:
            node.world.oom(str(K1), main=False)
            node.world.exit(str(K1), ExitInfo(cause=ExitCause.KILLED, exit_code=137))
        ended = await node.state(KernelState.TERMINATED)
        assert ended.reason == "out-of-memory" and "256 MiB" in ended.message and node.nothing_left()


async def test_a_silent_engine_ends_nothing(node: Node) -> None:
    async with node.agent():
        await node.sync(wish())
        await node.state(KernelState.RUNNING)
        node.world.available = False
        node.world.tell(str(K1))
        async with asyncio.timeout(10):
            while node.reports[-1].healthy:
                node.heard.clear()
                await node.heard.wait()
        assert node.reports[-1].kernels[0].state is KernelState.RUNNING and node.reports[-1].problem
        node.world.available = True
        async with asyncio.timeout(10):
            while not node.reports[-1].healthy:
                node.heard.clear()
                await node.heard.wait()
        await node.state(KernelState.RUNNING)


async def test_every_kernel_has_a_user_of_its_own(node: Node) -> None:
    async with node.agent():
        await node.sync(wish(K1), wish(K2))
        await node.until(
            lambda kernels: (
                len(kernels) == 2 and all(k.state is KernelState.RUNNING for k in kernels.values())
            )
        )
        uids = {container.spec.uid for container in node.world.containers.values()}
        assert len(uids) == 2 and min(uids) >= 200_000


BATCH_SCRIPT = "sleep 0.05; exit 3"


async def test_a_command_is_run_and_its_end_is_that_of_the_kernel(node: Node) -> None:
    async with node.agent():
        await node.sync(wish(startup_command=BATCH_SCRIPT))
        ended = await node.state(KernelState.TERMINATED)
        assert (ended.reason, ended.exit_code) == ("task-finished", 3) and node.nothing_left()
        assert node.runners.ran == [(str(K1), "1")]
        await node.sync(wish(startup_command=BATCH_SCRIPT))
        assert (await node.state(KernelState.TERMINATED)).exit_code == 3


async def test_a_command_goes_on_under_an_agent_that_was_killed_and_is_not_run_again(node: Node) -> None:
    script = "sleep 0.5; exit 3"
    for _ in range(3):
        async with node.agent():
            await node.sync(wish(startup_command=script))
            await node.state(KernelState.RUNNING)
            while not node.runners.ran:
                await asyncio.sleep(0.01)
    async with node.agent():
        ended = await node.state(KernelState.TERMINATED)
        assert (ended.reason, ended.exit_code) == ("task-finished", 3)
    assert node.runners.ran == [(str(K1), "1")]


async def test_a_command_that_ended_while_no_agent_listened_tells_its_end_to_the_next(node: Node) -> None:
    async with node.agent():
        await node.sync(wish(startup_command="sleep 0.1; exit 5"))
        while not node.runners.ran:
            await asyncio.sleep(0.01)
    runner = node.runners.alive[str(K1)]
    while runner._once != {"once:command": 5}:
        await asyncio.sleep(0.01)
    runner._unheard.clear()  # what it said is lost with the agent that it was said to
    async with node.agent():
        ended = await node.state(KernelState.TERMINATED)
        assert (ended.reason, ended.exit_code) == ("task-finished", 5)
    assert node.runners.ran == [(str(K1), "1")]


async def test_a_command_whose_container_is_gone_is_not_run_again(node: Node) -> None:
    async with node.agent():
        await node.sync(wish(startup_command="sleep 60"))
        while not node.runners.ran:
            await asyncio.sleep(0.01)
    node.world.reboot()
    async with node.agent():
        ended = await node.state(KernelState.TERMINATED)
        assert ended.reason == "container-not-found"
    assert node.runners.ran == [(str(K1), "1")]


async def test_a_command_may_come_after_the_kernel_is_ready_and_survives_a_quarantine(node: Node) -> None:
    async with node.agent():
        await node.sync(wish())
        await node.state(KernelState.RUNNING)
        await node.sync(wish(startup_command="sleep 0.3; exit 0"))
        while not node.runners.ran:
            await asyncio.sleep(0.01)
        await node.sync()
        await node.state(KernelState.UNKNOWN)
        await node.sync(wish(startup_command="sleep 0.3; exit 0"))
        ended = await node.state(KernelState.TERMINATED)
        assert (ended.reason, ended.exit_code) == ("task-finished", 0)
    assert node.runners.ran == [(str(K1), "1")]


async def test_a_command_is_not_begun_when_the_journal_cannot_say_so(node: Node) -> None:
    async with node.agent() as agent:
        await node.sync(wish())
        await node.state(KernelState.RUNNING)

        def refuse(_entry: object) -> None:
            raise NoSpace("full")

        agent._journal.write = refuse  # type: ignore[method-assign]
        await node.sync(wish(startup_command="exit 0"))
        ended = await node.state(KernelState.TERMINATED)
        assert ended.reason == "task-failed" and node.runners.ran == []


def test_a_kernel_of_a_cluster_knows_the_others() -> None:
    hosts = ("main1", "sub1", "sub2")
    told = environment_of(wish(hostname="sub2", cluster_role="sub", cluster_idx=2, cluster_hosts=hosts))
    assert {
        key.removeprefix("BACKENDAI_CLUSTER_"): value for key, value in told.items() if "CLUSTER" in key
    } == {
        "SIZE": "3",
        "REPLICAS": "main:1,sub:2",
        "HOST": "sub2",
        "HOSTS": "main1,sub1,sub2",
        "ROLE": "sub",
        "IDX": "2",
        "LOCAL_RANK": "2",
    }


PAIR = ("main1", "sub1")
KEY = rpc.ClusterKey(private="-----BEGIN", public="ssh-ed25519 AAAA")


def pair(*, target: str = "run", **more: Any) -> tuple[DesiredKernel, DesiredKernel]:
    """Two kernels of one session on this agent."""
    more = {"cluster_hosts": PAIR, "local_hosts": PAIR, "cluster_key": KEY, "target": target, **more}
    return wish(K1, hostname="main1", **more), wish(K2, hostname="sub1", cluster_role="sub", **more)


def both(state: KernelState) -> Callable[[dict[UUID, KernelReport]], bool]:
    return lambda kernels: [k.state for k in kernels.values()] == [state, state]


async def test_kernels_of_one_session_share_a_network_from_the_first_to_the_last(node: Node) -> None:
    async with node.agent():
        await node.sync(*pair())
        await node.until(both(KernelState.RUNNING))
        (network,) = node.world.networks.values()
        assert (network.name, [host for host, _ in network.addresses]) == (str(UUID(int=100)), [*PAIR])
        assert {one.spec.network for one in node.world.containers.values()} == {network}
        main, sub = pair(incarnation=2)
        await node.sync(main, sub)
        await node.until(lambda kernels: all(k.incarnation == 2 for k in kernels.values()))
        await node.until(both(KernelState.RUNNING))
        assert [*node.world.networks.values()] == [network], "a restart keeps it"
        await node.sync(wish(K1, target="stop"), sub)
        await node.state(KernelState.TERMINATED, K1)
        assert [*node.world.networks.values()] == [network], "it stays for the other"
        await node.sync(wish(K1, target="stop"), structs.replace(sub, target="stop"))
        await node.state(KernelState.TERMINATED, K2)
        assert node.nothing_left()


async def test_a_kernel_without_neighbours_has_no_network_and_asks_for_none(node: Node) -> None:
    for call in ("ensure_network", "remove_network"):
        node.world.fail_next(call, ContainerFailed("nobody should ask"))
    async with node.agent():
        await node.sync(wish(cluster_hosts=PAIR, local_hosts=("main1",)))
        await node.state(KernelState.RUNNING)
        assert node.world.containers[str(K1)].spec.network is None
        await node.sync(wish(target="stop"))
        await node.state(KernelState.TERMINATED)
        assert len(node.world._faults["ensure_network"]) == len(node.world._faults["remove_network"]) == 1


@pytest.mark.parametrize("call", ["ensure_network", "create", "start"])
async def test_a_cluster_that_fails_to_start_leaves_no_network(node: Node, call: str) -> None:
    async with node.agent():
        for _ in range(2):
            node.world.fail_next(call, AddressesExhausted("no addresses", hint="Other ones."))
        await node.sync(*pair())
        ended = await node.until(both(KernelState.TERMINATED))
        assert {(k.reason, k.message) for k in ended.values()} == {
            ("failed-to-create", "no addresses Other ones.")
        }
        assert node.nothing_left()


async def test_a_cluster_ends_at_once_and_in_any_moment_without_leaving_its_network(node: Node) -> None:
    node.world.latency_s = (0.005, 0.02)
    async with node.agent():
        for number in range(8):
            await node.sync(*pair())
            await asyncio.sleep(number * 0.01)
            node.world.fail_next("remove_network", ContainerFailed("busy"))
            await node.sync(*pair(target="stop", forced=True))
            await node.until(both(KernelState.TERMINATED))
            assert node.nothing_left()
            await node.sync()
            await node.until(lambda kernels: not kernels)


async def test_a_restarted_agent_keeps_a_network_that_is_used_and_takes_the_others_away(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node.agent():
        await node.sync(*pair())
        await node.until(both(KernelState.RUNNING))
    kept = [*node.world.networks]
    node.world.add_network(NetworkSpec(name="left-by-a-dead-agent", hosts=PAIR))
    journal = node.folder / "state" / "kernels"
    for path in journal.iterdir():
        path.unlink()
    for call in ("networks", "remove_network"):
        node.world.fail_next(call, ContainerFailed("busy"))
    monkeypatch.setattr("ai.backend.agent.service.RETRY_S", 0.01)
    async with node.agent():
        await node.until(both(KernelState.UNKNOWN))
        async with asyncio.timeout(10):
            while [*node.world.networks] != kept:
                await asyncio.sleep(0.01)
        for kernel_id in (K1, K2):
            node.world.exit(str(kernel_id), ExitInfo(cause=ExitCause.EXITED, exit_code=3))
        await node.until(both(KernelState.TERMINATED))
        assert node.nothing_left(), "containers tell that they have a network, also without a journal"


async def test_the_key_of_a_cluster_is_for_its_user_alone_and_stays_for_a_restart(node: Node) -> None:
    async with node.agent():
        await node.sync(*pair())
        await node.until(both(KernelState.RUNNING))
        for _ in range(2):
            folder = node.folder / "scratch" / str(K2) / "config" / "ssh"
            private = folder / "id_cluster"
            assert private.read_text() == "-----BEGIN" and private.stat().st_mode & 0o777 == 0o600
            assert private.stat().st_uid == (
                node.world.containers[str(K2)].spec.uid if os.getuid() == 0 else os.getuid()
            )
            assert (folder / "id_cluster.pub").read_text() == "ssh-ed25519 AAAA\n"
            await node.sync(*pair(incarnation=2, cluster_key=None))
            await node.until(lambda kernels: all(k.incarnation == 2 for k in kernels.values()))
            await node.until(both(KernelState.RUNNING))
        assert "BEGIN" not in repr(KEY)
