"""What the tests of the client library share; it knows no server but the one it plays."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SPEC = importlib.util.spec_from_file_location("client_test_server", Path(__file__).with_name("server.py"))
assert SPEC is not None and SPEC.loader is not None
module = importlib.util.module_from_spec(SPEC)
sys.modules["client_test_server"] = module
SPEC.loader.exec_module(module)


@pytest.fixture
def server() -> Iterator[Any]:
    with module.Server() as running:
        yield running
    assert not running.refused, "every request is signed well"
