"""Queries and mutations made from the schema, by a user and by a superadministrator: each is answered with data or with errors that say
what was wrong, and none with a crash."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import requests
from graphql import (
    FieldNode,
    IntValueNode,
    OperationDefinitionNode,
    build_schema,
    is_required_argument,
    parse,
    print_ast,
)
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis_graphql import mutations, nodes, queries

from ..e2e.conftest import ROOT, Cluster
from .caller import SCALE, SEED, Caller
from .test_rest import check_problem, sessions

EXAMPLES = 8
"""Of each root."""
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
SENSIBLE = {"limit": "5", "offset": "0", "first": "5"}
_PARSED = build_schema(SCHEMA)
assert _PARSED.query_type is not None
assert _PARSED.mutation_type is not None
STRATEGIES = [
    *(queries(SCHEMA, fields=[name], custom_scalars=SCALARS) for name in _PARSED.query_type.fields),
    *(mutations(SCHEMA, fields=[name], custom_scalars=SCALARS) for name in _PARSED.mutation_type.fields),
]


def plainer(query: str) -> str:
    """Of its roots' arguments only those that must be, and a length that is one: so that lists are read and not only refused."""
    (operation,) = parse(query).definitions
    assert isinstance(operation, OperationDefinitionNode)
    roots = _PARSED.get_root_type(operation.operation)
    assert roots is not None
    fields = []
    for field in operation.selection_set.selections:
        assert isinstance(field, FieldNode)
        known = roots.fields[field.name.value].args
        kept = [
            replace(one, value=IntValueNode(value=SENSIBLE[name]))
            if (name := one.name.value) in SENSIBLE
            else one
            for one in field.arguments or ()
            if is_required_argument(known[one.name.value])
        ]
        fields.append(replace(field, arguments=tuple(kept)))
    chosen = replace(operation.selection_set, selections=tuple(fields))
    return print_ast(replace(operation, selection_set=chosen))


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
    answered: Counter[str] = Counter()

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES * SCALE,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def one(data: st.DataObject) -> None:
        for strategy in STRATEGIES:
            query = data.draw(strategy)
            query = plainer(query) if data.draw(st.booleans()) else query
            answer = caller.send("POST", url="/admin/gql", json={"query": query})
            check(answer, query)
            answered[
                "refused" if answer.status_code != 200 else "errors" if "errors" in answer.json() else "data"
            ] += 1

    one()
    print(f"{person}: {dict(answered)}")
    assert sessions(caller) == before
    log = (fuzzed.home / "logs" / "cluster.log").read_text()
    crashed = [line for line in log.splitlines() if "graphql-failed" in line or "request-crashed" in line]
    assert not crashed, json.dumps(crashed[:5], indent=1)
