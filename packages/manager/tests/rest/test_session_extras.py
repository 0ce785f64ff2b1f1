"""Logs of tasks, direct access, and agents sent anew; and our own library and command line for these and for services."""

import asyncio
import json
import os
import sys
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from ai.backend.client.client import AsyncClient
from ai.backend.client.config import ClientConfig
from ai.backend.client.error import ApiError
from ai.backend.client.sync import Client
from ai.backend.manager.db.schema import kernels
from ai.backend.testkit.app_proxy import AppProxy

from .conftest import World
from .service_world import (
    OTHER,
    PORT,
    WAIT_S,
    closed,
    group_has,
    prepared,
    task,
)


async def test_direct_access(world: World) -> None:
    await world.start()
    assert (await world.call("GET", "/session/mysess/direct-access-info")).json == {}
    answer = await world.call("GET", "/session/mysess/direct-access-info", key="peer")
    assert (answer.status, answer.json["title"]) == (404, "No such session.")


async def test_a_task_log(world: World) -> None:
    world.agent.logs = "epoch 1\nübermütig\n"
    made = await task(world)
    info = (await world.call("GET", "/session/train")).json
    kernel = await world.manager.sessions.get(world.who["user"], "train")
    for query in (
        f"taskId={made['sessionId']}", f"task_id={kernel.main.id}", f"taskId={kernel.main.id.hex}",
        "session_name=train", "sessionName=train",
    ):  # fmt: skip
        for path in ("/session/_/logs", "/kernel/_/logs", "/v4/kernel/_/logs"):
            answer = await world.call("GET", f"{path}?{query}")
            assert answer.status == 200, (query, answer.body)
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert answer.body.decode() == world.agent.logs
    head = await world.call("HEAD", f"/session/_/logs?taskId={made['sessionId']}")
    assert (head.status, head.body) == (200, b"")
    assert info["name"] == "train"
    # After its end too, once they are kept.
    await world.call("DELETE", "/session/train")
    query = sa.select(kernels.c.logs).where(kernels.c.id == kernel.main.id)
    async with asyncio.timeout(WAIT_S):
        while await world.database.read(lambda conn: conn.execute(query).scalar_one()) != world.agent.logs:
            await asyncio.sleep(0.02)
    world.agent.logs = "gone"
    assert (
        await world.call("GET", "/session/_/logs?sessionName=train")
    ).body.decode() == "epoch 1\nübermütig\n"


async def test_task_logs_that_are_none(world: World) -> None:
    await world.start("mysess")
    world.agent.capacity = {"cpu": 100_000, "mem": 1 << 40}
    await world.agent.report()
    made = await task(world, enqueueOnly=True, starts_at="1h")
    for ref in ("nothing", str(UUID(int=5)), "mysess", made["sessionId"]):
        for method in ("GET", "HEAD"):
            answer = await world.call(method, f"/session/_/logs?taskId={ref}")
            assert answer.status == 404, ref
            if method == "GET":
                assert (answer.problem, answer.json["title"]) == ("object-not-found", "No such task log.")
    assert (await world.call("GET", "/session/_/logs")).status == 400


async def test_who_reads_a_task_log(world: World) -> None:
    made = await task(world)
    for key, status in (
        ("user", 200), ("admin", 200), ("root", 200), ("monitor", 403), ("peer", 404), ("boss", 404),
    ):  # fmt: skip
        assert (
            await world.call("GET", f"/session/_/logs?taskId={made['sessionId']}", key=key)
        ).status == status, key


async def test_an_agent_is_sent_anew_what_it_should_run(world: World) -> None:
    await world.start()
    (kernel_id,) = world.agent.kernels
    before = world.agent.generation
    # The agent has lost it without knowing.
    world.agent.kernels.clear()
    answer = await world.call("POST", "/session/_/sync-agent-registry", {"agent": "a1"}, key="root")
    assert (answer.status, answer.json) == (200, {})
    async with asyncio.timeout(WAIT_S):
        while kernel_id not in world.agent.kernels:
            await asyncio.sleep(0.01)
    assert world.agent.generation > before
    answer = await world.call("POST", "/session/_/sync-agent-registry", {"agent": "nobody"}, key="root")
    assert (answer.status, answer.json["title"]) == (404, "No such agent instance.")
    for key in ("user", "admin", "monitor"):
        assert (
            await world.call("POST", "/session/_/sync-agent-registry", {"agent": "a1"}, key=key)
        ).status == 401
    assert (await world.call("POST", "/session/_/sync-agent-registry", {}, key="root")).status == 400


