"""What a session may be asked to be: batch, later, after others, several containers, on chosen agents; against a real manager."""

import asyncio
from datetime import datetime
from typing import Any

import pytest

from ai.backend.common.wire import rpc
from ai.backend.common.wire.rpc import KernelReport, KernelState
from ai.backend.manager.db.schema import events, sessions

from .conftest import PlayedAgent, World
from .test_requeue import full, joined, rows

BATCH = {"name": "mybatch", "image": "python", "type": "batch", "startupCommand": "true", "enqueueOnly": True}


async def create(world: World, key: str = "user", **body: Any) -> Any:
    return await world.call("POST", "/session", BATCH | body, key=key)


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({"startupCommand": None}, 400, "invalid-api-params"),
        ({"startupCommand": ""}, 400, "invalid-api-params"),
        ({"type": "interactive", "starts_at": "1h"}, 400, "invalid-api-params"),
        ({"starts_at": "whenever"}, 400, "invalid-api-params"),
        ({"batch_timeout": "whenever"}, 400, "invalid-api-params"),
        ({"callback_url": "ftp://x/"}, 400, "invalid-api-params"),
        ({"callback_url": "http://127.0.0.1/"}, 400, "invalid-api-params"),
        ({"callbackURL": "http://169.254.169.254/latest"}, 400, "invalid-api-params"),
        ({"clusterMode": "no-node"}, 400, "invalid-api-params"),
        ({"clusterSize": 0}, 400, "invalid-api-params"),
        ({"clusterSize": 9}, 412, "quota-exceeded"),
        ({"dependencies": ["nobody"]}, 404, "object-not-found"),
        ({"config": {"agentList": ["a1"]}}, 403, "insufficient-privilege"),
        ({"config": {"mounts": ["x"]}}, 400, "invalid-api-params"),
    ],
)
async def test_refused(world: World, body: Any, status: int, problem: str) -> None:
    answer = await create(world, **body)
    assert (answer.status, answer.problem) == (status, problem), answer.body


async def test_a_superadministrator_chooses_an_agent(world: World) -> None:
    assert (await create(world, "root", config={"agentList": ["a1"]})).status == 201
    assert (await create(world, "root", name="other", config={"agentList": ["a1", "a1"]})).status == 400
    assert (await create(world, "root", name="other", config={"agentList": ["gone"]})).status == 400


async def test_the_dependency_graph_is_as_published(world: World) -> None:
    first = (await create(world, name="first-one", starts_at="1d")).json["sessionId"]
    second = (await create(world, name="second", dependencies=[first])).json["sessionId"]
    await create(world, name="third-one", dependencies=["second", "first-one"], starts_at="2d")
    answer = await world.call("GET", "/session/third-one/dependency-graph")
    graph = answer.json
    assert set(graph) == {"session_id", "session_name", "status", "status_changed", "depends_on"}
    assert (graph["session_name"], graph["status"]) == ("third-one", "KernelStatus.PENDING")
    assert datetime.strptime(graph["status_changed"].split(".")[0], "%Y-%m-%d %H:%M:%S")  # as the client does
    below = {node["session_id"]: node for node in graph["depends_on"]}
    assert set(below) == {first, second}
    assert [node["session_id"] for node in below[second]["depends_on"]] == [first]
    for node in (graph, *graph["depends_on"]):
        assert node["session_name"].split("-")[-2], "the published client takes the last piece but one"
    assert (await world.call("GET", "/session/third-one/dependency-graph", key="peer")).status == 404
    ended = await world.call("DELETE", "/session/second?recursive=true")
    assert ended.json == [{"status": "cancelled"}] * 2
    (left,) = (await world.call("GET", "/session?status=PENDING")).json["items"]
    assert (left["id"], left["reason"]) == (first, "waits-for-time")


async def test_an_inference_session_is_one(world: World) -> None:
    answer = await create(world, type="inference", enqueueOnly=False)
    assert (answer.status, answer.json["status"]) == (201, "RUNNING")


class QuickAgent(PlayedAgent):
    """Runs commands faster than it reports."""

    async def follow(self, sync: rpc.Sync) -> None:
        self.generation = sync.generation
        self.kernels = {
            kernel.kernel_id: KernelReport(
                kernel_id=kernel.kernel_id,
                session_id=kernel.session_id,
                incarnation=kernel.incarnation,
                state=KernelState.TERMINATED,
                reason="task-finished",
                exit_code=3,
            )
            for kernel in sync.kernels
        }
        await self.report()


async def test_a_command_that_came_and_went_between_two_reports_is_told_to_have_run(world: World) -> None:
    await full(world)
    async with joined(world, QuickAgent(world.agent.bus, name="b0")):
        assert (await create(world)).status == 201
        async with asyncio.timeout(30):
            while not (over := await rows(world, sessions, sessions.c.status == "TERMINATED")):
                await asyncio.sleep(0.01)
        (row,) = over
        told = [one.name for one in await rows(world, events)]
        assert row.result == "failure" and "RUNNING" in row.status_history
        assert [name for name in told if name.startswith("session_")] == [
            "session_enqueued",
            "session_scheduled",
            "session_started",
            "session_failure",
            "session_terminated",
        ]
