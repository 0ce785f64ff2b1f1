"""What people are told when something is wrong: the title of the problem, and an exit code that says so."""

import uuid

import pytest

from .client import Client
from .cluster import Cluster
from .sessions import SMALL, Running, new_name

PROBLEM = """
from ai.backend.client.session import Session
from ai.backend.client.exceptions import BackendAPIError
with Session() as s:
    try:
        eval(call, {"s": s})
    except BackendAPIError as e:
        give([e.status, e.data])
"""


def problem(client: Client, call: str) -> tuple[int, dict[str, object]]:
    """The problem document that an SDK call was answered with."""
    status, document = client.sdk(PROBLEM, call=call)
    assert {"type", "title"} <= document.keys(), document
    return status, document


def test_a_wrong_secret_key(user: Client) -> None:
    done = user.cli("session", "destroy", "whatever", env={"BACKEND_SECRET_KEY": "x" * 40}).failed()
    assert "401 Unauthorized" in done.text and "Credential/signature mismatch." in done.text
    assert "Signature mismatch" in done.text


def test_an_unknown_access_key(user: Client) -> None:
    done = user.cli("session", "destroy", "whatever", env={"BACKEND_ACCESS_KEY": "AKIA" + "X" * 16}).failed()
    assert "401 Unauthorized" in done.text and "Access key not found" in done.text


def test_no_keys_at_all(user: Client) -> None:
    nobody = {"BACKEND_ACCESS_KEY": "", "BACKEND_SECRET_KEY": ""}
    done = user.cli("session", "destroy", "whatever", env=nobody).failed()
    assert "401" in done.text


def test_anonymous_may_see_the_version(user: Client) -> None:
    nobody = {"BACKEND_ACCESS_KEY": "", "BACKEND_SECRET_KEY": ""}
    told = user.cli("config", env=nobody).ok().text
    assert "anonymous session" in told and "Server version: 25.5.2" in told


def test_a_server_that_is_not_there(user: Client) -> None:
    done = user.cli("session", "destroy", "x", env={"BACKEND_ENDPOINT": "http://127.0.0.1:9"})
    assert done.exit != 0


@pytest.mark.parametrize(
    "command",
    [
        ["destroy"],
        ["restart"],
        ["logs"],
        ["ls"],
        ["status-history"],
        ["commit"],
        ["abuse-history"],
        ["rename", "new-name"],
        ["download", "a.txt"],
    ],
    ids=lambda command: command[0],
)
def test_a_session_that_is_not_there(user: Client, command: list[str]) -> None:
    verb, *rest = command
    done = user.cli("session", verb, "no-such-session", *rest).failed()
    assert "404 Not Found" in done.text and "No such session." in done.text


def test_a_uuid_that_is_not_there(user: Client) -> None:
    assert "No such session." in user.cli("session", "logs", str(uuid.uuid4())).failed().text


@pytest.mark.parametrize("name", ["-starts-badly", "has space", "ends-badly-", "sla/sh"])
def test_a_bad_name(user: Client, name: str) -> None:
    """The clients themselves look at the length only."""
    done = user.cli("session", "create", *SMALL, f"--name={name}", "python").failed()
    assert "400" in done.text and "Missing or invalid API parameters." in done.text


def test_an_unknown_image(user: Client) -> None:
    done = user.cli("session", "create", *SMALL, "no-such-image:1").failed()
    assert "404 Not Found" in done.text and "No such environment image." in done.text


def test_an_unknown_command(user: Client) -> None:
    user.cli("nonsense").failed(2)


def test_missing_arguments_never_reach_the_server(user: Client) -> None:
    user.cli("session", "destroy").failed(4)


def test_a_not_found_document(user: Client) -> None:
    status, document = problem(user, "s.ComputeSession('nobody-here').get_info()")
    assert status == 404 and document["type"] == "https://api.backend.ai/probs/object-not-found"
    assert document["title"] == "No such session."


def test_an_already_exists_document(user: Client, live: Running) -> None:
    call = f"s.ComputeSession.get_or_create('python', name={live.name!r}, no_reuse=True)"
    status, document = problem(user, call)
    assert status == 400 and document["type"] == "https://api.backend.ai/probs/session-already-exists"
    assert document["data"] == {"existingSessionId": live.id}


def test_a_bad_parameter_document(user: Client) -> None:
    call = f"s.ComputeSession.get_or_create('python', name={new_name('bad')!r}, resources={{'cpu': 'many'}})"
    status, document = problem(user, call)
    assert status == 400 and document["type"] == "https://api.backend.ai/probs/invalid-api-params"
    assert document["msg"]


def test_another_ones_key_is_forbidden(user: Client, cluster: Cluster) -> None:
    done = user.cli("session", "destroy", "-o", cluster.admin.access_key, "whatever").failed()
    assert "403 Forbidden" in done.text


def test_an_unknown_owner_is_told(admin: Client) -> None:
    done = admin.cli("session", "destroy", "-o", "AKIA" + "Z" * 16, "whatever").failed()
    assert "400" in done.text


def test_json_errors_are_json(admin: Client) -> None:
    done = admin.cli("--output", "json", "admin", "group", "info", str(uuid.uuid4()))
    told = done.json()
    assert "error" in told or told.get("items") == []
