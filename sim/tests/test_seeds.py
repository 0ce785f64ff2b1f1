"""Seeds replay identically, and the whole apparatus is seen to find what is wrong."""

from typing import Any

import pytest

from ai.backend.agent.container.model import ContainerSpec
from ai.backend.common.clock import Clock
from ai.backend.common.ids import Random
from ai.backend.common.quantity import sum_slots
from ai.backend.common.wire import rpc
from sim.agents import MAKERS
from sim.container import MortalBackend
from sim.model_agent import Journal, ModelAgent
from sim.network import AgentEnd
from sim.scenario import make_model_agent, run_seed
from sim.world import AgentProgram, Node


@pytest.mark.parametrize("seed", [0, 7])
def test_a_seed_replays_identically(seed: int) -> None:
    first, second = run_seed(seed), run_seed(seed)
    assert first == second
    assert first.steps > 1000
    assert first.sessions > 0


def test_seeds_differ() -> None:
    assert run_seed(1).fingerprint != run_seed(2).fingerprint


@pytest.mark.parametrize(
    ("seed", "found"),
    [
        (
            26,
            "a clock that went back made a restarted agent's reports older than the old ones: nobody listened",
        ),
        (33, "an engine error while an agent looked for its containers at start ended the agent"),
        (49, "an exit told while the engine did not answer was never looked at again"),
        (57, "as 26"),
        (
            89,
            "an end before a restart was heard of was reported under the old incarnation, and taken for old news",
        ),
    ],
)
def test_seeds_that_found_something(seed: int, found: str) -> None:
    assert run_seed(seed, make_agent=MAKERS["real"]).violations == (), found


def test_real_agents_replay_identically() -> None:
    assert run_seed(4, make_agent=MAKERS["real"]) == run_seed(4, make_agent=MAKERS["real"])


class Forgetful(ModelAgent):
    """Reports sessions as running that it never started."""

    async def _drive(self, kernel: rpc.DesiredKernel) -> None:
        return

    def _kernels(self) -> list[rpc.KernelReport]:
        return [
            rpc.KernelReport(
                kernel_id=kernel.kernel_id,
                session_id=kernel.session_id,
                incarnation=kernel.incarnation,
                state=rpc.KernelState.RUNNING,
            )
            for kernel in self._journal.desired.values()
        ]


class SharedUid(ModelAgent):
    """Gives every container the same user."""

    def _spec(self, kernel: rpc.DesiredKernel) -> ContainerSpec:
        self._seen = {}
        return super()._spec(kernel)


async def broken(
    kind: type[ModelAgent], node: Node, backend: MortalBackend, bus: AgentEnd, clock: Clock, rng: Random
) -> AgentProgram:
    journal = node.disk.setdefault("journal", Journal())
    return kind(node.agent_id, capacity=node.capacity, backend=backend, bus=bus, clock=clock, journal=journal)


@pytest.mark.parametrize(
    ("kind", "complaint"), [(Forgetful, "RUNNING without a container"), (SharedUid, "share uid")]
)
def test_a_broken_agent_is_found(kind: type[ModelAgent], complaint: str) -> None:
    async def make(*args: Any) -> AgentProgram:
        return await broken(kind, *args)

    found = [violation for seed in (10, 20) for violation in run_seed(seed, make_agent=make).violations]
    assert any(complaint in violation for violation in found)


def test_a_broken_guard_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that does not see what is occupied places too much."""
    monkeypatch.setattr("ai.backend.manager.agents.store.sum_slots", lambda many: sum_slots([]))
    found = [violation for seed in (10, 20) for violation in run_seed(seed).violations]
    assert any("over capacity" in violation for violation in found)


def test_a_sound_cluster_passes() -> None:
    assert run_seed(10, make_agent=make_model_agent).violations == ()
