"""Operating the cluster: agents, images, resources and usage, presets, the manager itself, configuration."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .client import Client
from .sessions import DEADLINE_S, SMALL, Running, new_name, running, state

PRESETS = """
from ai.backend.client.session import Session
with Session() as s:
    give(s.Resource.list())
"""

CHECK_PRESETS = """
from ai.backend.client.session import Session
with Session() as s:
    give(s.Resource.check_presets())
"""

USAGE_OF_A_PERIOD = """
from ai.backend.client.session import Session
with Session() as s:
    give(s.Resource.usage_per_period(group, day, day))
"""

STATISTICS = """
from ai.backend.client.session import Session
with Session() as s:
    give(getattr(s.Resource, name)())
"""

ALL_HOSTS = """
from ai.backend.client.session import Session
with Session() as s:
    give(s.VFolder.list_all_hosts())
"""

BROKEN_QUERY = """
from ai.backend.client.session import Session
from ai.backend.client.exceptions import BackendAPIError
with Session() as s:
    try:
        s.Admin.query(query)
    except BackendAPIError as e:
        give([e.status, e.data["type"], e.data["data"]])
"""


@pytest.fixture
def agent(admin: Client) -> dict[str, Any]:
    (item,) = admin.items("admin", "agent", "list")
    return item


# --- agents ---


def test_agent_list(agent: dict[str, Any]) -> None:
    assert agent["status"] == "ALIVE" and agent["scaling_group"] == "default"
    assert float(agent["available_slots"]["cpu"]) >= 1 and int(agent["available_slots"]["mem"]) > 0
    assert agent["architecture"] in {"x86_64", "aarch64"} and "occupied_slots" in agent


def test_agent_list_for_people(admin: Client, agent: dict[str, Any]) -> None:
    assert agent["id"] in admin.cli("admin", "agent", "list").ok().stdout


def test_agent_list_by_state(admin: Client, agent: dict[str, Any]) -> None:
    assert admin.items("admin", "agent", "list", "-s", "LOST") == []
    expression = ("--filter", 'schedulable == true & status == "ALIVE"', "--order", "-first_contact")
    assert [item["id"] for item in admin.items("admin", "agent", "list", *expression)] == [agent["id"]]


def test_agent_list_of_a_scaling_group(admin: Client, agent: dict[str, Any]) -> None:
    assert admin.items("admin", "agent", "list", "--scaling-group", "default")[0]["id"] == agent["id"]
    assert admin.items("admin", "agent", "list", "--scaling-group", "no-such-group") == []


def test_agent_info(admin: Client, agent: dict[str, Any]) -> None:
    (item,) = admin.items("admin", "agent", "info", agent["id"])
    assert item["id"] == agent["id"] and item["status"] == "ALIVE"
    assert item["available_slots"] == agent["available_slots"]
    assert {"hardware_metadata", "live_stat", "local_config", "cpu_cur_pct"} <= item.keys()


def test_agent_occupancy_follows_sessions(admin: Client, user: Client, agent: dict[str, Any]) -> None:
    with running(user, "occupy"):
        (busy,) = admin.items("admin", "agent", "list")
        assert float(busy["occupied_slots"]["cpu"]) == float(agent["occupied_slots"].get("cpu", 0)) + 1


def test_an_excluded_agent_takes_no_session(admin: Client, user: Client, agent: dict[str, Any]) -> None:
    name = new_name("out")
    admin.cli("admin", "manager", "scheduler", "exclude-agents", agent["id"]).ok()
    try:
        done = user.cli("session", "create", *SMALL, "--max-wait", "3", "-t", name, "python").ok()
        assert "is still on the job queue" in done.text
        user.cli("session", "destroy", name).ok()
    finally:
        told = admin.cli("admin", "manager", "scheduler", "include-agents", agent["id"]).ok()
    assert "now accepts new sessions" in told.text


def test_excluding_no_agent_is_told(admin: Client) -> None:
    done = admin.cli("admin", "manager", "scheduler", "exclude-agents", "no-such-agent").failed()
    assert "404" in done.text


# --- images ---


def test_image_list(admin: Client) -> None:
    images = admin.items("admin", "image", "list")
    python = [image for image in images if "python" in image["name"]]
    assert python and python[0]["tag"] and python[0]["architecture"] in {"x86_64", "aarch64"}
    assert python[0]["registry"] and "digest" in python[0] and isinstance(python[0]["aliases"], list)


def test_image_list_for_people(user: Client) -> None:
    told = user.cli("admin", "image", "list").ok().stdout
    assert "python" in told and "Registry" in told.splitlines()[0]


def test_image_alias(admin: Client, user: Client) -> None:
    image = next(item for item in admin.items("admin", "image", "list") if "python" in item["name"])
    reference, alias = f"{image['registry']}/{image['name']}:{image['tag']}", new_name("alias")
    assert "An alias has created" in admin.cli("admin", "image", "alias", alias, reference).ok().text
    assert user.cli("run", "--rm", *SMALL, "-c", "print(1)", alias).ok().stdout == "1\n"
    assert "The alias has been removed" in admin.cli("admin", "image", "dealias", alias).ok().text
    assert user.cli("run", "--rm", *SMALL, "-c", "print(1)", alias).stdout == ""


def test_an_alias_of_nothing_is_told(admin: Client) -> None:
    assert (
        "Aliasing has failed" in admin.cli("admin", "image", "alias", new_name("bad"), "no/such:image").text
    )


def test_image_rescan(admin: Client) -> None:
    """The clients stumble at their spinner when the task is quick, after they were told of its end."""
    done = admin.cli("admin", "image", "rescan")
    assert "Started updating the image metadata" in done.text
    assert "Finished registry scanning." in done.text


# --- resources and usage ---


def test_slots(user: Client) -> None:
    told = user.cli("admin", "resource", "query-slots").ok().stdout
    assert re.search(r"^cpu \(count\)$", told, re.MULTILINE) and "mem (bytes)" in told


def test_vfolder_types(user: Client) -> None:
    assert user.cli("admin", "resource", "vfolder-types").ok().stdout.split() == ["user", "group"]


def test_registries(admin: Client, version: str) -> None:
    verb = "docker-registries" if version == "23.9.10" else "container-registries"
    host = f"{new_name('cr')}.example.org"
    key = f"config/docker/registry/{host}"
    admin.cli("admin", "etcd", "set", key, f"https://{host}").ok()
    assert host in admin.cli("admin", "resource", verb).ok().stdout
    admin.cli("admin", "etcd", "delete", "-p", key).ok()
    assert host not in admin.cli("admin", "resource", verb).ok().stdout


def test_recalculate_usage(admin: Client) -> None:
    assert "re-calculated" in admin.cli("admin", "resource", "recalculate-usage").ok().stdout


def test_usage_of_a_month(admin: Client, live: Running) -> None:
    (group,) = admin.items("admin", "group", "info", "default")
    month = state(admin, live.id)["created_at"][:7].replace("-", "")
    told = admin.cli("admin", "resource", "usage-per-month", month, group["id"]).ok().stdout
    assert f"Group: default ({group['id']})" in told
    assert f"Identity: {live.name}" in told and "Domain: default" in told


def test_usage_of_a_period(admin: Client, live: Running) -> None:
    """The API answers a list, which the command line takes for a period without usage: so the SDK it is."""
    (group,) = admin.items("admin", "group", "info", "default")
    day = state(admin, live.id)["created_at"][:10].replace("-", "")
    (told,) = admin.sdk(USAGE_OF_A_PERIOD, group=group["id"], day=day)
    assert told["g_id"] == group["id"] and told["g_name"] == "default"
    assert live.name in [used["name"] for used in told["c_infos"]]


def test_presets(user: Client) -> None:
    presets = user.sdk(PRESETS)["presets"]
    assert all({"name", "resource_slots", "shared_memory"} <= preset.keys() for preset in presets)
    assert all(isinstance(value, str) for preset in presets for value in preset["resource_slots"].values())


def test_presets_checked(user: Client, version: str) -> None:
    told = user.sdk(CHECK_PRESETS)
    kinds = ("keypair_limits", "keypair_using", "keypair_remaining", "group_limits", "group_using")
    for kind in (*kinds, "group_remaining", "scaling_group_remaining"):
        assert {"cpu", "mem"} <= told[kind].keys(), kind
        assert all(isinstance(value, str) for value in told[kind].values()), kind
    assert {"using", "remaining"} <= told["scaling_groups"]["default"].keys()
    assert all(isinstance(preset["allocatable"], bool) for preset in told["presets"])


@pytest.mark.parametrize("name", ["user_monthly_stats", "admin_monthly_stats"])
def test_statistics_of_a_month(admin: Client, name: str) -> None:
    bins = admin.sdk(STATISTICS, name=name)
    assert len(bins) == 2880
    assert {"value", "unit_hint"} <= bins[-1]["num_sessions"].keys() and bins[-1]["date"] > bins[0]["date"]


# --- the manager ---


@pytest.fixture
def thawed(admin: Client) -> Iterator[None]:
    yield
    admin.cli("admin", "manager", "unfreeze")


def test_manager_status(admin: Client, live: Running) -> None:
    """The number may be a second old."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        told = admin.cli("admin", "manager", "status").ok().stdout
        found = re.search(r"running\s+(\d+)", told)
        assert found and time.monotonic() < deadline, told
        if int(found[1]) >= 1:
            break
        time.sleep(0.2)