async def cli(world: World, tmp_path: Path, *args: str, key: str = "user") -> tuple[int, str, str]:
    access_key, secret_key = world.keys[key]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "ai.backend.cli", *args,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "BACKEND_ENDPOINT": f"http://{world.authority}",
            "BACKEND_ACCESS_KEY": access_key, "BACKEND_SECRET_KEY": secret_key,
        },
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_library(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    world.agent.logs = "epoch 1\n"
    await task(world)

    def config(key: str) -> ClientConfig:
        access_key, secret_key = world.keys[key]
        return ClientConfig(
            endpoint=f"http://{world.authority}", access_key=access_key, secret_key=secret_key
        )

    async with AsyncClient(config("user")) as api:
        mine = api.sessions.at("mysess")
        opened = await mine.start_service(str(OTHER), port=OTHER, login_session_token="x")
        assert opened.wsproxy_addr == "https://apps.example.com:10200"
        assert proxy.confs[opened.token]["login_session_token"] == "x"
        await mine.shutdown_service(str(OTHER))
        await closed(proxy.confs[opened.token]["kernel_port"])
        await group_has(world, None)
        with pytest.raises(ApiError, match="no app proxy") as refused:
            await mine.start_service(str(PORT))
        assert (refused.value.status, refused.value.code) == (503, "coordinator.none")
        assert await api.sessions.task_log("train") == "epoch 1\n"
    before = world.agent.generation
    async with AsyncClient(config("root")) as api:
        await api.sync_agent("a1")
    async with asyncio.timeout(WAIT_S):
        while world.agent.generation == before:
            await asyncio.sleep(0.01)

    def blocking() -> tuple[str, str]:
        with Client(config("user")) as api:
            return api.sessions.task_log("train"), api.sessions.at("mysess").apps()[0].name

    assert await asyncio.to_thread(blocking) == ("epoch 1\n", str(PORT))


async def test_the_command_line(world: World, proxy: AppProxy, tmp_path: Path) -> None:
    await prepared(world, proxy)
    world.agent.logs = "epoch 1\n"
    await task(world)
    code, out, err = await cli(
        world, tmp_path, "--output", "json", "session", "start-service", "mysess", str(PORT)
    )
    assert code == 0, err
    told = json.loads(out)
    assert told["wsproxy_addr"] == "https://apps.example.com:10200" and told["token"] in proxy.confs
    code, out, _ = await cli(
        world, tmp_path, "session", "start-service", "mysess", str(OTHER), "-p", str(OTHER)
    )
    assert (
        code == 0
        and "https://apps.example.com:10200" in out
        and max(proxy.confs, key=list(proxy.confs).index) in out
    )
    assert (await cli(world, tmp_path, "session", "shutdown-service", "mysess", str(PORT)))[0] == 0
    await closed(proxy.confs[told["token"]]["kernel_port"])
    for words in (("task-logs",), ("session", "task-logs")):
        assert (await cli(world, tmp_path, *words, "train"))[:2] == (0, "epoch 1\n")
    assert json.loads((await cli(world, tmp_path, "--output", "json", "task-logs", "train"))[1]) == {
        "logs": "epoch 1\n"
    }
    code, _, err = await cli(world, tmp_path, "task-logs", "mysess")
    assert code == 1 and "it has no task" in err
    await group_has(world, None)
    code, _, err = await cli(world, tmp_path, "session", "start-service", "mysess", str(PORT))
    assert (
        code == 1
        and "No coordinator configured" in err
        and "the platform's, not yours" in err
        and "backend.ai app" in err
    )
    assert (await cli(world, tmp_path, "agent", "sync", "a1", key="root"))[:2] == (
        0,
        "a1 is sent what it should run\n",
    )
    code, _, err = await cli(world, tmp_path, "agent", "sync", "nobody", key="root")
    assert code == 1 and "nobody" in err


async def test_a_cluster_by_the_command_line(world: World, tmp_path: Path) -> None:
    spec = {"kernel": {"image": "python"}, "resources": {"cpu": 1, "mem": "256m"}}
    plain = {"api_version": "v1", "kind": "task_template", "metadata": {"name": "one"}, "spec": spec}
    (one,) = (await world.call("POST", "/template/session", {"payload": plain})).json
    nodes = [{"role": "main", "session_template": one["id"]}]
    several = {
        "api_version": "v1",
        "kind": "cluster_template",
        "metadata": {"name": "all"},
        "spec": {"nodes": nodes},
    }
    (made,) = (await world.call("POST", "/template/cluster", {"payload": several})).json
    code, out, err = await cli(world, tmp_path, "session", "create-cluster", made["id"], "-t", "trio")
    assert code == 0 and out.startswith("trio runs"), err
    code, out, _ = await cli(
        world, tmp_path, "--output", "json", "session", "create-cluster", made["id"], "-t", "trio"
    )
    assert code == 0 and json.loads(out)["created"] is False
    assert (await cli(world, tmp_path, "session", "create-cluster", made["id"], "-t", "trio", "--no-reuse"))[
        0
    ] == 1
