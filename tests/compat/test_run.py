"""`backend.ai run`: code, files, input, state, and what is left behind."""

import re
from pathlib import Path

import pytest

from . import sessions
from .client import Client
from .sessions import SMALL, execute, printed, running

RM = ("--rm", *SMALL)


def write(folder: Path, **texts: str) -> list[str]:
    """Writes `main` as main.py below the folder; gives the paths as one types them from there."""
    for stem, text in texts.items():
        (folder / f"{stem}.py").write_text(text)
    return [str(folder / f"{stem}.py") for stem in texts]


def test_code_prints_its_output(user: Client) -> None:
    done = user.cli("run", *RM, "-c", "print(6 * 7)", "python").ok()
    assert done.stdout == "42\n"
    assert "Execution finished. (exit code = 0)" in done.stderr


def test_a_superadmin_runs_code_too(admin: Client) -> None:
    assert admin.cli("run", *RM, "-c", "print('root')", "python").ok().stdout == "root\n"


def test_the_session_is_announced_and_removed(user: Client) -> None:
    done = user.cli("run", *RM, "-c", "pass", "python").ok()
    name = re.search(r"Session (pysdk-\w+) is ready \(domain=default, group=default\)", done.stderr)
    assert name and "Cleaned up the session." in done.stderr
    assert name[1] not in [item["name"] for item in user.items("ps")]


def test_quiet_prints_the_output_alone(user: Client) -> None:
    done = user.cli("run", "-q", *RM, "-c", "print('only this')", "python").ok()
    assert done.stdout == "only this\n"
    assert "Session name prefix" not in done.stderr


def test_statistics_are_printed(user: Client) -> None:
    done = user.cli("run", "-s", *RM, "-c", "print(sum(range(10**6)))", "python").ok()
    assert "499999500000" in done.stdout
    assert "Statistics" in done.text
    assert re.search(r"cpu_used\S*\s+[\d,.]+", done.text), done
    assert re.search(r"\bmem\s+[\d,.]+", done.text), done


def test_output_and_errors_go_to_their_streams(user: Client) -> None:
    code = "import sys; print('to out'); print('to err', file=sys.stderr)"
    done = user.cli("run", *RM, "-c", code, "python").ok()
    assert done.stdout == "to out\n"
    assert "to err" in done.stderr


def test_an_exception_is_shown_as_a_traceback(user: Client) -> None:
    done = user.cli("run", *RM, "-c", "print('before')\n1 / 0", "python")
    assert done.stdout == "before\n"
    assert "ZeroDivisionError" in done.stderr


def test_unicode_survives(user: Client) -> None:
    done = user.cli("run", *RM, "-c", "print('안녕, Grüße 🐍')", "python").ok()
    assert done.stdout == "안녕, Grüße 🐍\n"


def test_much_output_arrives_whole_and_in_order(user: Client) -> None:
    done = user.cli("run", *RM, "-c", "for i in range(20000): print(i)", "python").ok()
    assert done.stdout.split() == [str(i) for i in range(20000)]


def test_input_is_asked_for_and_answered(user: Client) -> None:
    code = "name = input('who? '); print('hello', name)"
    done = user.cli("run", *RM, "-c", code, "python", input="world\n").ok()
    assert "who? " in done.stdout and "hello world" in done.stdout


def test_input_may_be_asked_for_twice(user: Client) -> None:
    done = user.cli("run", *RM, "-c", "print(int(input()) + int(input()))", "python", input="40\n2\n").ok()
    assert "42" in done.stdout


def test_a_rich_value_is_an_html_record(user: Client) -> None:
    code = "class Page:\n    def _repr_html_(self): return '<b>bold</b>'\nPage()"
    with running(user, "html") as session:
        done = execute(user, session.name, code)
    assert ["html", "<b>bold</b>"] in done["console"], done


def test_environment_variables_reach_the_code(user: Client) -> None:
    code = "import os; print(os.environ['FLAVOUR'])"
    done = user.cli("run", *RM, "-e", "FLAVOUR=plum", "-c", code, "python").ok()
    assert done.stdout == "plum\n"


def test_the_session_knows_itself(user: Client) -> None:
    wanted = "BACKENDAI_SESSION_NAME", "BACKENDAI_CLUSTER_ROLE", "BACKENDAI_CLUSTER_SIZE"
    code = f"import os; print(*[os.environ.get(n) for n in {wanted!r}], os.getcwd())"
    name = sessions.new_name("self")
    done = user.cli("run", *RM, "-t", name, "-c", code, "python").ok()
    assert done.stdout.split() == [name, "main", "1", "/home/work"]


def test_a_file_runs(user: Client, tmp_path: Path) -> None:
    files = write(tmp_path, main="print('from a file', 6 * 7)")
    done = user.cli("run", *RM, "--basedir", str(tmp_path), "python", *files).ok()
    assert "from a file 42" in done.stdout
    assert "Uploading done." in done.stderr
    assert "Build finished. (exit code = 0)" in done.stderr
    assert "Execution finished. (exit code = 0)" in done.stderr