def test_a_frozen_manager_reads_but_does_not_write(admin: Client, user: Client, thawed: None) -> None:
    assert "successfully frozen" in admin.cli("admin", "manager", "freeze").ok().stdout
    assert "frozen" in admin.cli("admin", "manager", "status").ok().stdout
    done = user.cli("session", "create", *SMALL, "-t", new_name("cold"), "python").failed()
    assert "503" in done.text and "The server is frozen due to maintenance" in done.text
    user.items("ps")
    assert "successfully unfrozen" in admin.cli("admin", "manager", "unfreeze").ok().stdout
    with running(user, "thaw"):
        pass


def test_a_user_may_not_freeze(user: Client) -> None:
    assert "401" in user.cli("admin", "manager", "freeze").failed().text


@pytest.fixture
def announced(admin: Client) -> Iterator[str]:
    text = f"Maintenance {new_name('notice')}"
    assert "Posted" in admin.cli("admin", "announcement", "update", "-m", text).ok().text
    yield text
    admin.cli("admin", "announcement", "delete", input="y\n").ok()
    assert "No announcements." in admin.cli("admin", "announcement", "get").ok().stdout


def test_announcement(admin: Client, announced: str) -> None:
    assert admin.cli("admin", "announcement", "get").ok().stdout.strip() == announced


