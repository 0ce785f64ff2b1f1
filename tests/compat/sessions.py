"""Sessions for the steps to work on."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .client import Client

SMALL = ("-r", "cpu=1", "-r", "mem=256m")
"""A machine of two cores holds two of these: a step that wants two may not use `live` beside them."""
IMAGE = "python"
DEADLINE_S = 60


CREATE = """
from ai.backend.client.session import Session
with Session() as s:
    made = s.ComputeSession.get_or_create(image, name=name, resources={"cpu": 1, "mem": "256m"}, **more)
    give({"id": str(made.id), "name": made.name, "status": made.status, "created": made.created})
"""

EXECUTE = """
from ai.backend.client.session import Session
with Session() as s:
    session = s.ComputeSession(name)
    run_id, sent, seen, result = None, code, [], {"status": ""}
    first = mode
    answers = list(inputs)
    while True:
        result = session.execute(run_id, sent, mode=first)
        run_id = result["runId"]
        seen += result["console"]
        if result["status"] == "finished":
            break
        if result["status"] == "waiting-input":
            first, sent = "input", answers.pop(0)
        else:
            first, sent = "continue", ""
    give({"console": seen, "exit": result["exitCode"], "status": result["status"]})
"""


@dataclass(frozen=True)
class Running:
    """A session that a step may use."""

    name: str
    id: str


def new_name(topic: str) -> str:
    return f"{topic}-{uuid.uuid4().hex[:8]}"


def create(client: Client, name: str, **more: Any) -> dict[str, Any]:
    """Creates a session through the SDK, which tells its id; the command line tells it to people only."""
    more = {"max_wait": DEADLINE_S // 2, **more}
    made: dict[str, Any] = client.sdk(CREATE, image=IMAGE, name=name, more=more)
    return made


def execute(client: Client, name: str, code: str, inputs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Runs code to its end through the polling API, answering what it asks."""
    done: dict[str, Any] = client.sdk(EXECUTE, name=name, code=code, mode="query", inputs=inputs)
    return done


def state(client: Client, session_id: str) -> dict[str, Any]:
    """The session as `session info` shows it."""
    (item,) = client.items("session", "info", session_id)
    return item


def wait_for(client: Client, session_id: str, *statuses: str) -> dict[str, Any]:
    """The session once it is in one of the statuses; the deadline only ends a broken run."""
    deadline = time.monotonic() + DEADLINE_S
    while (item := state(client, session_id))["status"] not in statuses:
        assert time.monotonic() < deadline, f"not {statuses}: {item}"
        time.sleep(0.5)
    return item


def printed(done: dict[str, Any], kind: str = "stdout") -> str:
    return "".join(text for name, text in done["console"] if name == kind)


@contextmanager
def running(client: Client, topic: str, **more: Any) -> Iterator[Running]:
    """A running session, ended afterwards whatever the step did to it."""
    name = new_name(topic)
    made = create(client, name, **more)
    assert made["status"] == "RUNNING", json.dumps(made)
    try:
        yield Running(name, made["id"])
    finally:
        client.cli("session", "destroy", "--forced", made["id"])
