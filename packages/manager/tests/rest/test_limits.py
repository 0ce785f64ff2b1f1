"""Limits of keypairs, users, projects and domains, over the API: what is refused at once, what waits and why, and what lets it go on."""

import asyncio
import json
from typing import Any

import pytest
import sqlalchemy as sa

from ai.backend.manager.db.schema import domains, keypair_policies, projects

from .conftest import World

LIMIT = "limit-reached"


async def execute(world: World, *statements: Any) -> None:
    def op(conn: sa.Connection) -> None:
        for statement in statements:
            conn.execute(statement)

    await world.database.run(op)
    world.manager.identity.forget()


def keypair_policy(**values: Any) -> Any:
    return sa.update(keypair_policies).values(**values)


def project(**slots: int) -> Any:
    return sa.update(projects).where(projects.c.name == "default").values(total_resource_slots=slots)


def domain(**slots: int) -> Any:
    return sa.update(domains).where(domains.c.name == "default").values(total_resource_slots=slots)


async def create(world: World, name: str, key: str = "user", cpu: str = "1", **body: Any) -> Any:
    config = {"resources": {"cpu": cpu, "mem": "128m"}}
    body = {"name": name, "image": "python", "enqueueOnly": True, "config": config} | body
    return await world.call("POST", "/session", body, key=key)


async def told(world: World, name: str, key: str = "user") -> Any:
    return (await world.call("GET", f"/session/{name}", key=key)).json


async def until(world: World, name: str, status: str, reason: str | None = None, key: str = "user") -> Any:
    async with asyncio.timeout(30):
        while True:
            info = await told(world, name, key)
            if info["status"] == status and reason in (None, info["statusInfo"]):
                return info
            await asyncio.sleep(0.01)


async def waits(world: World, name: str, key: str = "user") -> tuple[str, list[dict[str, str]]]:
    """The message and the numbers of a session that waits because of limits."""
    data = (await until(world, name, "PENDING", LIMIT, key))["statusData"]
    return data["message"], data["limits"]


@pytest.mark.parametrize(
    ("limit", "scope", "used"),
    [
        (keypair_policy(total_resource_slots={"cpu": 2000}), "keypair", "1"),
        (project(cpu=2000), "project", "1"),
        (domain(cpu=2000), "domain", "1"),
    ],
    ids=["keypair", "project", "domain"],
)
async def test_what_is_used_up_is_waited_for(world: World, limit: Any, scope: str, used: str) -> None:
    await execute(world, limit)
    assert (await create(world, "first-one")).status == 201
    await until(world, "first-one", "RUNNING")
    assert (await create(world, "second", cpu="2")).status == 201
    message, limits = await waits(world, "second")
    name = world.keys["user"][0] if scope == "keypair" else "default"
    assert limits == [
        {"scope": scope, "name": name, "what": "cpu", "asked": "2", "used": used, "allowed": "2"}
    ]
    assert f"{scope} {name} (cpu: asked 2, used 1 of 2)" in message
    assert (await create(world, "third-one")).status == 201
    await until(world, "third-one", "RUNNING")  # it is behind the second, and is not held up by it
    for one in ("first-one", "third-one"):
        assert (await world.call("DELETE", f"/session/{one}")).status == 200
    await until(world, "second", "RUNNING")


async def test_all_that_are_reached_are_told_together(world: World) -> None:
    await execute(
        world,
        keypair_policy(max_concurrent_sessions=1, total_resource_slots={"cpu": 1500}),
        project(cpu=1600, mem=200 << 20),
        domain(cpu=1700),
    )
    await create(world, "first-one")
    await until(world, "first-one", "RUNNING")
    await create(world, "second")
    message, limits = await waits(world, "second")
    assert [(one["scope"], one["what"], one["asked"], one["used"], one["allowed"]) for one in limits] == [
        ("keypair", "sessions", "1", "1", "1"),
        ("keypair", "cpu", "1", "1", "1.5"),
        ("project", "cpu", "1", "1", "1.6"),
        ("project", "mem", str(128 << 20), str(128 << 20), str(200 << 20)),
        ("domain", "cpu", "1", "1", "1.7"),
    ]
    assert message.count("project default") == 1 and "used 128 MiB of 200 MiB" in message
    query = "query($id: UUID!) { compute_session(id: $id) { status status_info status_data } }"
    session_id = (await told(world, "second"))["id"]
    answer = await world.call("POST", "/admin/gql", {"query": query, "variables": {"id": session_id}})
    seen = answer.json["data"]["compute_session"]
    assert (seen["status"], seen["status_info"]) == ("PENDING", LIMIT) and "project" in seen["status_data"]
    # Raised for all but one, it tells that one; at the last it starts.
    await execute(world, keypair_policy(max_concurrent_sessions=2), project(), domain())
    world.manager.scheduling.loop.wake()
    async with asyncio.timeout(30):
        while [one["what"] for one in (await waits(world, "second"))[1]] != ["cpu"]:
            await asyncio.sleep(0.01)
    await execute(world, keypair_policy(total_resource_slots={}))
    world.manager.scheduling.loop.wake()
    await until(world, "second", "RUNNING")


async def test_a_raised_limit_lets_go_at_once_and_a_limit_of_zero_is_one(world: World) -> None:
    """Not with the next run that the loop makes by itself, half a minute later."""
    modify = """mutation($slots: JSONString!) { modify_keypair_resource_policy(name: "default",
      props: {total_resource_slots: $slots}) { ok msg } }"""
    show = '{ keypair_resource_policy(name: "default") { total_resource_slots } }'

    async def ask(query: str, **variables: str) -> Any:
        answer = await world.call("POST", "/admin/gql", {"query": query, "variables": variables}, key="root")
        return next(iter(answer.json["data"].values()))

    assert (await ask(modify, slots='{"cpu": "1", "cuda.device": "0"}'))["ok"]
    assert json.loads((await ask(show))["total_resource_slots"]) == {"cpu": "1", "cuda.device": "0"}
    await create(world, "first-one")
    await until(world, "first-one", "RUNNING")
    await create(world, "patient")
    await waits(world, "patient")
    async with asyncio.timeout(15):
        assert (await ask(modify, slots='{"cpu": "2"}'))["ok"]
        await until(world, "patient", "RUNNING")


async def test_a_queue_may_be_limited(world: World) -> None:
    await execute(world, keypair_policy(total_resource_slots={"cpu": 1000}, max_pending_session_count=2))
    await create(world, "first-one")
    await until(world, "first-one", "RUNNING")
    assert [(await create(world, f"waiting{number}")).status for number in range(2)] == [201, 201]
    refused = await create(world, "one-too-many")
    assert refused.status == 412 and "2" in refused.json["msg"]
    await execute(
        world,
        keypair_policy(
            total_resource_slots={"cpu": 2000},
            max_pending_session_count=None,
            max_pending_session_resource_slots={"cpu": 3000},
        ),
    )
    assert (await create(world, "too-large", cpu="2")).status == 412
    assert (await create(world, "just-right", cpu="1")).status == 201
