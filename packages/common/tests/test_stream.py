"""The windows of a stream: whatever both sides do, in whatever order, bytes arrive whole and in order and no more is under way than the
window allows."""

import asyncio
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.backend.common.errors import AgentUnreachable, KernelError, StreamClosed
from ai.backend.common.stream import PIECE_BYTES, Credit, Data, End, Frame, StreamEnd

WINDOW = 64
ACTS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 200)),
    st.tuples(st.sampled_from(["receive", "in", "out"]), st.integers(1, 5)),
)


class Slow:
    """A connection whose frames arrive when the test says so."""

    def __init__(self) -> None:
        self.inwards: deque[Frame] = deque()
        self.outwards: deque[Frame] = deque()
        self.near = StreamEnd(self.inwards.append, window=WINDOW)
        self.far = StreamEnd(self.outwards.append, window=WINDOW)

    def deliver(self, way: str) -> None:
        queue, end = (self.inwards, self.far) if way == "in" else (self.outwards, self.near)
        if queue:
            end.take(queue.popleft())

    def under_way(self) -> int:
        return sum(len(frame.data) for frame in self.inwards if isinstance(frame, Data))


async def play(acts: list[tuple[str, int]]) -> None:
    slow = Slow()
    written, got, delivered = b"", b"", 0
    sending: asyncio.Task[None] | None = None
    reading: asyncio.Task[bytes] | None = None
    for act, size in acts:
        if act == "send" and sending is None:
            data = bytes((len(written) + number) % 251 for number in range(size))
            written += data
            sending = asyncio.create_task(slow.near.send(data))
        elif act == "receive" and reading is None:
            reading = asyncio.create_task(slow.far.receive())
        else:
            for _ in range(size):
                delivered += sum(
                    len(f.data) for f in list(slow.inwards)[:1] if act == "in" and isinstance(f, Data)
                )
                slow.deliver(act)
        for _ in range(3):
            await asyncio.sleep(0)
        if sending is not None and sending.done():
            sending.result()
            sending = None
        if reading is not None and reading.done():
            got += reading.result()
            reading = None
        assert slow.under_way() + delivered - len(got) <= WINDOW
        assert written.startswith(got)
    while len(got) < len(written):
        if reading is None:
            reading = asyncio.create_task(slow.far.receive())
        slow.deliver("in")
        slow.deliver("out")
        await asyncio.sleep(0)
        if reading.done():
            got += reading.result()
            reading = None
    assert got == written
    slow.near.close()
    while slow.inwards:
        slow.deliver("in")
    assert await (reading or slow.far.receive()) == b""
    for task in (sending, reading):
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)


@settings(max_examples=200, deadline=None)
@given(st.lists(ACTS, max_size=40))
def test_whatever_happens_bytes_arrive_in_order_within_the_window(acts: list[tuple[str, int]]) -> None:
    asyncio.run(play(acts))


async def test_no_frame_is_large() -> None:
    frames: list[Frame] = []
    end = StreamEnd(frames.append, window=10 * PIECE_BYTES)
    await end.send(bytes(3 * PIECE_BYTES + 1))
    assert [len(frame.data) for frame in frames if isinstance(frame, Data)] == [PIECE_BYTES] * 3 + [1]


@pytest.mark.parametrize(
    "frames",
    [[Data(bytes(WINDOW + 1))], [Data(b"")], [Credit(1)], [Credit(0)], [Credit(-1)], [Credit(1 << 40)]],
)
async def test_an_end_that_breaks_the_rules_is_cut_off(frames: list[Frame]) -> None:
    answered: list[Frame] = []
    ends = 0

    def ended() -> None:
        nonlocal ends
        ends += 1

    end = StreamEnd(answered.append, window=WINDOW, on_end=ended)
    for frame in [*frames, *frames, End(None)]:
        end.take(frame)
    with pytest.raises(StreamClosed):
        await end.receive()
    with pytest.raises(StreamClosed):
        await end.send(b"x")
    assert len(answered) == 1 and isinstance(answered[0], End) and ends == 1


async def test_a_lost_connection_wakes_everybody() -> None:
    end = StreamEnd(lambda _: None, window=WINDOW)
    reading = asyncio.create_task(end.receive())
    writing = asyncio.create_task(end.send(bytes(2 * WINDOW)))
    await asyncio.sleep(0)
    end.lost(AgentUnreachable("gone"))
    end.lost(KernelError("again"))
    for task in (reading, writing):
        with pytest.raises(AgentUnreachable):
            await task


async def test_closing_wakes_everybody_and_tells_once() -> None:
    frames: list[Frame] = []
    end = StreamEnd(frames.append, window=WINDOW)
    reading = asyncio.create_task(end.receive())
    writing = asyncio.create_task(end.send(bytes(2 * WINDOW)))
    await asyncio.sleep(0)
    end.close(KernelError("why"))
    end.close()
    assert await reading == b""
    with pytest.raises(StreamClosed):
        await writing
    (last,) = [frame for frame in frames if isinstance(frame, End)]
    assert isinstance(last.failure, KernelError) and frames[-1] is last
