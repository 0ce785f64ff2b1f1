"""Administration: every listing, and each kind of record added, shown, changed and removed."""

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from .client import Client
from .cluster import Cluster

DATE = r"\d{4}-\d\d-\d\dT\d\d:\d\d"
HOSTS = json.dumps({"local:volume1": ["create-vfolder", "mount-in-session"]})


def new(topic: str) -> str:
    return f"{topic}-{uuid.uuid4().hex[:8]}"


def one(items: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The one item with these values."""
    (found,) = [item for item in items if all(item[key] == value for key, value in wanted.items())]
    return found


def changed(client: Client, *args: str) -> dict[str, Any]:
    """What a mutation told, which must be success."""
    told: dict[str, Any] = client.json("admin", *args)
    assert told["ok"] is True and isinstance(told["msg"], str), told
    return told


def purge(client: Client, *args: str) -> None:
    """Removing for good asks first, so its output is for people only."""
    told = client.cli("admin", *args, input="y\n").ok().stdout
    assert re.search(r"ok\s+True", told), told


# --- domains ---


def add_domain(admin: Client) -> str:
    name = new("dom")
    made = changed(admin, "domain", "add", name, "-d", "for tests", "--total-resource-slots", '{"cpu": "8"}')
    assert made["domain"] == {"name": name}
    return name


@pytest.fixture(scope="module")
def domain(admin: Client) -> Iterator[str]:
    """A domain that steps may change, and leave as it is called."""
    name = add_domain(admin)
    yield name
    admin.cli("admin", "domain", "purge", name, input="y\n")


def test_domain_list(admin: Client) -> None:
    item = one(admin.items("admin", "domain", "list"), name="default")
    assert item["is_active"] is True and re.match(DATE, item["created_at"])
    assert isinstance(item["total_resource_slots"], dict)
    assert isinstance(item["allowed_docker_registries"], list) and "integration_id" in item


def test_domain_list_for_people(admin: Client) -> None:
    assert re.search(r"^default\s", admin.cli("admin", "domain", "list").ok().stdout, re.MULTILINE)


def test_domain_info(admin: Client, domain: str) -> None:
    (item,) = admin.items("admin", "domain", "info", domain)
    assert item["name"] == domain and item["is_active"] is True
    assert item["total_resource_slots"] == {"cpu": "8"}


def test_domain_add_twice(admin: Client, domain: str) -> None:
    done = admin.cli("--output", "json", "admin", "domain", "add", domain).failed()
    assert done.json()["ok"] is False


def test_domain_update(admin: Client, domain: str) -> None:
    changed(admin, "domain", "update", domain, "--description", "changed", "--vfolder-host-perms", HOSTS)
    (item,) = admin.items("admin", "domain", "info", domain)
    assert item["description"] == "changed" and "local:volume1" in str(item["allowed_vfolder_hosts"])
    assert item["total_resource_slots"] == {"cpu": "8"}, "what was not named must stay"


def test_domain_rename(admin: Client, domain: str) -> None:
    renamed = new("dom")
    changed(admin, "domain", "update", domain, "--new-name", renamed)
    assert one(admin.items("admin", "domain", "list"), name=renamed)
    changed(admin, "domain", "update", renamed, "--new-name", domain)


def test_domain_deleted_and_purged(admin: Client) -> None:
    name = add_domain(admin)
    changed(admin, "domain", "delete", name)
    (item,) = admin.items("admin", "domain", "info", name)
    assert item["is_active"] is False
    purge(admin, "domain", "purge", name)
    assert name not in [item["name"] for item in admin.items("admin", "domain", "list")]


# --- groups ---


def add_group(admin: Client) -> dict[str, str]:
    name = new("grp")
    made: dict[str, str] = changed(admin, "group", "add", "default", name, "-d", "for tests")["group"]
    assert made["name"] == name and made["domain_name"] == "default" and uuid.UUID(made["id"])
    return made


@pytest.fixture(scope="module")
def group(admin: Client) -> Iterator[dict[str, str]]:
    made = add_group(admin)
    yield made
    admin.cli("admin", "group", "purge", made["id"], input="y\n")


def test_group_list(admin: Client) -> None:
    item = one(admin.items("admin", "group", "list"), name="default")
    assert uuid.UUID(item["id"]) and item["is_active"] is True and re.match(DATE, item["created_at"])


def test_group_list_of_a_domain(admin: Client, group: dict[str, str]) -> None:
    assert group["name"] in [item["name"] for item in admin.items("admin", "group", "list", "-d", "default")]
    assert admin.items("admin", "group", "list", "-d", "no-such-domain") == []


def test_group_info_by_name_and_id(admin: Client, group: dict[str, str]) -> None:
    (by_name,) = admin.items("admin", "group", "info", group["name"])
    (by_id,) = admin.items("admin", "group", "info", group["id"])
    assert by_name == by_id
    assert by_id["name"] == group["name"] and by_id["domain_name"] == "default"
    assert isinstance(by_id["total_resource_slots"], dict) and "allowed_vfolder_hosts" in by_id


def test_group_update(admin: Client, group: dict[str, str]) -> None:
    slots = '{"cpu": "4", "mem": "1073741824"}'
    changed(admin, "group", "update", group["id"], "-d", "changed", "--total-resource-slots", slots)
    (item,) = admin.items("admin", "group", "info", group["id"])
    assert item["description"] == "changed" and item["name"] == group["name"]
    assert item["total_resource_slots"] == {"cpu": "4", "mem": "1073741824"}


def test_group_members(admin: Client, group: dict[str, str], cluster: Cluster) -> None:
    member = one(admin.items("admin", "user", "list"), email=cluster.user.email)["uuid"]
    changed(admin, "group", "add-users", group["id"], member)
    (item,) = admin.items("admin", "user", "info", "-e", cluster.user.email)
    assert group["name"] in [joined["name"] for joined in item["groups"]]
    assert cluster.user.email in [
        row["email"] for row in admin.items("admin", "user", "list", "-g", group["id"])
    ]
    changed(admin, "group", "remove-users", group["id"], member)
    (item,) = admin.items("admin", "user", "info", "-e", cluster.user.email)
    assert group["name"] not in [joined["name"] for joined in item["groups"]]


def test_group_deleted_and_purged(admin: Client) -> None:
    group = add_group(admin)
    changed(admin, "group", "delete", group["id"])
    (item,) = admin.items("admin", "group", "info", group["id"])
    assert item["is_active"] is False and item["description"] == "for tests"
    purge(admin, "group", "purge", group["id"])
    assert group["name"] not in [item["name"] for item in admin.items("admin", "group", "list")]


# --- users ---


def add_person(admin: Client) -> str:
    email = f"{new('person')}@example.org"
    options = ("-u", email.partition("@")[0], "-n", "Per Son", "--allowed-ip", "127.0.0.1,10.0.0.0/8")
    made = changed(admin, "user", "add", "default", email, "Secret-1234!", *options)
    assert made["user"]["email"] == email and made["user"]["domain_name"] == "default"
    assert uuid.UUID(made["user"]["uuid"])
    return email


@pytest.fixture(scope="module")
def person(admin: Client) -> Iterator[str]:
    email = add_person(admin)
    yield email
    admin.cli("admin", "user", "purge", email, input="y\n")


def test_user_list(admin: Client, cluster: Cluster) -> None:
    item = one(admin.items("admin", "user", "list"), email=cluster.user.email)
    assert item["role"] == "user" and item["status"] == "active" and item["domain_name"] == "default"
    assert "default" in [joined["name"] for joined in item["groups"]]
    assert item["main_access_key"] == cluster.user.access_key


@pytest.mark.parametrize(
    "expression",
    ['email == "{}"', 'status == "ACTIVE" & email ilike "{}"', 'role == "USER" & username like "%"'],
)
def test_user_list_filtered(admin: Client, cluster: Cluster, expression: str) -> None:
    items = admin.items("admin", "user", "list", "--filter", expression.format(cluster.user.email))
    assert cluster.user.email in [item["email"] for item in items]
    assert cluster.admin.email not in [item["email"] for item in items]


def test_user_list_ordered_and_paged(admin: Client) -> None:
    told = admin.json("admin", "user", "list", "--order", "-email", "--limit", "1")
    assert told["count"] == 1 and told["total_count"] >= 2
    every = admin.items("admin", "user", "list", "--order", "-email", "--limit", "100")
    assert [item["email"] for item in every] == sorted((item["email"] for item in every), reverse=True)


def test_user_info_of_oneself(user: Client, cluster: Cluster) -> None:
    (item,) = user.items("admin", "user", "info")
    assert item["email"] == cluster.user.email and item["role"] == "user"


def test_user_add_makes_everything(admin: Client, person: str) -> None:
    (item,) = admin.items("admin", "user", "info", "-e", person)
    assert item["full_name"] and item["status"] == "active" and item["main_access_key"]
    assert [ip.removesuffix("/32") for ip in item["allowed_client_ip"]] == ["127.0.0.1", "10.0.0.0/8"]
    assert [key for key in admin.items("admin", "keypair", "list", "-u", person) if key["is_active"]]


def test_user_add_into_a_group(admin: Client, group: dict[str, str], version: str) -> None:
    """Without a user name: the command line sends an empty one, and the server takes the address."""
    if version == "23.9.10":
        pytest.skip("23.09 adds users to groups in a step of its own")
    email = f"{new('joined')}@example.org"
    made = changed(admin, "user", "add", "default", email, "Secret-1234!", "-g", group["name"])
    assert made["user"]["username"]
    (item,) = admin.items("admin", "user", "info", "-e", email)
    assert group["name"] in [joined["name"] for joined in item["groups"]]
    purge(admin, "user", "purge", email)


def test_user_update(admin: Client, person: str) -> None:
    changed(admin, "user", "update", person, "-n", "Changed Name", "--description", "told", "-r", "admin")
    (item,) = admin.items("admin", "user", "info", "-e", person)
    assert item["full_name"] == "Changed Name" and item["role"] == "admin" and item["status"] == "active"


def test_user_deleted_and_purged(admin: Client) -> None:
    person = add_person(admin)
    changed(admin, "user", "delete", person)
    (item,) = admin.items("admin", "user", "list", "-s", "deleted", "--filter", f'email == "{person}"')
    assert item["status"] == "deleted"
    purge(admin, "user", "purge", person)
    assert admin.items("admin", "user", "list", "--filter", f'email == "{person}"') == []


# --- keypairs ---


def add_keypair(admin: Client, person: str) -> dict[str, str]:
    made: dict[str, str] = changed(admin, "keypair", "add", person, "default", "-r", "5000")["keypair"]
    assert re.fullmatch(r"AKIA\w{16}", made["access_key"]) and len(made["secret_key"]) == 40
    return made


@pytest.fixture(scope="module")
def keypair(admin: Client, person: str) -> dict[str, str]:
    return add_keypair(admin, person)


def test_keypair_info(user: Client, cluster: Cluster) -> None:
    (item,) = user.items("admin", "keypair", "info")
    assert item["access_key"] == cluster.user.access_key and item["user_id"] == cluster.user.email
    assert item["is_active"] is True and item["is_admin"] is False
    assert item["resource_policy"] == "default" and item["rate_limit"] > 0
    assert isinstance(item["concurrency_used"], int)


def test_keypair_list(admin: Client, cluster: Cluster) -> None:
    item = one(admin.items("admin", "keypair", "list", "--limit", "100"), access_key=cluster.user.access_key)
    assert item["user_id"] == cluster.user.email and "default" in item["projects"]


def test_keypair_list_for_people(admin: Client, cluster: Cluster) -> None:
    told = admin.cli("admin", "keypair", "list", "-u", cluster.user.email).ok().stdout
    assert cluster.user.access_key in told and "Access Key" in told.splitlines()[0]


def test_keypair_list_filtered(admin: Client, keypair: dict[str, str]) -> None:
    expression = f'access_key == "{keypair["access_key"]}" & is_active == true'
    (item,) = admin.items("admin", "keypair", "list", "--filter", expression, "--order", "-created_at")
    assert item["rate_limit"] in (5000, 7000)


def test_keypair_works_and_stops_working(
    admin: Client, user: Client, keypair: dict[str, str], cluster: Cluster
) -> None:
    env = {"BACKEND_ACCESS_KEY": keypair["access_key"], "BACKEND_SECRET_KEY": keypair["secret_key"]}
    assert keypair["access_key"] in user.cli("admin", "keypair", "info", env=env).ok().stdout
    changed(admin, "keypair", "deactivate", keypair["access_key"])
    assert "401" in user.cli("admin", "keypair", "info", env=env).text
    changed(admin, "keypair", "activate", keypair["access_key"])
    assert keypair["access_key"] in user.cli("admin", "keypair", "info", env=env).ok().stdout


def test_keypair_update(admin: Client, keypair: dict[str, str], person: str) -> None:
    changed(admin, "keypair", "update", keypair["access_key"], "-r", "7000", "--is-admin", "true")
    item = one(admin.items("admin", "keypair", "list", "-u", person), access_key=keypair["access_key"])
    assert item["rate_limit"] == 7000 and item["is_admin"] is True and item["is_active"] is True


def test_keypair_delete(admin: Client, person: str) -> None:
    keypair = add_keypair(admin, person)
    changed(admin, "keypair", "delete", keypair["access_key"])
    left = admin.items("admin", "keypair", "list", "-u", person)
    assert keypair["access_key"] not in [item["access_key"] for item in left]


# --- keypair resource policies ---


def add_policy(admin: Client) -> str:
    name = new("policy")
    limits = ("--max-concurrent-sessions", "3", "--idle-timeout", "600", "--max-session-lifetime", "7200")
    slots = ("--total-resource-slots", '{"cpu": "2", "mem": "1073741824"}', "--vfolder-host-perms", HOSTS)
    made = changed(admin, "keypair-resource-policy", "add", name, *limits, *slots)
    assert made["resource_policy"]["name"] == name
    return name


@pytest.fixture(scope="module")
def policy(admin: Client) -> Iterator[str]:
    name = add_policy(admin)
    yield name
    admin.cli("admin", "keypair-resource-policy", "delete", name, input="y\n")


def test_policy_list(admin: Client) -> None:
    item = one(admin.items("admin", "keypair-resource-policy", "list"), name="default")
    assert re.match(DATE, item["created_at"]) and "total_resource_slots" in item


def test_policy_info(admin: Client, policy: str) -> None:
    (item,) = admin.items("admin", "keypair-resource-policy", "info", policy)
    assert item["max_concurrent_sessions"] in (3, 5) and item["idle_timeout"] == 600
    assert "1073741824" in str(item["total_resource_slots"])
    assert "create-vfolder" in str(item["allowed_vfolder_hosts"])


def test_policy_update(admin: Client, policy: str) -> None:
    changed(admin, "keypair-resource-policy", "update", policy, "--max-concurrent-sessions", "5")
    (item,) = admin.items("admin", "keypair-resource-policy", "info", policy)
    assert item["max_concurrent_sessions"] == 5 and item["idle_timeout"] == 600


def test_policy_limits_are_enforced(admin: Client, user: Client, policy: str, cluster: Cluster) -> None:
    changed(admin, "keypair-resource-policy", "update", policy, "--max-containers-per-session", "1")
    key = changed(admin, "keypair", "add", cluster.user.email, policy)["keypair"]
    env = {"BACKEND_ACCESS_KEY": key["access_key"], "BACKEND_SECRET_KEY": key["secret_key"]}
    done = user.cli("session", "create", "-r", "cpu=1", "--cluster-size", "2", "python", env=env).failed()
    assert "412" in done.text and "You have reached your resource limit" in done.text
    changed(admin, "keypair", "delete", key["access_key"])


def test_policy_delete(admin: Client) -> None:
    policy = add_policy(admin)
    purge(admin, "keypair-resource-policy", "delete", policy)
    assert policy not in [item["name"] for item in admin.items("admin", "keypair-resource-policy", "list")]


# --- scaling groups ---


def add_sgroup(admin: Client) -> str:
    name = new("sg")
    options = ("-d", "for tests", "--driver", "static", "--driver-opts", "{}", "--scheduler", "fifo")
    schedule = ("--scheduler-opts", '{"pending_timeout": 0}')
    made = changed(admin, "scaling-group", "add", name, *options, *schedule)
    assert made["scaling_group"]["name"] == name
    return name


@pytest.fixture(scope="module")
def sgroup(admin: Client) -> Iterator[str]:
    name = add_sgroup(admin)
    yield name
    admin.cli("admin", "scaling-group", "delete", name)


def test_scaling_group_list(admin: Client) -> None:
    item = one(admin.items("admin", "scaling-group", "list"), name="default")
    assert item["is_active"] is True and item["is_public"] is True
    assert item["driver"] and item["scheduler"] and re.match(DATE, item["created_at"])
    assert "wsproxy_addr" in item and item["use_host_network"] in (True, False)


def test_scaling_group_info(admin: Client, sgroup: str) -> None:
    (item,) = admin.items("admin", "scaling-group", "info", sgroup)
    assert item["name"] == sgroup and item["is_active"] is True and item["driver"] == "static"
    assert item["driver_opts"] == {} and isinstance(item["scheduler_opts"], dict)


def test_scaling_group_update(admin: Client, sgroup: str) -> None:
    changed(
        admin, "scaling-group", "update", sgroup, "-d", "changed", "--scheduler", "lifo", "--private", "true"
    )
    (item,) = admin.items("admin", "scaling-group", "info", sgroup)
    assert item["description"] == "changed" and item["scheduler"] == "lifo" and item["is_public"] is False


def test_scaling_groups_available(user: Client) -> None:
    assert "default" in user.cli("admin", "scaling-group", "get-available", "default").ok().stdout


def test_scaling_group_of_a_domain(admin: Client, user: Client, version: str) -> None:
    """26.x names the commands otherwise, and the older ones fail at printing once dissociating is done."""
    sgroup = add_sgroup(admin)
    verb = "associate-scaling" if version == "26.9.6" else "associate-scaling-group"
    undo = "dissociate-scaling" if version == "26.9.6" else "dissociate-scaling-group"
    available = ("admin", "scaling-group", "get-available", "default")
    assert sgroup not in user.cli(*available).ok().stdout
    changed(admin, "scaling-group", verb, sgroup, "default")
    assert sgroup in user.cli(*available).ok().stdout
    admin.cli("admin", "scaling-group", undo, sgroup, "default")
    assert sgroup not in user.cli(*available).ok().stdout
    changed(admin, "scaling-group", "delete", sgroup)


SDK_GROUP_OF_PROJECT = """
from ai.backend.client.session import Session
with Session() as s:
    told = [s.ScalingGroup.associate_group(sgroup, group), s.ScalingGroup.dissociate_group(sgroup, group),
            s.ScalingGroup.associate_group(sgroup, group), s.ScalingGroup.dissociate_all_group(group)]
    give([one["ok"] for one in told])
"""


def test_scaling_group_of_a_project(admin: Client, sgroup: str, group: dict[str, str]) -> None:
    """The SDK declares the project's id a String where it is a UUID: the server must not mind."""
    assert admin.sdk(SDK_GROUP_OF_PROJECT, sgroup=sgroup, group=group["id"]) == [True] * 4


def test_scaling_group_delete(admin: Client) -> None:
    sgroup = add_sgroup(admin)
    changed(admin, "scaling-group", "delete", sgroup)
    assert sgroup not in [item["name"] for item in admin.items("admin", "scaling-group", "list")]


# --- what only a superadmin may ---


@pytest.mark.parametrize(
    "command",
    [
        ["domain", "list"],
        ["scaling-group", "list"],
        ["agent", "list"],
        ["domain", "add", "mine"],
        ["scaling-group", "add", "mine"],
        ["user", "add", "default", "x@example.org", "Secret-1234!", "-u", "x"],
        ["keypair", "add", "x@example.org", "default"],
        ["keypair-resource-policy", "add", "mine"],
    ],
    ids=lambda command: "-".join(command[:2]),
)
def test_a_user_may_not(user: Client, command: list[str]) -> None:
    done = user.cli("admin", *command).failed()
    assert re.search(r"[Ff]orbidden|privilege|permission|[Ss]uperadmin|Unauthorized", done.text), done
