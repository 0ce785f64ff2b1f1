"""Resource groups, presets, what is left, and accounting, over the API."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
import sqlalchemy as sa

from ai.backend.manager.db.schema import (
    domains,
    keypair_policies,
    projects,
    resource_group_domains,
    resource_group_keypairs,
    resource_group_projects,
    resource_groups,
    resource_presets,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def execute(world, *statements):
    def op(conn):
        for statement in statements:
            conn.execute(statement)

    await world.database.run(op)
    world.manager.identity.forget()


def new_group(name, **more):
    return sa.insert(resource_groups).values(name=name, created_at=NOW, **{"is_public": True} | more)


async def seen(world, key, project="default"):
    answer = await world.call("GET", f"/scaling-groups?group={project}", key=key)
    assert answer.status == 200, answer.body
    return [item["name"] for item in answer.json["scaling_groups"]]


async def test_resource_groups_by_whom_they_were_given(world):
    project_id = await world.manager.identity.project("default", "default", world.who["user"])
    await execute(
        world,
        new_group("of-domain"),
        new_group("of-project"),
        new_group("of-keypair"),
        new_group("of-nobody"),
        new_group("closed", is_public=True, is_active=False),
        sa.insert(resource_group_domains).values(resource_group="of-domain", domain_name="default"),
        sa.insert(resource_group_projects).values(resource_group="of-project", project_id=project_id),
        sa.insert(resource_group_keypairs).values(
            resource_group="of-keypair", access_key=world.keys["user"][0]
        ),
    )
    assert await seen(world, "user") == ["default", "of-domain", "of-keypair", "of-project"]
    assert await seen(world, "peer") == await seen(world, "admin") == ["default", "of-domain", "of-project"]
    assert await seen(world, "stranger", "theirs") == []
    assert "of-nobody" in await seen(world, "root")
    # The same decision when a session is made.
    for key, group, status in (
        ("user", "of-keypair", 201),
        ("peer", "of-keypair", 400),
        ("user", "of-nobody", 400),
        ("user", "closed", 400),
    ):
        body = {
            "name": f"in-{group}",
            "image": "python",
            "enqueueOnly": True,
            "config": {"scalingGroup": group},
        }
        assert (await world.call("POST", "/session", body, key=key)).status == status, group
    # By id, and for another owner.
    assert await seen(world, "user", str(project_id)) == await seen(world, "user")
    delegated = await world.call(
        "GET", f"/scaling-groups?group=default&owner_access_key={world.keys['user'][0]}", key="admin"
    )
    assert {"name": "of-keypair"} in delegated.json["scaling_groups"]


@pytest.mark.parametrize(
    ("key", "query", "status"),
    [
        ("user", "", 400),
        ("user", "?group=", 400),
        ("user", "?group=nothing", 404),
        ("user", f"?group={UUID(int=77)}", 404),
        ("stranger", "?group=default", 404),
        ("boss", "?group=default", 404),
        (None, "?group=default", 401),
    ],
)
async def test_resource_groups_of_no_project_of_yours(world, key, query, status):
    assert (await world.call("GET", f"/scaling-groups{query}", key=key)).status == status
    answer = await world.call("GET", f"/scaling-groups/default/wsproxy-version{query}", key=key)
    assert answer.status == status


async def test_proxy_version(world):
    path = "/scaling-groups/{}/wsproxy-version?group=default"
    assert (await world.call("GET", path.format("default"))).json == {"wsproxy_version": "v1"}
    await execute(
        world,
        new_group("hidden"),
        new_group("proxied", wsproxy_addr="http://proxy"),
        sa.insert(resource_group_domains).values(resource_group="proxied", domain_name="default"),
    )
    assert (await world.call("GET", path.format("proxied"))).json == {"wsproxy_version": "v2"}
    for name in ("hidden", "nothing"):
        answer = await world.call("GET", path.format(name))
        assert (answer.status, answer.json["title"]) == (404, "No such scaling group.")


async def test_presets(world):
    assert (await world.call("GET", "/resource/presets")).json == {"presets": []}
    rows = [
        ("small", {"cpu": 1000, "mem": 1 << 30}, 64 << 20, ""),
        ("huge", {"cpu": 64000, "mem": 1 << 40}, None, ""),
        ("local", {"cpu": 500}, None, "elsewhere"),
    ]
    await execute(
        world,
        *(
            sa.insert(resource_presets).values(
                id=UUID(int=n), name=name, resource_slots=slots, shared_memory_bytes=shm, resource_group=group
            )
            for n, (name, slots, shm, group) in enumerate(rows, 1)
        ),
    )
    listed = (await world.call("GET", "/resource/presets")).json["presets"]
    assert [preset["name"] for preset in listed] == ["huge", "local", "small"]
    assert listed[2] == {
        "id": str(UUID(int=1)),
        "name": "small",
        "resource_slots": {"cpu": "1", "mem": "1073741824"},
        "shared_memory": "67108864",
    }
    assert listed[0]["shared_memory"] is None
    some = (await world.call("GET", "/resource/presets?scaling_group=default")).json["presets"]
    assert [preset["name"] for preset in some] == ["huge", "small"]
    checked = (await world.call("POST", "/resource/check-presets", {"group": "default"})).json["presets"]
    assert {preset["name"]: preset["allocatable"] for preset in checked} == {
        "huge": False,
        "local": False,
        "small": True,
    }


async def test_what_is_left(world):
    await execute(
        world,
        sa.update(keypair_policies).values(total_resource_slots={"cpu": 3000}),
        sa.update(projects).where(projects.c.name == "default").values(total_resource_slots={"mem": 2 << 30}),
    )
    await world.start(resources={"cpu": "1", "mem": "1g"})
    # Without a body, with one of the wrong sort of quietness, and while frozen: it only reads.
    for body in (None, {}, {"group": "default", "scaling_group": "default"}):
        told = (await world.call("POST", "/resource/check-presets", body)).json
        assert told["keypair_limits"] == {"cpu": "3", "mem": "Infinity"}
        assert told["keypair_using"] == {"cpu": "1", "mem": str(1 << 30)}
        assert told["keypair_remaining"] == {"cpu": "2", "mem": str(1 << 30)}
        assert told["group_limits"] == {"cpu": "Infinity", "mem": str(2 << 30)}
        assert told["group_using"] == told["keypair_using"]
        assert told["group_remaining"] == {"cpu": "Infinity", "mem": str(1 << 30)}
        assert told["scaling_group_remaining"] == {"cpu": "2", "mem": str(1 << 30)}
        assert told["scaling_groups"] == {
            "default": {"using": told["keypair_using"], "remaining": {"cpu": "2", "mem": str(1 << 30)}}
        }
        assert told["presets"] == []
    peer = (await world.call("POST", "/resource/check-presets", {}, key="peer")).json
    assert peer["keypair_using"] == {"cpu": "0", "mem": "0"}
    assert peer["group_using"] == told["group_using"]
    assert peer["keypair_remaining"]["mem"] == str(1 << 30), "the project's limit is everybody's in it"
    await execute(
        world,
        sa.update(domains).where(domains.c.name == "default").values(total_resource_slots={"cpu": 1000}),
    )
    assert (await world.call("POST", "/resource/check-presets", {})).json["keypair_remaining"]["cpu"] == "0"
    await execute(world, sa.update(keypair_policies).values(default_for_unspecified="LIMITED"))
    assert (await world.call("POST", "/resource/check-presets", {})).json["keypair_limits"]["mem"] == "0"


async def test_a_hidden_project(world):
    setting = {"key": "config/api/resources/group_resource_visibility", "value": "false"}
    await world.call("POST", "/config/set", setting, key="root")
    told = (await world.call("POST", "/resource/check-presets", {})).json
    assert (
        told["group_limits"] == told["group_using"] == told["group_remaining"] == {"cpu": "NaN", "mem": "NaN"}
    )
    for key in ("admin", "root"):
        seen_by = (await world.call("POST", "/resource/check-presets", {}, key=key)).json
        assert seen_by["group_using"] == {"cpu": "0", "mem": "0"}


@pytest.mark.parametrize(
    ("key", "body", "status"),
    [
        ("user", {"group": "nothing"}, 404),
        ("user", {"group": str(UUID(int=77))}, 404),
        ("stranger", {"group": "default"}, 404),
        ("user", {"scaling_group": "nothing"}, 404),
        ("user", {"group": ""}, 400),
        (None, {}, 401),
    ],
)
async def test_nothing_is_told_to_others(world, key, body, status):
    assert (await world.call("POST", "/resource/check-presets", body, key=key)).status == status


ACCOUNTING = [
    ("GET", "/resource/usage/month", {"month": "202601"}),
    ("GET", "/resource/usage/period", {"start_date": "20260101", "end_date": "20260102"}),
    ("GET", "/resource/stats/admin/month", None),
]
SUPERADMIN = [
    ("POST", "/resource/recalculate-usage", None),
    ("GET", "/resource/watcher", {"agent_id": "a1"}),
    ("POST", "/resource/watcher/agent/start", {"agent_id": "a1"}),
    ("POST", "/resource/watcher/agent/stop", {"agent_id": "a1"}),
    ("POST", "/resource/watcher/agent/restart", {"agent_id": "a1"}),
]


@pytest.mark.parametrize(("method", "target", "body"), ACCOUNTING + SUPERADMIN)
async def test_for_administrators(world, method, target, body):
    for key in ("user", "admin", "boss"):
        assert (await world.call(method, target, body, key=key)).problem == "auth-failed"
    monitors = (await world.call(method, target, body, key="monitor")).status
    assert monitors == (200 if (method, target, body) in ACCOUNTING else 401)


async def test_use_of_a_month(world):
    await world.start(resources={"cpu": "2", "mem": "1g"})
    now = datetime.now(UTC)
    (one,) = (await world.call("GET", "/resource/usage/month", {"month": f"{now:%Y%m}"}, key="root")).json
    assert one["c_infos"][0]["terminated_at"] == "", "a text, for clients that append it to one"
    await world.call("DELETE", "/session/mysess")
    (one,) = (await world.call("GET", "/resource/usage/month", {"month": f"{now:%Y%m}"}, key="root")).json
    assert (one["g_name"], one["domain_name"]) == ("default", "default")
    assert (one["g_cpu_allocated"], one["g_cpu_used"], one["g_mem_allocated"]) == (2.0, 1.5, 1 << 30)
    assert one["g_mem_used"] == 10 << 20 and one["g_device_type"] == []
    published = """domain_name g_id g_name g_cpu_allocated g_cpu_used g_mem_allocated g_mem_used g_shared_memory g_disk_allocated
        g_disk_used g_io_read g_io_write g_device_type g_smp g_gpu_mem_allocated g_gpu_allocated c_infos"""
    assert set(one) == set(published.split())
    (container,) = one["c_infos"]
    assert container["name"] == "mysess" and container["terminated_at"] and container["used_days"] == 1
    by_group = {"month": f"{now:%Y%m}", "group_ids": [one["g_id"]]}
    assert len((await world.call("GET", "/resource/usage/month", by_group, key="root")).json) == 1
    by_group["group_ids"] = [str(UUID(int=1))]
    assert (await world.call("GET", "/resource/usage/month", by_group, key="root")).json == []
    assert (await world.call("GET", "/resource/usage/month?month=200001", key="root")).json == []
    day = f"{now:%Y%m%d}"
    period = {"start_date": day, "end_date": day, "group_id": one["g_id"]}
    assert len((await world.call("GET", "/resource/usage/period", period, key="root")).json) == 1


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/resource/usage/month", {}),
        ("/resource/usage/month", {"month": "2026-1"}),
        ("/resource/usage/month", {"month": "202601", "group_ids": ["x"]}),
        ("/resource/usage/period", {"start_date": "20260101"}),
        ("/resource/usage/period", {"start_date": "20260101", "end_date": "20270101"}),
        ("/resource/usage/period", {"start_date": "20260102", "end_date": "20260101"}),
    ],
)
async def test_malformed_periods(world, target, body):
    answer = await world.call("GET", target, body, key="root")
    assert (answer.status, answer.problem) == (400, "invalid-api-params")


async def test_statistics_of_thirty_days(world):
    await world.start()
    mine = (await world.call("GET", "/resource/stats/user/month")).json
    assert len(mine) == 2880
    assert mine[-1]["num_sessions"] == {"value": 1, "unit_hint": "count"}
    assert mine[-1]["cpu_allocated"]["value"] == 1 and mine[0]["num_sessions"]["value"] == 0
    assert mine[1]["date"] - mine[0]["date"] == 900
    assert set(mine[0]) == {
        "date",
        "num_sessions",
        "cpu_allocated",
        "mem_allocated",
        "gpu_allocated",
        "io_read_bytes",
        "io_write_bytes",
        "disk_used",
    }
    peers = (await world.call("GET", "/resource/stats/user/month", key="peer")).json
    assert peers[-1]["num_sessions"]["value"] == 0
    all_of_them = (await world.call("GET", "/resource/stats/admin/month", key="root")).json
    assert all_of_them[-1]["num_sessions"]["value"] == 1


async def test_recalculation_has_nothing_to_do(world):
    answer = await world.call("POST", "/resource/recalculate-usage", key="root")
    assert (answer.status, answer.json) == (200, {})


async def test_there_is_no_watcher(world):
    for method, target in [("GET", "/resource/watcher")] + [
        ("POST", f"/resource/watcher/agent/{verb}") for verb in ("start", "stop", "restart")
    ]:
        answer = await world.call(method, target, {"agent_id": "a1"}, key="root")
        assert (answer.status, answer.problem) == (503, "not-implemented")
        answer = await world.call(method, target, {"agent_id": "nobody"}, key="root")
        assert (answer.status, answer.json["title"]) == (404, "No such agent instance.")
        assert (await world.call(method, target, {}, key="root")).status == 400


async def test_no_import_and_no_license(world):
    for method in ("GET", "POST"):
        answer = await world.call(method, "/image/import", {"src": "x"} if method == "POST" else None)
        assert (answer.status, answer.problem) == (503, "not-implemented")
        assert answer.json["hint"]
    answer = await world.call("GET", "/license", key="root")
    assert (answer.status, answer.problem) == (404, "url-not-found")