def test_an_announcement_is_shown_beside_listings(user: Client, announced: str) -> None:
    done = user.cli("--output", "json", "ps").ok()
    assert announced in done.stderr and "Server Announcement" in done.stderr
    assert "items" in done.json()


def test_a_user_may_not_announce(user: Client) -> None:
    assert "401" in user.cli("admin", "announcement", "update", "-m", "mine").failed().text


# --- configuration ---


def test_etcd(admin: Client) -> None:
    key = f"config/{new_name('compat')}"
    assert "Successfully set" in admin.cli("admin", "etcd", "set", key, "plain").ok().text
    assert '"plain"' in admin.cli("admin", "etcd", "get", key).ok().text
    assert "Successfully deleted" in admin.cli("admin", "etcd", "delete", key).ok().text
    assert "null" in admin.cli("admin", "etcd", "get", key).ok().text


def test_etcd_trees(admin: Client) -> None:
    key = f"config/{new_name('compat')}"
    assert (
        "Successfully set" in admin.cli("admin", "etcd", "set", key, '{"a": "1", "b": {"c": "2"}}').ok().text
    )
    told = admin.cli("admin", "etcd", "get", "-p", key).ok().text
    assert '"a": "1"' in told and '"c": "2"' in told
    assert "Successfully deleted" in admin.cli("admin", "etcd", "delete", "-p", key).ok().text
    assert '"a"' not in admin.cli("admin", "etcd", "get", "-p", key).ok().text


def test_a_user_may_not_read_configuration(user: Client) -> None:
    assert "401" in user.cli("admin", "etcd", "get", "config").failed().text


def test_permissions(admin: Client) -> None:
    (item,) = admin.items("admin", "permission", "list")
    wanted = {"create-vfolder", "modify-vfolder", "delete-vfolder", "mount-in-session", "upload-file"}
    assert wanted <= set(item["vfolder_host_permission_list"])


def test_storage_list(admin: Client) -> None:
    items = admin.items("admin", "storage", "list")
    assert all({"id", "backend", "capabilities"} <= item.keys() for item in items)


def test_license(admin: Client) -> None:
    """An enterprise plugin's path: without the plugin it is unknown, and the client says so."""
    assert "404" in admin.cli("admin", "license", "show").failed().text


def test_server_logs(user: Client) -> None:
    assert "Total log count:" in user.cli("server-logs", "list").ok().stdout


def test_storage_hosts(admin: Client, user: Client) -> None:
    """A host is usable once a policy gives a permission on it, and the default one when a setting says so."""
    host, key = f"local:{new_name('volume')}", "volumes/default_host"
    policy = ("admin", "keypair-resource-policy", "update", "default", "--vfolder-host-perms")
    assert "Default vfolder host: None" in user.cli("vfolder", "list-hosts").ok().stdout
    try:
        admin.json(*policy, json.dumps({host: ["create-vfolder"]}))
        admin.cli("admin", "etcd", "set", key, host).ok()
        told = user.cli("vfolder", "list-hosts").ok().stdout
        assert f"Default vfolder host: {host}" in told and f"Usable hosts: {host}" in told
        everybodys = admin.sdk(ALL_HOSTS)
        assert everybodys["default"] == host and host in everybodys["allowed"]
    finally:
        admin.json(*policy, "{}")
        admin.cli("admin", "etcd", "delete", key)
    assert "local:" not in user.cli("vfolder", "list-hosts").ok().stdout


def test_folder_types(user: Client) -> None:
    assert user.cli("vfolder", "list-allowed-types").ok().stdout.strip() == "['user', 'group']"


def test_folders(user: Client) -> None:
    assert user.json("vfolder", "list")["items"] == []


@pytest.mark.parametrize("query", ["query { nonsense }", "query {", "mutation { nonsense { ok } }"])
def test_broken_queries_are_told(user: Client, query: str) -> None:
    status, slug, errors = user.sdk(BROKEN_QUERY, query=query)
    assert status == 400 and slug.endswith("/graphql-error")
    assert errors and isinstance(errors[0]["message"], str)
