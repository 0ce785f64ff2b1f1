"""A cluster of its own for what is thrown at it: nothing else runs there."""

from collections.abc import Iterator

import pytest

from ..e2e.conftest import Cluster
from .caller import Caller

UNLIMITED = 1_000_000
"""Requests in 15 minutes: a long look makes more than the usual 10,000."""


@pytest.fixture(scope="session")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(home=tmp_path_factory.mktemp("fuzz") / "home", backend="sandbox")
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(scope="session")
def callers(fuzzed: Cluster) -> dict[str, Caller]:
    """By what they are: a user and a superadministrator."""
    env = fuzzed.env
    endpoint = env["BACKEND_ENDPOINT"]
    user = Caller(endpoint, env["BACKEND_USER_ACCESS_KEY"], env["BACKEND_USER_SECRET_KEY"])
    superadmin = Caller(endpoint, env["BACKEND_ACCESS_KEY"], env["BACKEND_SECRET_KEY"])
    limited = "mutation($key: String!, $limit: Int!) { modify_keypair(access_key: $key, props: {rate_limit: $limit}) { ok msg } }"
    for caller in (user, superadmin):
        asked = {"query": limited, "variables": {"key": caller.access_key, "limit": UNLIMITED}}
        told = superadmin.json("POST", "/admin/gql", json=asked)
        assert told["data"]["modify_keypair"]["ok"], told
    return {"user": user, "superadmin": superadmin}
