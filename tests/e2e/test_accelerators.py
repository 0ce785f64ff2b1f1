"""Accelerators from the agent's plugin to the variables in a container: whole ones, shares of them, and what may never be given twice."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai.backend.client.config import ClientConfig
from ai.backend.client.sync import Client

from .conftest import Cluster, PrivateDockerd, docker_args, launch
from .test_batch import ALLOW, until
from .test_crash import kill_cluster
from .test_preemption import configure, status

LOOK = "import os, json; print(json.dumps([dict(os.environ), open('/home/config/resource.txt').read()]))"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four pretended GPUs of which shares are given; one of them is broken."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(
        "[agent]\ncores = 16\n[agent.accelerators.mock]\ncount = 4\nmodel = 'A100'\nmemory = '40g'\n"
        "fractional = true\nbroken = [3]\n"
    )
    cluster = Cluster(home=home, backend="sandbox")
    cluster.up()
    yield cluster
    cluster.down()


def create(cluster: Cluster, name: str, amount: str, *more: str, slot: str = "cuda.shares") -> str:
    words = ("--enqueue-only", "-t", name, "-r", "cpu=1", "-r", "mem=64m", "-r", f"{slot}={amount}", *more)
    return str(cluster.json("session", "create", "python", *words)["sessionId"])


def running(cluster: Cluster, name: str, amount: str, *more: str, **options: Any) -> str:
    session_id = create(cluster, name, amount, *more, **options)
    status(cluster, session_id, "RUNNING")
    return session_id


def seen(cluster: Cluster, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """The environment of a session and its resource.txt, from within."""
    environ, text = json.loads(cluster.cli("exec", name, "-c", LOOK).stdout)
    return environ, dict(line.split("=", 1) for line in text.splitlines())


def held(cluster: Cluster) -> dict[str, str]:
    return {one["id"]: one["held"] for one in cluster.json("agent", "devices")["items"]}


def test_shares_of_devices(cluster: Cluster) -> None:
    (broken,) = [one for one in cluster.json("agent", "devices")["items"] if one["problem"]]
    assert broken["id"] == "cuda/3"
    assert cluster.json("agent", "ls")["items"][0]["capacity"]["cuda.shares"] == "3"

    running(cluster, "half", "0.5", "--device-model", "A100")
    running(cluster, "less", "0.3")
    assert sorted(held(cluster).values()) == ["0", "0", "0", "0.8"], "shares go together: others stay whole"
    environ, resources = seen(cluster, "half")
    (device,) = [name for name, amount in held(cluster).items() if amount == "0.8"]
    number = device.removeprefix("cuda/")
    assert environ["CUDA_VISIBLE_DEVICES"] == number
    assert environ["GPU_COUNT"] == environ["N_GPUS"] == "1"
    assert environ["GPU_MODEL_NAME"] == "A100" and environ["TF_GPU_MEMORY_ALLOC"] == str(20 << 10)
    assert resources["CUDA.SHARES_SHARES"] == f"{number}:0.5"

    running(cluster, "whole", "2")
    environ, _ = seen(cluster, "whole")
    assert environ["GPU_COUNT"] == "2" and number not in environ["CUDA_VISIBLE_DEVICES"].split(",")
    cluster.cli("rm", "whole")
    running(cluster, "most", "0.7")
    running(cluster, "more", "0.7")
    waiting = create(cluster, "last", "0.4")

    def why() -> dict[str, Any] | None:
        found = cluster.json("session", "why", waiting)
        return found if found["rule"] == "devices-in-pieces" else None

    assert "in pieces" in until(why)["message"], "0.2, 0.3 and 0.3 are no 0.4"
    cluster.cli("rm", "less")
    status(cluster, waiting, "RUNNING")
    assert held(cluster)[device] == "0.9"


def test_devices_outlive_the_agent(cluster: Cluster) -> None:
    running(cluster, "first", "0.6")
    running(cluster, "second", "1")
    before = held(cluster)
    kill_cluster(cluster)
    cluster.up()
    until(lambda: held(cluster) == before)
    running(cluster, "third", "1")
    running(cluster, "fourth", "0.4")
    by_name = {
        name: seen(cluster, name)[0]["CUDA_VISIBLE_DEVICES"]
        for name in ("first", "second", "third", "fourth")
    }
    assert by_name["first"] == by_name["fourth"]
    assert Counter(by_name.values()) == Counter(
        {by_name["first"]: 2, by_name["second"]: 1, by_name["third"]: 1}
    )
    cluster.cli("session", "restart", "second")
    until(lambda: cluster.cli("exec", "second", "-c", "print(1)", check=False).returncode == 0)
    assert seen(cluster, "second")[0]["CUDA_VISIBLE_DEVICES"] == by_name["second"], (
        "a restart keeps its device"
    )
    for name in by_name:
        cluster.cli("rm", name)
    until(lambda: set(held(cluster).values()) == {"0"})


def test_containers_of_one_session_share_a_device(cluster: Cluster) -> None:
    with Client(ClientConfig.from_environ(cluster.env)) as api:
        assert api.graphql(ALLOW)["modify_keypair_resource_policy"]["ok"]
    assert configure(cluster, agent_selection_strategy="fragmentation")["ok"]
    running(cluster, "pair", "0.5", "--cluster-size", "2")
    assert sorted(held(cluster).values()) == ["0", "0", "0", "1"]
    running(cluster, "three", "0.7", "--cluster-size", "2")
    assert sorted(held(cluster).values()) == ["0", "0.7", "0.7", "1"], (
        "two shares that fit no device together"
    )


@pytest.mark.parametrize(
    ("amount", "more", "said"),
    [
        ("1.5", (), "neither a share of one device nor a number of whole ones"),
        ("0.005", (), "steps of 0.01"),
        ("4", (), "asked 4, the largest has 3"),
        ("1", ("--device-model", "H100"), "Models here: A100"),
        ("0", ("--device-model", "A100"), "Ask for devices too"),
    ],
)
def test_what_cannot_be_is_refused(cluster: Cluster, amount: str, more: tuple[str, ...], said: str) -> None:
    done = cluster.cli("session", "create", "python", "-r", f"cuda.shares={amount}", *more, check=False)
    assert done.returncode != 0 and said in done.stderr
    assert cluster.json("ps")["items"] == []


@pytest.mark.docker
def test_whole_devices_with_docker(dockerd: PrivateDockerd, python_image: object, tmp_path: Path) -> None:
    extra = (*docker_args(dockerd), "--mock-gpus", "2:H200:141g")
    cluster = Cluster(home=tmp_path / "home", backend="docker", extra=extra)
    cluster.up()
    try:
        running(cluster, "with-two", "2", slot="cuda.device")
        environ, resources = seen(cluster, "with-two")
        assert environ["GPU_COUNT"] == "2" and environ["GPU_MODEL_NAME"] == "H200"
        assert resources["CUDA.DEVICE_SHARES"] == "0:1,1:1"
        details = cluster.json("agent", "devices")["items"]
        assert [one["memoryBytes"] for one in details] == [141 << 30] * 2
    finally:
        cluster.down()


def test_options_that_are_wrong_are_named(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path / "home"), "--listen", "127.0.0.1:0", "--backend", "sandbox", "--detach")
    for options, said in (
        (("--mock-gpus", "four"), "N[:MODEL[:MEMORY]]"),
        (("--mock-gpus", "2:A100:lots"), "'lots' is no size"),
        (("--mock-gpus", "99"), "count is 0 to 64"),
        (("--fractional",), "there are none"),
    ):
        done = launch("up", *home, *options, check=False)
        assert done.returncode != 0 and said in done.stderr, done.stderr
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "config.toml").write_text("[agent.accelerators.rocks]\ncount = 1\n")
    done = launch("up", *home, check=False)
    assert done.returncode != 0 and "'rocks'" in done.stderr and "cuda, mock" in done.stderr
