"""The commands about sessions, the errors, the exit codes, and what a start costs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ai.backend.cli.command import State
from ai.backend.cli.main import _COMMANDS, _TOPICS, cli


def test_help_loads_neither_the_http_library_nor_tables() -> None:
    script = (
        "import sys\nfrom ai.backend.cli.main import invoke\n"
        "assert invoke(['--help']) == 0\n"
        "heavy = {'aiohttp', 'rich', 'asyncio', 'sqlalchemy', 'uvicorn'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in ("Run code", "Sessions", "Cluster", "demo"):
        assert words in done.stdout


def test_every_command_is_in_the_help_and_explains_itself() -> None:
    assert sorted(name for names in _TOPICS.values() for name in names) == sorted(_COMMANDS)
    context = cli.make_context("backend.ai", [], obj=State(), resilient_parsing=True)
    for name in _COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None and command.get_short_help_str()
        assert CliRunner().invoke(cli, [name, "--help"], obj=State()).exit_code == 0


def test_a_sessions_life(cli: Any, server: Any, tmp_path: Path) -> None:
    created = json.loads(cli("--output", "json", "session", "create", "python", "-t", "mine").stdout)
    assert (created["sessionName"], created["status"], created["created"]) == ("mine", "RUNNING", True)
    assert "mine" in cli("ps").stdout
    assert json.loads(cli("ps", "--output", "json").stdout)["total_count"] == 1
    assert cli("session", "list", "--name-only").stdout == "mine\n"
    assert "RUNNING" in cli("info", "mine").stdout
    (tmp_path / "f.txt").write_text("hello")
    assert cli("upload", "mine", "f.txt").stdout == "sent f.txt\n"
    assert "f.txt" in cli("session", "ls", "mine").stdout
    assert cli("download", "mine", "f.txt", "--dest", "down").returncode == 0
    assert (tmp_path / "down" / "f.txt").read_text() == "hello"
    cli("exec", "mine", "-c", "out said")
    assert cli("logs", "mine").stdout == "said\n"
    assert cli("session", "complete", "mine", "imp").stdout == "imp_done\n"
    assert cli("session", "restart", "mine").returncode == 0
    assert cli("session", "rename", "mine", "yours").returncode == 0
    assert cli("session", "interrupt", "yours").returncode == 0
    assert "has ended" in cli("rm", "yours").stdout
    assert cli("ps").stdout == "" and "No live sessions" in cli("ps").stderr
    ended = json.loads(cli("--output", "json", "info", "yours").stdout)
    assert ended["status"] == "TERMINATED"


def test_events_are_lines(cli: Any) -> None:
    lines = [json.loads(line) for line in cli("--output", "json", "events", "s").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["session_enqueued", "session_started", "session_terminated"]
    assert "session_started" in cli("events", "s").stdout


def test_errors_say_what_whose_and_what_to_do(cli: Any) -> None:
    done = cli("session", "create", "cobol")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "Error: No such environment image: no image 'cobol' for x86_64\n"
        "  whose: yours (what was asked for)\n"
        "  do:    Known images: python.\n"
    )
    told = json.loads(cli("session", "create", "cobol", "--output", "json").stdout)
    assert told["ok"] is False and told["error"]["code"] == "image.not-found"


def test_nobody_there(cli: Any) -> None:
    done = cli("ps", env={"BACKEND_ENDPOINT": "http://127.0.0.1:1"})
    assert done.returncode == 1 and "nothing answers" in done.stderr and "Traceback" not in done.stderr
    done = cli("ps", env={"BACKEND_ENDPOINT": ""})
    assert done.returncode == 1 and "backend.ai up" in done.stderr


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["nonsense"], 2),
        (["run"], 2),
        (["run", "python"], 2),
        (["ps", "--nonsense"], 2),
        (["run", "python", "-c", "x", "-r", "cpu=many"], 4),
        (["run", "python", "-c", "x", "-e", "novalue"], 4),
        (["ps", "--limit", "1000"], 4),
        (["exec", "mine"], 2),
        (["up", "--listen", "nowhere"], 4),
    ],
)
def test_exit_codes_of_wrong_usage(cli: Any, args: list[str], code: int) -> None:
    done = cli(*args)
    assert done.returncode == code, done.stderr
    assert "Error" in done.stderr and "Traceback" not in done.stderr


def test_the_local_clusters_keys_are_found(server: Any, cli: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "env.sh").write_text("".join(f"export {k}='{v}'\n" for k, v in server.environ.items()))
    nothing = dict.fromkeys(server.environ, "")
    done = cli("config", env={**nothing, "BACKENDAI_HOME": str(home)})
    assert server.url in done.stdout and "25.5.2" in done.stdout and str(home) in done.stdout
    assert "secret-of-the-tests" not in done.stdout


def test_what_others_named_can_not_steer_the_terminal(server: Any, cli: Any) -> None:
    cli("session", "create", "py\x1b[2Jthon", "-t", "mine")
    assert "\x1b" not in cli("ps").stdout and "\\x1b" in cli("ps").stdout


def test_a_closed_pipe_is_no_crash(cli: Any, server: Any, tmp_path: Path) -> None:
    done = cli("completion", "bash")
    assert done.returncode == 0 and "_BACKEND_AI_COMPLETE" in done.stdout
