"""Batch mode of the real runner: steps, heuristics, interrupts, input."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from ai.backend.kernel.lang.language import LANGUAGES, NotFound, heuristic
from ai.backend.kernel.protocol import (
    BuildFinished,
    CleanFinished,
    Finished,
    Input,
    Interrupt,
    Run,
    Stdout,
    WaitingInput,
)

Start = Callable[..., Any]


def test_steps_in_order_with_their_exit_codes(agent: Any) -> None:
    records = agent.batch("echo c", "echo b; echo e >&2", "echo x; exit 7")
    assert agent.out(records) == "c\nb\nx\n"
    assert agent.err(records) == "e\n"
    ends = [record for record in records if isinstance(record, CleanFinished | BuildFinished | Finished)]
    assert ends == [CleanFinished("b1", 0), BuildFinished("b1", 0), Finished("b1", 7)]


def test_a_failed_build_and_a_killed_program(agent: Any) -> None:
    records = agent.batch("", "exit 3", "echo never")
    assert records[0] == BuildFinished("b1", 3)
    assert records[-1] == Finished("b1", 127)
    assert agent.batch(exec="kill -9 $$")[-1] == Finished("b1", 137)
    assert agent.batch()[-1] == Finished("b1", 0)


def test_python_heuristics(agent: Any) -> None:
    records = agent.batch("*", "*", "*")
    assert "main.py" in agent.err(records)
    assert records[-1] == Finished("b1", 127)
    (agent.home / "main.py").write_text("import os, sys; print(os.getcwd() == os.environ['HOME'], sys.argv)")
    records = agent.batch("*", "*", "*")
    assert agent.out(records) == "True ['main.py']\n"
    assert records[-1] == Finished("b1", 0)


@pytest.mark.skipif(
    shutil.which("make") is None or shutil.which("gcc") is None, reason="make and gcc are missing"
)
def test_c_with_and_without_a_makefile(start: Start) -> None:
    agent = start("--runtime-type", "c")
    assert agent.ready.runtime == "c"
    (agent.home / "hello.c").write_text('#include <stdio.h>\nint main(void) { puts("built"); return 4; }\n')
    records = agent.batch("*", "*", "*")
    assert agent.out(records) == "built\n"
    assert records[-1] == Finished("b1", 4)
    (agent.home / "Makefile").write_text("main:\n\t@echo made\n.PHONY: main\n")
    assert agent.out(agent.batch("", "*", "")) == "made\n"
    records = agent.run("1 + 1")
    assert "batch" in agent.err(records)
    assert records[-1] == Finished("r1", 127)


def test_programs_can_ask_for_input(agent: Any) -> None:
    (agent.home / "main.py").write_text(
        "import getpass\nprint('hi', input('who? '))\nprint(getpass.getpass('pw: '))"
    )
    assert agent.batch(exec="*") == [Stdout("b1", "who? "), WaitingInput("b1", False)]
    agent.send(Input("b1", "Bob"))
    records = agent.expect(WaitingInput)
    assert agent.out(records) == "hi Bob\n"
    assert records[-1] == WaitingInput("b1", True)
    agent.send(Input("b1", "s3cret"))
    records = agent.expect(Finished)
    assert agent.out(records) == "s3cret\n"
    assert records[-1] == Finished("b1", 0)
    assert agent.out(agent.batch(exec="echo piped | python3 -c 'print(input())'; cat")) == "piped\n"


def test_interrupts_end_the_whole_group(agent: Any) -> None:
    agent.send(Run("b1", "batch", "", "", "", "trap '' INT; echo on; sleep 60 & wait"))
    agent.expect(Stdout)
    agent.send(Interrupt("b1"))
    agent.send(Interrupt("b1"))
    assert agent.expect(Finished)[-1] == Finished("b1", 143)
    agent.send(Run("b2", "batch", "", "", "echo on; exec sleep 60", "echo never"))
    agent.expect(Stdout)
    agent.send(Interrupt("b2"))
    records = agent.expect(Finished)
    assert records[-1] == Finished("b2", 130)
    assert agent.out(records) == ""


def test_what_is_left_running_disturbs_no_later_run(agent: Any) -> None:
    assert agent.batch(exec="(sleep 0.3; echo late) & echo now")[-1] == Finished("b1", 0)
    assert agent.batch(exec="sleep 0.6; echo second", run_id="b2") == [
        Stdout("b2", "second\n"),
        Finished("b2", 0),
    ]


def test_much_output(agent: Any) -> None:
    records = agent.batch(exec="head -c 3000000 /dev/zero | tr '\\0' 'z'")
    assert agent.out(records) == "z" * 3_000_000


@pytest.mark.parametrize(
    ("language", "step", "names", "command"),
    [
        ("python", "clean", [], ":"),
        ("python", "build", ["main.py"], ":"),
        ("python", "build", ["Makefile", "setup.py"], "make"),
        ("python", "exec", ["main.py"], "'/my python' main.py"),
        ("go", "exec", ["main.go"], "go run main.go"),
        ("r", "exec", ["main.R"], "'/my python' main.R"),
        ("java", "build", ["Main.java"], "javac -encoding UTF-8 *.java"),
        ("c", "build", [".hidden.c"], NotFound("Makefile, makefile, GNUmakefile, *.c")),
        ("rust", "exec", ["Cargo.toml", "main"], "cargo run --release --quiet"),
    ],
)
def test_heuristics(language: str, step: str, names: list[str], command: object) -> None:
    assert heuristic(LANGUAGES[language], step, names, "/my python") == command
