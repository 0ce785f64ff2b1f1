"""`kill -9` of the whole cluster and `up` again: what ran runs on, and nothing is left over."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ai.backend.testkit.dockerd import PrivateDockerd

from .conftest import Cluster, docker_args, launch


def kill_cluster(cluster: Cluster) -> None:
    os.kill(cluster.pid, signal.SIGKILL)
    while Path(f"/proc/{cluster.pid}").exists():
        time.sleep(0.02)


def containers_of(engine: PrivateDockerd) -> list[str]:
    listed = subprocess.run(
        ["docker", "-H", engine.url, "ps", "-aq"], capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


def leftovers(cluster: Cluster) -> list[str]:
    """Processes, mounts and cgroups that name something of this cluster (its sessions' kernel ids)."""
    ids = [k for s in cluster_sessions(cluster) for k in (s["id"], *s.get("kernelIds", []))]
    found = []
    for proc in Path("/proc").iterdir():
        if proc.name.isdigit() and int(proc.name) not in (os.getpid(), cluster.pid):
            try:
                command = (proc / "cmdline").read_bytes().decode(errors="replace")
                cgroup = (proc / "cgroup").read_text()
            except OSError:
                continue
            if any(one in command or one in cgroup for one in ids):
                found.append(f"process {proc.name}: {command[:80]}")
    mounts = Path("/proc/self/mountinfo").read_text()
    found += [f"mount of {one}" for one in ids if one in mounts]
    listing = subprocess.run(
        ["find", "/sys/fs/cgroup", "-type", "d"], capture_output=True, text=True, check=False
    )
    found += [f"cgroup {line}" for line in listing.stdout.splitlines() if any(one in line for one in ids)]
    return found


def cluster_sessions(cluster: Cluster) -> list[dict]:  # type: ignore[type-arg]
    return cluster.json("ps", "--all")["items"]  # type: ignore[no-any-return]


def story(cluster: Cluster) -> None:
    cluster.up()
    try:
        cluster.cli("session", "create", "python", "-t", "survivor")
        cluster.cli("exec", "survivor", "-c", "held = 41")
        cluster.cli("session", "create", "python", "-t", "queued-one", "-r", "cpu=1", "--enqueue-only")
        kill_cluster(cluster)
        cluster.up()
        done = cluster.cli("exec", "survivor", "-c", "print(held + 1)")
        assert done.stdout == "42\n"
        deadline = time.monotonic() + 60
        while (found := {s["name"]: s["status"] for s in cluster_sessions(cluster)})[
            "queued-one"
        ] != "RUNNING":
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        # A session that ends while the cluster is down is told of, with its reason.
        kill_cluster(cluster)
        cluster.up()
        for name in ("survivor", "queued-one"):
            cluster.cli("rm", name)
        statuses = {s["name"]: s["status"] for s in cluster_sessions(cluster)}
        assert set(statuses.values()) == {"TERMINATED"}, statuses
        assert not leftovers(cluster)
    finally:
        cluster.down()


@pytest.mark.sandbox
def test_sandbox_sessions_survive(tmp_path: Path) -> None:
    story(Cluster(home=tmp_path / "home", backend="sandbox"))


@pytest.mark.docker
def test_docker_sessions_survive(tmp_path: Path, dockerd: PrivateDockerd, python_image: object) -> None:
    before = set(containers_of(dockerd))
    story(Cluster(home=tmp_path / "home", backend="docker", extra=docker_args(dockerd)))
    assert set(containers_of(dockerd)) <= before


@pytest.mark.docker
def test_the_engine_may_stop_while_sessions_run(
    tmp_path: Path, dockerd: PrivateDockerd, python_image: object
) -> None:
    cluster = Cluster(home=tmp_path / "home", backend="docker", extra=docker_args(dockerd))
    cluster.up()
    try:
        cluster.cli("session", "create", "python", "-t", "outlives")
        cluster.cli("exec", "outlives", "-c", "held = 42")
        dockerd.kill()
        done = cluster.cli("session", "create", "python", "-t", "waits", "--max-wait", "3", check=False)
        assert done.returncode != 0
        assert cluster.json("info", "outlives")["status"] == "RUNNING"
        dockerd.start()
        assert cluster.cli("exec", "outlives", "-c", "print(held)").stdout == "42\n"
        deadline = time.monotonic() + 60
        while True:
            (found,) = [s for s in cluster_sessions(cluster) if s["name"] == "waits"]
            if found["status"] == "RUNNING":
                break
            if found["status"] in (
                "TERMINATED",
                "CANCELLED",
            ):  # it was sent there before the outage was noticed
                assert found["reason"] == "failed-to-create" and found["message"], found
                break
            assert time.monotonic() < deadline, found
            time.sleep(0.3)
    finally:
        cluster.down()


@pytest.mark.sandbox
def test_two_clusters_run_side_by_side(tmp_path: Path) -> None:
    one = Cluster(home=tmp_path / "one", backend="sandbox")
    two = Cluster(home=tmp_path / "two", backend="sandbox")
    one.up()
    two.up()
    try:
        assert one.env["BACKEND_ENDPOINT"] != two.env["BACKEND_ENDPOINT"]
        one.cli("session", "create", "python", "-t", "same-name")
        two.cli("session", "create", "python", "-t", "same-name")
        one.cli("exec", "same-name", "-c", "who = 'one'")
        two.cli("exec", "same-name", "-c", "who = 'two'")
        assert one.cli("exec", "same-name", "-c", "print(who)").stdout == "one\n"
    finally:
        one.down()
        two.down()
    for cluster in (one, two):
        told = launch("status", "--home", str(cluster.home), "--output", "json", check=False)
        assert json.loads(told.stdout)["running"] is False


@pytest.mark.sandbox
def test_a_second_up_on_one_home_and_env_permissions(tmp_path: Path) -> None:
    cluster = Cluster(home=tmp_path / "home with space", backend="sandbox")
    cluster.up()
    try:
        again = launch("up", "--home", str(cluster.home), "--detach", "--json", check=False)
        assert again.returncode != 0 or json.loads(again.stdout)["pid"] == cluster.pid
        assert (cluster.home / "env.sh").stat().st_mode & 0o777 == 0o600
        wanted = {
            "BACKEND_ENDPOINT", "BACKEND_ACCESS_KEY", "BACKEND_SECRET_KEY", "BACKEND_ADMIN_EMAIL", "BACKEND_ADMIN_PASSWORD",
            "BACKEND_WEB_ENDPOINT", "BACKEND_USER_EMAIL", "BACKEND_USER_PASSWORD", "BACKEND_USER_ACCESS_KEY",
            "BACKEND_USER_SECRET_KEY",
        }  # fmt: skip
        assert wanted <= set(cluster.env)
        logs = "".join(
            p.read_text(errors="replace") for p in (cluster.home / "logs").rglob("*") if p.is_file()
        )
        assert (
            cluster.env["BACKEND_SECRET_KEY"] not in logs
            and cluster.env["BACKEND_ADMIN_PASSWORD"] not in logs
        )
    finally:
        cluster.down()
