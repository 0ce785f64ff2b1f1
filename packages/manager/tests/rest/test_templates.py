"""Template calls against a real manager."""

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import yaml

from ai.backend.manager.db.schema import keypair_policies

from .conftest import World

TASK: dict[str, Any] = {
    "api_version": "v1",
    "kind": "task_template",
    "metadata": {"name": "trainer", "tag": "nightly"},
    "spec": {
        "session_type": "interactive",
        "kernel": {"image": "python", "environ": {"A": "1"}},
        "resources": {"cpu": "2", "mem": "512m"},
    },
}


async def kept(world: World, key: str = "user", payload: Any = None) -> str:
    answer = await world.call(
        "POST", "/template/session", {"payload": payload or yaml.safe_dump(TASK)}, key=key
    )
    assert answer.status == 200, answer.body
    (made,) = answer.json
    assert made["user"] == str(world.who[key].user_id)
    return str(made["id"])


async def test_a_template_from_its_creation_to_its_end(world: World) -> None:
    made = await kept(world)
    assert len(made) == 32 and UUID(made)
    (item,) = (await world.call("GET", "/template/session", {"all": False})).json
    assert (item["name"], item["id"], item["is_owner"], item["type"]) == ("trainer", made, True, "task")
    assert (item["user_email"], item["group_name"], item["domain_name"]) == (
        world.who["user"].email, "default", "default",
    )  # fmt: skip
    shown = (await world.call("GET", f"/template/session/{made}?format=json")).json
    assert set(shown) == {"template", "name", "user_uuid", "group_id", "domain_name"}
    assert shown["template"]["spec"]["kernel"]["image"] == "python"
    as_yaml = await world.call("GET", f"/template/session/{made}?format=yaml")
    assert yaml.safe_load(as_yaml.body) == shown
    # What was shown can be put back.
    changed = as_yaml.body.decode().replace("image: python", "image: ruby")
    assert (await world.call("PUT", f"/template/session/{made}", {"payload": changed})).json == {
        "success": True
    }
    shown = (await world.call("GET", f"/template/session/{made}")).json
    assert shown["template"]["spec"]["kernel"]["image"] == "ruby"
    assert (await world.call("DELETE", f"/template/session/{made}")).json == {"success": True}
    gone = await world.call("GET", f"/template/session/{made}")
    assert (gone.status, gone.problem, gone.json["title"]) == (
        404,
        "object-not-found",
        "No such task template.",
    )


async def test_several_at_once_or_none(world: World) -> None:
    answer = await world.call(
        "POST", "/template/session", {"payload": [TASK, {"name": "b", "template": TASK}]}
    )
    assert len(answer.json) == 2
    answer = await world.call("POST", "/template/session", {"payload": [TASK, {"kind": "x"}]})
    assert (answer.status, answer.problem) == (400, "invalid-api-params")
    names = [item["name"] for item in (await world.call("GET", "/template/session")).json]
    assert sorted(names) == ["b", "trainer"]


@pytest.mark.parametrize(
    "body",
    [{}, {"payload": "a: ["}, {"payload": "x"}, {"payload": TASK, "group": "nowhere"}, {"payload": ""}],
)
async def test_refused(world: World, body: Any) -> None:
    answer = await world.call("POST", "/template/session", body)
    assert answer.status == (404 if body.get("group") else 400)


async def test_who_sees_and_changes_what(world: World) -> None:
    made = await kept(world)
    target = f"/template/session/{made}"
    for key, reads, writes in (
        ("user", 200, 200), ("admin", 200, 200), ("root", 200, 200), ("monitor", 200, 403),
        ("peer", 404, 404), ("stranger", 404, 404), ("boss", 404, 404),
    ):  # fmt: skip
        assert (await world.call("GET", target, key=key)).status == reads, key
        put = await world.call("PUT", target, {"payload": TASK}, key=key)
        assert put.status == writes, key
        listed = (await world.call("GET", "/template/session", {"all": True}, key=key)).json
        assert [item["id"] for item in listed] == ([made] if reads == 200 else []), key
        mine = (await world.call("GET", "/template/session", {"all": False}, key=key)).json
        assert len(mine) == (1 if key == "user" else 0), key
    assert (await world.call("POST", "/template/session", {"payload": TASK}, key="monitor")).status == 403
    owner = world.who["user"].access_key
    assert (await world.call("DELETE", f"{target}?owner_access_key={owner}", key="stranger")).status == 403
    assert (await world.call("DELETE", f"{target}?owner_access_key={owner}", key="root")).status == 200


async def test_cluster_templates_name_session_templates(world: World) -> None:
    task = await kept(world)
    nodes = [
        {"role": "main", "session_template": task},
        {"role": "sub", "session_template": task, "replicas": 2},
    ]
    cluster = {
        "api_version": "v1", "kind": "cluster_template", "metadata": {"name": "pair"}, "mode": "single-node",
        "spec": {"nodes": nodes},
    }  # fmt: skip
    (made,) = (await world.call("POST", "/template/cluster", {"payload": cluster})).json
    (item,) = (await world.call("GET", "/template/cluster")).json
    assert (item["id"], item["type"]) == (made["id"], "cluster")
    assert (await world.call("GET", f"/template/session/{made['id']}")).status == 404, (
        "it is of the other kind"
    )
    assert (await world.call("GET", f"/template/cluster/{made['id']}")).json["name"] == "pair"
    nodes[1]["session_template"] = str(UUID(int=1))
    assert (await world.call("POST", "/template/cluster", {"payload": cluster})).status == 404
    nodes[1]["session_template"] = await kept(world, "peer")
    assert (await world.call("POST", "/template/cluster", {"payload": cluster})).status == 404
    assert (await world.call("DELETE", f"/template/cluster/{made['id']}")).json == {"success": True}


