"""What goes wrong on a node: a full disk under the sessions' folders, and an image that can't start. Said clearly, and nothing is left."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai.backend.testkit.dockerd import PrivateDockerd

from .conftest import Cluster

PLACE = Path("/var/tmp")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 200 MiB for the node's folders."""
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    place = PLACE / f"small-{os.getpid()}"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m,mode=711", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
    place.rmdir()


@pytest.mark.sandbox
def test_a_full_disk(tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKENDAI_AGENT_NODE_ROOT", str(small_disk))
    cluster = Cluster(home=tmp_path / "home", backend="sandbox")
    cluster.up()
    try:
        cluster.cli("session", "create", "python", "-t", "filler")
        fill = (
            "f = open('big', 'wb')\n"
            "try:\n"
            "    while True: f.write(b'x' * (1 << 20)); f.flush()\n"
            "except OSError as e: print('full:', e.strerror)\n"
        )
        assert "full: No space left on device" in cluster.cli("exec", "filler", "-c", fill).stdout
        up = cluster.cli("upload", "filler", str(tmp_path / "home" / "env.sh"), check=False)
        assert up.returncode != 0 and "full" in up.stderr
        refused = cluster.cli("session", "create", "python", "-t", "another", "--max-wait", "6", check=False)
        assert refused.returncode != 0
        assert cluster.json("info", "filler")["status"] == "RUNNING"
        assert cluster.cli("exec", "filler", "-c", "print('still here')").stdout == "still here\n"
        cluster.cli("rm", "filler")
        cluster.cli("rm", "another", check=False)
        deadline = time.monotonic() + 60
        while (
            done := cluster.cli("run", "python", "-c", "print('again')", "--max-wait", "10", check=False)
        ).returncode:
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.5)
        assert done.stdout == "again\n"
    finally:
        cluster.down()
    assert list((small_disk / "clusters").glob("*/scratch/*")) == []


@pytest.mark.docker
def test_an_image_that_can_not_start(
    docker_cluster: Cluster, dockerd: PrivateDockerd, python_image: object
) -> None:
    docker = ["docker", "-H", dockerd.url]
    made = subprocess.run(
        [*docker, "create", "local/python:3.11-debian12"], capture_output=True, text=True, check=True
    ).stdout.strip()
    change = "LABEL ai.backend.runtime-path=/nonexistent/python"
    subprocess.run(
        [*docker, "commit", "--change", change, made, "local/broken:1"], capture_output=True, check=True
    )
    subprocess.run([*docker, "rm", made], capture_output=True, check=True)
    try:
        deadline = time.monotonic() + 30
        while "local/broken:1" not in docker_cluster.cli("image", "ls").stdout:
            assert time.monotonic() < deadline
            time.sleep(0.3)
        done = docker_cluster.cli("session", "create", "broken", "-t", "broken-one", check=False)
        assert done.returncode == 1 and "/nonexistent/python" in done.stderr
        (found,) = [s for s in docker_cluster.json("ps", "--all")["items"] if s["name"] == "broken-one"]
        assert found["reason"] == "failed-to-start" and found["status"] == "CANCELLED"
        left = subprocess.run(
            [*docker, "ps", "-a", "--format", "{{.Image}}"], capture_output=True, text=True, check=True
        )
        assert "local/broken" not in left.stdout
    finally:
        subprocess.run([*docker, "rmi", "-f", "local/broken:1"], capture_output=True, check=False)
