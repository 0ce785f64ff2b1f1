"""GraphQL as published clients see it: envelopes, key order, scalars, partial inputs, refusals in their words, and what is too much."""

import json
import re
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from ai.backend.common.clock import SystemClock
from ai.backend.gateway.graphql import route
from ai.backend.gateway.graphql.limit import (
    COST_MAX,
    DEPTH_MAX,
    PAGE_MAX,
    ROOTS_MAX,
    TEXT_CHARACTERS_MAX,
    TOKENS_MAX,
)
from ai.backend.manager.db import schema as t
from ai.backend.manager.directory.service import Directory

from .inprocess import Answer, Gateway, open_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER, ADMIN = "user@localhost.localdomain", "admin@localhost.localdomain"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def built(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    gateway = await open_gateway(tmp_path_factory.mktemp("graphql"))
    rng: Any = gateway.identity._rng
    seeded = await gateway.identity.seed(rng, SystemClock().now())
    gateway.keys = {
        "root": (seeded.admin.access_key, seeded.admin.secret_key),
        "user": (seeded.user.access_key, seeded.user.secret_key),
    }
    gateway.keep()
    return gateway


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(built: Gateway) -> AsyncIterator[Gateway]:
    """As it was seeded: a superadministrator and a user, of one project."""
    built.restore()
    yield built


async def send(
    gateway: Gateway, query: str, *, key: str = "root", path: str = "/admin/gql", **variables: Any
) -> Answer:
    return await gateway.call("POST", path, {"query": query, "variables": variables}, key=key)


async def data(gateway: Gateway, query: str, *, key: str = "root", **variables: Any) -> Any:
    answer = await send(gateway, query, key=key, **variables)
    assert answer.status == 200, answer.body
    assert list(answer.json) == ["data"], answer.body
    return answer.json["data"]


async def errors(
    gateway: Gateway, query: str, *, key: str = "root", **variables: Any
) -> list[dict[str, Any]]:
    answer = await send(gateway, query, key=key, **variables)
    assert answer.status == 200, answer.body
    assert list(answer.json) == ["data", "errors"]
    found: list[dict[str, Any]] = answer.json["errors"]
    return found


# -- envelopes ----------------------------------------------------------------------------------------------------------------


async def test_data_alone_without_errors(gateway: Gateway) -> None:
    answer = await send(gateway, "{ user { email } }", key="user")
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json == {"data": {"user": {"email": USER}}}


async def test_the_older_path_answers_the_data_itself(gateway: Gateway) -> None:
    answer = await send(gateway, "{ user { email } }", key="user", path="/admin/graphql")
    assert (answer.status, answer.json) == (200, {"user": {"email": USER}})


async def test_the_older_path_tells_errors_as_a_problem(gateway: Gateway) -> None:
    answer = await send(gateway, "{ ghost }", path="/admin/graphql")
    assert answer.status == 400
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json["type"].endswith("/graphql-error")
    assert answer.json["title"] == "GraphQL-generated error."
    assert "ghost" in answer.json["data"][0]["message"]


@pytest.mark.parametrize(
    "query",
    [
        "{",
        "{ user { email }",
        "query {",
        "",
        "mutation",
        "{ user { email } } }",
        "{ user(email: ) { email } }",
    ],
)
async def test_syntax_errors_are_answered_with_200(gateway: Gateway, query: str) -> None:
    (error,) = await errors(gateway, query)
    assert error["message"].startswith("Syntax Error")
    assert error["locations"]


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("{ ghost }", "ghost"),
        ("{ user { ghost } }", "ghost"),
        ("{ user(ghost: 1) { email } }", "ghost"),
        ("{ user { ...F } }", "F"),
        ("{ user }", "user"),
        ("{ user { email { x } } }", "email"),
        ("query ($x: Ghost) { user { email } }", "Ghost"),
        ("{ compute_session_list(limit: 1) { total_count } }", "offset"),
        ("{ ...A } fragment A on Queries { ...B } fragment B on Queries { ...A }", "itself"),
    ],
)
async def test_what_is_not_in_the_schema(gateway: Gateway, query: str, word: str) -> None:
    found = await errors(gateway, query)
    assert any(word in error["message"] for error in found)


