"""Clusters for benchmarks: started and stopped as a user does it, by the launcher, and used through the public API."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ai.backend.client.config import ClientConfig, read_assignments
from ai.backend.client.sync import Client

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = ROOT / "backend.ai"


@dataclass(frozen=True, slots=True)
class Cluster:
    home: Path
    backend: str
    pid: int
    config: ClientConfig


@contextmanager
def running(backend: str, *extra: str) -> Iterator[Cluster]:
    """A cluster in a folder of its own, gone with the block. `extra`: more flags of `up`."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{backend}-") as folder:
        home = Path(folder) / "home"
        told = json.loads(
            _launch(
                "up",
                "--home",
                str(home),
                "--listen",
                "127.0.0.1:0",
                "--backend",
                backend,
                "--detach",
                "--json",
                *extra,
            )
        )
        try:
            environ = read_assignments((home / "env.sh").read_text())
            yield Cluster(home, backend, int(told["pid"]), ClientConfig.from_environ(environ))
        finally:
            _launch("down", "--home", str(home))


def python_image(api: Client) -> str:
    """The cluster's Python image."""
    names = [image.name for image in api.images() if "python" in image.name]
    if not names:
        raise RuntimeError("the cluster has no Python image")
    return names[0]


def _launch(*args: str) -> str:
    done = subprocess.run([str(LAUNCHER), *args], capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"backend.ai {' '.join(args)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout
