"""`run` and `exec` as programs: what is on stdout, what on stderr, and the exit code."""

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any


def test_only_the_programs_output_is_on_stdout(server: Any, cli: Any) -> None:
    done = cli("run", "python", "-c", "out 42\nerr oops")
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "oops\n")
    (session,) = server.sessions.values()
    assert session.name.startswith("run-") and session.status == "TERMINATED"


def test_a_named_session_stays_unless_it_is_not_wanted(server: Any, cli: Any) -> None:
    done = cli("run", "python", "-c", "out 1", "--name", "mine")
    assert done.stdout == "1\n" and "mine started" in done.stderr
    (session,) = server.sessions.values()
    assert session.status == "RUNNING"
    again = cli("run", "python", "-c", "out 2", "-t", "mine", "--rm", "-q")
    assert (again.stdout, again.stderr) == ("2\n", "")
    assert session.status == "TERMINATED"


def test_options_reach_the_server(server: Any, cli: Any) -> None:
    cli(
        "run", "python", "-c", "out", "-e", "A=b=c", "-r", "cpu=2", "-r", "mem=256", "--resource-opts", "shmem=64m", "--tag", "t",
        "-g", "team", "-d", "dom", "--scaling-group", "gpu", "--max-wait", "9", "--no-reuse",
    )  # fmt: skip
    (sent,) = [body for method, path, body in server.requests if (method, path) == ("POST", "/session")]
    assert sent["config"] | {"mounts": 0} == {
        "environ": {"A": "b=c"}, "resources": {"cpu": "2", "mem": "256m"}, "resource_opts": {"shmem": "64m"},
        "scalingGroup": "gpu", "mounts": 0, "preopen_ports": [],
    }  # fmt: skip
    assert (sent["tag"], sent["group"], sent["domain"]) == ("t", "team", "dom")
    assert (sent["maxWaitSeconds"], sent["reuseIfExists"]) == (9, False)


def test_files_are_a_batch_and_its_exit_code_is_ours(server: Any, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "main.toy").write_text("out from a file\nexit 3")
    done = cli("run", "python", "main.toy", "--build", "make it")
    assert (done.returncode, done.stdout) == (3, "from a file\n")
    assert "build make it" in done.stderr


def test_the_exit_code_of_exec(cli: Any) -> None:
    cli("session", "create", "python", "-t", "mine")
    assert cli("exec", "mine", "-c", "exit 5").returncode == 5


def test_code_from_a_file_and_from_standard_input(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "code").write_text("out file")
    cli("session", "create", "python", "-t", "mine")
    assert cli("exec", "mine", "code").stdout == "file\n"
    assert cli("exec", "mine", "-", stdin="out piped").stdout == "piped\n"


def test_questions_are_answered_from_standard_input(cli: Any) -> None:
    done = cli("run", "python", "-c", "ask\naskpass", stdin="first\nsecond")
    assert done.stdout == "? got first\n? got second\n"


def test_a_question_at_the_end_of_input_ends_the_run(server: Any, cli: Any) -> None:
    done = cli("run", "python", "-c", "ask")
    assert done.returncode == 1 and "at its end" in done.stderr
    assert [s.status for s in server.sessions.values()] == ["TERMINATED"]


def test_media_are_named_or_saved(cli: Any, tmp_path: Path) -> None:
    assert "[image/png" in cli("run", "python", "-c", "media").stderr
    done = cli("run", "python", "-c", "media", "--save-media", "shown")
    assert done.returncode == 0 and (tmp_path / "shown" / "output-1.png").read_bytes().startswith(b"\x89PNG")


def test_json_has_it_all(cli: Any) -> None:
    told = json.loads(cli("run", "python", "-c", "out a\nerr b\nmedia\nexit 2", "--output", "json").stdout)
    assert (told["ok"], told["exit_code"], told["stdout"], told["stderr"]) == (False, 2, "a\n", "b\n")
    assert told["media"][0]["mime"] == "image/png"


def test_a_session_that_was_killed_says_why(cli: Any) -> None:
    done = cli("run", "python", "-c", "out before\ndie")
    assert done.returncode == 1 and done.stdout == "before\n"
    assert "256 MiB of memory" in done.stderr


def start(server: Any, tmp_path: Path, *args: str, **streams: Any) -> "subprocess.Popen[str]":
    clean = {k: v for k, v in os.environ.items() if not k.startswith("BACKEND")}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "ai.backend.cli", *args],
        env={**clean, **server.environ, "HOME": str(tmp_path)},
        cwd=tmp_path,
        text=True,
        start_new_session=True,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


def test_ctrl_c_interrupts_the_program(server: Any, tmp_path: Path) -> None:
    running = start(server, tmp_path, "run", "python", "-c", "out on\nloop\nout after")
    assert running.stdout is not None and running.stdout.readline() == "on\n"
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=20)
    assert out == "after\n" and "KeyboardInterrupt" in err and running.returncode == 0
    assert [s.status for s in server.sessions.values()] == ["TERMINATED"]


def test_ctrl_c_twice_leaves_and_removes(server: Any, tmp_path: Path) -> None:
    read, write = os.pipe()
    running = start(server, tmp_path, "run", "python", "-c", "out on\nask\n" + "loop\n" * 3, stdin=read)
    assert running.stdout is not None and running.stdout.readline() == "on\n"
    running.send_signal(signal.SIGINT)
    assert running.stderr is not None and "Press Ctrl-C again" in running.stderr.readline()
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    os.close(write)
    os.close(read)
    assert running.returncode == 130
    assert [s.status for s in server.sessions.values()] == ["TERMINATED"]


def test_a_password_is_not_echoed(server: Any, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    running = start(
        server, tmp_path, "run", "python", "-c", "ask\naskpass", stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""

    def read_until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            seen += os.read(ours, 1024)

    read_until(b"? ")
    os.write(ours, b"shown\n")
    read_until(b"got shown\r\n? ")
    while termios.tcgetattr(ours)[3] & termios.ECHO:
        pass
    os.write(ours, b"hidden\n")
    read_until(b"got hidden")
    assert running.wait(20) == 0
    os.close(ours)
    assert seen.count(b"shown") == 2 and seen.count(b"hidden") == 1


def test_enqueue_and_time_limits(server: Any, cli: Any) -> None:
    done = cli("run", "python", "-c", "out", "--enqueue-only")
    assert done.returncode == 0 and "waits for its turn" in done.stderr and done.stdout == ""
    server.create_status = "TIMEOUT"
    assert cli("run", "python", "-c", "out", "--max-wait", "1").returncode == 3
    created = cli("session", "create", "python", "--max-wait", "1")
    assert created.returncode == 3 and "did not start within 1 s" in created.stderr
