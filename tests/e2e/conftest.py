"""Real clusters, started as a user starts them: `./backend.ai up --detach`. One for each container backend and run of the suite."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ai.backend.testkit.dockerd import PrivateDockerd

pytest_plugins = ["ai.backend.testkit.dockerd"]

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "backend.ai"


def launch(
    *args: str,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    check: bool = True,
    timeout_s: float = 180,
):  # type: ignore[no-untyped-def]
    """Runs the launcher; fails with everything it said when it should have succeeded."""
    done = subprocess.run(
        [str(LAUNCHER), *args],
        env={**os.environ, **(env or {})},
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if check and done.returncode != 0:
        pytest.fail(f"{args} ended with {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}")
    return done


@dataclass
class Cluster:
    """A running cluster: its home, how it was started, and what env.sh exports."""

    home: Path
    backend: str
    extra: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    pid: int = 0

    def up(self) -> dict[str, Any]:
        done = launch(
            "up",
            "--home",
            str(self.home),
            "--listen",
            "127.0.0.1:0",
            "--backend",
            self.backend,
            "--detach",
            "--json",
            *self.extra,
        )
        told = json.loads(done.stdout)
        self.pid = int(told["pid"])
        self.env = read_env(self.home / "env.sh")
        return told  # type: ignore[no-any-return]

    def down(self) -> None:
        launch("down", "--home", str(self.home))

    def cli(self, *args: str, **options: Any) -> Any:
        return launch(*args, env={**self.env, **options.pop("env", {})}, **options)

    def json(self, *args: str, **options: Any) -> Any:
        return json.loads(self.cli("--output", "json", *args, **options).stdout)

    def as_user(self) -> dict[str, str]:
        return {
            "BACKEND_ACCESS_KEY": self.env["BACKEND_USER_ACCESS_KEY"],
            "BACKEND_SECRET_KEY": self.env["BACKEND_USER_SECRET_KEY"],
        }


def read_env(path: Path) -> dict[str, str]:
    """What sourcing the file exports, read by a real shell."""
    names = [
        line.split("=")[0].removeprefix("export ")
        for line in path.read_text().splitlines()
        if line.startswith("export ")
    ]
    script = f". {shlex.quote(str(path))}; {sys.executable} -c 'import json,os; print(json.dumps(dict(os.environ)))'"
    seen = json.loads(subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout)
    return {name: seen[name] for name in names}


def docker_args(engine: PrivateDockerd) -> tuple[str, ...]:
    return ("--docker-host", engine.url)


@pytest.fixture(scope="session")
def sandbox_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(home=tmp_path_factory.mktemp("sandbox") / "home", backend="sandbox")
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(scope="session")
def docker_cluster(
    tmp_path_factory: pytest.TempPathFactory, dockerd: PrivateDockerd, python_image: object
) -> Iterator[Cluster]:
    cluster = Cluster(
        home=tmp_path_factory.mktemp("docker") / "home", backend="docker", extra=docker_args(dockerd)
    )
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(params=["sandbox", pytest.param("docker", marks=pytest.mark.docker)])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Each story runs on both backends."""
    found: Cluster = request.getfixturevalue(f"{request.param}_cluster")
    return found
