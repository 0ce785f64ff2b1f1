"""The in-process bus passes the contract, and errors keep their meaning on the way."""

import io
import json
from collections.abc import AsyncIterator
from uuid import UUID

import msgspec
import pytest
import structlog

from ai.backend.common import errors
from ai.backend.common.bus import Accept, InProcessBus, answer, answer_stream, error_of, failure_of
from ai.backend.common.errors import BackendError, KernelError
from ai.backend.common.log import bound_request, configure, get_logger, request_id
from ai.backend.common.stream import StreamEnd
from ai.backend.common.wire import rpc
from ai.backend.testkit.bus_contract import BusContract, Ends

KINDS = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BackendError)
]


class TestInProcessBus(BusContract):
    @pytest.fixture
    async def ends(self) -> AsyncIterator[Ends]:
        bus = InProcessBus(stream_linger_s=0.05)
        yield Ends(manager=bus, agent=bus)


async def test_what_an_agent_logs_about_a_call_has_the_callers_request_id() -> None:
    """Taken from the message alone: over a network, nothing else comes along."""
    lines = io.StringIO()
    configure(stream=lines)
    log = get_logger("agent")

    async def handler(request: rpc.Request) -> rpc.Reply:
        log.info("file-listed")
        raise RuntimeError("a bug")

    data = rpc.encode_call(rpc.ListFiles(kernel_id=UUID(int=1), path="."), "req-of-the-gateway")
    try:
        with bound_request("the agent's own"):
            await answer(handler, data)
            log.info("afterwards")
    finally:
        structlog.reset_defaults()
    told = [(line["event"], line["request_id"]) for line in map(json.loads, lines.getvalue().splitlines())]
    assert told == [
        ("file-listed", "req-of-the-gateway"),
        ("request-failed", "req-of-the-gateway"),
        ("afterwards", "the agent's own"),
    ]


async def test_what_serves_a_stream_has_the_callers_request_id() -> None:
    seen: list[str] = []

    async def handler(request: rpc.StreamRequest, accept: Accept) -> None:
        seen.append(request_id.get())

    data = rpc.encode_call(rpc.Connect(kernel_id=UUID(int=1), port=1), "req-of-the-gateway")
    await answer_stream(handler, data, StreamEnd(lambda frame: None), lambda told: None)
    assert seen == ["req-of-the-gateway"]


def test_a_request_id_is_left_out_by_older_managers() -> None:
    raw = msgspec.msgpack.decode(rpc.encode(rpc.Interrupt(kernel_id=UUID(int=1))))
    del raw["request_id"]
    assert rpc.decode_request(msgspec.msgpack.encode(raw)).request_id == ""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_comes_back_as_its_class(kind: type[BackendError]) -> None:
    sent = kind("text", hint="hint", number=1, nothing=None, flag=True, share=0.5, names=["a"])
    data = rpc.encode(failure_of(sent))
    failure = rpc.decode_reply(data)
    assert isinstance(failure, rpc.Failure)
    got = error_of(failure)
    assert type(got) is kind
    assert (got.message, got.hint, got.detail) == (sent.message, sent.hint, sent.detail)


def test_an_unknown_code_is_kept() -> None:
    got = error_of(
        rpc.Failure(code="later.release", text="text", hint="hint", detail={"agent_code": "x", "n": 1})
    )
    assert type(got) is KernelError
    assert got.detail == {"agent_code": "later.release", "n": 1}


def test_details_that_would_break_the_call_are_dropped() -> None:
    got = error_of(
        rpc.Failure(code="kernel.failed", text="t", detail={"message": "m", "hint": "h", "self": "s", "a": 1})
    )
    assert got.detail == {"a": 1}


def test_odd_details_cross_as_text() -> None:
    failure = failure_of(KernelError("x", big=2**70, nested={"a": 1}, many=[{"a": 1}, 2], raw=b"x"))
    assert rpc.decode_reply(rpc.encode(failure)) == failure
    assert failure.detail == {
        "big": str(2**70),
        "nested": "{'a': 1}",
        "many": ["{'a': 1}", "2"],
        "raw": "b'x'",
    }
