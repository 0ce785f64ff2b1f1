"""The user stories, told through the CLI on both container backends."""

import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import LAUNCHER, Cluster


@pytest.fixture
def name(cluster: Cluster) -> Iterator[str]:
    made = f"story-{uuid.uuid4().hex[:8]}"
    yield made
    cluster.cli("rm", made, check=False)


@pytest.fixture
def session(cluster: Cluster, name: str) -> str:
    cluster.cli("session", "create", "python", "-t", name, "-r", "cpu=1", "-r", "mem=256m")
    return name


def test_run_prints_what_the_code_prints(cluster: Cluster) -> None:
    done = cluster.cli("run", "python", "-c", "print(6*7)")
    assert done.stdout == "42\n"
    assert not [
        s for s in cluster.json("ps")["items"] if s["status"] == "RUNNING" and s["name"].startswith("run-")
    ]


def test_state_persists_between_executes(cluster: Cluster, session: str) -> None:
    cluster.cli("exec", session, "-c", "x = 40")
    assert cluster.cli("exec", session, "-c", "print(x + 2)").stdout == "42\n"


def test_output_and_errors_go_to_their_streams(cluster: Cluster, session: str) -> None:
    done = cluster.cli(
        "exec", session, "-c", "import sys; print('out'); print('err', file=sys.stderr); 1/0", check=False
    )
    assert done.stdout == "out\n"
    assert "err" in done.stderr and "ZeroDivisionError" in done.stderr


def test_input_is_answered_from_standard_input(cluster: Cluster, session: str) -> None:
    done = cluster.cli("exec", session, "-c", "print('hello', input('who? '))", stdin="world\n")
    assert "hello world" in done.stdout


