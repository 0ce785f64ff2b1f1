"""Batch sessions: a command that runs by itself, once, and what came of it."""

import json
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ai.backend.client.config import ClientConfig
from ai.backend.client.sync import Client

from .conftest import Cluster
from .test_crash import kill_cluster

PATIENCE_S = 120


def until(look: Callable[[], Any]) -> Any:
    """The first answer that is one."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
    return found


def batch(cluster: Cluster, name: str, command: str, *more: str, **options: Any) -> Any:
    words = ("--enqueue-only", "--type", "batch", "--startup-command", command, "-t", name, *more)
    return cluster.json("session", "create", "python", *words, **options)


def listed(cluster: Cluster, session_id: str) -> dict[str, Any]:
    items = cluster.json("ps", "--all")["items"]
    return next(item for item in items if item["id"] == session_id)  # type: ignore[no-any-return]


def ended(cluster: Cluster, session_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = listed(cluster, session_id)
        return found if found["status"] in ("TERMINATED", "CANCELLED") else None

    return until(look)  # type: ignore[no-any-return]


def outcome(cluster: Cluster, session_id: str) -> tuple[str, str, str, int | None]:
    found = ended(cluster, session_id)
    return found["status"], found["reason"], found["result"], found["exitCode"]


def test_success_and_failure_are_told_and_logs_kept(sandbox_cluster: Cluster) -> None:
    good = batch(sandbox_cluster, "good-one", "echo said $((6*7)); exit 0")["sessionId"]
    bad = batch(sandbox_cluster, "bad-one", "echo oh no >&2; exit 3")["sessionId"]
    assert outcome(sandbox_cluster, good) == ("TERMINATED", "task-finished", "success", 0)
    assert outcome(sandbox_cluster, bad) == ("TERMINATED", "task-finished", "failure", 3)
    assert "said 42" in sandbox_cluster.cli("session", "logs", good).stdout
    assert "oh no" in sandbox_cluster.cli("session", "logs", bad).stdout


def test_a_command_over_its_limit_is_ended(sandbox_cluster: Cluster) -> None:
    made = batch(sandbox_cluster, "too-long", "echo begun; sleep 600", "--timeout", "2s")
    assert outcome(sandbox_cluster, made["sessionId"])[:3] == ("TERMINATED", "task-timeout", "failure")


def test_without_a_command_it_is_refused(sandbox_cluster: Cluster) -> None:
    done = sandbox_cluster.cli("session", "create", "python", "--type", "batch", check=False)
    assert done.returncode != 0 and "command" in done.stderr


def test_one_starts_at_its_time(sandbox_cluster: Cluster) -> None:
    tomorrow = batch(sandbox_cluster, "tomorrow-one", "echo late", "--starts-at", "1d")["sessionId"]
    waiting = until(lambda: (one := listed(sandbox_cluster, tomorrow))["message"] and one)
    assert (waiting["status"], waiting["reason"]) == ("PENDING", "waits-for-time"), waiting
    sandbox_cluster.cli("rm", tomorrow)
    made = batch(sandbox_cluster, "later-one", "echo late", "--starts-at", "2s")["sessionId"]
    assert outcome(sandbox_cluster, made)[2] == "success"
    history = sandbox_cluster.json("session", "status-history", made)["history"]
    asked, began = (datetime.fromisoformat(history[word]) for word in ("PENDING", "SCHEDULED"))
    assert began - asked >= timedelta(seconds=2)


def test_a_chain_of_two_and_what_becomes_of_it_after_a_failure(sandbox_cluster: Cluster) -> None:
    first = batch(sandbox_cluster, "chain-first", "sleep 2; touch done")["sessionId"]
    second = batch(sandbox_cluster, "chain-second", "echo after", "--depends", "chain-first")["sessionId"]
    graph = sandbox_cluster.json("session", "graph", "chain-second")
    assert [node["session_id"] for node in graph["depends_on"]] == [first]
    assert outcome(sandbox_cluster, second)[2] == "success"
    assert ended(sandbox_cluster, first)["terminatedAt"] <= ended(sandbox_cluster, second)["terminatedAt"]
    batch(sandbox_cluster, "chain-bad", "sleep 2; false")
    lost = batch(sandbox_cluster, "chain-lost", "echo never", "--depends", "chain-bad")["sessionId"]
    assert outcome(sandbox_cluster, lost)[:2] == ("CANCELLED", "dependency-failed")


def test_a_callback_hears_of_every_event(sandbox_cluster: Cluster) -> None:
    heard: list[dict[str, Any]] = []

    class Hear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hear) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/hook"
        made = batch(sandbox_cluster, "told-one", "exit 3", "--callback-url", url)["sessionId"]
        until(lambda: heard and heard[-1]["event"] == "terminated")
        server.shutdown()
    assert {(one["type"], one["session_id"]) for one in heard} == {("session_lifecycle", made)}
    words = [one["event"] for one in heard]
    assert [word for word in words if word not in ("preparing", "terminating")] == [
        "enqueued", "scheduled", "started", "failure", "terminated",
    ]  # fmt: skip
    assert all(datetime.fromisoformat(one["when"]).tzinfo for one in heard)


ALLOW = """mutation { modify_keypair_resource_policy(name: "default", props: {max_containers_per_session: 2}) { ok msg } }"""


def test_a_cluster_of_two_on_one_node(sandbox_cluster: Cluster) -> None:
    words = ("session", "create", "python", "--enqueue-only", "-t", "pair-one", "--cluster-size", "2")
    refused = sandbox_cluster.cli(*words, check=False)
    assert refused.returncode == 1 and "asked 2 of 1" in refused.stderr
    with Client(ClientConfig.from_environ(sandbox_cluster.env)) as api:
        assert api.graphql(ALLOW)["modify_keypair_resource_policy"]["ok"]
    said = "echo $BACKENDAI_CLUSTER_ROLE of $BACKENDAI_CLUSTER_SIZE: $BACKENDAI_CLUSTER_HOSTS"
    made = batch(sandbox_cluster, "pair-one", said, "--cluster-size", "2")["sessionId"]
    assert outcome(sandbox_cluster, made) == ("TERMINATED", "task-finished", "success", 0)
    assert "main of 2: main1,sub1" in sandbox_cluster.cli("logs", made).stdout


TEMPLATE = """
api_version: v1
kind: task_template
metadata: {name: greeter, tag: kept}
spec:
  session_type: batch
  kernel:
    image: python
    environ: {WHO: world}
    run: {startup_command: 'echo hello $WHO'}
