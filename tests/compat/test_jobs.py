"""Sessions beyond one interactive container: batch jobs, delayed starts, dependencies, clusters, and the events that tell of them."""

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .client import Client
from .cluster import Cluster
from .sessions import DEADLINE_S, SMALL, create, execute, new_name, printed, running, state, wait_for
from .staying import Staying

EVENTS = """
import asyncio, json
from ai.backend.client.session import AsyncSession
async def main():
    seen = []
    async with AsyncSession() as s:
        session = s.ComputeSession(name)
        async with session.listen_events(scope=scope) as events:
            ending = asyncio.ensure_future(s.ComputeSession(name).destroy())
            async for event in events:
                seen.append([event.event, json.loads(event.data)])
                if event.event in ("session_terminated", "kernel_terminated", "server_close"):
                    if scope == "kernel" or event.event != "kernel_terminated":
                        break
            await ending
    give(seen)
asyncio.run(asyncio.wait_for(main(), 50))
"""


def batch(client: Client, command: str, **more: object) -> dict[str, object]:
    more = {"type_": "batch", "startup_command": command, "enqueue_only": True, **more}
    return create(client, new_name("batch"), **more)


@contextmanager
def listening(client: Client, name: str, *command: str) -> Iterator[Staying]:
    """A command that hears the events of the session. It does not say when it has subscribed, and what happened before is not told again:
    so the session is restarted until the command has heard of it."""
    with client.stay(*command, name) as staying:
        deadline = time.monotonic() + DEADLINE_S
        while not staying.said:
            assert time.monotonic() < deadline and staying.process.poll() is None, staying
            client.cli("session", "restart", name)
            time.sleep(0.3)
        yield staying


# --- batch ---


def test_a_batch_job_succeeds(user: Client) -> None:
    made = batch(user, "echo job says hello; sleep 1")
    ended = wait_for(user, str(made["id"]), "TERMINATED")
    assert ended["status_info"] == "task-done" or "task" in ended["status_info"]
    (row,) = user.items("ps", "--dead", "--filter", f'name == "{made["name"]}"', "-f", "name,result,type")
    assert row == {"name": made["name"], "result": "SUCCESS", "type": "BATCH"}
    assert "job says hello" in user.cli("session", "logs", str(made["id"])).ok().stdout


def test_a_batch_job_fails(user: Client) -> None:
    made = batch(user, "exit 3")
    wait_for(user, str(made["id"]), "TERMINATED")
    (row,) = user.items("ps", "--dead", "--filter", f'name == "{made["name"]}"', "-f", "name,result")
    assert row["result"] == "FAILURE"


def test_a_batch_job_from_the_command_line(user: Client) -> None:
    name = new_name("cli-batch")
    job = ("--type", "batch", "-c", "sleep 1", "--enqueue-only")
    told = user.cli("session", "create", *SMALL, *job, "-t", name, "python").ok().text
    assert re.search(r"Session ID \S+ is enqueued for scheduling", told)


def test_a_batch_job_needs_a_command(user: Client) -> None:
    done = user.cli("session", "create", *SMALL, "--type", "batch", "-t", new_name("empty"), "python")
    assert done.exit != 0


def test_a_batch_job_sees_its_environment(user: Client) -> None:
    made = batch(user, 'echo "$FLAVOUR in $PWD"', envs={"FLAVOUR": "plum"})
    wait_for(user, str(made["id"]), "TERMINATED")
    assert "plum in /home/work" in user.cli("session", "logs", str(made["id"])).ok().stdout


def test_a_delayed_start_waits(user: Client) -> None:
    made = batch(user, "true", starts_at="30m")
    shown = ("-f", "name,status,starts_at", "--filter", f'name == "{made["name"]}"')
    (row,) = user.items("ps", *shown)
    assert row["status"] == "PENDING" and row["starts_at"]
    user.cli("session", "destroy", str(made["name"])).ok()
    assert state(user, str(made["id"]))["status"] == "CANCELLED"


def test_a_delayed_start_comes(user: Client) -> None:
    made = batch(user, "echo at last", starts_at="2s")
    wait_for(user, str(made["id"]), "TERMINATED")
    assert "at last" in user.cli("session", "logs", str(made["id"])).ok().stdout


# --- dependencies ---


def test_a_job_waits_for_another(user: Client) -> None:
    first = batch(user, "sleep 2")
    second = batch(user, "true", dependencies=[first["id"]])
    shown = state(user, str(second["id"]))
    assert shown["status"] == "PENDING" and len(shown["dependencies"]) == 1
    # As JSON the clients print an empty object for each.
    assert f"+ {first['name']} ({first['id']})" in user.cli("session", "info", str(second["id"])).ok().stdout
    assert (
        wait_for(user, str(second["id"]), "TERMINATED")["created_at"]
        >= state(user, str(first["id"]))["created_at"]
    )


def test_a_job_after_a_failure_is_cancelled(user: Client) -> None:
    first = batch(user, "exit 1")
    second = batch(user, "true", dependencies=[first["name"]])
    assert wait_for(user, str(second["id"]), "CANCELLED")["status"] == "CANCELLED"


def test_depending_on_nothing_known_is_refused(user: Client) -> None:
    """By an id: 26.x takes nothing else."""
    done = user.cli("session", "create", *SMALL, "--depends", str(uuid.uuid4()), "python").failed()
    assert "No such session." in done.text