def test_an_infinite_loop_is_interrupted_and_state_is_kept(cluster: Cluster, session: str) -> None:
    cluster.cli("exec", session, "-c", "y = 'kept'")
    running = subprocess.Popen(
        [str(LAUNCHER), "exec", session, "-c", "print('started', flush=True)\nwhile True: pass"],
        env={**os.environ, **cluster.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "started\n"
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert "KeyboardInterrupt" in err
    assert cluster.cli("exec", session, "-c", "print(y)").stdout == "kept\n"


def test_interrupt_from_another_terminal(cluster: Cluster, session: str) -> None:
    outcome: dict[str, Any] = {}

    def loop() -> None:
        outcome["done"] = cluster.cli(
            "exec", session, "-c", "print('on', flush=True)\nwhile True: pass", check=False
        )

    thread = threading.Thread(target=loop)
    thread.start()
    deadline = time.monotonic() + 60
    while thread.is_alive() and time.monotonic() < deadline:
        cluster.cli("session", "interrupt", session)
        thread.join(1)
    assert not thread.is_alive()
    assert "KeyboardInterrupt" in outcome["done"].stderr


def test_too_much_memory_ends_the_session_and_says_so(cluster: Cluster, session: str) -> None:
    done = cluster.cli(
        "exec",
        session,
        "-c",
        "b = bytearray(1 << 30)\nfor i in range(0, len(b), 4096): b[i] = 1",
        check=False,
    )
    assert "memory" in done.stderr.lower() and "256 MiB" in done.stderr
    info = wait_ended(cluster, session)
    assert (
        info["status"] == "TERMINATED" and info["reason"] == "out-of-memory" and "256 MiB" in info["message"]
    )
    assert cluster.cli("run", "python", "-c", "print('healthy')").stdout == "healthy\n"


def wait_ended(cluster: Cluster, session: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while True:
        found = [s for s in cluster.json("ps", "--all")["items"] if s["name"] == session]
        if found and found[0]["status"] in ("TERMINATED", "CANCELLED"):
            return found[0]  # type: ignore[no-any-return]
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_files_go_up_and_come_down(cluster: Cluster, session: str, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("payload")
    cluster.cli("upload", session, str(tmp_path / "data.txt"))
    assert cluster.cli("exec", session, "-c", "print(open('data.txt').read())").stdout == "payload\n"
    cluster.cli("exec", session, "-c", "open('made.txt','w').write('made inside')")
    (tmp_path / "down").mkdir()
    cluster.cli("download", session, "made.txt", "--dest", str(tmp_path / "down"))
    assert (tmp_path / "down" / "made.txt").read_text() == "made inside"
    assert "made.txt" in cluster.cli("session", "ls", session).stdout


def test_a_batch_of_files_is_built_and_run(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import helper\nprint('answer', helper.answer())\n")
    (tmp_path / "helper.py").write_text("def answer(): return 42\n")
    done = cluster.cli(
        "run", "python", "--basedir", str(tmp_path), str(tmp_path / "main.py"), str(tmp_path / "helper.py")
    )
    assert "answer 42" in done.stdout
    (tmp_path / "main.py").write_text("raise SystemExit(3)\n")
    assert (
        cluster.cli(
            "run", "python", "--basedir", str(tmp_path), str(tmp_path / "main.py"), check=False
        ).returncode
        == 3
    )


def test_restart_keeps_files_and_forgets_variables(cluster: Cluster, session: str) -> None:
    cluster.cli("exec", session, "-c", "z = 1; open('kept.txt','w').write('kept')")
    cluster.cli("session", "restart", session)
    done = cluster.cli("exec", session, "-c", "print(open('kept.txt').read(), 'z' in globals())")
    assert done.stdout == "kept False\n"


def test_logs_outlive_the_session(cluster: Cluster, session: str) -> None:
    cluster.cli("exec", session, "-c", "print('said once')")
    assert "said once" in cluster.cli("logs", session).stdout
    cluster.cli("rm", session)
    wait_ended(cluster, session)
    assert "said once" in cluster.cli("logs", session).stdout


def test_events_tell_the_story_in_order(cluster: Cluster, name: str) -> None:
    watching = subprocess.Popen(
        # From the first event on: this process may be slower to start than the session is to run.
        [str(LAUNCHER), "--output", "json", "events", name, "--after", "0"],
        env={**os.environ, **cluster.env},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    created = cluster.json("session", "create", "python", "-t", name)
    cluster.cli("rm", name)
    names = []
    for line in watching.stdout:
        told = json.loads(line)
        names.append(told["event"])
        if told["event"] == "session_terminated":
            break
    watching.kill()
    watching.communicate()
    wanted = [n for n in names if n in ("session_started", "session_terminating", "session_terminated")]
    assert wanted[-1] == "session_terminated" and "session_started" in names
    assert created["status"] == "RUNNING"


def test_tenants_do_not_see_each_other(cluster: Cluster, session: str) -> None:
    user = cluster.as_user()
    done = cluster.cli("info", session, env=user, check=False)
    assert done.returncode != 0 and "no session" in done.stderr.lower()
    assert session not in cluster.cli("ps", env=user).stdout
    theirs = cluster.cli("run", "python", "-c", "print('mine')", env=user)
    assert theirs.stdout == "mine\n"


def test_sessions_are_isolated(cluster: Cluster, session: str) -> None:
    probe = (
        "import os, socket\n"
        "def attempt(name, f):\n"
        "    try: print(name, 'OPEN', f())\n"
        "    except OSError as e: print(name, 'closed')\n"
        "attempt('shadow', lambda: open('/etc/shadow').read()[:10])\n"
        "attempt('sysctl', lambda: open('/proc/sys/kernel/core_pattern', 'w'))\n"
        "attempt('usr', lambda: open('/usr/x', 'w'))\n"
        "attempt('net', lambda: socket.create_connection(('192.0.2.1', 80), 1))\n"
        "print('uid', os.getuid() != 0, 'pids', len([p for p in os.listdir('/proc') if p.isdigit()]) < 12)\n"
    )
    out = cluster.cli("exec", session, "-c", probe).stdout
    assert "OPEN" not in out, out
    assert "uid True pids True" in out