async def test_missing_query_and_nonsense_bodies_are_refused(gateway: Gateway) -> None:
    for body in ({}, {"query": 1}, {"query": "{ user { email } }", "variables": [1]}):
        answer = await gateway.call("POST", "/admin/gql", body, key="root")
        assert (answer.status, answer.json["error_code"]) == (400, "request.invalid")


async def test_extra_variables_and_nulls_for_variables_are_let_pass(gateway: Gateway) -> None:
    """Published clients send variables that the query does not declare."""
    found = await data(
        gateway, "query ($email: String) { user(email: $email) { email } }", email=USER, ghost={"a": [1]}
    )
    assert found == {"user": {"email": USER}}
    answer = await gateway.call(
        "POST", "/admin/gql", {"query": "{ user { email } }", "variables": None}, key="root"
    )
    assert answer.json == {"data": {"user": {"email": ADMIN}}}


async def test_ids_may_be_declared_as_texts_and_texts_as_ids(gateway: Gateway) -> None:
    """Published clients do both."""
    nobody = "00000000-0000-0000-0000-000000000000"
    listed = "query ($id: %s) { compute_session_list(limit: 1, offset: 0, group_id: $id) { total_count } }"
    for declared in ("String", "UUID"):
        assert await data(gateway, listed % declared, id=nobody) == {
            "compute_session_list": {"total_count": 0}
        }
    given = 'mutation ($id: %s!) { associate_scaling_group_with_user_group(scaling_group: "none", user_group: $id) { ok } }'
    for declared in ("String", "UUID"):
        assert await data(gateway, given % declared, id=nobody) == {
            "associate_scaling_group_with_user_group": {"ok": False}
        }
    (error,) = await errors(gateway, listed % "Int", id=1)
    assert "used in position expecting type" in error["message"]


async def test_the_operation_that_is_named_runs(gateway: Gateway) -> None:
    body = {"query": "query A { user { email } } query B { user { role } }", "operationName": "B"}
    assert (await gateway.call("POST", "/admin/gql", body, key="user")).json == {
        "data": {"user": {"role": "user"}}
    }
    (error,) = (await gateway.call("POST", "/admin/gql", {"query": body["query"]}, key="user")).json["errors"]
    assert "operation name" in error["message"]


async def test_keys_come_in_the_order_of_the_selection(gateway: Gateway) -> None:
    """Published clients print columns in the order in which they come."""
    asked = ["role", "email", "uuid", "domain_name", "created_at", "status", "username"]
    for names in (asked, asked[::-1]):
        answer = await send(gateway, f"{{ b: user {{ {' '.join(names)} }} a: user {{ email }} }}", key="user")
        pairs = json.loads(answer.body, object_pairs_hook=lambda found: found)
        ((_, roots),) = pairs
        assert [name for name, _ in roots] == ["b", "a"]
        assert [name for name, _ in roots[0][1]] == names


async def test_documents_are_text(gateway: Gateway) -> None:
    """JSONString is the text of a document, both ways, and BigInt a number."""
    props = {"total_resource_slots": '{"cpu": "2", "mem": "1g"}', "allowed_vfolder_hosts": "{}"}
    made = await data(
        gateway,
        'mutation ($props: DomainInput!) { create_domain(name: "d", props: $props)'
        " { ok domain { total_resource_slots allowed_vfolder_hosts } } }",
        props=props,
    )
    told = made["create_domain"]["domain"]
    assert isinstance(told["total_resource_slots"], str)
    assert json.loads(told["total_resource_slots"]) == {"cpu": "2", "mem": str(1 << 30)}
    assert told["allowed_vfolder_hosts"] == "{}"
    found = await data(
        gateway, '{ keypair_resource_policy(name: "default") { max_quota_scope_size idle_timeout } }'
    )
    assert found == {"keypair_resource_policy": {"max_quota_scope_size": 0, "idle_timeout": 0}}


async def test_times_have_an_offset(gateway: Gateway) -> None:
    found = await data(gateway, "{ user { created_at } }", key="user")
    text = found["user"]["created_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", text)
    assert datetime.fromisoformat(text).utcoffset() == timedelta(0)


