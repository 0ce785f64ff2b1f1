"""Where folders may be, against a real manager: what domain, project and policy give is put together."""

import uuid
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from ai.backend.manager.db.schema import domains, keypair_policies, projects

MAY, NOTHING = ["create-vfolder", "mount-in-session"], []


async def give(world, table, hosts, **where):
    wanted = [table.c[name] == value for name, value in where.items()]

    def op(conn):
        changed = conn.execute(sa.update(table).where(*wanted).values(allowed_vfolder_hosts=hosts))
        assert changed.rowcount

    await world.database.run(op)


async def hosts(world, query="", **call):
    answer = await world.call("GET", f"/folders/_/hosts{query}", **call)
    assert answer.status == 200, answer.json
    return answer.json


async def test_nothing_is_given_at_first(world):
    assert await hosts(world) == {"default": None, "allowed": []}


async def test_what_is_given_adds_up(world):
    await give(world, domains, {"local:d": MAY, "local:shut": NOTHING}, name="default")
    await give(world, projects, {"local:p": MAY, "local:d": NOTHING}, name="default")
    await give(world, keypair_policies, {"local:k": MAY}, name="default")
    assert (await hosts(world))["allowed"] == ["local:d", "local:k", "local:p"]


async def test_of_one_project(world):
    """Also of one that an administrator is no member of; what domain and policy give stays."""
    other = {
        "id": uuid.uuid4(),
        "name": "other",
        "domain_name": "default",
        "created_at": datetime.now(UTC),
        "allowed_vfolder_hosts": {"local:o": MAY},
    }
    await world.database.run(lambda conn: conn.execute(sa.insert(projects).values(other)))
    await give(world, projects, {"local:p": MAY}, name="default")
    await give(world, domains, {"local:d": MAY}, name="default")
    assert (await hosts(world))["allowed"] == ["local:d", "local:p"]
    assert (await hosts(world, "?group_id=default"))["allowed"] == ["local:d", "local:p"]
    assert (await hosts(world, f"?group_id={other['id']}", key="root"))["allowed"] == ["local:d", "local:o"]
    assert (await world.call("GET", "/folders/_/hosts?group_id=other")).status == 404
    refused = await world.call("GET", "/folders/_/hosts?group_id=no-such-project")
    assert (refused.status, refused.json["error_code"]) == (404, "project.not-found")


@pytest.mark.parametrize(("chosen", "default"), [("local:d", "local:d"), ("local:elsewhere", None)])
async def test_the_default_is_one_that_may_be_used(world, chosen, default):
    await give(world, domains, {"local:d": MAY}, name="default")
    setting = {"key": "volumes/default_host", "value": chosen}
    assert (await world.call("POST", "/config/set", setting, key="root")).status in (200, 201)
    assert await hosts(world) == {"default": default, "allowed": ["local:d"]}


@pytest.mark.parametrize("path", ["all_hosts", "all-hosts"])
async def test_all_hosts_are_for_superadministrators(world, path):
    await give(world, keypair_policies, {"local:k": MAY}, name="default")
    await give(world, domains, {"local:d": MAY}, name="default")
    answer = await world.call("GET", f"/folders/_/{path}", key="root")
    assert answer.json == {"default": None, "allowed": ["local:d", "local:k"]}
    for key in ("user", "admin"):
        assert (await world.call("GET", f"/folders/_/{path}", key=key)).status == 401


async def test_types(world):
    async def told():
        public = await world.call("GET", "/config/vfolder-types", key=None)
        mine = await world.call("GET", "/folders/_/allowed_types")
        alike = await world.call("GET", "/folders/_/allowed-types")
        assert public.json == mine.json == alike.json
        return mine.json

    assert await told() == ["user", "group"]
    for kind, left in (("group", ["group"]), ("user", ["user", "group"])):
        setting = {"key": f"volumes/_types/{kind}", "value": ""}
        await world.call("POST", "/config/set", setting, key="root")
        assert await told() == left
    assert (await world.call("GET", "/folders/_/allowed_types", key=None)).status == 401
