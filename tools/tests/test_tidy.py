"""Each check is seen to find what it is for, and to leave the rest alone."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def tidy() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "tidy.py"
    spec = importlib.util.spec_from_file_location("tidy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tidy"] = module
    spec.loader.exec_module(module)
    return module


def test_sizes(tidy: ModuleType) -> None:
    assert list(
        tidy.sizes([(Path("a.py"), "x\n" * 701), (Path("b.py"), "x\n" * 700), (Path("c.md"), "x\n" * 999)])
    ) == ["a.py: 701 lines, over 700: split it"]


def test_docstrings(tidy: ModuleType) -> None:
    tree = [(Path("a.py"), "import os\n"), (Path("b.py"), '"""Doc."""\n'), (Path("c.py"), "")]
    assert [finding[:4] for finding in tidy.docstrings(tree)] == ["a.py"]


@pytest.mark.parametrize(
    "call",
    [
        "datetime.now(UTC)",
        "datetime.datetime.now()",
        "time.time()",
        "uuid.uuid4()",
        "uuid4()",
        "random.random()",
    ],
)
def test_banned_calls(tidy: ModuleType, call: str) -> None:
    def found(path: str) -> list[str]:
        return list(tidy.banned_calls([(Path(path), f"x = {call}\n")]))

    assert len(found("packages/x/src/ai/backend/x/service.py")) == 1
    for path in (
        "packages/x/tests/test_a.py",
        "bench/start.py",
        "packages/x/src/main.py",
        "p/common/clock.py",
    ):
        assert found(path) == []


def test_seeded_generators_are_allowed(tidy: ModuleType) -> None:
    assert (
        list(
            tidy.banned_calls(
                [(Path("a.py"), "x = random.Random(1)\ny = clock.now()\nz = time.monotonic()\n")]
            )
        )
        == []
    )


def test_addresses(tidy: ModuleType) -> None:
    forbidden = {"/srv/mine/", "index.example.invalid"}
    tree = [
        (Path("a"), "see /srv/mine/x\n"),
        (Path("b"), "/home/srv/mine/x"),
        (Path("c"), "\nhttps://index.example.invalid/"),
    ]
    found = list(tidy.addresses(tree, forbidden))
    assert [finding.split(": ")[0] for finding in found] == ["a:1", "c:2"]


def test_promises(tidy: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("class TestA:\n    def test_one(self): ...\n")
    text = "`test_a.py::TestA::test_one` `test_a.py::test_two` `tests/test_b.py` `setup.py`"
    found = list(
        tidy.promises([(Path("SPECIFICATION.md"), text), (Path("b.md"), "`tests/test_c.py`")], tmp_path)
    )
    assert found == [
        "SPECIFICATION.md: test_a.py has no test_two",
        "SPECIFICATION.md: tests/test_b.py does not exist",
    ]
