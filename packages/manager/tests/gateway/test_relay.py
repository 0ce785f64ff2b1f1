"""Relay's lists and nodes: ids and places as pure functions, and whole lists walked both ways on a real manager."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from graphql import get_introspection_query

from ai.backend.common.clock import SystemClock
from ai.backend.common.errors import InvalidInput
from ai.backend.common.wire.rpc import AgentReport, ImageReport
from ai.backend.gateway.graphql.limit import PAGE_MAX
from ai.backend.gateway.graphql.relay import (
    PAGE_ITEMS,
    Asked,
    bounds,
    cursor_of,
    global_id,
    key_of,
    parts_of,
    place_of,
    scope_of,
    sliced,
)
from ai.backend.gateway.graphql.route import schema
from ai.backend.manager.access.model import Role
from ai.backend.manager.identity.model import UserDraft
from ai.backend.manager.session.model import SessionDraft

from .inprocess import Gateway, open_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

USERS = 7
"""Besides the two that are seeded."""
TYPE_ID = "8d3f9a52-7c1b-4c55-9d0e-2b1f6a7c8d90"


# -- ids and places, pure -----------------------------------------------------------------------------------------------------


async def test_an_id_is_read_however_its_type_is_written() -> None:
    for kind in ("GroupNode", "group_node", "groupnode"):
        assert key_of(global_id(kind, TYPE_ID), "GroupNode") == TYPE_ID
    assert key_of(TYPE_ID, "GroupNode") == TYPE_ID
    assert key_of("default", "DomainNode") == "default"
    # A key may have colons and any script.
    assert parts_of(global_id("ImageNode", "x86_64:local/파이썬:3.11")) == (
        "imagenode",
        "x86_64:local/파이썬:3.11",
    )


async def test_an_id_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidInput):
        key_of(global_id("UserNode", TYPE_ID), "GroupNode")


@pytest.mark.parametrize("text", ["", "=", "Zm9v", "!!!", "é", "bm9wZTo=x", "OnRlc3Q="])
async def test_what_is_no_global_id(text: str) -> None:
    assert parts_of(text) is None


async def test_scopes() -> None:
    assert scope_of(None) == scope_of("system") == ("system", "")
    assert scope_of("domain:a:b") == ("domain", "a:b")
    for text in ("domain", "domain:", "system:x", "planet:earth", ":"):
        with pytest.raises(InvalidInput):
            scope_of(text)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Asked(), (0, PAGE_ITEMS)),
        (Asked(first=3), (0, 3)),
        (Asked(first=0), (0, 0)),
        (Asked(first=3, offset=4), (4, 3)),
        (Asked(first=3, after=cursor_of(4)), (5, 3)),
        (Asked(first=9, after=cursor_of(4), before=cursor_of(7)), (5, 2)),
        (Asked(first=9, after=cursor_of(7), before=cursor_of(4)), (8, 0)),
        (Asked(last=3), (7, 3)),
        (Asked(last=30), (0, 10)),
        (Asked(last=3, before=cursor_of(5)), (2, 3)),
        (Asked(last=3, before=cursor_of(1)), (0, 1)),
        (Asked(last=3, before=cursor_of(0)), (0, 0)),
        (Asked(last=3, after=cursor_of(8)), (9, 1)),
    ],
)
async def test_what_part_of_ten_is_asked_for(asked: Asked, expected: tuple[int, int]) -> None:
    items = list("abcdefghij")
    start, many = bounds(asked, len(items))
    found = sliced(asked, items)
    assert found.items == items[expected[0] : expected[0] + expected[1]]
    assert (start, min(many, max(len(items) - start, 0))) == (expected[0], min(expected[1], len(items)))


@pytest.mark.parametrize(
    "asked",
    [
        Asked(first=1, last=1),
        Asked(first=-1),
        Asked(last=-1),
        Asked(first=PAGE_MAX + 1),
        Asked(last=PAGE_MAX + 1),
        Asked(offset=-1),
        Asked(offset=2**60),
        Asked(offset=1, after=cursor_of(1)),
        Asked(after="x"),
        Asked(before=global_id("UserNode", "1")),
        Asked(after=global_id("place", "1" * 16)),
        Asked(after=global_id("place", "-1")),
    ],
)
async def test_what_no_part_is(asked: Asked) -> None:
    with pytest.raises(InvalidInput):
        bounds(asked, 10)


async def test_cursors_come_back() -> None:
    assert [place_of(cursor_of(place), "after") for place in (0, 1, 10**9)] == [0, 1, 10**9]


async def test_the_schema_is_committed_as_generated() -> None:
    committed = Path(__file__).parents[4] / "api" / "schema.graphql"
    assert committed.read_text() == schema.as_str(), "write it anew: see docs/develop/testing.md"


# -- on a real manager --------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    made = await open_gateway(tmp_path_factory.mktemp("relay"))
    rng: Any = made.identity._rng
    seeded = await made.identity.seed(rng, SystemClock().now())
    made.keys = {"root": (seeded.admin.access_key, seeded.admin.secret_key)}
    for number in range(USERS):
        draft = UserDraft(
            email=f"u{number}@example.com",
            username=f"u{number}",
            password="correct horse",
            role=Role.USER,
            domain_name="default",
            project_ids=(seeded.project_id,),
        )
        account = await made.identity.create_user(draft)
    made.keys["last"] = (account.access_key, account.secret_key)
    yield made


async def ask(gateway: Gateway, query: str, key: str = "root", **variables: Any) -> Any:
    answer = await gateway.call("POST", "/admin/gql", {"query": query, "variables": variables}, key=key)
    assert answer.status == 200, answer.body
    assert "errors" not in answer.json, answer.body
    return answer.json["data"]


WALK = """query($first: Int, $after: String, $last: Int, $before: String) {
  user_nodes(first: $first, after: $after, last: $last, before: $before, order: "username") {
    edges { node { username } cursor } count
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""


async def test_a_list_is_walked_to_its_end_and_back(gateway: Gateway) -> None:
    forth: list[str] = []
    after = None
    while True:
        found = (await ask(gateway, WALK, first=4, after=after))["user_nodes"]
        assert found["count"] == USERS + 2
        assert found["pageInfo"]["hasPreviousPage"] is (after is not None)
        forth += [edge["node"]["username"] for edge in found["edges"]]
        assert found["pageInfo"]["endCursor"] == found["edges"][-1]["cursor"]
        if not found["pageInfo"]["hasNextPage"]:
            break
        after = found["pageInfo"]["endCursor"]
    assert len(forth) == len(set(forth)) == USERS + 2 and forth == sorted(forth)
    back: list[str] = []
    before = None
    while True:
        found = (await ask(gateway, WALK, last=4, before=before))["user_nodes"]
        back = [edge["node"]["username"] for edge in found["edges"]] + back
        if not found["pageInfo"]["hasPreviousPage"]:
            break
        before = found["pageInfo"]["startCursor"]
    assert back == forth


async def test_an_empty_part_has_no_cursors(gateway: Gateway) -> None:
    found = (await ask(gateway, WALK, first=0))["user_nodes"]
    assert found["edges"] == [] and found["count"] == USERS + 2
    assert found["pageInfo"] == {
        "hasNextPage": True,
        "hasPreviousPage": False,
        "startCursor": None,
        "endCursor": None,
    }


async def test_a_node_is_found_again_by_its_id(gateway: Gateway) -> None:
    """Of every kind that a list shows."""
    listed = await ask(
        gateway,
        """{ user_nodes(first: 1) { edges { node { id } } } group_nodes(first: 1) { edges { node { id } } }
             domain_nodes { edges { node { id scaling_groups { edges { node { id } } } } } } }""",
    )
    domain = listed["domain_nodes"]["edges"][0]["node"]
    ids = {
        "UserNode": listed["user_nodes"]["edges"][0]["node"]["id"],
        "GroupNode": listed["group_nodes"]["edges"][0]["node"]["id"],
        "DomainNode": domain["id"],
        "ScalingGroupNode": domain["scaling_groups"]["edges"][0]["node"]["id"],
    }
    for kind, one in ids.items():
        found = await ask(gateway, "query($id: ID!) { node(id: $id) { __typename id } }", id=one)
        assert found["node"] == {"__typename": kind, "id": one}
    gone = await ask(gateway, "query($id: ID!) { node(id: $id) { id } }", id=global_id("PlanetNode", "earth"))
    assert gone["node"] is None


async def test_members_are_a_connection_of_their_group(gateway: Gateway) -> None:
    query = """{ group_nodes(filter: "name == \\"default\\"") { edges { node { name registry_quota
        user_nodes(first: 3, filter: "username like \\"u%\\"", order: "-username") { count edges { node { username } } } } } } }"""
    (edge,) = (await ask(gateway, query))["group_nodes"]["edges"]
    found = edge["node"]
    assert found["registry_quota"] is None
    assert found["user_nodes"]["count"] == USERS + 1, "the seeded user's name begins with u too"
    assert [one["node"]["username"] for one in found["user_nodes"]["edges"]] == ["user", "u6", "u5"]


async def test_an_ordinary_user_sees_only_itself(gateway: Gateway) -> None:
    found = (await ask(gateway, WALK, key="last"))["user_nodes"]
    assert [edge["node"]["username"] for edge in found["edges"]] == [f"u{USERS - 1}"]
    assert found["count"] == 1


async def test_a_filter_on_what_is_not_told_is_refused(gateway: Gateway) -> None:
    for root, name in (
        ("user_nodes", "password_hash"),
        ("domain_nodes", "dotfiles"),
        ("group_nodes", "secret"),
    ):
        query = f'{{ {root}(filter: "{name} == \\"x\\"") {{ count }} }}'
        answer = await gateway.call("POST", "/admin/gql", {"query": query}, key="root")
        assert answer.json["errors"][0]["extensions"]["code"] == "request.invalid", root


async def test_the_documents_of_published_clients(gateway: Gateway) -> None:
    """As client 25.5.2 asks for a group's quota and 26.9.6 for a session: declared types and ids included."""
    groups = await ask(gateway, "{ group_nodes { edges { node { row_id } } } }")
    group_id = groups["group_nodes"]["edges"][0]["node"]["row_id"]
    quota = "query($id: String!) { group_node(id: $id) { registry_quota } }"
    assert await ask(gateway, quota, id=global_id("group_node", group_id)) == {
        "group_node": {"registry_quota": None}
    }
    session = """query($id: GlobalIDField!) { compute_session_node(id: $id) { row_id tag name type priority cluster_mode domain_name
        user_id status created_at terminated_at resource_opts scaling_group vfolder_mounts image_references
        kernel_nodes { edges { node { row_id cluster_role image_reference status agent_id } } } } }"""
    assert await ask(gateway, session, id=global_id("compute_session_node", TYPE_ID)) == {
        "compute_session_node": None
    }


# -- what it may cost ---------------------------------------------------------------------------------------------------------


async def test_tools_may_ask_for_the_whole_schema_but_not_ten_times(gateway: Gateway) -> None:
    found = await ask(gateway, get_introspection_query())
    assert "UserConnection" in {kind["name"] for kind in found["__schema"]["types"]}
    whole = "types { name fields { name args { name type { name ofType { name } } } type { name ofType { name } } } }"
    many = " ".join(f"a{number}: __schema {{ {whole} }}" for number in range(10))
    for query in (
        f"{{ {many} }}",
        "{ " + "__schema { " * 24 + "name" + " }" * 25,
    ):
        refused = await gateway.call("POST", "/admin/gql", {"query": query}, key="root")
        assert (refused.status, refused.json["error_code"]) == (400, "graphql.query-too-large")


async def test_the_length_of_a_connection_is_counted(gateway: Gateway) -> None:
    query = "{ group_nodes(first: %d) { edges { node { user_nodes(first: 100) { edges { node { username email role } } } } } } }"
    assert (await ask(gateway, query % 20))["group_nodes"]["edges"]
    refused = await gateway.call("POST", "/admin/gql", {"query": query % 100}, key="root")
    assert (refused.status, refused.json["error_code"]) == (400, "graphql.query-too-large")


# -- what other things tell of a thing ----------------------------------------------------------------------------------------


async def test_a_keypair_tells_its_sessions_and_a_group_its_agents(gateway: Gateway) -> None:
    assert gateway.bus.report is not None
    image = ImageReport(name="local/python:3.11", digest="d", architecture="x86_64", size_bytes=1, labels={})
    report = AgentReport(
        agent_id="one", started_at_us=1, sequence=1, generation=0, version="1", backend="fake", architecture="x86_64",
        address="", capacity={"cpu": 16_000, "mem": 64 << 30}, images=[image], kernels=[],
    )  # fmt: skip
    await gateway.bus.report(report)
    principal, _ = await gateway.identity.authenticate(gateway.keys["root"][0])
    draft = SessionDraft(name="mine", image="python", enqueue_only=True, resources={"cpu": 1, "mem": "256m"})
    await gateway.manager.sessions.create(principal, draft)
    query = """query($status: String) { keypair { compute_sessions(status: $status) { name } }
        scaling_groups { name agent_count_by_status lost: agent_count_by_status(status: "LOST") }
        agent_nodes { edges { node { row_id container_count kernel_nodes { count } } } }
        image_nodes(scope_id: "system", filter: "architecture == \\"x86_64\\"") { count edges { node { namespace tag } } }
        compute_session_nodes { edges { node { name permissions kernel_nodes { count edges { node { image_reference } } } } } } }"""
    found = await ask(gateway, query)
    assert found["keypair"] == {"compute_sessions": [{"name": "mine"}]}
    assert found["scaling_groups"] == [{"name": "default", "agent_count_by_status": 1, "lost": 0}]
    (agent,) = found["agent_nodes"]["edges"]
    assert agent["node"] == {"row_id": "one", "container_count": 0, "kernel_nodes": {"count": 0}}
    assert found["image_nodes"] == {"count": 1, "edges": [{"node": {"namespace": "python", "tag": "3.11"}}]}
    (session,) = found["compute_session_nodes"]["edges"]
    assert "execute" in session["node"]["permissions"]
    assert session["node"]["kernel_nodes"]["edges"] == [{"node": {"image_reference": "local/python:3.11"}}]
    ended = await ask(gateway, query, status="TERMINATED")
    assert ended["keypair"] == {"compute_sessions": []}
    stranger = await ask(gateway, "{ keypair { compute_sessions { name } } }", key="last")
    assert stranger["keypair"] == {"compute_sessions": []}
