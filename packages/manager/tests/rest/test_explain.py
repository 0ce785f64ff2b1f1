"""Why sessions wait, as the API tells it, and dry runs: against a real manager. What is named as the blocker is taken away, and the session
starts."""

import asyncio
import os
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from ai.backend.client.client import AsyncClient
from ai.backend.client.config import ClientConfig
from ai.backend.client.sync import Client
from ai.backend.common.wire.rest.scheduler import DryAgent, DryResult, DryWorkload
from ai.backend.common.wire.rpc import ImageReport
from ai.backend.manager.db.schema import agents, kernels, metadata, sessions

from .conftest import Answer, World

FULL = {"resources": {"cpu": 4, "mem": "1g"}}
OTHER = ImageReport(name="local/python:3.11", digest="d", architecture="x86_64", size_bytes=1, labels={})


async def until(check: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(20):
        while not (found := await check()):
            await asyncio.sleep(0.02)
    return found


async def enqueue(world: World, name: str, key: str = "user", **body: Any) -> str:
    config = {"config": {"resources": {"cpu": 1, "mem": "1g"}}}
    form = {"name": name, "image": "python", "enqueueOnly": True, **config, **body}
    answer = await world.call("POST", "/session", form, key=key)
    assert answer.status == 201, answer.json
    return str(answer.json["sessionId"])


async def why(world: World, name: str, key: str = "user") -> Any:
    answer = await world.call("GET", f"/session/{name}/why", key=key)
    assert answer.status == 200, answer.json
    return answer.json


async def waits(world: World, name: str, rule: str) -> Any:
    """What is told of it once the loop has looked, too."""

    async def told() -> bool:
        return (await world.call("GET", f"/session/{name}")).json["reason"] == rule

    await until(told)
    return await why(world, name)


async def runs(world: World, name: str) -> None:
    async def status() -> bool:
        return (await why(world, name))["status"] == "RUNNING"

    await until(status)


async def test_amounts_and_then_they_are_free(world: World) -> None:
    assert (await world.start("first", **FULL)).status == 201
    await enqueue(world, "second")
    told = await waits(world, "second", "not-enough-free-slots")
    assert told["status"] == "PENDING" and told["rule"] == "not-enough-free-slots"
    assert told["slots"] == [{"slot": "cpu", "asked": "1", "available": "0"}]
    assert told["position"] == 1 and told["considered"] == {"not-enough-free-slots": 1}
    (need,) = told["unblock"]
    assert need == {
        "kind": "free",
        "text": "1 cpu get free on agent a1",
        "agent": "a1",
        "slots": {"cpu": "1"},
    }
    assert told["hint"] == "It starts when 1 cpu get free on agent a1."
    assert told["estimated_start"] is None, "nobody knows when the first one ends"
    info = (await world.call("GET", "/session/second")).json
    assert info["hint"] == told["hint"] and info["statusData"]["unblock"] == [need]
    assert (await world.call("DELETE", "/session/first")).status == 200
    await runs(world, "second")


async def test_a_cordon_and_then_it_is_lifted(world: World) -> None:
    order = {"op": "exclude-agents", "args": ["a1"]}
    assert (await world.call("POST", "/manager/scheduler/operation", order, key="root")).status == 204
    await enqueue(world, "mysess")
    told = await waits(world, "mysess", "agent-not-schedulable")
    assert [(need["kind"], need["agent"]) for need in told["unblock"]] == [("schedulable", "a1")]
    assert "excluded from scheduling by an administrator" in told["hint"]
    order["op"] = "include-agents"
    assert (await world.call("POST", "/manager/scheduler/operation", order, key="root")).status == 204
    await runs(world, "mysess")


async def test_an_image_and_then_it_is_there(world: World) -> None:
    world.agent.images = [
        ImageReport(name="local/other:1", digest="d", architecture="x86_64", size_bytes=1, labels={})
    ]
    await world.agent.report()
    await enqueue(world, "mysess")
    told = await waits(world, "mysess", "image-not-on-agent")
    (need,) = told["unblock"]
    assert (need["kind"], need["agent"], need["images"]) == ("image", "a1", ["local/python:3.11"])
    world.agent.images.append(OTHER)
    await world.agent.report()
    await runs(world, "mysess")


async def test_a_time_limit_is_an_estimate(world: World) -> None:
    batch = {"type": "batch", "startupCommand": "sleep 9", "batch_timeout": "1h", "config": FULL}
    await enqueue(world, "first", **batch)
    await runs(world, "first")
    await enqueue(world, "second", **batch)
    await waits(world, "second", "not-enough-free-slots")
    await enqueue(world, "third")
    await waits(world, "third", "not-enough-free-slots")

    def deadline(conn: sa.Connection) -> datetime:
        found: datetime = conn.execute(
            sa.select(sessions.c.deadline_at).where(sessions.c.name == "first")
        ).scalar_one()
        return found

    ends = await world.database.read(deadline)
    told = [
        datetime.fromisoformat((await why(world, name))["estimated_start"]) for name in ("second", "third")
    ]
    assert told == [ends, ends + timedelta(hours=1)], (
        "the second takes all that the first leaves, for an hour"
    )
    assert [(await why(world, name))["position"] for name in ("second", "third")] == [1, 2]


async def test_a_time_and_others_are_waited_for(world: World) -> None:
    await enqueue(world, "late", type="batch", startupCommand="true", starts_at="1h")
    told = await why(world, "late")
    assert (told["rule"], told["position"]) == ("waits-for-time", None)
    assert [need["kind"] for need in told["unblock"]] == ["time"]
    assert told["estimated_start"] and told["estimated_start"][:16] in told["message"].replace(" ", "T")
    await enqueue(world, "after", type="batch", startupCommand="true", dependencies=["late"])
    told = await why(world, "after")
    assert (told["rule"], told["estimated_start"]) == ("waits-for-dependencies", None)
    assert "late" in told["message"] and [need["kind"] for need in told["unblock"]] == ["sessions"]
    assert (await world.start("full", **FULL)).status == 201
    assert (await why(world, "late"))["estimated_start"] is None, "there would be no room"


async def test_what_does_not_wait_says_so(world: World) -> None:
    assert (await world.start("mysess")).status == 201
    told = await why(world, "mysess")
    assert told["status"] == "RUNNING" and "it runs since" in told["message"]
    assert told["unblock"] == [] and told["position"] is None
    session_id = told["id"]
    assert (await world.call("DELETE", "/session/mysess")).status == 200
    for ref in ("mysess", session_id):
        told = await why(world, ref)
        assert told["status"] == "TERMINATED" and "it ended at" in told["message"]
        assert told["rule"] == "user-requested" and "user@" in told["message"]
    assert (await world.call("GET", f"/session/{session_id}/why", key="peer")).status == 404
    assert (await world.call("GET", "/session/nothing/why")).status == 404


async def test_an_event_tells_why_once_for_each_rule(world: World) -> None:
    assert (await world.start("first", **FULL)).status == 201
    session_id = await enqueue(world, "second", config={"resources": {"cpu": 3, "mem": "1g"}})
    await waits(world, "second", "not-enough-free-slots")
    world.agent.capacity = {**world.agent.capacity, "cpu": 5000}
    await world.agent.report()

    async def told_anew() -> bool:
        return "free 1" in (await world.call("GET", "/session/second")).json["message"]

    await until(told_anew)  # other numbers, the same rule: no event
    assert (
        await world.call("POST", "/manager/scheduler/trigger", {"event": "schedule"}, key="root")
    ).status == 204
    order = {"op": "exclude-agents", "args": ["a1"]}
    assert (await world.call("POST", "/manager/scheduler/operation", order, key="root")).status == 204
    await waits(world, "second", "agent-not-schedulable")
    assert (await world.call("DELETE", "/session/second")).status == 200
    target = f"/events/session?sessionId={session_id}"
    async with world.request("GET", target, None, "user", None, {"Last-Event-ID": "0"}) as response:
        frames = [frame.split("\n") for frame in (await response.text()).split("\n\n")]
    told = [
        msgspec.json.decode(data.removeprefix("data: "))
        for _, event, data in (frame for frame in frames if len(frame) == 3)
        if event == "event: session_waiting"
    ]
    assert [one["reason"] for one in told] == ["not-enough-free-slots", "agent-not-schedulable"]
    assert told[0]["position"] == 1 and told[0]["slots"] == [{"slot": "cpu", "asked": "3", "available": "0"}]
    assert told[0]["hint"] == "It starts when 3 cpu get free on agent a1."
    assert told[0]["unblock"][0]["kind"] == "free" and "nearest is agent a1" in told[0]["message"]


# -- dry runs -----------------------------------------------------------------------------------------------------------------


def dump(conn: sa.Connection) -> dict[str, list[Any]]:
    return {
        table.name: sorted(map(repr, conn.execute(sa.select(table)).all()))
        for table in metadata.sorted_tables
    }


async def dry(world: World, *workloads: dict[str, Any], key: str = "root", **body: Any) -> Answer:
    return await world.call("POST", "/scheduler/dry-run", {"workloads": list(workloads), **body}, key=key)


async def test_a_dry_run_says_what_would_start_and_writes_nothing(world: World) -> None:
    assert (await world.start("first", resources={"cpu": 1, "mem": "1g"})).status == 201
    await enqueue(world, "bigone", config={"resources": {"cpu": 4, "mem": "1g"}})
    await waits(world, "bigone", "not-enough-free-slots")
    before = await world.database.read(dump)
    answer = await dry(
        world,
        {"name": "fits", "slots": {"cpu": 1, "mem": "1g"}, "count": 2, "image": "python"},
        {"name": "pair", "slots": {"cpu": 1}, "kernels": 2},
        {"name": "urgent", "slots": {"cpu": 1}, "priority": 50},
    )
    assert answer.status == 200, answer.json
    assert await world.database.read(dump) == before
    found = answer.json
    assert [(one["name"], one["copy"], one["agents"]) for one in found["placements"]] == [
        ("fits", 1, ["a1"]),
        ("fits", 2, ["a1"]),
        ("urgent", 1, ["a1"]),
    ]
    (refused,) = found["refusals"]
    assert (refused["name"], refused["rule"], refused["position"]) == ("pair", "not-enough-free-slots", 2)
    assert refused["hint"] == "It starts when 2 cpu get free on agent a1."
    assert (found["agents"], found["waiting"]) == (1, 1)
    for person in ("user", "admin", "monitor"):
        answer = await dry(world, {"slots": {"cpu": 1}}, key=person)
        assert (answer.status, answer.json["error_code"]) == (401, "access.not-privileged")


async def test_what_was_simulated_comes_true(world: World) -> None:
    """The counterfactual by way of the API: the same workload, asked for in earnest."""
    agent = {"id": "a1", "slots": {"cpu": 4, "mem": "8g"}, "images": ["local/python:3.11"]}
    ask = {"name": "x", "slots": {"cpu": 3, "mem": "1g"}, "image": "python", "count": 2}
    live, given = (await dry(world, ask)).json, (await dry(world, ask, snapshot={"agents": [agent]})).json
    assert live == given
    assert [one["copy"] for one in live["refusals"]] == [2]
    real = {"config": {"resources": {"cpu": 3, "mem": "1g"}}}
    for name in ("one-a", "one-b"):
        await enqueue(world, name, **real)
    await runs(world, "one-a")
    told = await waits(world, "one-b", live["refusals"][0]["rule"])
    assert told["unblock"] == live["refusals"][0]["unblock"]


async def test_a_given_snapshot_stands_for_the_cluster(world: World) -> None:
    agents_given = [
        {"id": "x", "slots": {"cpu": 2, "mem": "1g"}, "architecture": "arm64", "images": ["mine"]},
        {"id": "y", "slots": {"cpu": 2}, "occupied": {"cpu": 1}},
        {"id": "z", "slots": {"cpu": 64}, "schedulable": False},
    ]
    found = (
        await dry(
            world,
            {"name": "arm", "slots": {"cpu": 2}, "architecture": "aarch64", "image": "mine"},
            {"name": "any", "slots": {"cpu": 1}, "image": "mine"},
            {"name": "more", "slots": {"cpu": 1}},
            snapshot={"agents": agents_given},
            resource_group="planned",
        )
    ).json
    assert [(one["name"], one["agents"]) for one in found["placements"]] == [("arm", ["x"]), ("any", ["y"])]
    (refused,) = found["refusals"]
    assert refused["considered"] == {
        "agent-not-schedulable": 1,
        "other-architecture": 1,
        "not-enough-free-slots": 1,
    }
    assert (found["agents"], found["waiting"]) == (3, 0)


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"workloads": []}, 400, "no workloads"),
        ({}, 400, "workloads"),
        ({"workloads": [{"slots": {}}]}, 400, "workload 1 ('workload'): it asks for nothing"),
        ({"workloads": [{"slots": {"cpu": 1}}, {"name": "b", "slots": {"cpu": "many"}}]}, 400, "workload 2 ('b'): 'many' is no amount"),
        ({"workloads": [{"slots": {"cpu": 1}, "cuont": 3}]}, 400, "cuont"),
        ({"workloads": [{"slots": {"cpu": 1}, "count": 0}]}, 400, "count is 1 to 10000, not 0"),
        ({"workloads": [{"slots": {"cpu": 1}, "count": 10_001}]}, 400, "too many"),
        ({"workloads": [{"slots": {"cpu": 1}, "count": 5000, "kernels": 11}]}, 400, "too many"),
        ({"workloads": [{"slots": {"cpu": 1}, "kernels": 257}]}, 400, "kernels is 1 to 256"),
        ({"workloads": [{"slots": {"cpu": 1}, "priority": -1}]}, 400, "priority is 0 to 100"),
        ({"workloads": [{"slots": {"cpu": 1}, "name": ""}]}, 400, "1 to 512 characters"),
        ({"workloads": [{"slots": {"mem": "2p"}}]}, 400, "amount is too large"),
        ({"workloads": [{"slots": {"cpu": 1}, "image": "cobol"}]}, 404, "workload 1 ('workload'): no image 'cobol' for x86_64"),
        ({"workloads": [{"slots": {"cpu": 1}}], "resource_group": "nowhere"}, 404, "no resource group 'nowhere'"),
        ({"workloads": [{"slots": {"cpu": 1}}], "snapshot": {"agents": [{"id": "a", "slots": {"cpu": "x"}}]}}, 400, "agent 1 ('a')"),
        ({"workloads": [{"slots": {"cpu": 1}}], "snapshot": {"agents": [{"id": "a", "slots": {}}] * 2}}, 400, "agent 2 ('a'): this id is"),
        ({"workloads": [{"slots": {"cpu": 1}}], "snapshot": {}}, 400, "agents"),
        ({"workloads": [{"slots": {"cpu": 1}, "image": "cobol"}], "snapshot": {"agents": [{"id": "a", "slots": {}, "images": []}]}},
         404, "nor on an agent"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(world: World, body: Any, status: int, told: str) -> None:
    answer = await world.call("POST", "/scheduler/dry-run", body, key="root")
    assert answer.status == status, answer.body
    assert told in answer.json["msg"]


async def test_the_largest_dry_run_is_answered(world: World) -> None:
    """10,000 different sessions on a thousand agents, and amounts at their limit."""
    given = [{"id": f"a{i}", "slots": {"cpu": 1 + i % 8, "mem": "64g"}} for i in range(1000)]
    works = [{"name": f"w{i}", "slots": {"cpu": 1 + i % 9, "mem": f"{1 + i % 60}g"}} for i in range(9_999)]
    huge = {"name": "huge", "slots": {"mem": "1024t"}}
    answer = await dry(world, *works, huge, snapshot={"agents": given})
    assert answer.status == 200, answer.body[:500]
    assert len(answer.json["placements"]) + len(answer.json["refusals"]) == 10_000
    assert len(answer.json["placements"]) > 500


async def test_devices_and_queue_of_others_are_not_touched(world: World) -> None:
    """A dry run while sessions come and go reads one moment and disturbs none of it."""
    await enqueue(world, "first", config=FULL)
    await runs(world, "first")

    def generations(conn: sa.Connection) -> list[Any]:
        return [*conn.execute(sa.select(agents.c.generation)), *conn.execute(sa.select(kernels.c.revision))]

    before = await world.database.read(generations)
    answers = await asyncio.gather(
        *(dry(world, {"name": uuid.uuid4().hex, "slots": {"cpu": 1}}) for _ in range(4))
    )
    assert [one.status for one in answers] == [200] * 4
    assert await world.database.read(generations) == before


# -- the library and the command line ----------------------------------------------------------------------------------------


def config_of(world: World, key: str) -> ClientConfig:
    access_key, secret_key = world.keys[key]
    return ClientConfig(endpoint=f"http://{world.authority}", access_key=access_key, secret_key=secret_key)


async def run(world: World, folder: Path, key: str, *args: str) -> tuple[int, str, str]:
    """The real program."""
    access_key, secret_key = world.keys[key]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "ai.backend.cli", *args,
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("BACKEND")},
            "BACKEND_ENDPOINT": f"http://{world.authority}",
            "BACKEND_ACCESS_KEY": access_key,
            "BACKEND_SECRET_KEY": secret_key,
            "HOME": str(folder),
        },
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_library_asks_both(world: World) -> None:
    assert (await world.start("first", **FULL)).status == 201
    await enqueue(world, "second")
    async with AsyncClient(config_of(world, "user")) as api:
        told = await api.sessions.at("second").why()
    assert (told.rule, told.slots[0].asked, told.unblock[0].agent) == ("not-enough-free-slots", "1", "a1")
    work, agent = DryWorkload(slots={"cpu": 2}), DryAgent(id="x", slots={"cpu": 3})

    def blocking() -> tuple[str, DryResult, DryResult]:
        with Client(config_of(world, "root")) as api:
            live = api.settings.dry_run([work])
            session_id = told.id
            return api.sessions.at(session_id).why().rule, live, api.settings.dry_run([work], agents=[agent])

    rule, live, given = await asyncio.to_thread(blocking)
    assert rule == told.rule and [one.position for one in live.refusals] == [2]
    assert [one.agents for one in given.placements] == [["x"]]


