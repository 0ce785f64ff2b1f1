"""The third-party files of GraphiQL are those of the packages that tools/graphiql names, to the byte."""

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def tool() -> ModuleType:
    loader = SourceFileLoader("graphiql_tool", str(Path(__file__).resolve().parents[1] / "graphiql"))
    spec = importlib.util.spec_from_loader("graphiql_tool", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_files_have_their_checksums(tool: ModuleType) -> None:
    assert tool.differences() == []


def test_a_changed_a_missing_and_a_strange_file_are_told(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in tool.TARGET.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(tool, "TARGET", tmp_path)
    with (tmp_path / "graphiql.css").open("ab") as file:
        file.write(b" ")
    (tmp_path / "react.production.min.js").unlink()
    (tmp_path / "more.js").write_text("")
    assert tool.differences() == [
        "react.production.min.js is missing",
        "more.js comes from no package",
        "graphiql.css is not what its package has",
    ]


def test_fonts_are_left_out_and_nothing_else(tool: ModuleType) -> None:
    assert (
        tool.without_fonts(b"a{b:c}@font-face{src:url(data:x)}d{e:f}@font-face { x } g{}")
        == b"a{b:c}d{e:f} g{}"
    )
