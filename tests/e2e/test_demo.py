"""The first of the README's two commands, on a clean clone that has nothing of ours: it makes its own environment."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ai.backend.testkit.dockerd import PrivateDockerd

from .conftest import ROOT, read_env


def clone(target: Path) -> Path:
    """What is tracked, and nothing else: no environment, no caches."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def run(place: Path, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("BACKEND", "VIRTUAL_ENV", "PYTHONPATH"))
    }
    done = subprocess.run(
        [str(place / "backend.ai"), *args],
        env={**clean, **(env or {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{args}: {done.stdout}\n{done.stderr}"
    return done


@pytest.mark.timeout(600)
def test_demo_on_a_clean_clone(tmp_path: Path) -> None:
    place, home = clone(tmp_path / "a clone"), tmp_path / "home"
    done = run(place, "demo", "--home", str(home), "--listen", "127.0.0.1:0", "--backend", "sandbox")
    try:
        assert "6 * 7 = 42" in done.stdout and "http://127.0.0.1:" in done.stdout
        for step in ("environment", "cluster start", "session start", "execute"):
            assert step in done.stderr
        env = read_env(home / "env.sh")
        assert run(place, "run", "python", "-c", "print(6*7)", env=env).stdout == "42\n"
        again = run(place, "--output", "json", "demo", "--home", str(home))
        assert json.loads(again.stdout)["ok"] is True
    finally:
        run(place, "down", "--home", str(home))


@pytest.mark.docker
@pytest.mark.timeout(600)
def test_demo_with_docker(tmp_path: Path, dockerd: PrivateDockerd) -> None:
    home = tmp_path / "home"
    args = (
        "--home",
        str(home),
        "--listen",
        "127.0.0.1:0",
        "--backend",
        "docker",
        "--docker-host",
        dockerd.url,
    )
    done = run(ROOT, "demo", *args)
    try:
        assert "6 * 7 = 42" in done.stdout
    finally:
        run(ROOT, "down", "--home", str(home))
