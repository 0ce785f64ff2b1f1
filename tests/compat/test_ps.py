"""Listing sessions: every column, filter and order that the clients offer."""

import re
from typing import Any

import pytest

from .client import Client
from .cluster import Cluster
from .sessions import Running, create, new_name

EACH_FIELD = """
from ai.backend.client.session import Session
from ai.backend.client.output.fields import session_fields
refused, values = {}, {}
with Session() as s:
    for name, field in session_fields.items():
        try:
            told = s.ComputeSession.paginated_list(fields=[field], filter=f'id == "{id}"')
            values[name] = field.formatter.format_json(told.items[0][field.field_name], field)
            field.formatter.format_console(told.items[0][field.field_name], field)
        except Exception as e:
            refused[name] = repr(e)
give({"refused": refused, "values": values})
"""

EACH_CONTAINER_FIELD = """
from ai.backend.client.session import Session
from ai.backend.client.output.fields import container_fields
refused, values = {}, {}
with Session() as s:
    for name, field in container_fields.items():
        try:
            q = "query($id: UUID!) { compute_session(id: $id) { containers { %s } } }" % field.field_ref
            (told,) = s.Admin.query(q, {"id": id})["compute_session"]["containers"]
            values[name] = told[field.field_name]
            field.formatter.format_console(told[field.field_name], field)
        except Exception as e:
            refused[name] = repr(e)
give({"refused": refused, "values": values})
"""

MATCHING = [
    'name == "{name}"',
    'name like "{half}%"',
    'name ilike "{HALF}%"',
    'name contains "{half}"',
    'name in ["{name}", "other"]',
    'id == "{id}"',
    'status == "RUNNING"',
    'status != "TERMINATED"',
    'status in ["RUNNING", "PENDING"]',
    'type == "INTERACTIVE"',
    'result == "UNDEFINED"',
    'image like "%python%"',
    'domain_name == "default"',
    'group_name == "default"',
    'scaling_group == "default"',
    'user_email == "{email}"',
    'access_key == "{access_key}"',
    'cluster_mode == "single-node"',
    "cluster_size == 1",
    "cluster_size >= 1",
    'created_at > "2020-01-01"',
    "terminated_at is null",
    "created_at isnot null",
    "starts_at is null",
    'name == "{name}" & status == "RUNNING"',
    'name == "nobody" | name == "{name}"',
    '!name == "nobody"',
    'name == "{name}" & (status == "PENDING" | status == "RUNNING")',
    'full_name like "%"',
    "agent_ids isnot null",
]
LATER: dict[str, Any] = {
    "type_": "batch",
    "startup_command": "true",
    "starts_at": "30m",
    "enqueue_only": True,
}
"""A session that waits, and takes no room."""
NOT_MATCHING = [
    'name == "nobody"',
    'status == "PENDING" & name == "{name}"',
    'name == "{name}" & !status == "RUNNING"',
    'created_at > "2999-01-01"',
    'name == "{name}" & cluster_size > 1',
]


@pytest.fixture
def words(live: Running, cluster: Cluster) -> dict[str, str]:
    half = live.name[:-3]
    return {
        "name": live.name,
        "half": half,
        "HALF": half.upper(),
        "id": live.id,
        "email": cluster.user.email,
        "access_key": cluster.user.access_key,
    }


def filled(expression: str, words: dict[str, str]) -> str:
    for key, value in words.items():
        expression = expression.replace("{" + key + "}", value)
    return expression


def names(client: Client, *args: str) -> list[str]:
    return [item["name"] for item in client.items("ps", *args)]


def test_a_listing_for_programs(user: Client, live: Running) -> None:
    (item,) = [item for item in user.items("ps") if item["name"] == live.name]
    assert item["session_id"] == live.id and item["status"] == "RUNNING"
    assert item["type"] == "INTERACTIVE" and item["result"] == "UNDEFINED"
    assert item["group_name"] == "default" and "python" in item["image"]


def test_a_listing_for_people(user: Client, live: Running) -> None:
    told = user.cli("ps").ok().stdout
    head, _, *rows = told.splitlines()
    assert head.startswith("Name") and "Status" in head and "Last Updated" in head
    assert any(row.startswith(live.name) and "RUNNING" in row for row in rows)


def test_the_columns_are_in_their_order(user: Client, live: Running) -> None:
    told = (
        user.cli("ps", "-f", "status,name,type", "--plain", "--filter", f'name == "{live.name}"').ok().stdout
    )
    assert told.split() == ["RUNNING", live.name, "INTERACTIVE"]


def test_details(user: Client, live: Running) -> None:
    (item,) = user.items("ps", "--detail", "--filter", f'name == "{live.name}"')
    assert item["occupying_slots"] == {"cpu": "1", "mem": str(256 << 20)}
    assert re.match(r"\d{4}-\d\d-\d\dT", item["created_at"]) and "tag" in item


@pytest.mark.parametrize("command", [["ps"], ["session", "list"], ["admin", "session", "list"]])
def test_aliases_list_the_same(user: Client, live: Running, command: list[str]) -> None:
    assert live.name in [item["name"] for item in user.items(*command)]


def test_names_only(user: Client, live: Running) -> None:
    assert {"name": live.name} in user.items("ps", "--name-only")


def test_an_admin_sees_owners(admin: Client, live: Running, cluster: Cluster) -> None:
    (item,) = [item for item in admin.items("ps") if item["name"] == live.name]
    assert item["access_key"] == cluster.user.access_key


def test_an_admin_asks_for_one_key(admin: Client, live: Running, cluster: Cluster) -> None:
    assert live.name in names(admin, "--access-key", cluster.user.access_key)
    assert live.name not in names(admin, "--access-key", cluster.admin.access_key)


def test_a_user_sees_only_their_own(user: Client, admin: Client) -> None:
    name = new_name("boss")
    create(admin, name)
    try:
        assert name not in names(user, "--all") and name in names(admin)
    finally:
        admin.cli("session", "destroy", name)


@pytest.mark.parametrize("option", ["--running", "--all", "--status=RUNNING", "--status=ALL"])
def test_a_running_session_is_among(user: Client, live: Running, option: str) -> None:
    assert live.name in names(user, option)


@pytest.mark.parametrize("option", ["--dead", "--status=PENDING", "--status=ERROR", "--status=CANCELLED"])
def test_a_running_session_is_not_among(user: Client, live: Running, option: str) -> None:
    assert live.name not in names(user, option)


@pytest.mark.parametrize("expression", MATCHING)
def test_a_filter_finds(user: Client, words: dict[str, str], expression: str) -> None:
    assert words["name"] in names(user, "--filter", filled(expression, words))


@pytest.mark.parametrize("expression", NOT_MATCHING)
def test_a_filter_leaves_out(user: Client, words: dict[str, str], expression: str) -> None:
    assert names(user, "--filter", filled(expression, words)) == []


@pytest.mark.parametrize("expression", ["nonsense == 1", "name ==", 'status == "NONSENSE"'])
def test_a_broken_filter_is_told(user: Client, version: str, expression: str) -> None:
    told = user.cli("--output", "json", "ps", "--filter", expression).failed().json()
    if version == "23.9.10":  # tells it as a text
        assert re.match(r"BackendAPIError\(400, .*/graphql-error.*'message'", told["error"])
        return
    assert told["api"]["status"] == 400 and told["api"]["data"][0]["message"]


def test_orders(user: Client) -> None:
    topic = new_name("order")
    made = [f"{topic}-{letter}" for letter in "bca"]
    among = ("--filter", f'name like "{topic}%"')
    try:
        for name in made:
            create(user, name, **LATER)
        assert names(user, *among, "--order", "name") == sorted(made)
        assert names(user, *among, "--order", "-name") == sorted(made, reverse=True)
        assert names(user, *among, "--order", "-created_at") == made[::-1]
        assert names(user, *among, "--order", "+created_at,name", "--limit", "1") == made[:1]
    finally:
        user.cli("session", "destroy", *made)


def test_pages(user: Client, live: Running) -> None:
    told = user.json("ps", "--all", "--limit", "1", "--order", "created_at")
    assert told["count"] == 1 and told["total_count"] >= 1
    last = user.json("ps", "--all", "--limit", "5", "--offset", str(told["total_count"]))
    assert last["items"] == [] and last["total_count"] == told["total_count"]


def test_pages_are_joined_for_people(user: Client, live: Running, version: str) -> None:
    """Without a limit in 26.x, where it counts items and not those of a page."""
    more = f"{live.name}-more"
    create(user, more, **LATER)
    try:
        listing = ("ps", "-f", "name", "--plain", "--order", "name", "--filter", f'name like "{live.name}%"')
        limited = user.cli(*listing, "--limit", "1").ok().stdout.split()
        whole = user.cli(*listing).ok().stdout.split()
        assert whole == [live.name, more]
        assert limited == ([live.name] if version == "26.9.6" else whole)
    finally:
        user.cli("session", "destroy", more)


def test_every_column(user: Client, live: Running, cluster: Cluster) -> None:
    told: dict[str, Any] = user.sdk(EACH_FIELD, id=live.id)
    assert told["refused"] == {}
    values = told["values"]
    assert values["user_email"] == cluster.user.email and values["access_key"] == cluster.user.access_key
    assert values["domain_name"] == "default" and values["scaling_group"] == "default"
    assert values["cluster_mode"] == "single-node" and values["cluster_size"] == 1
    assert values["occupying_slots"] == {"cpu": "1", "mem": str(256 << 20)}
    assert len(values["agent_ids"]) == 1 and len(values["containers"]) == 1


def test_every_column_of_containers(user: Client, live: Running) -> None:
    told: dict[str, Any] = user.sdk(EACH_CONTAINER_FIELD, id=live.id)
    assert told["refused"] == {}
    assert told["values"]["status"] == "RUNNING" and told["values"]["cluster_role"] == "main"
    assert told["values"]["live_stat"] is None or "cpu_used" in told["values"]["live_stat"]


def test_an_unknown_column_is_refused(user: Client) -> None:
    assert "no such format option" in user.cli("ps", "-f", "nonsense").failed(4).text


def test_an_empty_listing(user: Client) -> None:
    assert user.json("ps", "--filter", 'name == "nobody"') == {"count": 0, "total_count": 0, "items": []}
