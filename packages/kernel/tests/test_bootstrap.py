"""A bootstrap script runs before everything else, and can't keep a session from starting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., Any]


def begin(start: Start, tmp_path: Path, script: str) -> Any:
    home = tmp_path / "0" / "home"
    (tmp_path / "0").mkdir()
    home.mkdir()
    (home / ".bootstrap.sh").write_text(script)
    (tmp_path / "0" / "environ.txt").write_text("COLOUR=green\n")
    return start()


@pytest.fixture
def start(start: Start, monkeypatch: pytest.MonkeyPatch) -> Start:
    """The folder was made before, with a script in it."""
    real = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda self, *a, **k: real(self, *a, **{**k, "exist_ok": True}))
    return start


def test_it_runs_in_the_home_folder_before_any_code(start: Start, tmp_path: Path) -> None:
    agent = begin(
        start, tmp_path, 'echo "$COLOUR" > made.txt; echo told; echo warned >&2\nread line || true\n'
    )
    assert agent.out(agent.run("print(open('made.txt').read())")) == "green\n\n"
    assert agent.container_log().startswith("told\nwarned\n")


def test_a_failing_one_is_told_and_the_session_starts(start: Start, tmp_path: Path) -> None:
    agent = begin(start, tmp_path, "exit 3\n")
    assert agent.out(agent.run("print(1)")) == "1\n"
    assert ".bootstrap.sh ended with 3" in agent.container_log()


def test_without_one_nothing_is_said(start: Start, tmp_path: Path) -> None:
    agent = start()
    agent.run("print(1)")
    assert "bootstrap" not in agent.container_log()