"""


def test_a_template_is_kept_used_and_deleted(sandbox_cluster: Cluster) -> None:
    (kept,) = sandbox_cluster.json("template", "create", stdin=TEMPLATE)["ids"]
    assert kept in [one["id"] for one in sandbox_cluster.json("session-template", "list")["items"]]
    made = sandbox_cluster.json("session", "create-from-template", kept, "-t", "greeted", "--enqueue-only")
    assert outcome(sandbox_cluster, made["sessionId"])[2:] == ("success", 0)
    assert "hello world" in sandbox_cluster.cli("logs", made["sessionId"]).stdout
    text = sandbox_cluster.cli("template", "get", kept).stdout.replace("world", "there")
    assert sandbox_cluster.json("template", "update", kept, stdin=text)["ok"]
    made = sandbox_cluster.json("session", "create-from-template", kept, "-t", "greeted", "--enqueue-only")
    ended(sandbox_cluster, made["sessionId"])
    assert "hello there" in sandbox_cluster.cli("logs", made["sessionId"]).stdout
    assert sandbox_cluster.json("template", "delete", kept)["ok"]
    assert sandbox_cluster.cli("template", "get", kept, check=False).returncode == 1


def test_a_killed_cluster_runs_nothing_twice(tmp_path: Path) -> None:
    cluster = Cluster(home=tmp_path / "home", backend="sandbox")
    cluster.up()
    try:
        script = "echo begun at $(date +%s%N); sleep 6; echo all done"
        made = batch(cluster, "survivor", script)["sessionId"]
        until(lambda: "begun" in cluster.cli("session", "logs", made, check=False).stdout)
        kill_cluster(cluster)
        cluster.up()
        assert outcome(cluster, made) == ("TERMINATED", "task-finished", "success", 0)
        # It ends while nobody listens, and its end is told to the next.
        quick = batch(cluster, "unheard", "echo begun at $(date +%s%N); sleep 2; echo all done; exit 4")[
            "sessionId"
        ]
        until(lambda: "begun" in cluster.cli("session", "logs", quick, check=False).stdout)
        kill_cluster(cluster)
        time.sleep(4)
        cluster.up()
        assert outcome(cluster, quick) == ("TERMINATED", "task-finished", "failure", 4)
        for one in (made, quick):
            logs = cluster.cli("session", "logs", one).stdout
            assert logs.count("begun at") == 1 and logs.count("all done") == 1, logs
    finally:
        cluster.down()