async def test_a_session_from_a_template(world: World) -> None:
    made = await kept(world)
    body = {
        "template_id": made, "name": "from-one", "tag": None, "domain": "default", "group": "default",
        "enqueueOnly": False, "maxWaitSeconds": 0, "dependencies": [], "callbackURL": None, "reuseIfExists": True,
        "type": "interactive", "starts_at": None, "config": {"mounts": [], "resources": {}},
    }  # fmt: skip
    answer = await world.call("POST", "/session/_/create-from-template", body)
    assert answer.status == 201, answer.body
    assert (answer.json["status"], answer.json["sessionName"], answer.json["created"]) == (
        "RUNNING",
        "from-one",
        True,
    )
    info = (await world.call("GET", "/session/from-one")).json
    assert (info["tag"], info["environ"]) == ("nightly", str({"A": "1"}))
    assert info["requestedSlots"] == str({"cpu": "2", "mem": str(512 << 20)})
    body |= {"name": "other-one", "tag": "mine", "config": {"resources": {"cpu": 1, "mem": "256m"}}}
    assert (await world.call("POST", "/session/_/create-from-template", body)).status == 201
    info = (await world.call("GET", "/session/other-one")).json
    assert (info["tag"], info["requestedSlots"]) == ("mine", str({"cpu": "1", "mem": str(256 << 20)}))
    answer = await world.call(
        "POST", "/session/_/create-from-template", body | {"template_id": str(UUID(int=3))}
    )
    assert (answer.status, answer.json["title"]) == (404, "No such task template.")


async def cluster_of(world: World, *nodes: dict[str, Any], **more: Any) -> str:
    payload = {
        "api_version": "v1", "kind": "cluster_template", "metadata": {"name": "trio"}, **more,
        "spec": {"nodes": list(nodes), "environ": {"B": "2"}},
    }  # fmt: skip
    (made,) = (await world.call("POST", "/template/cluster", {"payload": payload})).json
    return str(made["id"])


async def test_a_session_of_a_cluster_template(world: World) -> None:
    run = {"run": {"startup_command": "python3 main.py"}}
    main = await kept(world, payload=varied("kernel", **run))
    other = await kept(world, payload=varied("kernel"))
    nodes = (
        {"role": "sub", "session_template": other, "replicas": 2},
        {"role": "main", "session_template": main},
    )
    made = await cluster_of(world, *nodes, mode="multi-node")
    many = sa.update(keypair_policies).values(max_containers_per_session=3)
    await world.database.run(lambda conn: conn.execute(many))
    world.manager.identity.forget()
    body = {"template_id": made, "clientSessionToken": "trio", "enqueueOnly": True, "type": "batch"}
    answer = await world.call("POST", "/kernel/_/create-cluster", body)
    assert answer.status == 201, answer.body
    assert (answer.json["sessionName"], answer.json["kernelId"], answer.json["created"]) == (
        "trio",
        "trio",
        True,
    )
    session = await world.manager.sessions.get(world.who["user"], "trio")
    assert [kernel.hostname for kernel in session.kernels] == ["main1", "sub1", "sub2"]
    assert (session.cluster_mode, session.startup_command, session.tag) == (
        "multi-node",
        "python3 main.py",
        "nightly",
    )
    assert session.environ == {"A": "1", "B": "2"}
    assert {str(kernel.requested_slots["cpu"]) for kernel in session.kernels} == {"2000"}
    assert (await world.call("POST", "/session/_/create-cluster", body)).json["created"] is False


def varied(part: str, **changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = TASK["spec"]
    return {**TASK, "spec": {**spec, part: {**spec[part], **changes}}}


async def test_cluster_templates_of_which_no_session_can_be_made(world: World) -> None:
    main = {"role": "main", "session_template": await kept(world)}
    for words, role, other in (
        ("image", "sub", varied("kernel", image="ruby")),
        ("resources", "sub", varied("resources", cpu="1")),
        ("environ", "sub", varied("kernel", environ={"A": "2"})),
        ("bootstrap", "sub", varied("kernel", run={"bootstrap": "true"})),
        ("git", "sub", varied("kernel", git={"repository": "https://example.com/x.git"})),
        ("role 'worker'", "worker", TASK),
    ):
        node = {"role": role, "session_template": await kept(world, payload=other)}
        made = await cluster_of(world, main, node)
        answer = await world.call("POST", "/session/_/create-cluster", {"template_id": made, "name": "trio"})
        assert (answer.status, answer.problem) == (400, "invalid-api-params"), words
        assert words in answer.json["msg"] and answer.json["hint"]
    gone = await kept(world)
    made = await cluster_of(world, main, {"role": "sub", "session_template": gone})
    await world.call("DELETE", f"/template/session/{gone}")
    for template_id in (made, main["session_template"], str(UUID(int=1)), "x"):
        body = {"template_id": template_id, "name": "trio"}
        answer = await world.call("POST", "/session/_/create-cluster", body)
        assert (answer.status, answer.json["title"]) == (404, "No such task template."), template_id
    assert (await world.call("GET", "/session")).json["total_count"] == 0
