"""Sessions of several containers, as their users have them: a network of their own, names, and nothing left of it."""

import contextlib
import hashlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai.backend.client.config import ClientConfig
from ai.backend.client.sync import Client
from ai.backend.testkit.dockerd import PrivateDockerd

from .conftest import Cluster, docker_args
from .test_batch import ended, listed, outcome, until
from .test_crash import kill_cluster

ALLOW = """mutation { modify_keypair_resource_policy(name: "default", props: {max_containers_per_session: 4}) { ok msg } }"""
SERVE = """
case $BACKENDAI_CLUSTER_HOST in
sub*) cat > serve.py <<'END'
import os, socket
server = socket.create_server(("", 7000))
while True:
    server.accept()[0].sendall(os.environ["BACKENDAI_CLUSTER_HOST"].encode())
END
  nohup python3 serve.py >/dev/null 2>&1 & ;;
esac
"""
"""Run at the start of each container: in the sub ones, a server that says who it is."""
ASK = """cat > ask.py <<'END'
import os, socket, time
hosts = os.environ["BACKENDAI_CLUSTER_HOSTS"].split(",")
for host in hosts[1:]:
    until = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection((host, 7000), 5) as peer:
                print(host, "says", peer.recv(64).decode(), flush=True)
            break
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
for address in ("192.0.2.53", os.environ["OUTSIDE"]):
    try:
        socket.create_connection((address, int(os.environ["PORT"])), 3)
        print("leaked to", address)
    except OSError:
        print("nothing at", address != "192.0.2.53" and "the machine" or "the outside")
key = os.stat("/home/config/ssh/id_cluster")
print(socket.gethostname(), os.environ["BACKENDAI_CLUSTER_SIZE"], oct(key.st_mode & 0o777), key.st_uid == os.getuid())
END
python3 ask.py"""


def configure(cluster: Cluster, agent: str) -> None:
    cluster.home.mkdir()
    (cluster.home / "config.toml").write_text(f"[agent]\n{agent}\n")


def allow(cluster: Cluster) -> None:
    with Client(ClientConfig.from_environ(cluster.env)) as api:
        assert api.graphql(ALLOW)["modify_keypair_resource_policy"]["ok"]


def make(cluster: Cluster, name: str, command: str, folder: Path, *more: str) -> str:
    script = folder / "bootstrap.sh"
    script.write_text(SERVE)
    words = (
        "--enqueue-only",
        "--type",
        "batch",
        "--startup-command",
        command,
        "-t",
        name,
        "--cluster-size",
        "3",
    )
    words += ("-r", "cpu=1", "-r", "mem=128m", "--bootstrap-script", str(script))
    made: dict[str, Any] = cluster.json("session", "create", "python", *words, *more)
    return str(made["sessionId"])


def networks_of(cluster: Cluster) -> list[str]:
    """What the machine has of this cluster's networks: those of its agent on the engine, or holders."""
    if cluster.backend == "docker":
        agent = json.loads((cluster.home / "agent" / "agent.json").read_bytes())["agent_id"]
        listing = ["docker", "-H", cluster.extra[1], "network", "ls", "--format", "{{.Name}}"]
        names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
        return [name for name in names if name.startswith(agent)]
    folder = hashlib.sha256(str(cluster.home.resolve()).encode()).hexdigest()[:12]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environ = (process / "environ").read_bytes()
            if environ.startswith(b"BACKENDAI_NETWORK=") and folder.encode() in environ:
                found.append(f"holder {process.name}")
    return found


@pytest.fixture(params=["sandbox", pytest.param("docker", marks=pytest.mark.docker)])
def own_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """One that a test may kill, and that has room for six containers on any machine."""
    extra: tuple[str, ...] = ()
    if request.param == "docker":
        engine: PrivateDockerd = request.getfixturevalue("dockerd")
        request.getfixturevalue("python_image")
        extra = docker_args(engine)
    cluster = Cluster(home=tmp_path / "home", backend=request.param, extra=extra)
    configure(cluster, "cores = 6")
    cluster.up()
    try:
        yield cluster
    finally:
        cluster.down()


def test_containers_of_a_session_reach_each_other_by_name_and_nothing_else(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    cluster = own_cluster
    allow(cluster)
    with socket.create_server(("", 0)) as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        words = ("-e", f"OUTSIDE={probe.getsockname()[0]}", "-e", f"PORT={listener.getsockname()[1]}")
        made = make(cluster, "trio-one", ASK, tmp_path, *words)
        assert outcome(cluster, made)[2:] == ("success", 0), (
            listed(cluster, made),
            cluster.cli("logs", made).stdout,
        )
    said = cluster.cli("logs", made).stdout
    assert "sub1 says sub1\nsub2 says sub2\n" in said
    assert "nothing at the outside\nnothing at the machine\nmain1 3 0o600 True\n" in said
    until(lambda: networks_of(cluster) == [])


def test_a_killed_cluster_finds_its_networks_and_takes_them_away(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    allow(own_cluster)
    wait = f"echo begun; while ! [ -e go ]; do sleep 0.1; done\n{ASK}"
    words = ("-e", "OUTSIDE=192.0.2.54", "-e", "PORT=9")
    goes_on, is_ended = (make(own_cluster, name, wait, tmp_path, *words) for name in ("goes-on", "is-ended"))
    for one in (goes_on, is_ended):
        until(lambda one=one: "begun" in own_cluster.cli("logs", one, check=False).stdout)
    assert len(networks_of(own_cluster)) == 2
    kill_cluster(own_cluster)
    own_cluster.up()
    until(lambda: listed(own_cluster, goes_on)["status"] == "RUNNING")
    (tmp_path / "go").touch()
    own_cluster.cli("session", "upload", goes_on, str(tmp_path / "go"))
    assert outcome(own_cluster, goes_on)[2:] == ("success", 0), own_cluster.cli("logs", goes_on).stdout
    assert "sub1 says sub1\nsub2 says sub2\n" in own_cluster.cli("logs", goes_on).stdout
    own_cluster.cli("rm", "--forced", is_ended)
    ended(own_cluster, is_ended)
    until(lambda: networks_of(own_cluster) == [])
    logs = [path.read_text() for path in own_cluster.home.glob("logs/*")]
    assert logs and not any("PRIVATE KEY" in text for text in logs)


def test_a_range_without_room_is_told(tmp_path: Path) -> None:
    cluster = Cluster(home=tmp_path / "home", backend="sandbox")
    configure(cluster, 'cores = 3\nnetwork-range = "10.213.9.0/30"')
    cluster.up()
    try:
        allow(cluster)
        made = make(cluster, "no-room", "true", tmp_path)
        found = ended(cluster, made)
        assert found["reason"] == "failed-to-create", found
        assert "no part of 10.213.9.0/30 is free" in json.dumps(found), found
        assert networks_of(cluster) == []
    finally:
        cluster.down()
