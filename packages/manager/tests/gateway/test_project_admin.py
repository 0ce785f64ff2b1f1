"""Administering a project: what it opens, and that nothing beyond that project is opened or found out. See also the matrix."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
import sqlalchemy as sa

from ai.backend.common.wire import rpc
from ai.backend.manager.db import schema as t
from ai.backend.manager.event.model import Event
from ai.backend.manager.event.store import after
from ai.backend.manager.session.model import SessionDraft, SessionType

from .inprocess import Answer, Gateway
from .matrix_world import World, open_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANAGER = "project admin"
USERS = """query($group: UUID, $filter: String, $order: String) { user_list(limit: 100, offset: 0, group_id: $group,
    filter: $filter, order: $order) { total_count items { uuid email full_name status role main_access_key resource_policy
    totp_activated allowed_client_ip description container_uid groups { id name } } } }"""
MODIFY = (
    "mutation($gid: UUID!, $props: ModifyGroupInput!) { modify_group(gid: $gid, props: $props) { ok msg } }"
)
NO = "no permission to execute modify_group"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    """`project admin` administers the first project, and is a mere member of the second."""
    world = await open_world(tmp_path_factory.mktemp("project-admin"))
    gateway = world.gateway
    second = UUID(world.own["owner"]["own project"])
    members = t.project_members

    def op(conn: sa.Connection) -> None:
        conn.execute(sa.update(members).where(members.c.project_id == second).values(is_admin=False))
        conn.execute(
            sa.update(t.users).where(t.users.c.username == "the-owner").values(description="private")
        )

    await gateway.database.run(op)
    gateway.keep()
    return world


@pytest_asyncio.fixture(loop_scope="module")
async def world(built: World) -> AsyncIterator[World]:
    built.gateway.restore()
    yield built


async def ask(world: World, query: str, key: str = MANAGER, **variables: Any) -> Any:
    body = {"query": query, "variables": variables}
    answer = await world.gateway.call("POST", "/admin/gql", body, key=key)
    assert answer.status == 200, answer.body
    return answer.json


async def modify(world: World, key: str = MANAGER, project: str = "", **props: Any) -> dict[str, Any]:
    gid = project or world.things["project"]
    found: dict[str, Any] = (await ask(world, MODIFY, key, gid=gid, props=props))["data"]["modify_group"]
    return found


async def members(gateway: Gateway, project_id: str) -> dict[str, bool]:
    """User names, and whether they administer it."""
    joined = t.project_members.join(t.users, t.users.c.id == t.project_members.c.user_id)
    query = (
        sa.select(t.users.c.username, t.project_members.c.is_admin)
        .select_from(joined)
        .where(t.project_members.c.project_id == UUID(project_id))
    )
    rows = await gateway.database.read(lambda conn: conn.execute(query).all())
    return {row.username: row.is_admin for row in rows}


def told(answer: Answer) -> tuple[int, Any]:
    return answer.status, {**answer.json, "request_id": ""}


def user_id(world: World, person: str) -> str:
    return str(world.who[person].user_id)


# -- members ------------------------------------------------------------------------------------------------------------------


async def test_of_members_only_who_they_are_is_told(world: World) -> None:
    found = (await ask(world, USERS, group=world.things["project"]))["data"]["user_list"]
    assert found["total_count"] == 5
    by_email = {one["email"]: one for one in found["items"]}
    assert by_email["owner@example.com"] == {
        "uuid": user_id(world, "owner"), "email": "owner@example.com", "full_name": "", "status": "active",
        "role": None, "main_access_key": None, "resource_policy": None, "totp_activated": None,
        "allowed_client_ip": None, "description": None, "container_uid": None,
        "groups": [{"id": world.things["project"], "name": "default"}],
    }  # fmt: skip
    own = by_email["project-admin@example.com"]
    assert own["role"] == "user"
    assert own["main_access_key"]
    assert {one["name"] for one in own["groups"]} == {"default", "second"}


async def test_who_else_is_where_is_not_found_out_by_asking_for_it(world: World) -> None:
    """A member of its project may be in another one too: that is that project's business."""
    second = world.own["owner"]["own project"]
    found = (await ask(world, USERS, group=second))["data"]["user_list"]
    assert [one["email"] for one in found["items"]] == ["project-admin@example.com"]
    nowhere = (await ask(world, USERS, group=str(uuid4())))["data"]["user_list"]
    assert nowhere == {"total_count": 0, "items": []}


