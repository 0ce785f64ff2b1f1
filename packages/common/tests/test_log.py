"""Logs: JSON lines, the request id of whoever caused them, and no secret at any depth."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.common.log import REDACTED, bound_request, configure, get_logger, redact, request_id

early = get_logger("early")
"""As modules do it: asked for before any main has configured logs."""


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    configure("info", out)
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def read(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_json_with_the_request_id(lines: io.StringIO) -> None:
    with bound_request("req-1"):
        get_logger("here").info("thing-done", number=3)
    get_logger("here").info("other")
    first, second = read(lines)
    assert first["event"] == "thing-done"
    assert (first["request_id"], first["logger"], first["level"], first["number"]) == (
        "req-1",
        "here",
        "info",
        3,
    )
    assert "timestamp" in first
    assert "request_id" not in second


def test_a_logger_made_before_configuration_obeys_it(lines: io.StringIO) -> None:
    early.info("late", password="x")
    early.debug("not shown")
    (line,) = read(lines)
    assert (line["logger"], line["password"]) == ("early", REDACTED)


def test_request_ids_nest_and_end() -> None:
    with bound_request("outer"):
        with bound_request("inner"):
            assert request_id.get() == "inner"
        assert request_id.get() == "outer"
    assert request_id.get() == ""


def test_the_standard_library_comes_out_alike(lines: io.StringIO) -> None:
    with bound_request("req-2"):
        logging.getLogger("third.party").warning("careful: %s", "now")
    (line,) = read(lines)
    assert (line["event"], line["level"], line["request_id"]) == ("careful: now", "warning", "req-2")


def test_exceptions_are_told(lines: io.StringIO) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        get_logger("here").error("broken", exc_info=True)
    (line,) = read(lines)
    assert "ZeroDivisionError" in line["exception"]


def test_values_that_json_does_not_know(lines: io.StringIO) -> None:
    get_logger("here").info("odd", value=object(), many={1, 2})
    assert "object object" in read(lines)[0]["value"]


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "Password",
        "secret_key",
        "secretKey",
        "Secret-Key",
        "token",
        "Authorization",
        "old_password",
        "new-password",
        "privateKey",
        "signature",
        "Cookie",
    ],
)
def test_secret_keys(key: str) -> None:
    assert redact({key: "hunter2"}) == {key: REDACTED}


@given(
    st.recursive(
        st.just({"password": "hunter2", "safe": "ok"}),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner)
            | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
        ),
        max_leaves=20,
    )
)
def test_no_secret_at_any_depth(value: Any) -> None:
    before = repr(value)
    assert "hunter2" not in repr(redact(value))
    assert repr(value) == before, "the original is not touched"


def test_secrets_that_are_containers_are_replaced_whole(lines: io.StringIO) -> None:
    get_logger("here").info("x", headers=[{"authorization": ["Bearer", "hunter2"]}], token={"a": "hunter2"})
    assert "hunter2" not in lines.getvalue()
