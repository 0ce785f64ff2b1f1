"""Services behind an app proxy: a coordinator that is a real HTTP server, and connections that go through the relay into the session."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from aiohttp import web

from ai.backend.client.client import AsyncClient
from ai.backend.client.config import ClientConfig
from ai.backend.client.error import ApiError
from ai.backend.client.sync import Client
from ai.backend.common.bus import Accept
from ai.backend.common.wire import rpc
from ai.backend.manager.config import CoordinatorConfig
from ai.backend.manager.coordinator import relay
from ai.backend.manager.db.schema import keypairs, resource_groups
from ai.backend.testkit.app_proxy import SECRET, AppProxy, app_proxy

from .conftest import World, running

WAIT_S = 20
PORT, OTHER = 8000, 8001


@pytest.fixture
async def proxy() -> AsyncIterator[AppProxy]:
    async with app_proxy() as found:
        yield found


async def group_has(world: World, addr: str | None, token: str | None = SECRET) -> None:
    change = sa.update(resource_groups).values(wsproxy_addr=addr, wsproxy_api_token=token)
    await world.database.run(lambda conn: conn.execute(change))


async def shout(request: rpc.StreamRequest, accept: Accept) -> None:
    """A program in the session: what comes is sent back in capitals; "bye" ends it."""
    assert isinstance(request, rpc.Connect)
    stream = accept()
    await stream.send(f"{request.port}:".encode())
    while data := await stream.receive():
        await stream.send(data.upper())
        if data.endswith(b"bye"):
            return


async def prepared(world: World, proxy: AppProxy) -> dict[str, Any]:
    """A running session of the user's."""
    world.agent.streams = shout
    await group_has(world, proxy.url)
    made: dict[str, Any] = (await world.start(preopen_ports=[PORT, OTHER])).json
    return made


async def start(
    world: World, app: str = str(PORT), key: str = "user", ref: str = "mysess", **more: Any
) -> Any:
    return await world.call("POST", f"/session/{ref}/start-service", {"app": app, **more}, key=key)


async def token(world: World, **more: Any) -> str:
    answer = await start(world, **more)
    assert answer.status == 200, answer.body
    return str(answer.json["token"])


async def read(reader: asyncio.StreamReader, size: int = -1) -> bytes:
    async with asyncio.timeout(WAIT_S):
        return await (reader.read() if size < 0 else reader.readexactly(size))


async def broken(reader: asyncio.StreamReader) -> bool:
    """Whether the other side has broken off (and not only ended)."""
    try:
        return await read(reader) == b""
    except ConnectionResetError:
        return True


