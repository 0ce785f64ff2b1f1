"""What the tests of the command line share; it knows no server but the one it plays."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SERVER = Path(__file__).resolve().parents[2] / "client" / "tests" / "server.py"
SPEC = importlib.util.spec_from_file_location("cli_test_server", SERVER)
assert SPEC is not None and SPEC.loader is not None
module = importlib.util.module_from_spec(SPEC)
sys.modules["cli_test_server"] = module
SPEC.loader.exec_module(module)


@pytest.fixture
def server() -> Iterator[Any]:
    with module.Server() as running:
        yield running


def environ_of(base: dict[str, str]) -> dict[str, str]:
    """This process's environment without what names another cluster, and with `base`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("BACKEND_", "BACKENDAI_", "SORNA_"))}
    return {**clean, **base}


@pytest.fixture
def cli(server: Any, tmp_path: Path) -> Any:
    """Runs the real program against the server; returns the finished process."""

    def call(*args: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Any:
        return subprocess.run(
            [sys.executable, "-P", "-m", "ai.backend.cli", *args],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            cwd=tmp_path,
            env=environ_of({**server.environ, "HOME": str(tmp_path), **(env or {})}),
        )

    return call
