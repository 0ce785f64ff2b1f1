"""Loading plugins: what is found, and that a bad one stops nobody."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ai.backend.plugin.host import SCHEDULER, load


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, SCHEDULER)


def test_what_cannot_be_loaded_says_why_and_the_rest_is_there() -> None:
    found = load(
        SCHEDULER,
        points=[
            point("good", "json:dumps"),
            point("good", "json:loads"),
            point("gone", "no_such_module:thing"),
            point("lacking", "json:nothing_of_that_name"),
            point("wrong", "json:decoder"),
            point("off", "json:dump"),
        ],
        check=lambda loaded: "" if callable(loaded) else "it is no function",
        disabled=["off"],
    )
    problems = {one.name: one.problem for one in found.found}
    assert list(found.loaded()) == ["good"]
    assert problems["gone"].startswith("ModuleNotFoundError") and "AttributeError" in problems["lacking"]
    assert problems["wrong"] == "it is no function" and problems["off"] == "disabled in the configuration"
    doubled = [one.problem for one in found.found if one.name == "good"]
    assert doubled == ["", "the name is taken by json:dumps of nobody"]


def test_one_that_ends_the_process_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin_that_exits.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = load(SCHEDULER, points=[point("exits", "plugin_that_exits:thing")]).found
    assert found.problem == "SystemExit: 3" and "plugin_that_exits" not in sys.modules


def test_the_schedulers_own_queues_are_plugins_like_any_other() -> None:
    found = load(SCHEDULER)
    assert {"fifo", "lifo", "drf", "fair-share"} <= set(found.loaded())
    assert all(
        one.distribution == "backend-ai-scheduler" for one in found.found if one.name in ("fifo", "drf")
    )