async def test_pages_tell_how_many_there_are(gateway: Gateway) -> None:
    now = SystemClock().now()
    owner = sa.select(t.users.c.id).where(t.users.c.email == USER).scalar_subquery()

    def more(conn: sa.Connection) -> None:
        for number in range(7):
            conn.execute(
                sa.insert(t.keypairs).values(
                    access_key=f"AKIA{number:016}", secret_key_sealed=b"", user_id=owner, policy_name="default",
                    rate_limit=1, created_at=now + timedelta(seconds=number),
                )
            )  # fmt: skip

    await gateway.database.run(more)
    query = (
        "query ($limit: Int!, $offset: Int!, $filter: String, $order: String) { keypair_list(limit: $limit,"
        " offset: $offset, filter: $filter, order: $order) { items { access_key } total_count } }"
    )

    async def page(limit: int, offset: int, **more: Any) -> tuple[list[str], int]:
        found = (await data(gateway, query, key="user", limit=limit, offset=offset, **more))["keypair_list"]
        return [item["access_key"] for item in found["items"]], found["total_count"]

    every, total = await page(100, 0, order="access_key")
    assert total == len(every) == 8
    assert every == sorted(every)
    walked = [key for at in range(0, 9, 3) for key in (await page(3, at, order="access_key"))[0]]
    assert walked == every
    assert await page(3, 50) == ([], 8)
    assert await page(3, 0, order="-access_key") == (every[::-1][:3], 8)
    assert await page(1, 0, filter=f'access_key == "{every[2]}"') == ([every[2]], 1)
    assert (await page(2, 0, filter="rate_limit == 1"))[1] == 7
    for wrong in (
        {"limit": 0},
        {"limit": PAGE_MAX + 1},
        {"offset": -1},
        {"filter": "ghost == 1"},
        {"order": "ghost"},
    ):
        variables: dict[str, Any] = {"limit": 1, "offset": 0, **wrong}
        (error,) = await errors(gateway, query, key="user", **variables)
        assert error["extensions"]["code"] == "request.invalid", wrong


# -- refusals -----------------------------------------------------------------------------------------------------------------

CHANGES = {
    "create_domain": 'name: "x", props: {}',
    "purge_group": 'gid: "00000000-0000-0000-0000-000000000001"',
    "delete_keypair": 'access_key: "x"',
    "create_user": 'email: "x@y.z", props: {password: "longer than 8"}',
    "modify_agent": 'id: "x", props: {schedulable: true}',
}


@pytest.mark.parametrize("name", sorted(CHANGES))
async def test_a_change_that_is_not_permitted_says_so_in_the_published_words(
    gateway: Gateway, name: str
) -> None:
    found = await data(gateway, f"mutation {{ {name}({CHANGES[name]}) {{ ok msg }} }}", key="user")
    assert found == {name: {"ok": False, "msg": f"no permission to execute {name}"}}


async def test_a_list_that_is_not_permitted_is_an_error(gateway: Gateway) -> None:
    (error,) = await errors(gateway, "{ scaling_groups { name } }", key="user")
    assert error["extensions"]["code"].startswith("access.")
    assert error["path"] == ["scaling_groups"]


async def test_a_refused_change_tells_its_reason(gateway: Gateway) -> None:
    query = 'mutation { create_domain(name: "default", props: {}) { ok msg domain { name } } }'
    found = (await data(gateway, query))["create_domain"]
    assert found["ok"] is False
    assert found["domain"] is None
    assert "exists" in found["msg"]


async def test_unexpected_exceptions_are_told_without_detail(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_args: Any, **_more: Any) -> None:
        raise RuntimeError("the secret detail")

    monkeypatch.setattr(Directory, "user", broken)
    for path, status in (("/admin/gql", 200), ("/admin/graphql", 400)):
        answer = await send(gateway, "{ user { email } }", path=path)
        assert answer.status == status
        assert b"secret" not in answer.body
        assert b"RuntimeError" not in answer.body
        assert b"Internal server error (request " in answer.body
    monkeypatch.setattr(Directory, "create_domain", broken)
    answer = await send(gateway, 'mutation { create_domain(name: "x", props: {}) { ok } }')
    assert b"secret" not in answer.body
    assert answer.json["errors"]


