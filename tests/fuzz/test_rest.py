"""Every operation of the description, with requests made from it and requests that break it, by a user and by a superadministrator.

Whatever comes: never a crash, every refusal is a problem document with a stable code, every answer is of the described form, and nothing
is left behind. The same seed makes the same requests; `FUZZ_SEED=7 FUZZ_SCALE=20 make fuzz` looks elsewhere, and longer.
"""

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from ..e2e.conftest import Cluster
from .caller import PATIENCE_S, SCALE, SEED, Caller

EXAMPLES = 6
SESSION = "fuzzed"
FATAL = frozenset({"destroySession", "restartSession", "renameSession", "commitSession", "imagifySession"})
"""They would end or change the session that the others are tried on; they get names that they invent."""
STARTING = frozenset({"createSession", "createCluster", "createSessionFromTemplate"})
"""They may succeed; what they start is ended."""
WORDS: dict[str, Any] = {
    "image": "python", "group": "default", "domain": "default", "architecture": "x86_64", "clusterSize": 1, "config": {},
    "sgroup": "default", "scaling_group": "default", "resourceGroup": "default", "sessionName": SESSION, "path": ".bashrc",
    "permission": "644", "mode": "query", "code": "1", "files": ["a"], "file": "a", "app": "8080", "key": "config/x", "type": "interactive",
}  # fmt: skip
"""What generated parameters are replaced by, some or all of them: so that a request gets past the first check."""
ENDED = ("TERMINATED", "CANCELLED")
LATER = frozenset({"setManagerStatus"})
"""It may freeze the manager: asked last, and thawed after."""
OWN_FORM = frozenset({"updatePassword"})
"""Whose refusals published clients know in another form."""
UPGRADES = 101
CODE = re.compile(r"[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)+")
UNAVAILABLE = frozenset(
    {
        "service.not-implemented",
        "coordinator.none",
        "agent.unreachable",
        "manager.frozen",
        "agent.none-available",
    }
)
"""What 503 may say: nobody's mistake, nothing broken."""
FRAMEWORK = frozenset(
    {"generic-bad-request", "url-not-found", "method-not-allowed", "request-too-large", "graphql-error"}
)
"""Refused before any of our code could say why; the slug is then the code."""


def operations(document: dict[str, Any]) -> Iterator[Any]:
    loaded = schemathesis.openapi.from_dict(document)
    found = [one.ok() for one in loaded.get_all_operations()]
    yield from sorted(found, key=lambda one: one.definition.raw["operationId"] in LATER)


def check_problem(answer: requests.Response) -> None:
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    slug = body["type"].removeprefix("https://api.backend.ai/probs/")
    assert slug and body["title"] and body["request_id"] == answer.headers["X-Request-ID"]
    assert CODE.fullmatch(body.get("error_code", "")) or slug in FRAMEWORK, body
    if answer.status_code >= 500:
        assert answer.status_code == 503 and body["error_code"] in UNAVAILABLE, body


def check(case: Any, answer: requests.Response) -> None:
    raw = case.operation.definition.raw
    if answer.status_code >= 400 and raw["operationId"] not in OWN_FORM:
        check_problem(answer)
    promised = {int(status) for status in raw["responses"]}
    # A path parameter may have become part of another path, and a socket's path is asked without an upgrade.
    elsewhere = {404, 405} if "{" in case.operation.path or UPGRADES in promised else set()
    assert answer.status_code in promised | elsewhere, f"{answer.status_code} is not described"
    kind = answer.headers.get("Content-Type", "")
    if answer.status_code < 400 and answer.content and not kind.startswith("text/event-stream"):
        case.validate_response(answer, checks=[response_schema_conformance, content_type_conformance])


def throw(caller: Caller, operation: Any, mode: GenerationMode) -> None:
    name = operation.definition.raw["operationId"]
    known = st.sampled_from([SESSION, None]) if name not in FATAL else st.none()
    wise = st.one_of(st.just(set[str]()), st.just(set(WORDS)), st.sets(st.sampled_from(sorted(WORDS))))

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES * SCALE,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), known=known, wise=wise)
    def one(case: Any, known: str | None, wise: set[str]) -> None:
        if known is not None and "name" in (case.path_parameters or {}):
            case.path_parameters["name"] = known
        for place in (case.query, case.body):
            if isinstance(place, dict):
                place |= {name: WORDS[name] for name in wise & place.keys()}
        if name in STARTING and isinstance(case.body, dict):
            case.body["enqueueOnly"] = True
            if "image" in wise:
                case.body["name"] = "made-by-chance"
        described = case.as_transport_kwargs(base_url=caller.endpoint)
        described.pop("cookies", None)
        try:
            answer = caller.send(described.pop("method"), **described)
        except (requests.exceptions.InvalidHeader, UnicodeError):
            return  # no client could send it
        try:
            check(case, answer)
        except (Exception, BaseExceptionGroup) as exc:
            text = f"{case.as_curl_command()}\n{answer.status_code} {answer.text[:500] if answer.content else ''}"
            raise AssertionError(f"{exc}\n{text}") from exc

    one()


def end_others(caller: Caller) -> None:
    """All sessions but the one; returns when they have ended."""
    deadline = time.monotonic() + PATIENCE_S * 3
    while others := [name for name in sessions(caller) if name != SESSION]:
        for name in others:
            caller.send("DELETE", url=f"/session/{quote(name, safe='')}?forced=true")
        assert time.monotonic() < deadline, f"{others} do not end"
        time.sleep(0.1)


def sessions(caller: Caller) -> list[str]:
    listed = caller.json("GET", "/session?limit=100")
    return sorted(one["name"] for one in listed["items"] if one["status"] not in ENDED)


@pytest.fixture(scope="module", autouse=True)
def running(callers: dict[str, Caller]) -> None:
    """Both have a session to be tried on."""
    body = {"name": SESSION, "image": "python", "config": {"resources": {"cpu": 1, "mem": "256m"}}}
    for caller in callers.values():
        assert caller.json("POST", "/session", json=body)["status"] == "RUNNING"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("person", ["user", "superadmin"])
def test_nothing_breaks_it(callers: dict[str, Caller], person: str, fuzzed: Cluster) -> None:
    caller = callers[person]
    document = caller.json("GET", "/openapi.json")
    before = sessions(caller)
    assert set(before) == {SESSION}
    found, asked = [], 0
    for operation in operations(document):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                throw(caller, operation, mode)
            except AssertionError as exc:
                found.append(f"{operation.label} ({mode.value}): {exc}")
            except Exception as exc:
                if type(exc).__name__ not in ("Unsatisfiable", "SkipTest"):
                    raise
            asked += 1
        if operation.definition.raw["operationId"] in LATER and person == "superadmin":
            caller.json("PUT", "/manager/status", json={"status": "running"})
        if operation.definition.raw["operationId"] in STARTING:
            end_others(caller)
    assert not found, f"{len(found)} of {asked}\n\n" + "\n\n".join(found)
    assert sessions(caller) == before
    print(f"{person}: {sum(caller.answers.values())} answers: {dict(sorted(caller.answers.items()))}")
    log = (fuzzed.home / "logs" / "cluster.log").read_text()
    crashed = [line for line in log.splitlines() if "request-crashed" in line or "graphql-failed" in line]
    assert not crashed, json.dumps(crashed[:5], indent=1)