def test_files_find_each_other(user: Client, tmp_path: Path) -> None:
    files = write(
        tmp_path, main="import helper; print(helper.twice(21))", helper="def twice(n): return n * 2"
    )
    done = user.cli("run", *RM, "--basedir", str(tmp_path), "python", *files).ok()
    assert "42" in done.stdout.split()


def test_a_file_in_a_folder_keeps_its_place(user: Client, tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/data.txt").write_text("treasure")
    files = [
        *write(tmp_path, main="print(open('deep/er/data.txt').read())"),
        str(tmp_path / "deep/er/data.txt"),
    ]
    done = user.cli("run", *RM, "--basedir", str(tmp_path), "python", *files).ok()
    assert "treasure" in done.stdout


def test_batch_commands_run_in_turn(user: Client, tmp_path: Path) -> None:
    files = write(tmp_path, main="pass")
    steps = ("--clean", "echo step-clean", "--build", "echo step-build", "--exec", "echo step-exec")
    done = user.cli("run", *RM, "--basedir", str(tmp_path), *steps, "python", *files).ok()
    assert re.search(r"step-clean.*step-build.*step-exec", done.stdout, re.DOTALL), done
    assert "Clean finished. (exit code = 0)" in done.stderr


def test_a_failed_build_tells_its_exit_code(user: Client, tmp_path: Path) -> None:
    files = write(tmp_path, main="print('ran')")
    done = user.cli("run", *RM, "--basedir", str(tmp_path), "--build", "exit 3", "python", *files)
    assert "Build finished. (exit code = 3)" in done.stderr


def test_a_program_tells_its_exit_code(user: Client, tmp_path: Path) -> None:
    files = write(tmp_path, main="import sys; sys.exit(7)")
    done = user.cli("run", *RM, "--basedir", str(tmp_path), "python", *files)
    assert "Execution finished. (exit code = 7)" in done.stderr


def test_several_cases_run_side_by_side(user: Client) -> None:
    code = "import os; print('case', os.environ['N'])"
    done = user.cli("run", *RM, "-e", "N=$N", "--env-range", "N=case:1,2", "-c", code, "python").ok()
    logs = sorted(user.home.glob(".cache/backend.ai/client-logs/*.stdout.log"))
    assert {"case 1\n", "case 2\n"} <= {log.read_text() for log in logs}, done


def test_a_named_session_is_reused_and_keeps_its_state(user: Client) -> None:
    name = sessions.new_name("reuse")
    try:
        first = user.cli("run", *SMALL, "-t", name, "-c", "x = 40; print('set')", "python").ok()
        assert "is ready" in first.stderr
        second = user.cli("run", "-t", name, "-c", "print(x + 2)", "python").ok()
        assert f"Reusing session {name}" in second.stderr
        assert second.stdout == "42\n"
    finally:
        user.cli("session", "destroy", name)


def test_no_reuse_refuses_a_taken_name(user: Client) -> None:
    with running(user, "taken") as session:
        done = user.cli("run", "--no-reuse", *SMALL, "-t", session.name, "-c", "print(1)", "python")
        assert "already exists" in done.text
        assert done.stdout != "1\n"


def test_a_bootstrap_script_runs_first(user: Client, tmp_path: Path) -> None:
    script = tmp_path / "bootstrap.sh"
    script.write_text("echo booted > /home/work/booted.txt\n")
    code = "print(open('/home/work/booted.txt').read())"
    done = user.cli("run", *RM, "--bootstrap-script", str(script), "-c", code, "python").ok()
    assert done.stdout.strip() == "booted"


def test_enqueue_only_returns_at_once(user: Client) -> None:
    name = sessions.new_name("queue")
    try:
        done = user.cli("run", *SMALL, "--enqueue-only", "-t", name, "-c", "print(1)", "python").ok()
        assert "is enqueued for scheduling" in done.text
    finally:
        user.cli("session", "destroy", "--forced", name)


def test_an_unknown_image_is_told(user: Client) -> None:
    done = user.cli("run", *RM, "-c", "print(1)", "no-such-image")
    assert "No such environment image" in done.text or "404" in done.text
    assert done.stdout == ""


def test_polling_execution_continues_until_finished(user: Client) -> None:
    with running(user, "poll") as session:
        done = execute(user, session.name, "import time\nfor i in range(3):\n    print(i); time.sleep(1.2)")
        assert printed(done).split() == ["0", "1", "2"]
        assert done["exit"] == 0


def test_polling_execution_asks_for_input(user: Client) -> None:
    with running(user, "ask") as session:
        done = execute(user, session.name, "print('got', input('? '))", inputs=("tea",))
        assert "got tea" in printed(done)


@pytest.mark.parametrize("image", ["python", "python:latest"])
def test_short_names_of_images(user: Client, image: str) -> None:
    assert user.cli("run", *RM, "-c", "print('ok')", image).ok().stdout == "ok\n"


def test_nothing_is_left_running(admin: Client) -> None:
    left = [item["name"] for item in admin.items("ps") if item["name"].startswith("pysdk-")]
    assert left == []
