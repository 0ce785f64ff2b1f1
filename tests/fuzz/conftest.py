"""A cluster of its own for what is thrown at it: nothing else runs there."""

from collections.abc import Iterator

import pytest

from ..e2e.conftest import Cluster


@pytest.fixture(scope="session")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(home=tmp_path_factory.mktemp("fuzz") / "home", backend="sandbox")
    cluster.up()
    yield cluster
    cluster.down()
