"""The protocol: what is encoded is decoded; garbage raises nothing but ProtocolError."""

import contextlib
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.kernel import protocol
from ai.backend.kernel.protocol import Completions, Finished, Interrupt, ProtocolError, Run, decode, encode

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "row": st.integers(),
    "col": st.integers(),
    "exit_code": st.integers(),
    "version": st.integers(),
    "port": st.integers(),
    "rows": st.integers(),
    "columns": st.integers(),
    "refused": st.booleans(),
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def _messages() -> st.SearchStrategy[protocol.Message]:
    kinds: list[st.SearchStrategy[Any]] = []
    for kind in protocol._NAMES:
        fields: list[st.SearchStrategy[Any]] = []
        for name in kind._fields:
            if name == "matches":
                fields.append(st.lists(TEXT, max_size=5).map(tuple))
            elif name == "is_password":
                fields.append(st.booleans())
            else:
                fields.append(FIELDS.get(name, TEXT))
        kinds.append(st.builds(kind, *fields))
    return st.one_of(kinds)


@given(_messages())
def test_round_trip(message: protocol.Message) -> None:
    again = decode(encode(message))
    assert again == message
    assert type(again) is type(message)


@given(st.lists(st.one_of(st.binary(max_size=20), st.sampled_from(sorted(protocol._TYPES))), max_size=10))
def test_garbage_is_a_protocol_error_or_a_message(frames: list[bytes]) -> None:
    with contextlib.suppress(ProtocolError):
        decode(frames)


def test_a_lone_surrogate_is_escaped() -> None:
    assert decode(encode(protocol.Stdout("r", "a\ud800b"))) == protocol.Stdout("r", "a\\ud800b")


def test_messages_behave_like_named_tuples() -> None:
    message = Run("r", "query", "1", "", "", exec="*")
    assert (message.run_id, message[1], message.exec) == ("r", "query", "*")
    assert repr(Interrupt("x")) == "Interrupt(run_id='x')"
    assert pickle.loads(pickle.dumps(message)) == message
    assert message._replace(code="2").code == "2"
    match decode(encode(Finished("r", 3))):
        case Finished(run_id="r", exit_code=code):
            assert code == 3
        case other:
            raise AssertionError(other)
    for wrong in ((), ("a", "b")):
        with pytest.raises(TypeError):
            Interrupt(*wrong)
    with pytest.raises(TypeError):
        Interrupt(nobody="x")  # type: ignore[call-arg]
    assert decode(encode(Completions("q", ()))) == Completions("q", ())
