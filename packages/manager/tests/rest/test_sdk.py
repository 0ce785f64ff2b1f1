"""Our own client library against a real manager: the calls of these routes, in their blocking form too."""

import asyncio

import pytest

from ai.backend.client.client import AsyncClient
from ai.backend.client.config import ClientConfig
from ai.backend.client.error import ApiError, InvalidCall
from ai.backend.client.sync import Client


def config_of(world, key):
    access_key, secret_key = world.keys[key]
    return ClientConfig(endpoint=f"http://{world.authority}", access_key=access_key, secret_key=secret_key)


@pytest.fixture
async def root(world):
    async with AsyncClient(config_of(world, "root")) as api:
        yield api


@pytest.fixture
async def user(world):
    async with AsyncClient(config_of(world, "user")) as api:
        yield api


async def test_dotfiles(world, root, user):
    await user.dotfiles.create(".a", "one", permission="600")
    await user.dotfiles.update(".a", "two")
    (file,) = await user.dotfiles.list()
    assert (file.path, file.permission, file.data) == (".a", "644", "two")
    assert await root.dotfiles.list(owner=world.keys["user"][0]) == [file]
    for place in ({"project": "default", "domain": "default"}, {"domain": "default"}):
        await root.dotfiles.create(".b", "x", **place)
        assert (await user.dotfiles.get(".b", **place)).data == "x"
        with pytest.raises(ApiError) as refused:
            await user.dotfiles.delete(".b", **place)
        assert refused.value.status == 401
        await root.dotfiles.delete(".b", **place)
    with pytest.raises(InvalidCall):
        await root.dotfiles.list(owner="x", domain="y")
    assert await user.dotfiles.bootstrap_script() == ""
    await user.dotfiles.set_bootstrap_script("echo hello")
    assert await user.dotfiles.bootstrap_script() == "echo hello"


async def test_projects(world, root, user):
    (one,) = [m for m in await root.projects.members("default") if m.email == "user@localhost.localdomain"]
    assert not one.is_admin
    await root.projects.add_users("default", [one.email], as_admin=True, domain="default")
    found = await user.projects.members("default")
    assert [m.is_admin for m in found if m.uuid == one.uuid] == [True]
    assert len(found) > 1
    await user.projects.describe("default", "cameras")
    data = await root.graphql('{ groups_by_name(name: "default") { description } }')
    assert data == {"groups_by_name": [{"description": "cameras"}]}
    admin = next(m for m in found if m.uuid != one.uuid)
    await user.projects.remove_users("default", [admin.uuid])
    assert await user.projects.members("default") == [m for m in found if m != admin]
    await user.projects.add_users("default", [admin.uuid])
    with pytest.raises(ApiError, match="no permission"):
        await user.projects.add_users("default", [admin.uuid], as_admin=True)
    await root.projects.remove_users("default", [one.uuid], as_admin=True)
    with pytest.raises(ApiError, match="no permission"):
        await user.projects.describe("default", "mine")
    for work in (
        root.projects.members("nowhere"),
        root.projects.add_users("default", ["nobody@example.com"]),
    ):
        with pytest.raises(ApiError) as missing:
            await work
        assert missing.value.status == 404


async def test_settings(root, user):
    await root.settings.announce("hear")
    assert (await user.settings.announcement()).message == "hear"
    await root.settings.announce("")
    assert not (await user.settings.announcement()).enabled
    await root.settings.freeze()
    with pytest.raises(ApiError) as frozen:
        await user.dotfiles.create(".a", "one")
    assert (frozen.value.status, frozen.value.code) == (503, "manager.frozen")
    await root.settings.unfreeze()
    await root.settings.exclude_agents(["a1"])
    await root.settings.include_agents(["a1"])
    await root.settings.set("a", {"b": "c"})
    assert await root.settings.get("a", prefix=True) == {"b": "c"}
    await root.settings.delete("a", prefix=True)
    assert await root.settings.get("a/b") is None
    assert await root.settings.registries() == {}
    assert (await user.settings.error_logs(mark_read=True)).count == 0
    actions = [item.action for item in (await root.settings.audit_logs(limit=3)).items]
    assert actions == ["setting:delete", "setting:set", "agent:include"]


async def test_resources_and_tasks(world, root, user):
    assert await user.resources.groups() == ["default"]
    assert await user.resources.presets() == []
    assert (await user.resources.check(resource_group="default")).scaling_groups["default"].remaining[
        "cpu"
    ] == "4"
    task_id = str(await world.manager.images.rescan(world.who["root"]))
    names = [event.name async for event in root.resources.watch_task(task_id)]
    assert names[-1] == "bgtask_done"
    with pytest.raises(ApiError) as missing:
        [event async for event in user.resources.watch_task(task_id)]
    assert missing.value.status == 404


async def test_the_blocking_twin(world):
    def calls():
        with Client(config_of(world, "root")) as api:
            api.dotfiles.create(".a", "one")
            assert [f.path for f in api.dotfiles.list()] == [".a"]
            assert api.settings.status().status == "running"
            return api.resources.groups()

    assert await asyncio.to_thread(calls) == ["default"]