async def greeted(proxy: AppProxy, given: str) -> bool:
    reader, writer = await proxy.dial(given)
    try:
        return await read(reader, 5) == b"8000:"
    except (ConnectionResetError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.close()


def listens(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def closed(port: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while listens(port):
            await asyncio.sleep(0.01)


async def test_a_service_is_reached_through_the_proxy(world: World, proxy: AppProxy) -> None:
    made = await prepared(world, proxy)
    answer = await start(world, login_session_token="from-the-browser", envs='{"A": "1"}')
    assert answer.status == 200, answer.body
    given = answer.json["token"]
    assert answer.json == {"token": given, "wsproxy_addr": "https://apps.example.com:10200"}
    assert proxy.asked == ["GET /status", "POST /v2/conf"]
    conf, user = dict(proxy.confs[given]), world.who["user"]
    assert isinstance(conf.pop("kernel_port"), int)
    project = await world.manager.identity.project("default", "default", user)
    assert conf == {
        "login_session_token": "from-the-browser",
        "kernel_host": "127.0.0.1",
        "session": {
            "id": made["sessionId"],
            "user_uuid": str(user.user_id),
            "group_id": str(project),
            "access_key": user.access_key,
            "domain_name": "default",
        },
    }
    reader, writer = await proxy.dial(given)
    assert await read(reader, 5) == b"8000:"
    writer.write(b"hello")
    assert await read(reader, 5) == b"HELLO"
    writer.write(b" bye")
    assert await read(reader) == b" BYE"
    # Again, by who administers the domain: the same way in, for another login; and without an advertised address.
    proxy.advertised = None
    again = await start(world, key="admin", ref=made["sessionId"])
    assert again.json["wsproxy_addr"] == proxy.url
    assert proxy.confs[again.json["token"]] == proxy.confs[given] | {"login_session_token": None}
    writer.close()


async def test_each_port_has_a_way_of_its_own(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    first, second = await token(world), await token(world, app=str(OTHER), port=OTHER)
    assert proxy.confs[first]["kernel_port"] != proxy.confs[second]["kernel_port"]
    for given, port in ((first, PORT), (second, OTHER)):
        reader, writer = await proxy.dial(given)
        assert await read(reader, 5) == f"{port}:".encode()
        writer.close()


async def test_the_way_ends_with_shutdown_and_with_the_session(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    first, second = await token(world), await token(world, app=str(OTHER))
    ports = [proxy.confs[one]["kernel_port"] for one in (first, second)]
    dialed = [await proxy.dial(one) for one in (first, second)]
    for reader, _ in dialed:
        await read(reader, 5)
    for _ in range(2):
        answer = await world.call("POST", f"/session/mysess/shutdown-service?service_name={PORT}")
        assert (answer.status, answer.body) == (204, b"")
    assert await broken(dialed[0][0])
    await closed(ports[0])
    assert listens(ports[1])
    # It can be started again.
    third = await token(world)
    assert listens(proxy.confs[third]["kernel_port"])
    assert (await world.call("DELETE", "/session/mysess")).status == 200
    assert await broken(dialed[1][0])
    for one in (second, third):
        await closed(proxy.confs[one]["kernel_port"])
    assert world.manager.coordinators._relays._kept == {}


async def test_who_may(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    for key, status in (("peer", 404), ("stranger", 404), ("boss", 404), ("admin", 200), ("root", 200)):
        mine = world.who["user"].access_key
        ref = (await world.call("GET", "/session/mysess")).json["id"]
        assert (await start(world, key=key, ref=ref)).status == status, key
        body = {"service_name": str(PORT)}
        shut = await world.call("POST", f"/session/{ref}/shutdown-service", body, key=key)
        assert shut.status == (204 if status == 200 else status), key
        acted = await start(world, key=key, owner_access_key=mine)
        assert acted.status == (200 if status == 200 else 403), key
    assert (await start(world, key="monitor", ref=ref)).status == 403


async def test_services_that_are_none(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    for app, port, status, title in (
        ("nothing", None, 404, "No such app service."),
        ("8000", 8001, 400, "Missing or invalid API parameters."),
        ("8000", 99999, 400, "Missing or invalid API parameters."),
    ):
        answer = await start(world, app, port=port)
        assert (answer.status, answer.json["title"]) == (status, title)
    answer = await world.call("POST", "/session/mysess/shutdown-service", {"service_name": "nothing"})
    assert (answer.status, answer.json["title"]) == (404, "No such app service.")
    for more in ({"envs": "["}, {"arguments": '{"a": 1}'}, {"login_session_token": "x" * 9000}):
        answer = await start(world, **more)
        assert (answer.status, answer.problem) == (400, "invalid-api-params"), more
    assert proxy.asked == []


async def test_without_a_coordinator(world: World) -> None:
    await world.start(preopen_ports=[PORT])
    for app in (str(PORT), "ttyd"):
        answer = await start(world, app)
        assert (answer.status, answer.problem) == (503, "service-unavailable")
        assert answer.json["title"] == "No coordinator configured for this resource group"
        assert (answer.json["error_code"], answer.json["fault"]) == ("coordinator.none", "infrastructure")


async def test_a_session_that_does_not_run_yet(world: World, proxy: AppProxy) -> None:
    await group_has(world, proxy.url)
    await task(world, enqueueOnly=True, starts_at="1h", config={"preopen_ports": [PORT]})
    answer = await start(world, ref="train")
    assert (answer.status, answer.json["error_code"]) == (400, "session.invalid-state")
    assert proxy.asked == []


def says(body: bytes, status: int = 200, **headers: str) -> Any:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=headers)

    return answer


async def silence(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b" " * 65536)
    return response


async def cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b'{"tok')
    assert request.transport is not None
    request.transport.abort()
    return response


FAILED, MISCONFIGURED, UNREACHABLE = (
    f"coordinator.{word}" for word in ("failed", "misconfigured", "unreachable")
)
FAILURES = {
    "no JSON": (says(b"<html>"), FAILED),
    "a list": (says(b"[]"), FAILED),
    "nothing": (says(b""), FAILED),
    "deep": (says(b"[" * 60_000), FAILED),
    "no text": (says(b"\xff\xfe{}"), FAILED),
    "a redirect": (says(b"{}", 302, Location="http://127.0.0.1:1/"), FAILED),
    "not found": (says(b"{}", 404), FAILED),
    "an error": (says(b"{}", 500), FAILED),
    "refused": (says(b"{}", 401), MISCONFIGURED),
    "forbidden": (says(b"{}", 403), MISCONFIGURED),
    "endless": (endless, FAILED),
    "cut": (cut, FAILED),
    "a bomb": (says(b"\x1f\x8b" + bytes(10), **{"Content-Encoding": "gzip"}), FAILED),
    "silence": (silence, UNREACHABLE),
}


@pytest.mark.parametrize("path", ["/status", "/v2/conf"])
async def test_a_coordinator_that_fails(
    world: World, proxy: AppProxy, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepared(world, proxy)
    for kind, (answer, code) in FAILURES.items():
        proxy.answers[path] = answer
        if kind == "silence":
            monkeypatch.setattr(world.manager.coordinators._client, "_timeout_s", 0.3)
        await failed(world, code, kind)
    assert proxy.asked.count(f"{'GET' if path == '/status' else 'POST'} {path}") == len(FAILURES)


async def failed(world: World, code: str, case: object = "") -> dict[str, Any]:
    """Told clearly, whose fault it is too; nothing stays open; and the token is nobody's business."""
    answer = await start(world)
    assert (answer.status, answer.problem) == (503, "service-unavailable"), (case, answer.body)
    told: dict[str, Any] = answer.json
    assert (told["error_code"], told["fault"]) == (code, "infrastructure"), (case, answer.body)
    assert told["msg"] and told["hint"]
    assert SECRET not in answer.body.decode()
    assert world.manager.coordinators._relays._kept == {}
    return told


async def test_a_status_that_is_none(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    for status in (
        b"{}",
        b'{"api_version": "v1"}',
        b'{"api_version": ["v2"]}',
        b'{"api_version": "v2", "advertise_address": "javascript:alert(1)"}',
        b'{"api_version": "v2", "advertise_address": "http://user:secret@host/"}',
        b'{"api_version": "v2", "advertise_address": {"a": 1}}',
        b'{"api_version": "v2", "advertise_address": "http://' + b"a" * 2000 + b'/"}',
    ):
        proxy.answers["/status"] = says(status)
        await failed(world, FAILED, status)
    assert set(proxy.asked) == {"GET /status"}


async def test_a_token_that_is_none(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    for answer in (
        b"{}", b'{"token": ""}', b'{"token": 1}', b'{"token": "a b"}', b'{"token": "' + b"x" * 9000 + b'"}',
    ):  # fmt: skip
        proxy.answers["/v2/conf"] = says(answer)
        await failed(world, FAILED, answer)


async def test_nobody_is_at_home(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    await group_has(world, f"http://127.0.0.1:{port}")
    await failed(world, UNREACHABLE)

    # One that speaks something else than HTTP.
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    await group_has(world, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await failed(world, FAILED)
    server.close()
    await group_has(world, f"http://no-such-host.invalid:{port}")
    await failed(world, UNREACHABLE)


async def test_what_the_resource_group_says_is_wrong(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    for addr, secret in (
        ("x", SECRET),
        ("ftp://127.0.0.1/", SECRET),
        ("http://user:pass@127.0.0.1/", SECRET),
        ("http://127.0.0.1:99999/", SECRET),
        ("http://127.0.0.1/?a=b", SECRET),
        ("http://127.0.0.1/\r\nX: y", SECRET),
        ("http://[::1", SECRET),
        (proxy.url, "line\nbreak" + SECRET),
        (proxy.url, "ключ" + SECRET),
        (proxy.url, None),
        (proxy.url, "wrong"),
    ):
        await group_has(world, addr, secret)
        told = await failed(world, MISCONFIGURED, (addr, secret))
        assert "pass@" not in str(told)


async def test_the_token_is_in_no_log(
    world: World, proxy: AppProxy, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    await prepared(world, proxy)
    await token(world)
    for secret in ("line\nbreak" + SECRET, "ключ" + SECRET):
        await group_has(world, proxy.url, secret)
        await start(world)
    told = capsys.readouterr()
    assert SECRET not in told.out + told.err + caplog.text
    assert "coordinator.misconfigured" in told.out + told.err + caplog.text


async def test_a_path_before_the_coordinators_own(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    await group_has(world, proxy.url + "/")
    await token(world)
    assert proxy.asked == ["GET /status", "POST /v2/conf"]
    await group_has(world, proxy.url + "/proxy/")
    assert (await start(world)).json["error_code"] == FAILED, "it is asked below that path, where nothing is"


# -- the relay ------------------------------------------------------------------------------------------------------------------


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
    asked.set()
    assert await read(reader, 4) == b"late"
    writer.close()
    # But it is not waited for without end: nobody can tell whether anybody still listens.
    monkeypatch.setattr(relay, "LINGER_S", 0.05)
    reader, writer = await proxy.dial(given)
    writer.write_eof()
    assert await broken(reader)


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
    both = asyncio.Barrier(2)
    usual, number = AppProxy.conf, 0

    async def one_fails(request: web.Request) -> web.StreamResponse:
        nonlocal number
        number += 1
        mine = number
        async with asyncio.timeout(WAIT_S):
            await both.wait()
        if mine == 1:
            return web.json_response({}, status=500)
        del proxy.answers["/v2/conf"]
        return await usual(proxy, request)

    proxy.answers["/v2/conf"] = one_fails
    answers = await asyncio.gather(start(world), start(world))
    assert sorted(answer.status for answer in answers) == [200, 503]
    (good,) = [answer.json["token"] for answer in answers if answer.status == 200]
    reader, writer = await proxy.dial(good)
    assert await read(reader, 5) == b"8000:"
    writer.close()


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


# -- what else is reached past this API -------------------------------------------------------------------------------------------


async def test_direct_access(world: World) -> None:
    await world.start()
    assert (await world.call("GET", "/session/mysess/direct-access-info")).json == {}
    answer = await world.call("GET", "/session/mysess/direct-access-info", key="peer")
    assert (answer.status, answer.json["title"]) == (404, "No such session.")


async def task(world: World, **more: Any) -> Any:
    body = {"name": "train", "image": "python", "type": "batch", "startupCommand": "true", **more}
    return (await world.call("POST", "/session", body)).json


async def test_a_task_log(world: World) -> None:
    world.agent.logs = "epoch 1\nübermütig\n"
    made = await task(world)
    info = (await world.call("GET", "/session/train")).json
    kernel = await world.manager.sessions.get(world.who["user"], "train")
    for query in (
        f"taskId={made['sessionId']}", f"task_id={kernel.main.id}", f"taskId={kernel.main.id.hex}",
        "session_name=train", "sessionName=train",
    ):  # fmt: skip
        for path in ("/session/_/logs", "/kernel/_/logs", "/v4/kernel/_/logs"):
            answer = await world.call("GET", f"{path}?{query}")
            assert answer.status == 200, (query, answer.body)
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert answer.body.decode() == world.agent.logs
    head = await world.call("HEAD", f"/session/_/logs?taskId={made['sessionId']}")
    assert (head.status, head.body) == (200, b"")
    assert info["name"] == "train"
    # After its end too.
    await world.call("DELETE", "/session/train")
    async with asyncio.timeout(WAIT_S):
        while (
            await world.call("GET", f"/session/_/logs?taskId={kernel.main.id}")
        ).body.decode() != world.agent.logs:
            await asyncio.sleep(0.02)
    world.agent.logs = "gone"
    assert (
        await world.call("GET", "/session/_/logs?sessionName=train")
    ).body.decode() == "epoch 1\nübermütig\n"


async def test_task_logs_that_are_none(world: World) -> None:
    await world.start("mysess")
    world.agent.capacity = {"cpu": 100_000, "mem": 1 << 40}
    await world.agent.report()
    made = await task(world, enqueueOnly=True, starts_at="1h")
    for ref in ("nothing", str(UUID(int=5)), "mysess", made["sessionId"]):
        for method in ("GET", "HEAD"):
            answer = await world.call(method, f"/session/_/logs?taskId={ref}")
            assert answer.status == 404, ref
            if method == "GET":
                assert (answer.problem, answer.json["title"]) == ("object-not-found", "No such task log.")
    assert (await world.call("GET", "/session/_/logs")).status == 400


async def test_who_reads_a_task_log(world: World) -> None:
    made = await task(world)
    for key, status in (
        ("user", 200), ("admin", 200), ("root", 200), ("monitor", 403), ("peer", 404), ("boss", 404),
    ):  # fmt: skip
        assert (
            await world.call("GET", f"/session/_/logs?taskId={made['sessionId']}", key=key)
        ).status == status, key


async def test_an_agent_is_sent_anew_what_it_should_run(world: World) -> None:
    await world.start()
    (kernel_id,) = world.agent.kernels
    before = world.agent.generation
    # The agent has lost it without knowing.
    world.agent.kernels.clear()
    answer = await world.call("POST", "/session/_/sync-agent-registry", {"agent": "a1"}, key="root")
    assert (answer.status, answer.json) == (200, {})
    async with asyncio.timeout(WAIT_S):
        while kernel_id not in world.agent.kernels:
            await asyncio.sleep(0.01)
    assert world.agent.generation > before
    answer = await world.call("POST", "/session/_/sync-agent-registry", {"agent": "nobody"}, key="root")
    assert (answer.status, answer.json["title"]) == (404, "No such agent instance.")
    for key in ("user", "admin", "monitor"):
        assert (
            await world.call("POST", "/session/_/sync-agent-registry", {"agent": "a1"}, key=key)
        ).status == 401
    assert (await world.call("POST", "/session/_/sync-agent-registry", {}, key="root")).status == 400


# -- our own library and command line -------------------------------------------------------------------------------------------


async def cli(world: World, tmp_path: Path, *args: str, key: str = "user") -> tuple[int, str, str]:
    access_key, secret_key = world.keys[key]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "ai.backend.cli", *args,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "BACKEND_ENDPOINT": f"http://{world.authority}",
            "BACKEND_ACCESS_KEY": access_key, "BACKEND_SECRET_KEY": secret_key,
        },
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_library(world: World, proxy: AppProxy) -> None:
    await prepared(world, proxy)
    world.agent.logs = "epoch 1\n"
    await task(world)

    def config(key: str) -> ClientConfig:
        access_key, secret_key = world.keys[key]
        return ClientConfig(
            endpoint=f"http://{world.authority}", access_key=access_key, secret_key=secret_key
        )

    async with AsyncClient(config("user")) as api:
        mine = api.sessions.at("mysess")
        opened = await mine.start_service(str(OTHER), port=OTHER, login_session_token="x")
        assert opened.wsproxy_addr == "https://apps.example.com:10200"
        assert proxy.confs[opened.token]["login_session_token"] == "x"
        await mine.shutdown_service(str(OTHER))
        await closed(proxy.confs[opened.token]["kernel_port"])
        await group_has(world, None)
        with pytest.raises(ApiError, match="no app proxy") as refused:
            await mine.start_service(str(PORT))
        assert (refused.value.status, refused.value.code) == (503, "coordinator.none")
        assert await api.sessions.task_log("train") == "epoch 1\n"
    before = world.agent.generation
    async with AsyncClient(config("root")) as api:
        await api.sync_agent("a1")
    async with asyncio.timeout(WAIT_S):
        while world.agent.generation == before:
            await asyncio.sleep(0.01)

    def blocking() -> tuple[str, str]:
        with Client(config("user")) as api:
            return api.sessions.task_log("train"), api.sessions.at("mysess").apps()[0].name

    assert await asyncio.to_thread(blocking) == ("epoch 1\n", str(PORT))


async def test_the_command_line(world: World, proxy: AppProxy, tmp_path: Path) -> None:
    await prepared(world, proxy)
    world.agent.logs = "epoch 1\n"
    await task(world)
    code, out, err = await cli(
        world, tmp_path, "--output", "json", "session", "start-service", "mysess", str(PORT)
    )
    assert code == 0, err
    told = json.loads(out)
    assert told["wsproxy_addr"] == "https://apps.example.com:10200" and told["token"] in proxy.confs
    code, out, _ = await cli(
        world, tmp_path, "session", "start-service", "mysess", str(OTHER), "-p", str(OTHER)
    )
    assert (
        code == 0
        and "https://apps.example.com:10200" in out
        and max(proxy.confs, key=list(proxy.confs).index) in out
    )
    assert (await cli(world, tmp_path, "session", "shutdown-service", "mysess", str(PORT)))[0] == 0
    await closed(proxy.confs[told["token"]]["kernel_port"])
    for words in (("task-logs",), ("session", "task-logs")):
        assert (await cli(world, tmp_path, *words, "train"))[:2] == (0, "epoch 1\n")
    assert json.loads((await cli(world, tmp_path, "--output", "json", "task-logs", "train"))[1]) == {
        "logs": "epoch 1\n"
    }
    code, _, err = await cli(world, tmp_path, "task-logs", "mysess")
    assert code == 1 and "it has no task" in err
    await group_has(world, None)
    code, _, err = await cli(world, tmp_path, "session", "start-service", "mysess", str(PORT))
    assert (
        code == 1
        and "No coordinator configured" in err
        and "the platform's, not yours" in err
        and "backend.ai app" in err
    )
    assert (await cli(world, tmp_path, "agent", "sync", "a1", key="root"))[:2] == (
        0,
        "a1 is sent what it should run\n",
    )
    code, _, err = await cli(world, tmp_path, "agent", "sync", "nobody", key="root")
    assert code == 1 and "nobody" in err


async def test_a_cluster_by_the_command_line(world: World, tmp_path: Path) -> None:
    spec = {"kernel": {"image": "python"}, "resources": {"cpu": 1, "mem": "256m"}}
    plain = {"api_version": "v1", "kind": "task_template", "metadata": {"name": "one"}, "spec": spec}
    (one,) = (await world.call("POST", "/template/session", {"payload": plain})).json
    nodes = [{"role": "main", "session_template": one["id"]}]
    several = {
        "api_version": "v1",
        "kind": "cluster_template",
        "metadata": {"name": "all"},
        "spec": {"nodes": nodes},
    }
    (made,) = (await world.call("POST", "/template/cluster", {"payload": several})).json
    code, out, err = await cli(world, tmp_path, "session", "create-cluster", made["id"], "-t", "trio")
    assert code == 0 and out.startswith("trio runs"), err
    code, out, _ = await cli(
        world, tmp_path, "--output", "json", "session", "create-cluster", made["id"], "-t", "trio"
    )
    assert code == 0 and json.loads(out)["created"] is False
    assert (await cli(world, tmp_path, "session", "create-cluster", made["id"], "-t", "trio", "--no-reuse"))[
        0
    ] == 1
