"""Dotfiles and bootstrap scripts over the API, and on their way to the agent."""

import pytest
import sqlalchemy as sa

from ai.backend.manager.db.schema import audit_logs, dotfiles

OWN, GROUP, DOMAIN = "/user-config/dotfiles", "/group-config/dotfiles", "/domain-config/dotfiles"
FILE = {"path": ".bashrc", "permission": "644", "data": "alias ll='ls -l'\n"}


async def rows(world):
    return await world.database.read(lambda conn: conn.execute(sa.select(dotfiles)).all())


@pytest.mark.parametrize(
    ("base", "where", "key"),
    [
        (OWN, {}, "user"),
        (GROUP, {"group": "default", "domain": "default"}, "admin"),
        (GROUP, {"group": "default"}, "admin"),
        (DOMAIN, {"domain": "default"}, "admin"),
        (DOMAIN, {"domain": "other"}, "root"),
        (GROUP, {"group": "theirs", "domain": "other"}, "boss"),
    ],
)
async def test_from_creation_to_deletion(world, base, where, key):
    query = "&".join(["x=1", *(f"{name}={value}" for name, value in where.items())])
    made = await world.call("POST", base, FILE | where, key=key)
    assert (made.status, made.json) == (200, {})
    item = FILE | {"perm": "644"}
    assert (await world.call("GET", f"{base}?{query}", key=key)).json == [item]
    assert (await world.call("GET", f"{base}?path=.bashrc&{query}", key=key)).json == item
    again = await world.call("POST", base, FILE | where, key=key)
    assert (again.status, again.problem, again.json["title"]) == (
        400,
        "generic-bad-request",
        "Dotfile already exists.",
    )
    changed = FILE | where | {"data": "new", "permission": "600"}
    assert (await world.call("PATCH", base, changed, key=key)).json == {}
    assert (await world.call("GET", f"{base}?path=.bashrc&{query}", key=key)).json["perm"] == "600"
    gone = await world.call("DELETE", f"{base}?path=.bashrc&{query}", key=key)
    assert (gone.status, gone.json) == (200, {"success": True})
    for method, target, body in (
        ("GET", f"{base}?path=.bashrc&{query}", None),
        ("DELETE", f"{base}?path=.bashrc&{query}", None),
        ("PATCH", base, FILE | where),
    ):
        missing = await world.call(method, target, body, key=key)
        assert (missing.status, missing.json["title"]) == (404, "No such dotfile.")
    audited = await world.database.read(lambda c: c.execute(sa.select(audit_logs.c.action)).scalars().all())
    expected = [] if base == OWN else ["dotfile:create", "dotfile:change", "dotfile:delete"]
    assert audited == expected


@pytest.mark.parametrize(
    ("base", "body", "key", "status"),
    [
        (GROUP, FILE | {"group": "default"}, "user", 401),
        (GROUP, FILE | {"group": "default", "domain": "default"}, "boss", 404),
        (GROUP, FILE | {"group": "default", "domain": "default"}, "stranger", 404),
        (GROUP, FILE | {"group": "theirs", "domain": "other"}, "admin", 404),
        (GROUP, FILE | {"group": "00000000-0000-0000-0000-00000000004d"}, "admin", 404),
        (GROUP, FILE | {"group": "nothing"}, "root", 404),
        (GROUP, FILE, "root", 400),
        (DOMAIN, FILE, "user", 401),
        (DOMAIN, FILE | {"domain": "other"}, "admin", 404),
        (DOMAIN, FILE | {"domain": "default"}, "boss", 404),
        (DOMAIN, FILE | {"domain": "nothing"}, "root", 404),
        (OWN, FILE, None, 401),
        (OWN, FILE | {"owner_access_key": "AKIANOBODYNOBODYNOBO"}, "user", 403),
        (OWN, FILE | {"owner_access_key": "AKIANOBODYNOBODYNOBO"}, "root", 400),
    ],
)
async def test_not_for_everybody(world, base, body, key, status):
    for method in ("POST", "PATCH"):
        answer = await world.call(method, base, body, key=key)
        assert answer.status == status, answer.body
        assert answer.problem
    query = "&".join(f"{name}={value}" for name, value in body.items() if name in ("group", "domain"))
    assert (await world.call("DELETE", f"{base}?path=.bashrc&{query}", key=key)).status in (status, 404)
    assert await rows(world) == []