async def test_what_fails_takes_nothing_else_with_it(gateway: Gateway) -> None:
    answer = await send(gateway, "{ user { email } scaling_groups { name } }", key="user")
    assert answer.json["data"] == {"user": {"email": USER}, "scaling_groups": None}
    assert len(answer.json["errors"]) == 1


# -- partial inputs -----------------------------------------------------------------------------------------------------------

USER_FIELDS = (
    "full_name description status role domain_name need_password_change sudo_session_enabled container_uid"
)


async def test_what_is_absent_or_null_stays_as_it_is(gateway: Gateway) -> None:
    """Published clients send null for all that they do not mean to change."""
    shown = f'query {{ user(email: "{USER}") {{ {USER_FIELDS} }} }}'
    change = f'mutation ($props: ModifyUserInput!) {{ modify_user(email: "{USER}", props: $props) {{ ok msg user {{ {USER_FIELDS} }} }} }}'
    first = {"full_name": "One", "description": "Two", "need_password_change": True, "container_uid": 5}
    assert (await data(gateway, change, props=first))["modify_user"]["ok"]
    before = (await data(gateway, shown))["user"]
    assert {name: before[name] for name in first} == first
    nulls = dict.fromkeys(
        [*USER_FIELDS.split(), "password", "username", "is_active", "group_ids", "totp_activated"]
    )
    for props in ({}, nulls):
        changed = (await data(gateway, change, props=props))["modify_user"]
        assert changed["ok"], changed
        assert changed["user"] == before
    changed = (await data(gateway, change, props=nulls | {"full_name": "Three"}))["modify_user"]["user"]
    assert changed == before | {"full_name": "Three"}
    project = "{ user { groups { id name } } }"
    assert len((await data(gateway, project, key="user"))["user"]["groups"]) == 1, (
        "a null took its projects away"
    )


async def test_inputs_that_are_none(gateway: Gateway) -> None:
    for props in ("{ghost: 1}", '{max_concurrent_sessions: "x"}'):
        query = f'mutation {{ modify_keypair_resource_policy(name: "default", props: {props}) {{ ok }} }}'
        assert await errors(gateway, query)
    for props in (
        "{max_concurrent_sessions: -1}",
        '{total_resource_slots: "[]"}',
        '{total_resource_slots: "{"}',
    ):
        query = f'mutation {{ modify_keypair_resource_policy(name: "default", props: {props}) {{ ok msg }} }}'
        assert (await data(gateway, query))["modify_keypair_resource_policy"]["ok"] is False


# -- too much -----------------------------------------------------------------------------------------------------------------

CALLS_MAX = 400_000
"""Of Python functions, for a refusal; the longest texts that are read at all take a good part of it."""


def nested(levels: int) -> str:
    """A session's containers have no depth: dependencies do."""
    return (
        "{ compute_session_list(limit: 1, offset: 0) { items "
        + "{ dependencies " * levels
        + "{ id }"
        + " }" * levels
        + " } }"
    )


def fragment_bomb(levels: int) -> str:
    """Each fragment uses the next one twice: 2 to the power of `levels` fields."""
    parts = [
        f"fragment F{n} on Queries {{ a{n}: user {{ email }} ...F{n + 1} ...F{n + 1} }}"
        for n in range(levels)
    ]
    return "{ ...F0 } " + " ".join(parts) + f" fragment F{levels} on Queries {{ user {{ email }} }}"


def nested_fragments(levels: int) -> str:
    """Deep by fragments, each of which is shallow."""
    parts = [f"fragment G{n} on ComputeSession {{ dependencies {{ ...G{n + 1} }} }}" for n in range(levels)]
    return (
        "{ compute_session_list(limit: 1, offset: 0) { items { ...G0 } } } "
        + " ".join(parts)
        + f" fragment G{levels} on ComputeSession {{ id }}"
    )