async def test_the_command_line_tells_why(world: World, tmp_path: Path) -> None:
    assert (await world.start("first", **FULL)).status == 201
    await enqueue(world, "second")
    code, out, _ = await run(world, tmp_path, "user", "session", "why", "second")
    assert code == 0
    for words in (
        "PENDING",
        "not-enough-free-slots",
        "asked 1, free 0",
        "It starts when 1 cpu get free on agent a1.",
        "not known",
    ):
        assert words in out
    code, out, _ = await run(world, tmp_path, "user", "session", "why", "second", "--output", "json")
    assert msgspec.json.decode(out) == await why(world, "second")
    assert "it runs since" in (await run(world, tmp_path, "user", "session", "why", "first"))[1]
    code, _, err = await run(world, tmp_path, "user", "session", "why", "nothing")
    assert code == 1 and "no session 'nothing'" in err


async def test_the_command_line_simulates(world: World, tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("name,cpu,mem,count,image\nsmall,1,1g,3,python\n\nwide,3,1g,1,cobol\n")
    simulate = ("admin", "scheduler", "simulate")
    code, _, err = await run(world, tmp_path, "root", *simulate, "w.csv")
    assert code == 1 and "w.csv, line 4: workload 2 ('wide'): no image 'cobol'" in err
    (tmp_path / "w.csv").write_text("name,cpu,mem,count,image\nsmall,1,1g,3,python\nwide,3,1g,1,\n")
    code, out, err = await run(world, tmp_path, "root", *simulate, "w.csv")
    assert (
        code == 0 and "a1 (3)" in out and "wide: Not enough is free" in out and "Nothing was started" in err
    )
    (tmp_path / "s.json").write_text('{"agents": [{"id": "x", "slots": {"cpu": 8, "mem": "9g"}}]}')
    code, out, _ = await run(
        world, tmp_path, "root", *simulate, "w.csv", "--snapshot", "s.json", "--output", "json"
    )
    found = msgspec.json.decode(out)
    assert code == 0 and len(found["placements"]) == 4 and found["refusals"] == []
    code, _, err = await run(world, tmp_path, "root", *simulate, "w.csv", "--sgroup", "nowhere")
    assert code == 1 and "no resource group 'nowhere'" in err
    assert (await run(world, tmp_path, "user", *simulate, "w.csv"))[0] == 1
