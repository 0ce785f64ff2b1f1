"""The in-process bus passes the contract, and errors keep their meaning on the way."""

from collections.abc import AsyncIterator

import pytest

from ai.backend.common import errors
from ai.backend.common.bus import InProcessBus, error_of, failure_of
from ai.backend.common.errors import BackendError, KernelError
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
