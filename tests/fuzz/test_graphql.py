"""Queries and mutations made from the schema, by a user and by a superadministrator: each is answered with data or with errors that say
what was wrong, and none with a crash."""

import json

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis_graphql import from_schema, nodes

from ..e2e.conftest import ROOT, Cluster
from .caller import SCALE, SEED, Caller
from .test_rest import check_problem, sessions

EXAMPLES = 150
SCHEMA = (ROOT / "api" / "schema.graphql").read_text()
WORDS = st.one_of(
    st.sampled_from(["default", "system", "domain:default", "", "é", "\U0001f389"]), st.text(max_size=8)
)
SCALARS = {
    "JSONString": st.sampled_from(
        ["{}", '{"cpu": "1"}', "[]", "null", "{", '{"cpu": {"x": 1e999}}', "1"]
    ).map(nodes.String),
    "DateTime": st.sampled_from(["2026-01-01T00:00:00+00:00", "yesterday"]).map(nodes.String),
    "BigInt": st.sampled_from([0, -1, 2**31, 2**63 - 1, 2**63, -(2**70)]).map(nodes.Int),
    "UUID": st.sampled_from(["8d3f9a52-7c1b-4c55-9d0e-2b1f6a7c8d90", "x", ""]).map(nodes.String),
    "GlobalIDField": WORDS.map(nodes.String),
    "ScopeField": WORDS.map(nodes.String),
}
"""Also what they are not."""


def check(answer: requests.Response, query: str) -> None:
    told = f"{query[:2000]}\n{answer.status_code} {answer.text[:1000]}"
    if answer.status_code != 200:
        check_problem(answer)
        assert answer.status_code == 400, told
        return
    body = answer.json()
    assert body.keys() <= {"data", "errors"} and "data" in body, told
    for error in body.get("errors", ()):
        assert error["message"] and not error["message"].startswith("Internal server error"), told
        assert "extensions" not in error or error["extensions"]["code"], told


@pytest.mark.timeout(600)
@pytest.mark.parametrize("person", ["user", "superadmin"])
def test_nothing_breaks_it(callers: dict[str, Caller], person: str, fuzzed: Cluster) -> None:
    caller = callers[person]
    before = sessions(caller)

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES * SCALE,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(query=from_schema(SCHEMA, custom_scalars=SCALARS))
    def one(query: str) -> None:
        check(caller.send("POST", url="/admin/gql", json={"query": query}), query)

    one()
    assert sessions(caller) == before
    log = (fuzzed.home / "logs" / "cluster.log").read_text()
    crashed = [line for line in log.splitlines() if "graphql-failed" in line or "request-crashed" in line]
    assert not crashed, json.dumps(crashed[:5], indent=1)
