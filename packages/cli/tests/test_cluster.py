"""The folder of a cluster: who is believed to run on it, and what is written there."""

import fcntl
import json
import os
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