@pytest.mark.parametrize(
    "name", ["main_access_key", "resource_policy", "description", "role", "totp_activated"]
)
async def test_what_is_not_told_is_not_found_out_by_filtering(world: World, name: str) -> None:
    for how in ({"filter": f'{name} == "x"'}, {"order": name}):
        answer = await ask(world, USERS, **how)
        assert answer["errors"][0]["extensions"]["code"] == "request.invalid", answer
    assert "errors" not in await ask(world, USERS, filter='email == "owner@example.com"')


async def test_members_come_and_go(world: World) -> None:
    project = world.things["project"]
    monitor, owner = user_id(world, "monitor"), user_id(world, "owner")
    assert (await modify(world, user_update_mode="add", user_uuids=[monitor]))["ok"]
    assert (await members(world.gateway, project))["the-monitor"] is False
    assert (await modify(world, user_update_mode="remove", user_uuids=[owner]))["ok"]
    assert "the-owner" not in await members(world.gateway, project)


async def test_only_users_of_the_domain_are_added_and_strangers_are_like_nobody(world: World) -> None:
    before = await members(world.gateway, world.things["project"])
    stranger, nobody = user_id(world, "outsider"), str(uuid4())
    answers = [await modify(world, user_update_mode="add", user_uuids=[one]) for one in (stranger, nobody)]
    assert not answers[0]["ok"]
    assert answers[0]["msg"].replace(stranger, nobody) == answers[1]["msg"]
    assert await members(world.gateway, world.things["project"]) == before


async def test_administrators_are_made_and_unmade_by_the_domains_only(world: World) -> None:
    project, peer = world.things["project"], user_id(world, "peer")
    assert (await modify(world, user_update_mode="add", user_uuids=[peer], as_admin=True))["msg"] == NO
    made = await modify(world, "domain admin", user_update_mode="add", user_uuids=[peer], as_admin=True)
    assert made["ok"], made
    assert (await members(world.gateway, project))["the-peer"] is True
    # Plain adding takes nothing away from who administers it, and one does not depose the other.
    assert (await modify(world, user_update_mode="add", user_uuids=[peer]))["ok"]
    for props in ({}, {"as_admin": True}):
        assert (await modify(world, user_update_mode="remove", user_uuids=[peer], **props))["msg"] == NO
    assert (await members(world.gateway, project))["the-peer"] is True
    unmade = await modify(world, "domain admin", user_update_mode="remove", user_uuids=[peer], as_admin=True)
    assert unmade["ok"], unmade
    assert (await members(world.gateway, project))["the-peer"] is False


async def test_one_may_leave(world: World) -> None:
    own = user_id(world, MANAGER)
    assert (await modify(world, user_update_mode="remove", user_uuids=[own]))["ok"]
    assert MANAGER not in await members(world.gateway, world.things["project"])
    assert (await modify(world, description="mine"))["msg"] == NO


async def test_as_admin_alone_is_no_change(world: World) -> None:
    answer = await modify(world, "superadmin", as_admin=True)
    assert not answer["ok"]
    assert "user_update_mode" in answer["msg"]


@pytest.mark.parametrize(
    "prop", ["name", "is_active", "total_resource_slots", "resource_policy", "integration_id"]
)
async def test_other_fields_are_not_theirs_also_beside_one_that_is(world: World, prop: str) -> None:
    value = {"is_active": False, "total_resource_slots": '{"cpu": "1"}'}.get(prop, "other")
    assert (await modify(world, description="mine", **{prop: value}))["msg"] == NO
    assert (await modify(world, description="mine", **{prop: None}))["ok"], "published clients send nulls"