def test_the_dependency_graph(user: Client) -> None:
    first = create(user, f"graph-{new_name('a')}-first-task")
    try:
        second = create(
            user, f"graph-{new_name('b')}-second-task", dependencies=[first["id"]], enqueue_only=True
        )
        table = user.cli("session", "show-graph", "-t", second["name"]).ok().stdout
        assert re.search(rf"{first['name']}\s+{first['id']}\s+KernelStatus\.RUNNING", table), table
        assert re.search(rf"{second['name']}\s+{second['id']}\s+KernelStatus\.PENDING", table), table
        tree = user.cli("session", "show-graph", second["name"]).ok().stdout
        assert re.search(r'second \("PENDING".*\n.*first \("RUNNING"', tree), tree
    finally:
        user.cli("session", "destroy", "-r", first["name"])


# --- clusters ---


@pytest.fixture(scope="module")
def two_containers(admin: Client) -> Iterator[None]:
    """One container a session is all that the policy allows at first."""

    def allow(count: str) -> None:
        limit = ("--max-containers-per-session", count)
        admin.json("admin", "keypair-resource-policy", "update", "default", *limit)

    allow("2")
    yield
    allow("1")


@pytest.mark.usefixtures("two_containers")
def test_a_cluster_on_one_node(user: Client) -> None:
    with running(user, "cluster", cluster_size=2, cluster_mode="single-node") as session:
        containers = state(user, session.id)["containers"]
        hosts = sorted(container["cluster_hostname"] for container in containers)
        assert hosts == ["main1", "sub1"]
        assert sorted(container["cluster_role"] for container in containers) == ["main", "sub"]
        assert all(container["status"] == "RUNNING" for container in containers)


@pytest.mark.usefixtures("two_containers")
def test_a_cluster_knows_itself(user: Client) -> None:
    with running(user, "peers", cluster_size=2, cluster_mode="single-node") as session:
        code = "import os; print(os.environ['BACKENDAI_CLUSTER_SIZE'], os.environ['BACKENDAI_CLUSTER_HOSTS'])"
        assert printed(execute(user, session.name, code)) == "2 main1,sub1\n"


@pytest.mark.usefixtures("two_containers")
def test_a_cluster_from_the_command_line(user: Client, version: str) -> None:
    name = new_name("cli-cluster")
    mode = "multi_node" if version == "26.9.6" else "multi-node"
    size = ("--cluster-size", "2", "--cluster-mode", mode)
    try:
        user.cli("session", "create", *SMALL, *size, "-t", name, "python").ok()
        (row,) = user.items("ps", "-f", "name,cluster_size,cluster_mode", "--filter", f'name == "{name}"')
        assert row == {"name": name, "cluster_size": 2, "cluster_mode": "multi-node"}
    finally:
        user.cli("session", "destroy", name)


def test_destroy_several(user: Client) -> None:
    with running(user, "one") as one, running(user, "two") as two:
        assert "Done." in user.cli("rm", one.name, two.name).ok().text
        assert wait_for(user, one.id, "TERMINATED")["status_info"] == "user-requested"
        wait_for(user, two.id, "TERMINATED")


# --- events ---


def test_the_sdk_hears_a_session_end(user: Client, cluster: Cluster) -> None:
    with running(user, "heard") as session:
        seen = user.sdk(EVENTS, name=session.name, scope="*")
    ended = dict(seen)["session_terminated"]
    assert ended["sessionId"] == session.id and ended["sessionName"] == session.name
    assert ended["ownerAccessKey"] == cluster.user.access_key
    assert ended["reason"] == "user-requested" and "exitCode" in ended


def test_events_are_narrowed_to_kernels(user: Client) -> None:
    with running(user, "kernels") as session:
        seen = user.sdk(EVENTS, name=session.name, scope="kernel")
    assert seen and all(name.startswith("kernel_") for name, _ in seen)
    last = seen[-1][1]
    assert last["clusterRole"] == "main" and last["clusterIdx"] in (0, 1) and last["kernelId"]


def test_events_are_narrowed_to_sessions(user: Client) -> None:
    with running(user, "sessions") as session:
        seen = user.sdk(EVENTS, name=session.name, scope="session")
    assert seen and all(name.startswith("session_") for name, _ in seen)


def test_the_events_command(user: Client) -> None:
    with running(user, "told") as session, listening(user, session.name, "events") as events:
        user.cli("session", "destroy", session.name).ok()
        assert session.id in events.hears("session_terminated")


def test_watch_ends_with_the_session(user: Client) -> None:
    with running(user, "watched") as session, listening(user, session.name, "watch") as watch:
        user.cli("session", "destroy", session.name).ok()
        watch.hears("session_terminated")
        assert watch.ends() == 0, watch


def test_watch_ends_with_a_jobs_exit_code(user: Client) -> None:
    made = batch(user, "until [ -e go.txt ]; do sleep 0.1; done; exit 3")
    wait_for(user, str(made["id"]), "RUNNING")
    with listening(user, str(made["name"]), "watch") as watch:
        (user.home / "go.txt").write_text("go")
        user.cli("session", "upload", str(made["id"]), "go.txt").ok()
        watch.hears("session_failure")
        assert watch.ends() == 3, watch


def test_watch_gives_up(user: Client) -> None:
    with running(user, "dull") as session:
        user.cli("watch", "--max-wait", "2", session.name).failed(3)


def test_watch_nothing(user: Client) -> None:
    done = user.cli("watch", "no-such-session-at-all").failed()
    assert "No matching items." in done.text
