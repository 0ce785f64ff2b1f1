"""ZMTP: an ordinary ZeroMQ socket understands us and we it, whatever way the bytes are cut; garbage raises only ZmtpError."""

import contextlib
import itertools

from hypothesis import given
from hypothesis import strategies as st

from ai.backend.kernel import zmtp

PEER = zmtp.hello()
MESSAGES = st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=4), max_size=6)


def _chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(MESSAGES, st.lists(st.integers(0, 10_000), max_size=8))
def test_messages_survive_any_fragmentation(messages: list[list[bytes]], cuts: list[int]) -> None:
    stream = PEER + b"".join(zmtp.pack(frames) for frames in messages)
    connection = zmtp.Connection()
    received = [message for chunk in _chunks(stream, cuts) for message in connection.receive(chunk)]
    assert received == messages
    assert connection.open


@given(st.binary(max_size=200), st.integers(0, len(PEER)))
def test_garbage_raises_only_zmtp_errors(garbage: bytes, kept: int) -> None:
    with contextlib.suppress(zmtp.ZmtpError):
        zmtp.Connection().receive(PEER[:kept] + garbage)


def test_heartbeats_are_answered() -> None:
    connection = zmtp.Connection()
    connection.receive(PEER + b"\x04\x09\x04PING\x00\x0act")
    assert connection.replies == b"\x04\x07\x04PONGct"
