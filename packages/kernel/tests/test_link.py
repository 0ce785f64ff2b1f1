"""The link: what was not written completely before a connection broke is sent again, whole and in order."""

import socket
from pathlib import Path

from ai.backend.kernel import zmtp
from ai.backend.kernel.link import RETRY_FIRST_S, RETRY_MAX_S, Link
from ai.backend.kernel.protocol import Status, StatusReply, Stdout, decode, encode


def test_a_message_that_was_cut_is_sent_again(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    link = Link(path)
    link.connect(0.0)
    assert link.retry_s == RETRY_FIRST_S  # nobody listens yet
    big = Stdout("r", "x" * 3_000_000)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        link.send(big)
        link.send(Stdout("r", "small"))
        link.connect(1.0)
        peer, _ = listener.accept()
        peer.sendall(zmtp.hello())
        assert link.read(1.0) == []
        assert link.wants_write
        link.write(1.0)
        assert link.queued_bytes > 3_000_000  # cut in the middle
        peer.close()
        link.write(2.0)
        assert link.retry_s is not None
        link.connect(2.1)
        peer, _ = listener.accept()
        peer.sendall(zmtp.hello() + zmtp.pack(encode(Status("q"))))
        assert link.read(2.1) == [Status("q")]
        link.send(StatusReply("q", "", ""))
        connection = zmtp.Connection()
        received = []
        while link.queued_bytes:
            link.write(2.2)
            received += connection.receive(peer.recv(1 << 20))
        while len(received) < 3:
            received += connection.receive(peer.recv(1 << 20))
        peer.close()
    assert [decode(frames) for frames in received] == [big, Stdout("r", "small"), StatusReply("q", "", "")]


def test_waits_between_attempts_grow_to_a_limit(tmp_path: Path) -> None:
    link = Link(str(tmp_path / "nobody"))
    waits = []
    for _ in range(10):
        link.connect(0.0)
        waits.append(link.retry_s)
    assert waits[0] == RETRY_FIRST_S
    assert waits == sorted(waits, key=float)  # type: ignore[arg-type]
    assert waits[-1] == RETRY_MAX_S
