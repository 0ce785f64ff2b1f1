"""The runner's socket on the agent's side: with a real ZeroMQ peer, and with peers that break off, lie or push in."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from ai.backend.agent.runner.link import UNSENT_BYTES_MAX, ZmtpLink
from ai.backend.kernel import zmtp
from ai.backend.kernel.protocol import SOCKET_NAME


class Agent:
    """A link and what came over it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / SOCKET_NAME
        self.came: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.link = ZmtpLink(folder, os.getuid(), self.came.put_nowait)

    async def next(self) -> list[bytes]:
        return await asyncio.wait_for(self.came.get(), 10)


class Peer:
    """A raw peer, which may break any rule."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> "Peer":
        self.reader, self.writer = await asyncio.open_unix_connection(str(self._path))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.writer.close()

    async def greet(self) -> None:
        self.writer.write(zmtp.hello())
        await self.reader.readexactly(len(zmtp.hello()))

    async def is_turned_away(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(), 10) in (b"", zmtp.hello())
        except ConnectionError:
            return True


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    agent.link.close()


async def test_a_zeromq_socket_talks_to_it(agent: Agent) -> None:
    agent.link.send([b"early", b""])
    context = zmq.asyncio.Context()
    peer = context.socket(zmq.DEALER)
    peer.connect(f"ipc://{agent.path}")
    assert await asyncio.wait_for(peer.recv_multipart(), 10) == [b"early", b""]
    big = os.urandom(3 << 20)
    await peer.send_multipart([b"a", big])
    assert await agent.next() == [b"a", big]
    agent.link.send([big, b"z"])
    assert await asyncio.wait_for(peer.recv_multipart(), 10) == [big, b"z"]
    context.destroy(linger=0)


async def test_only_its_owner_may_connect(agent: Agent) -> None:
    assert stat.S_IMODE(agent.path.stat().st_mode) == 0o600


async def test_a_second_peer_is_turned_away_while_the_first_is_there(agent: Agent) -> None:
    async with Peer(agent.path) as first:
        await first.greet()
        async with Peer(agent.path) as second:
            assert await second.is_turned_away()
        first.writer.write(zmtp.pack([b"still here"]))
        assert await agent.next() == [b"still here"]
    async with Peer(agent.path) as third:
        await third.greet()
        third.writer.write(zmtp.pack([b"again"]))
        assert await agent.next() == [b"again"]


async def test_a_peer_that_breaks_the_protocol_is_hung_up_on(agent: Agent) -> None:
    for lie in (
        b"GET / HTTP/1.1\r\n\r\n" * 9,
        zmtp.hello() + b"\xff" * 9,
        zmtp.hello() + b"\x02" + b"\xff" * 8,
    ):
        async with Peer(agent.path) as peer:
            peer.writer.write(lie)
            assert await peer.is_turned_away()
    assert agent.came.empty()


async def test_a_message_that_was_cut_is_sent_again_whole(agent: Agent) -> None:
    message = [b"head", os.urandom(4 << 20)]
    async with Peer(agent.path) as peer:
        await peer.greet()
        agent.link.send(message)
        await peer.reader.readexactly(1000)
    async with Peer(agent.path) as peer:
        await peer.greet()
        wire = zmtp.pack(message)
        assert await asyncio.wait_for(peer.reader.readexactly(len(wire)), 20) == wire


async def test_a_paused_reader_holds_the_peer_back(agent: Agent) -> None:
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(str(agent.path))
    raw.sendall(zmtp.hello())
    await asyncio.sleep(0.05)
    agent.link.pause()
    raw.setblocking(False)
    with pytest.raises(BlockingIOError):
        for _ in range(1000):
            raw.send(zmtp.pack([bytes(60_000)]))
    assert agent.came.empty()
    agent.link.resume()
    assert await agent.next() == [bytes(60_000)]
    raw.close()


async def test_what_nobody_takes_is_bounded(agent: Agent) -> None:
    for _ in range(100):
        agent.link.send([bytes(1 << 20)])
    assert agent.link._outgoing.bytes < UNSENT_BYTES_MAX + (2 << 20)


async def test_it_closes_twice_and_after_its_peer(agent: Agent) -> None:
    async with Peer(agent.path) as peer:
        await peer.greet()
        agent.link.close()
        assert await peer.is_turned_away()
    agent.link.close()
    agent.link.send([b"into nothing"])