async def test_other_projects_are_not_theirs_and_are_like_none(world: World) -> None:
    second = world.own["owner"]["own project"]
    assert (await modify(world, project=second, description="mine"))["msg"] == NO
    foreign = world.own["outsider"]["own project"]
    answers = [
        await modify(world, project=one, description="x")
        for one in (foreign, world.things["empty project"], str(uuid4()))
    ]
    assert {json.dumps(a).replace(p, "") for a, p in zip(
        answers, (foreign, world.things["empty project"], answers[2]["msg"].removeprefix("no project ")), strict=True
    )} == {'{"ok": false, "msg": "no project "}'}  # fmt: skip


async def test_a_user_that_is_moved_stays_what_it_is_where_it_stays(world: World) -> None:
    change = """mutation($email: String!, $props: ModifyUserInput!) {
        modify_user(email: $email, props: $props) { ok msg } }"""
    props = {"group_ids": [world.things["project"], world.things["empty project"]]}
    answer = await ask(world, change, "superadmin", email="project-admin@example.com", props=props)
    assert answer["data"]["modify_user"]["ok"], answer
    assert (await members(world.gateway, world.things["project"]))["the-project-admin"] is True
    assert (await members(world.gateway, world.things["empty project"]))["the-project-admin"] is False
    assert "the-project-admin" not in await members(world.gateway, world.own["owner"]["own project"])


async def test_who_administers_is_told_to_those_who_see_the_members(world: World) -> None:
    query = "query($id: UUID!) { group(id: $id) { admins } }"
    project, own = world.things["project"], [user_id(world, MANAGER)]
    for person, expected in (
        ("peer", None), (MANAGER, own), ("monitor", own), ("domain admin", own), ("superadmin", own),
    ):  # fmt: skip
        answer = await ask(world, query, person, id=project)
        assert answer["data"]["group"] == {"admins": expected}, person
    second = await ask(world, query, id=world.own["owner"]["own project"])
    assert second["data"]["group"] == {"admins": None}


# -- use ----------------------------------------------------------------------------------------------------------------------


async def test_the_use_of_other_projects_is_told_to_nobody_else(world: World) -> None:
    gateway, second = world.gateway, world.own["owner"]["own project"]
    for target in (
        "/resource/usage/period?start_date=20260101&end_date=20260102&group_id=",
        "/resource/usage/month?month=202601&group_ids=",
    ):
        others = [await gateway.call("GET", target + one, key=MANAGER) for one in (second, str(uuid4()))]
        assert told(others[0]) == told(others[1])
        assert others[0].status == 401
    both = {"month": "202601", "group_ids": [world.things["project"], second]}
    assert (await gateway.call("GET", "/resource/usage/month", both, key=MANAGER)).status == 401


async def test_without_a_choice_it_is_their_projects(world: World) -> None:
    """Sessions of both projects are used; only the administered one's are told."""
    owner, manager = world.who["owner"], world.gateway.manager
    draft = SessionDraft(
        name="elsewhere", image="python", project=world.own["owner"]["own project"], enqueue_only=True,
        resources={"cpu": 1, "mem": "256m"},
    )  # fmt: skip
    other = (await manager.sessions.create(owner, draft)).session

    def op(conn: sa.Connection) -> None:
        begun = {"PREPARING": other.created_at.isoformat(), "RUNNING": other.created_at.isoformat()}
        conn.execute(sa.update(t.sessions).values(status="RUNNING", status_history=begun))
        conn.execute(sa.update(t.kernels).values(status="RUNNING", agent_id="agent-one"))

    await world.gateway.database.run(op)
    month = f"{other.created_at:%Y%m}"
    target = f"/resource/usage/month?month={month}"
    mine = (await world.gateway.call("GET", target, key=MANAGER)).json
    alls = (await world.gateway.call("GET", target, key="superadmin")).json
    assert {one["g_id"] for one in alls} == {world.things["project"], world.own["owner"]["own project"]}
    assert {one["g_id"] for one in mine} == {world.things["project"]}


# -- sessions -----------------------------------------------------------------------------------------------------------------


