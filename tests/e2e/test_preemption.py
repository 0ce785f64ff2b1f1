"""Sessions that take the place of others, and large ones that are not starved by small ones."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai.backend.client.config import ClientConfig
from ai.backend.client.sync import Client

from .conftest import Cluster
from .test_batch import listed, until
from .test_crash import kill_cluster

MODIFY = 'mutation($opts: JSONString!) { modify_scaling_group(name: "default", props: {scheduler_opts: $opts}) { ok msg } }'


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(home=tmp_path / "home", backend="sandbox")
    cluster.up()
    yield cluster
    cluster.down()


def configure(cluster: Cluster, **options: Any) -> dict[str, Any]:
    with Client(ClientConfig.from_environ(cluster.env)) as api:
        answer = api.graphql(MODIFY, {"opts": json.dumps(options)})
        return answer["modify_scaling_group"]  # type: ignore[no-any-return]


def cpus(cluster: Cluster) -> int:
    with Client(ClientConfig.from_environ(cluster.env)) as api:
        (agent,) = api.agents()
        return int(float(agent.capacity["cpu"]))


def create(cluster: Cluster, name: str, cpu: int, *more: str, **options: Any) -> str:
    words = ("--enqueue-only", "-t", name, "-r", f"cpu={cpu}", "-r", "mem=64m", *more)
    return str(cluster.json("session", "create", "python", *words, **options)["sessionId"])


def status(cluster: Cluster, session_id: str, *wanted: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = listed(cluster, session_id)
        return found if found["status"] in wanted else None

    return until(look)  # type: ignore[no-any-return]


def test_a_higher_job_priority_takes_the_place_of_a_lower_one(cluster: Cluster) -> None:
    all_of_it = cpus(cluster)
    options = {"enabled": True, "scope": "resource-group"}
    assert not configure(cluster, preemption={**options, "mode": "vanish"})["ok"]
    assert not configure(cluster, preemption={**options, "minimum": 3})["ok"]
    assert configure(cluster, preemption=options)["ok"]
    refused = cluster.cli(
        "session", "create", "python", "--job-priority", "1", env=cluster.as_user(), check=False
    )
    assert refused.returncode != 0 and "job priority" in refused.stderr
    low = create(cluster, "low-one", all_of_it, "--job-priority", "-1", env=cluster.as_user())
    status(cluster, low, "RUNNING")
    patient = create(cluster, "same-rank", all_of_it, "--job-priority", "-1")
    why = cluster.json("session", "why", patient)
    assert why["rule"] == "not-enough-free-slots"
    high = create(cluster, "high-one", all_of_it)
    status(cluster, high, "RUNNING")
    ended = status(cluster, low, "TERMINATED")
    assert ended["reason"] == "preempted" and "took its place" in ended["message"]
    assert listed(cluster, patient)["status"] == "PENDING", (
        "it does not snatch what was made free for another"
    )
    safe = create(cluster, "higher-still", all_of_it, "--job-priority", "5", "--no-preempt")
    status(cluster, safe, "RUNNING")
    assert status(cluster, high, "TERMINATED")["reason"] == "preempted"
    last = create(cluster, "too-late", all_of_it, "--job-priority", "6")
    why = cluster.json("session", "why", last)
    assert why["rule"] == "not-enough-free-slots" and listed(cluster, safe)["status"] == "RUNNING"


def test_a_preempted_session_waits_again_where_that_is_wished(cluster: Cluster) -> None:
    """Under its id, with a new container, also when the cluster is killed meanwhile."""
    all_of_it = cpus(cluster)
    options = {"enabled": True, "scope": "resource-group", "mode": "reschedule"}
    assert configure(cluster, preemption=options)["ok"]
    low = create(cluster, "low-one", all_of_it, "--job-priority", "-1")
    status(cluster, low, "RUNNING")
    high = create(cluster, "high-one", all_of_it)
    status(cluster, high, "RUNNING")
    status(cluster, low, "PENDING")
    assert "took its place" in cluster.json("session", "why", low)["message"]
    kill_cluster(cluster)
    cluster.up()
    assert listed(cluster, low)["status"] == "PENDING"
    cluster.cli("session", "destroy", high)
    status(cluster, low, "RUNNING")
    assert cluster.cli("exec", "low-one", "-c", "print(6 * 7)").stdout == "42\n"
    cluster.cli("session", "destroy", low)
    status(cluster, low, "TERMINATED")


def test_a_large_session_is_not_starved_by_small_ones(cluster: Cluster) -> None:
    """And what is reserved for it stays so when the cluster is killed and started again."""
    all_of_it = cpus(cluster)
    if all_of_it < 2:
        pytest.fail("this takes a machine with two processors")
    assert configure(cluster, reserve_after=0)["ok"]
    first = create(cluster, "first", 1)
    status(cluster, first, "RUNNING")
    large = create(cluster, "large", all_of_it)
    until(lambda: listed(cluster, large)["reason"] == "not-enough-free-slots")
    small = create(cluster, "small", 1)
    until(lambda: listed(cluster, small)["reason"] == "held-for-another")
    why = cluster.json("session", "why", small)
    assert why["unblock"][0]["kind"] == "turn" and "held for a session" in why["message"]
    assert "reserved" in cluster.json("session", "why", large)["message"]
    short = create(cluster, "short", 1, "--type", "batch", "--startup-command", "true", "--timeout", "60s")
    until(lambda: listed(cluster, short)["reason"] == "held-for-another")
    kill_cluster(cluster)
    cluster.up()
    assert listed(cluster, small)["status"] == "PENDING"
    cluster.cli("session", "destroy", first)
    status(cluster, large, "RUNNING")
    assert listed(cluster, small)["status"] == "PENDING"
    cluster.cli("session", "destroy", large)
    status(cluster, small, "RUNNING")
