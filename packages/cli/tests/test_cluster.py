"""The folder of a cluster: who is believed to run on it, and what is written there."""

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ai.backend.cli.cluster import AlreadyRunning, check_free
from ai.backend.cli.home import Home, is_locked, running, started_ticks, write_cluster_file, write_env_file
from ai.backend.client.config import read_assignments


@dataclass(frozen=True)
class Account:
    email: str
    access_key: str
    secret_key: str
    password: str | None


@dataclass(frozen=True)
class Accounts:
    admin: Account
    user: Account


def accounts(password: str | None) -> Accounts:
    return Accounts(Account("a@x", "AKA", "it's secret", password), Account("u@x", "AKU", "s", password))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home with space")


def test_env_file_is_private_quoted_and_keeps_passwords(home: Home) -> None:
    write_env_file(home, "http://h:1", accounts("pa$$ 'word'"))
    assert stat.S_IMODE(home.env_file.stat().st_mode) == 0o600
    write_env_file(home, "http://h:2", accounts(None))
    script = f'. "{home.env_file}"; printf "%s|%s|%s" "$BACKEND_ENDPOINT" "$BACKEND_ADMIN_PASSWORD" "$BACKEND_SECRET_KEY"'
    told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert told == "http://h:2|pa$$ 'word'|it's secret"
    assert len(read_assignments(home.env_file.read_text())) == 11


def test_a_pid_counts_only_with_its_start_time(home: Home) -> None:
    write_cluster_file(home, {"endpoint": "http://h:1", "backend": "sandbox"})
    found = running(home)
    assert found is not None and found.pid == os.getpid()
    assert stat.S_IMODE(home.cluster_file.stat().st_mode) == 0o600
    with pytest.raises(AlreadyRunning, match="http://h:1"):
        check_free(home)
    told = json.loads(home.cluster_file.read_text())
    home.cluster_file.write_text(json.dumps({**told, "started_ticks": 1}))
    assert running(home) is None
    home.cluster_file.write_text("nonsense")
    assert running(home) is None
    check_free(home)


def test_a_dead_process_has_no_start_time() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    assert started_ticks(process.pid) is not None or process.poll() is not None
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert started_ticks(process.pid) is None, "a zombie does not run"
    process.wait()
    assert started_ticks(process.pid) is None


def test_a_held_lock_means_starting_or_stopping(home: Home) -> None:
    assert not is_locked(home)
    home.path.mkdir()
    with home.lock_file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert is_locked(home)
        with pytest.raises(AlreadyRunning, match="starting or stopping"):
            check_free(home)
    assert not is_locked(home)


def test_status_and_down_where_nothing_runs(cli: Any, tmp_path: Path) -> None:
    told = cli("status", "--home", str(tmp_path / "none"), "--output", "json")
    assert told.returncode == 1 and json.loads(told.stdout)["running"] is False
    gone = cli("down", "--home", str(tmp_path / "none"))
    assert gone.returncode == 0 and "No cluster runs" in gone.stdout


def test_up_tells_why_it_can_not(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cli("up", "--home", str(tmp_path / "file" / "home"), "--detach")
    assert done.returncode == 1 and "can't be used" in done.stderr


STAND_IN = """
import argparse, json, os, signal, sys
from pathlib import Path
from ai.backend.cli.home import Home, write_cluster_file
import fcntl

parser = argparse.ArgumentParser()
for name in ("--home", "--listen", "--backend", "--docker-host", "--ready-fd"):
    parser.add_argument(name)
given = parser.parse_args()
home = Home(Path(given.home))
lock = home.lock_file.open("a")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
print(json.dumps({"event": "started"}), flush=True)
if given.backend == "docker":
    os.write(int(given.ready_fd), json.dumps({"error": "no engine answers", "hint": "Start it."}).encode() + b"\\n")
    sys.exit(1)
if given.docker_host == "crash":
    sys.exit("it fell over")
told = {"endpoint": "http://" + given.listen, "pid": os.getpid(), "backend": "sandbox", "home": given.home, "seconds": 0.1}
write_cluster_file(home, told)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
try:
    os.write(int(given.ready_fd), json.dumps(told).encode() + b"\\n")
    os.close(int(given.ready_fd))
    while True:
        signal.pause()
finally:
    (home.path / "ended").write_text("left" if home.leave_file.exists() else "clean")
    home.cluster_file.unlink()
"""


@pytest.fixture
def cluster(cli: Any, tmp_path: Path) -> Any:
    """The program, with a stand-in for the cluster's process: this folder comes first in the namespace."""
    place = tmp_path / "stand-in" / "ai" / "backend" / "cli"
    place.mkdir(parents=True)
    (place / "embedded.py").write_text(STAND_IN)
    home = tmp_path / "home"

    def call(command: str, *args: str) -> Any:
        return cli(command, "--home", str(home), *args, env={"PYTHONPATH": str(tmp_path / "stand-in")})

    yield call
    call("down", "--kill")


def test_up_status_down(cluster: Any, tmp_path: Path) -> None:
    up = cluster("up", "--detach", "--json", "--listen", "127.0.0.1:5999")
    told = json.loads(up.stdout)
    assert told["endpoint"] == "http://127.0.0.1:5999" and started_ticks(told["pid"]) is not None
    again = cluster("up", "--detach")
    assert again.returncode == 1 and "already" in again.stderr and "http://127.0.0.1:5999" in again.stderr
    status = cluster("status", "--output", "json")
    assert status.returncode == 0 and json.loads(status.stdout)["pid"] == told["pid"]
    down = cluster("down")
    assert down.returncode == 0 and "sessions were ended" in down.stdout
    assert started_ticks(told["pid"]) is None
    assert (tmp_path / "home" / "ended").read_text() == "clean"
    assert cluster("status").returncode == 1


def test_sessions_may_be_left(cluster: Any, tmp_path: Path) -> None:
    cluster("up", "--detach")
    assert "go on" in cluster("down", "--leave-sessions").stdout
    assert (tmp_path / "home" / "ended").read_text() == "left"


def test_a_killed_cluster_is_not_believed(cluster: Any, tmp_path: Path) -> None:
    cluster("up", "--detach")
    assert cluster("down", "--kill").returncode == 0
    assert (tmp_path / "home" / "cluster.json").exists()
    assert cluster("status").returncode == 1
    assert cluster("up", "--detach").returncode == 0


def test_why_it_did_not_start(cluster: Any) -> None:
    done = cluster("up", "--detach", "--backend", "docker")
    assert done.returncode == 1 and "no engine answers" in done.stderr and "Start it." in done.stderr
    done = cluster("up", "--detach", "--docker-host", "crash")
    assert done.returncode == 1 and "it fell over" in done.stderr and "cluster.log" in done.stderr


def test_in_the_foreground_until_ctrl_c(cluster: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("BACKEND")}
    running_up = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "ai.backend.cli",
            "up",
            "--home",
            str(home),
            "--listen",
            "127.0.0.1:5998",
        ],
        env={**clean, "PYTHONPATH": str(tmp_path / "stand-in")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running_up.stderr is not None and "Ctrl-C" in running_up.stderr.readline()
    running_up.send_signal(signal.SIGINT)
    out, _ = running_up.communicate(timeout=20)
    assert running_up.returncode == 0 and "has stopped" in out
    assert (home / "ended").read_text() == "clean"
