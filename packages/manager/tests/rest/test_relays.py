"""Relays: connections of an app proxy to services in sessions, who may make them, and when they end."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web

from ai.backend.common.bus import Accept
from ai.backend.common.errors import BackendError, ConfigError, StreamClosed
from ai.backend.common.stream import Stream
from ai.backend.common.wire import rpc
from ai.backend.manager.config import CoordinatorConfig
from ai.backend.manager.coordinator import relay
from ai.backend.manager.coordinator.policy import check_config
from ai.backend.manager.db.schema import keypairs
from ai.backend.testkit.app_proxy import AppProxy

from .conftest import World, running
from .service_world import (
    OTHER,
    PORT,
    WAIT_S,
    broken,
    failed,
    greeted,
    group_has,
    listens,
    prepared,
    read,
    shout,
    silence,
    start,
    token,
)


async def test_a_coordinator_elsewhere_needs_a_relay_elsewhere(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    await group_has(world, "http://192.0.2.1:10200")
    told = await failed(world, "coordinator.no-relay")
    assert "relay-host" in told["hint"]


async def test_only_the_proxy_comes_in(database: Any, tmp_path: Any, template: Any, proxy: AppProxy) -> None:
    """The relay listens on all addresses, and the coordinator is at 127.0.0.1: 127.0.0.2 is somebody else."""
    config = CoordinatorConfig(relay_host="0.0.0.0", relay_told_host="localhost", peers=("127.0.0.3",))
    async with running(database, tmp_path, template, coordinator=config) as world:
        await prepared(world, proxy)
        conf = proxy.confs[await token(world)]
        assert conf["kernel_host"] == "localhost"
        for source, welcome in (("127.0.0.1", True), ("127.0.0.2", False), ("127.0.0.3", True)):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", conf["kernel_port"], local_addr=(source, 0)
            )
            if welcome:
                assert await read(reader, 5) == b"8000:", source
            else:
                assert await broken(reader), source
            writer.close()


async def test_ports_are_taken_from_a_range(
    database: Any, tmp_path: Any, template: Any, proxy: AppProxy
) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        first = taken.getsockname()[1]
        config = CoordinatorConfig(relay_ports=(first, first))
        async with running(database, tmp_path, template, coordinator=config) as world:
            await prepared(world, proxy)
            await failed(world, "coordinator.no-relay")
            taken.close()
            assert proxy.confs[await token(world)]["kernel_port"] == first
            told = await start(world, str(OTHER))
            assert (told.status, told.json["error_code"]) == (503, "coordinator.no-relay")
        assert not listens(first), "it goes with the manager"


async def test_no_more_relays_than_may_be(
    world: World, proxy: AppProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "RELAYS_MAX", 1)
    await prepared(world, proxy)
    await token(world)
    told = await start(world, str(OTHER))
    assert (told.status, told.json["error_code"]) == (503, "coordinator.no-relay")
    await token(world)


async def test_no_more_connections_than_may_be(
    world: World, proxy: AppProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "CONNECTIONS_MAX", 1)
    await prepared(world, proxy)
    given = await token(world)
    first, writer = await proxy.dial(given)
    assert await read(first, 5) == b"8000:"
    second, _writer = await proxy.dial(given)
    assert await broken(second)
    writer.write(b"bye")
    assert await read(first) == b"BYE"
    writer.close()
    async with asyncio.timeout(WAIT_S):
        while not await greeted(proxy, given):
            await asyncio.sleep(0.01)


async def test_nothing_listens_in_the_session(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    given = await token(world)
    world.agent.streams = None
    reader, _writer = await proxy.dial(given)
    assert await broken(reader)
    world.agent.streams = shout
    reader, writer = await proxy.dial(given)
    assert await read(reader, 5) == b"8000:"
    writer.close()


async def test_an_owner_who_is_deactivated_is_cut_off(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    given = await token(world)
    mine = sa.update(keypairs).where(keypairs.c.access_key == world.who["user"].access_key)
    await world.database.run(lambda conn: conn.execute(mine.values(is_active=False)))
    world.manager.identity.forget()
    reader, _writer = await proxy.dial(given)
    assert await broken(reader)


async def test_what_the_service_says_last_arrives(world: World, proxy: AppProxy) -> None:
    """A service that answers at once and closes, although more was sent to it than it read; and a reader that takes its time."""
    size = 256 << 10

    async def answer_and_close(_: rpc.StreamRequest, accept: Accept) -> None:
        await accept().send(b"x" * size)

    await prepared(world, proxy)
    world.agent.streams = answer_and_close
    given = await token(world)
    with contextlib.closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", proxy.confs[given]["kernel_port"]))
        for _ in range(20):
            with contextlib.suppress(BlockingIOError):
                client.send(b"y" * 65536)
            await asyncio.sleep(0.02)
        got = b""
        async with asyncio.timeout(WAIT_S):
            while len(got) < size and (data := await loop.sock_recv(client, 65536)):
                got += data
    assert len(got) == size


async def test_one_who_says_no_more_still_hears_the_answer(
    world: World, proxy: AppProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def after_a_while(_: rpc.StreamRequest, accept: Accept) -> None:
        stream = accept()
        await stream.send(await stream.receive())
        await asked.wait()
        await stream.send(b"late")
        while await stream.receive():
            pass

    await prepared(world, proxy)
    world.agent.streams = after_a_while
    given = await token(world)
    reader, writer = await proxy.dial(given)
    writer.write(b"one")
    assert await read(reader, 3) == b"one"
    writer.write_eof()
    await asyncio.sleep(0.1)  # the relay sees that before the service answers
    asked.set()
    assert await read(reader, 4) == b"late"
    writer.close()
    # But it is not waited for without end: nobody can tell whether anybody still listens.
    monkeypatch.setattr(relay, "LINGER_S", 0.05)
    reader, writer = await proxy.dial(given)
    writer.write_eof()
    assert await broken(reader)


class Deaf:
    """The stream of a service that takes nothing any more, and then says its last."""

    def __init__(self) -> None:
        self.refused = asyncio.Event()
        self.last = [b"", b"last"]

    async def send(self, data: bytes) -> None:
        self.refused.set()
        raise StreamClosed("it takes no more")

    async def receive(self) -> bytes:
        await self.refused.wait()
        await asyncio.sleep(0.05)
        return self.last.pop()

    def close(self, failure: BackendError | None = None) -> None:
        self.refused.set()


async def test_the_last_word_of_a_service_that_does_not_listen() -> None:
    async def dial() -> Stream:
        return Deaf()

    open_ = relay.Relay(lambda _: True, dial)
    await open_.listen("127.0.0.1", (0, 0))
    reader, writer = await asyncio.open_connection("127.0.0.1", open_.port)
    writer.write(b"x")
    assert await read(reader) == b"last"
    writer.close()
    open_.close()
    await open_.closed()


async def test_one_who_is_let_in_just_before_it_closes() -> None:
    """Accepted by the event loop, but not looked at yet."""

    async def dial() -> Stream:
        raise AssertionError("it was let in")

    closing = relay.Relay(lambda _: True, dial)
    await closing.listen("127.0.0.1", (0, 0))
    closing.close()
    server = await asyncio.start_server(closing._accept, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await broken(reader)
    writer.close()
    server.close()


async def test_a_session_that_ends_meanwhile(world: World, proxy: AppProxy) -> None:
    """Between the first look at it and the relay: no relay is left behind."""
    made = await prepared(world, proxy)

    async def end_it(request: web.Request) -> web.StreamResponse:
        assert (await world.call("DELETE", "/session/mysess")).status == 200
        assert (await world.call("GET", f"/session/{made['sessionId']}")).status == 404
        return web.json_response({"api_version": "v2"})

    proxy.answers["/status"] = end_it
    answer = await start(world)
    assert (answer.status, answer.json["error_code"]) == (404, "session.not-found")
    assert world.manager.coordinators._relays._kept == {}
    assert proxy.asked == ["GET /status"]


async def test_two_at_once_share_a_relay_also_when_one_fails(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    both, first_failed = asyncio.Barrier(2), asyncio.Event()
    usual, number = AppProxy.conf, 0

    async def one_fails(request: web.Request) -> web.StreamResponse:
        nonlocal number
        number += 1
        mine = number
        async with asyncio.timeout(WAIT_S):
            await both.wait()
            if mine == 1:
                return web.json_response({}, status=500)
            await first_failed.wait()
        proxy.answers.clear()
        return await usual(proxy, request)

    proxy.answers["/v2/conf"] = one_fails
    waiting = {asyncio.create_task(start(world)) for _ in range(2)}
    (failed_,), (other,) = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert failed_.result().status == 503
    first_failed.set()
    answer = await other
    assert answer.status == 200, answer.body
    assert await greeted(proxy, answer.json["token"])


async def test_the_client_leaves_while_the_coordinator_thinks(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    proxy.answers["/v2/conf"] = silence
    waiting = asyncio.create_task(
        world.manager.coordinators.start_service(world.who["user"], "mysess", str(PORT))
    )
    async with asyncio.timeout(WAIT_S):
        while "POST /v2/conf" not in proxy.asked:
            await asyncio.sleep(0.01)
    assert len(world.manager.coordinators._relays._kept) == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert world.manager.coordinators._relays._kept == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"relay_host": "localhost"}, {"relay_host": "0.0.0.0"}, {"relay_host": "::"}, {"relay_ports": (2, 1)},
        {"relay_ports": (0, 9)}, {"relay_ports": (1, 65536)}, {"relay_ports": (-1, 1)}, {"peers": ("10.0.0.0/33",)},
        {"peers": ("proxy.example.com",)}, {"timeout_s": 0.0}, {"timeout_s": 1e9},
    ],
)  # fmt: skip
def test_configurations_that_are_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"manager\.coordinator"):
        check_config(CoordinatorConfig(**wrong))


def test_configurations_that_are_right() -> None:
    check_config(CoordinatorConfig())
    check_config(
        CoordinatorConfig(
            relay_host="::", relay_told_host="manager", relay_ports=(1, 65535), peers=("10.0.0.1/8", "::1")
        )
    )