def aliases(number: int, field: str = "user { email }") -> str:
    return " ".join(f"a{n}: {field}" for n in range(number))


TOO_MUCH = {
    "depth": nested(DEPTH_MAX),
    "depth by fragments": nested_fragments(DEPTH_MAX),
    "depth by inline fragments": nested(DEPTH_MAX).replace("{ id }", "{ ... on ComputeSession { id } }"),
    "cost": (
        "{ compute_session_list(limit: 100, offset: 0) { items { dependencies { dependencies { dependencies { id name } } } } } }"
    ),
    "cost by aliases": "{ compute_session_list(limit: 100, offset: 0) { items { "
    + aliases(30, "dependencies { id name status containers { id } }")
    + " } } }",
    "cost by a fragment of lists": "{ ...L } fragment L on Queries { "
    + aliases(20, "compute_session_list(limit: 100, offset: 0) { items { id dependencies { id name } } }")
    + " }",
    "aliases": "{ " + aliases(ROOTS_MAX + 1) + " }",
    "aliases by a fragment": "{ ...R } fragment R on Queries { " + aliases(ROOTS_MAX + 1) + " }",
    "aliases by an inline fragment": "{ ... { " + aliases(ROOTS_MAX + 1) + " } }",
    "fragments of fragments": fragment_bomb(40),
    "text": "{ user { email } } #" + "x" * TEXT_CHARACTERS_MAX,
    "brackets": "{" * (TOKENS_MAX - 1),
    "arguments": '{ user(email: "x") { email } '.replace('"x"', "[" * 4000 + "]" * 900) + "}",
}
TOKENS = "{ user { " + "email " * TOKENS_MAX + "} }"


@pytest.mark.parametrize("what", sorted(TOO_MUCH))
async def test_too_much_is_refused_unseen(
    gateway: Gateway, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is executed, and without much work."""
    ran: list[str] = []
    monkeypatch.setattr(route, "graphql_execute", lambda *_args, **_more: ran.append(what))
    calls, answer = await counted(gateway, TOO_MUCH[what])
    assert not ran, "it was executed"
    text = answer.body.decode()
    if answer.status == 200:
        assert "Syntax Error" in text
    else:
        assert (answer.status, answer.json["error_code"]) == (400, "graphql.query-too-large"), text
    assert calls < CALLS_MAX


async def test_too_many_tokens_are_a_syntax_error(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "graphql_execute", lambda *_args, **_more: pytest.fail("it was executed"))
    calls, answer = await counted(gateway, TOKENS)
    assert "tokens" in answer.json["errors"][0]["message"]
    assert calls < CALLS_MAX


async def counted(gateway: Gateway, query: str) -> tuple[int, Answer]:
    """How many Python functions were called for an answer: work, in a measure that does not depend on the machine."""
    calls = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        answer = await send(gateway, query)
    finally:
        sys.setprofile(before)
    return calls, answer


async def test_just_enough_is_answered(gateway: Gateway) -> None:
    for query in (
        nested(2),
        "{ " + aliases(ROOTS_MAX) + " }",
        "{ ...R } fragment R on Queries { " + aliases(ROOTS_MAX) + " }",
        "{ compute_session_list(limit: 100, offset: 0) { items { id name containers { id status } } total_count } }",
        fragment_bomb(3).replace("a0", "b"),
    ):
        await data(gateway, query)
    assert COST_MAX > 100 * 20 * 20


async def test_a_limit_in_a_variable_counts_too(gateway: Gateway) -> None:
    query = (
        "query ($limit: Int!) { compute_session_list(limit: $limit, offset: 0)"
        " { items { dependencies { dependencies { dependencies { id name } } } } } }"
    )
    answer = await send(gateway, query, limit=100)
    assert (answer.status, answer.json["error_code"]) == (400, "graphql.query-too-large")


async def test_remembered_queries_are_checked_again(gateway: Gateway) -> None:
    """Validity is remembered, permission and cost are not."""
    query = "{ scaling_groups { name } }"
    assert (await data(gateway, query))["scaling_groups"]
    assert await errors(gateway, query, key="user")
    assert (await data(gateway, query))["scaling_groups"]
