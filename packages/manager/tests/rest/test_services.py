"""Services behind an app proxy: what is asked of its coordinator, which is a real HTTP server, and what its failures become."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from aiohttp import web

from ai.backend.testkit.app_proxy import SECRET, AppProxy

from .conftest import World
from .service_world import (
    FAILED,
    MISCONFIGURED,
    OTHER,
    PORT,
    UNREACHABLE,
    broken,
    closed,
    failed,
    group_has,
    listens,
    prepared,
    read,
    silence,
    start,
    task,
    token,
)


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
