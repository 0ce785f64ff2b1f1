"""A queue from somebody else's distribution: found, offered, followed; and what happens when it fails."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ai.backend.manager.db.database import Database

from .conftest import Template, World, running

QUEUE = """
class Newest:
    def __init__(self, view):
        self.options = view.options

    def order(self, band):
        if self.options.get("break"):
            raise RuntimeError("out of order")
        return sorted(band, key=lambda one: one.created_at, reverse=True)
"""
MODIFY = """mutation($opts: JSONString!, $scheduler: String!) { modify_scaling_group(name: "default",
  props: {scheduler: $scheduler, scheduler_opts: $opts}) { ok msg } }"""


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an installer leaves it."""
    folder = tmp_path / "site"
    info = folder / "third_party-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / "third_party_queue.py").write_text(QUEUE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[backendai_scheduler_v10]\nnewest = third_party_queue:Newest\nbroken = third_party_queue:Nothing\n"
    )
    monkeypatch.syspath_prepend(folder)


async def ask(world: World, query: str, **variables: str) -> Any:
    answer = await world.call("POST", "/admin/gql", {"query": query, "variables": variables}, key="root")
    return next(iter(answer.json["data"].values()))


async def create(world: World, name: str) -> None:
    config = {"resources": {"cpu": "1", "mem": "128m"}}
    body = {"name": name, "image": "python", "enqueueOnly": True, "config": config}
    assert (await world.call("POST", "/session", body)).status == 201


async def test_a_third_partys_queue(
    distribution: None, database: Database, tmp_path: Path, template: Template
) -> None:
    async with running(database, tmp_path, template) as world:
        refused = await ask(world, MODIFY, scheduler="broken", opts="{}")
        assert not refused["ok"] and "drf, fair-share, fifo, lifo, newest" in refused["msg"]
        for opts in ('{"config": "abc"}', '{"reserve_after": null}', '{"preemption": {"min_runtime": null}}'):
            assert not (await ask(world, MODIFY, scheduler="newest", opts=opts))["ok"]
        assert (await ask(world, MODIFY, scheduler="newest", opts="{}"))["ok"]
        await create(world, "first-one")
        why = (await world.call("GET", "/session/first-one/why")).json
        assert why["status"] in ("PENDING", "SCHEDULED", "PREPARING", "RUNNING")
        assert (await ask(world, MODIFY, scheduler="newest", opts='{"config": {"break": true}}'))["ok"]
        await create(world, "second-one")
        async with asyncio.timeout(30):
            while (await world.call("GET", "/session/second-one")).json["status"] == "PENDING":
                await asyncio.sleep(0.01)  # it starts all the same
        found = (await world.call("GET", "/logs/error", key="root")).json["logs"]
        told = [one for one in found if one["source"] == "manager"]
        assert len(told) == 1, "once, not with each run"
        assert "newest failed (RuntimeError: out of order)" in told[0]["message"]