async def test_members_may_read_what_administrators_wrote(world):
    await world.call("POST", GROUP, FILE | {"group": "default"}, key="admin")
    await world.call("POST", DOMAIN, FILE, key="admin")
    for key in ("user", "peer", "root"):
        assert len((await world.call("GET", f"{GROUP}?group=default&domain=default", key=key)).json) == 1
        assert len((await world.call("GET", f"{DOMAIN}?domain=default", key=key)).json) == 1
    for key in ("stranger", "boss"):
        assert (await world.call("GET", f"{GROUP}?group=default&domain=default", key=key)).status == 404
        assert (await world.call("GET", f"{DOMAIN}?domain=default", key=key)).status == 404


async def test_for_another_owner(world):
    owner = world.keys["user"][0]
    assert (await world.call("POST", OWN, FILE | {"owner_access_key": owner}, key="admin")).status == 200
    for spelled in ("owner_access_key", "onwer_access_key", "ownerAccessKey"):
        listed = await world.call("GET", f"{OWN}?{spelled}={owner}", key="root")
        assert [item["path"] for item in listed.json] == [".bashrc"]
    assert (await world.call("GET", OWN, key="root")).json == []
    for key in ("peer", "boss", "monitor"):
        assert (await world.call("GET", f"{OWN}?owner_access_key={owner}", key=key)).status == 403


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../x"},
        {"path": "/etc/passwd"},
        {"path": ""},
        {"path": ".ssh"},
        {"path": ".config"},
        {"permission": "888"},
        {"permission": "0644"},
        {"data": ""},
        {"data": "x" * (65 << 10)},
        {"data": "a\0b"},
        {"data": None},
        {"path": None},
        {"data": {"a": 1}},
    ],
)
async def test_refused(world, change):
    answer = await world.call("POST", OWN, FILE | change)
    assert answer.status == 400 and answer.problem in ("invalid-api-params", "generic-bad-request")
    assert await rows(world) == []


async def test_bootstrap_script(world):
    path = "/user-config/bootstrap-script"
    assert (await world.call("GET", path)).json == ""
    assert (await world.call("POST", path, {"script": "echo hello"})).json == {}
    assert (await world.call("GET", path)).json == "echo hello"
    assert (await world.call("GET", path, key="peer")).json == ""
    assert (await world.call("POST", path, {"script": "x" * (65 << 10)})).status == 400
    await world.start("with-script")
    await world.call(
        "POST", "/session", {"name": "with-its-own", "image": "python", "bootstrap_script": "echo mine"}
    )
    scripts = {k.session_name: k.bootstrap_script for sync in world.agent.syncs for k in sync.kernels}
    assert scripts == {"with-script": "echo hello", "with-its-own": "echo mine"}


async def test_they_travel_to_the_agent_before_the_first_start(world):
    await world.call("POST", OWN, FILE | {"permission": "600"})
    await world.call("POST", GROUP, FILE | {"group": "default"}, key="admin")
    await world.call("POST", GROUP, FILE | {"group": "default", "path": "of-project"}, key="admin")
    await world.call("POST", DOMAIN, FILE | {"path": "of-domain"}, key="admin")
    await world.call("POST", OWN, FILE | {"path": "of-peer"}, key="peer")
    await world.call("POST", DOMAIN, FILE | {"path": "elsewhere"}, key="boss")
    await world.start()
    first = next(k for sync in world.agent.syncs for k in sync.kernels)
    assert {(f.path, f.permission) for f in first.dotfiles} == {
        (".bashrc", "600"),
        ("of-project", "644"),
        ("of-domain", "644"),
    }
    assert (await world.call("PATCH", "/session/mysess")).status == 204
    restarted = [k for sync in world.agent.syncs for k in sync.kernels if k.incarnation == 2]
    assert restarted and all(k.dotfiles == [] for k in restarted), "a restart keeps the home as it is"


async def test_a_frozen_manager_keeps_them(world):
    await world.call("PUT", "/manager/status", {"status": "frozen"}, key="root")
    assert (await world.call("POST", OWN, FILE)).problem == "server-frozen"
    assert (await world.call("GET", OWN)).json == []