async def test_what_a_session_waits_for_in_another_project_stays_there(world: World) -> None:
    gateway, owner = world.gateway, world.who["owner"]
    made = {}
    for name, project, needs in (
        ("secret", world.own["owner"]["own project"], ()),
        ("shown", world.things["project"], ("secret",)),
    ):
        draft = SessionDraft(
            name=name, image="python", project=project, enqueue_only=True, dependencies=needs,
            resources={"cpu": 1, "mem": "256m"}, session_type=SessionType.BATCH, startup_command="true",
        )  # fmt: skip
        made[name] = str((await gateway.manager.sessions.create(owner, draft)).session.id)
    target = f"/session/{made['shown']}/dependency-graph"
    assert "secret" in (await gateway.call("GET", target, key="owner")).body.decode()
    graph = await gateway.call("GET", target, key=MANAGER)
    assert graph.status == 200
    assert "shown" in graph.body.decode()
    assert "secret" not in graph.body.decode()
    assert (await gateway.call("GET", f"/session/{made['secret']}", key=MANAGER)).status == 404
    # Ending it ends nothing elsewhere.
    gone = await gateway.call("DELETE", f"/session/{made['shown']}?recursive=1", key=MANAGER)
    assert gone.status == 200, gone.body
    alive = await gateway.call("GET", f"/session/{made['secret']}", key="owner")
    assert alive.json["status"] == "PENDING"


async def test_events_of_the_project_are_theirs_and_no_others(world: World) -> None:
    events = await world.gateway.database.read(lambda conn: after(conn, -1, limit=100))
    assert events, "creating sessions wrote some"
    first = {e.id for e in events if e.payload["projectId"] == world.things["project"]}
    hub = world.gateway.manager.events
    moved = UUID(world.own["owner"]["own project"])

    async def seen() -> list[Event]:
        principal, _ = await world.gateway.identity.authenticate(world.gateway.keys[MANAGER][0])
        watch = hub.watch(principal, after=-1)
        found = []
        try:
            for _ in first:
                found.append(await anext(watch))
        finally:
            await watch.aclose()  # type: ignore[attr-defined] # it is a generator
        return found

    assert {e.id for e in await seen()} == first

    def op(conn: sa.Connection) -> None:
        kept = t.project_members.c
        conn.execute(
            sa.update(t.project_members)
            .where(kept.user_id == world.who[MANAGER].user_id)
            .values(is_admin=kept.project_id == moved)
        )

    await world.gateway.database.run(op)
    world.gateway.identity.forget()
    principal, _ = await world.gateway.identity.authenticate(world.gateway.keys[MANAGER][0])
    assert principal.administers == {moved}
    ref = world.things["session"]
    answer = await world.gateway.call("GET", f"/events/session?sessionId={ref}", key=MANAGER)
    assert answer.status == 404


async def test_a_project_that_is_no_longer_administered_is_closed_at_once(world: World) -> None:
    """Nor does the way to interrupt lead to running code there."""
    gateway, person = world.gateway, MANAGER
    gateway.bus.reply = rpc.Done()
    interrupt = world.filled("/session/{session}/interrupt", person)
    run = world.filled("/session/{session}", person)
    try:
        assert (await gateway.call("POST", interrupt, key=person)).status == 204
        assert (await gateway.call("POST", run, {"mode": "query", "code": "1"}, key=person)).status == 403
        gone = {"gid": world.things["project"], "who": [str(world.who[person].user_id)]}
        asked = """mutation($gid: UUID!, $who: [String]) { modify_group(gid: $gid, props:
            {user_update_mode: "remove", user_uuids: $who, as_admin: true}) { ok msg group { admins } } }"""
        answer = await gateway.call(
            "POST", "/admin/gql", {"query": asked, "variables": gone}, key="domain admin"
        )
        assert answer.json["data"]["modify_group"] == {"ok": True, "msg": "success", "group": {"admins": []}}
        assert (await gateway.call("POST", interrupt, key=person)).status == 404
        assert len(gateway.bus.asked) == 1
    finally:
        gateway.bus.reply = None
