"""Callbacks: where they may go, what they say, and that nothing waits for them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import pytest

from ai.backend.common.errors import InvalidInput
from ai.backend.common.ids import SessionId
from ai.backend.manager.callback import service
from ai.backend.manager.callback.client import CallbackClient, CallbackFailed
from ai.backend.manager.callback.policy import body_of, check_url, forbidden
from ai.backend.manager.callback.service import Callbacks
from ai.backend.manager.config import ManagerConfig
from ai.backend.manager.event.model import Event

STRICT, EMBEDDED = ManagerConfig(), ManagerConfig(callback_loopback=True)
ALL = ManagerConfig(callback_loopback=True, callback_link_local=True)
ONE, TWO = SessionId(UUID(int=1)), SessionId(UUID(int=2))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "url", ["https://example.com/x?y=1", "http://10.0.0.1:8080/", "http://[2001:db8::1]/"]
)
def test_urls_that_are_fine(url: str) -> None:
    assert check_url(url, STRICT) == url


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "file:///etc/passwd", "example.com", "http://", "http://u:p@example.com/", "http://a b/",
        "http://a:99999/", "http://[::1", "https://example.com/\r\nX: y", "http://" + "a" * 3000, "javascript:x",
    ],
)  # fmt: skip
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(InvalidInput, match="callback_url"):
        check_url(url, ALL)


LOOPBACK = ("127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "0.1.2.3", "::", "::ffff:127.0.0.1")
LINK_LOCAL = ("169.254.169.254", "fe80::1", "::ffff:169.254.169.254")
MANY = ("224.0.0.1", "ff02::1", "255.255.255.255")


@pytest.mark.parametrize("text", [*LOOPBACK, *LINK_LOCAL, *MANY])
def test_addresses_that_only_this_machine_reaches(text: str) -> None:
    address = ip_address(text)
    assert forbidden(address, STRICT)
    assert bool(forbidden(address, EMBEDDED)) is (text not in LOOPBACK)
    assert bool(forbidden(address, ALL)) is (text in MANY)
    url = f"http://[{text}]/" if ":" in text else f"http://{text}/"
    with pytest.raises(InvalidInput, match="leads to"):
        check_url(url, STRICT)


def test_a_name_of_this_machine() -> None:
    for name in ("localhost", "x.localhost", "LOCALHOST"):
        with pytest.raises(InvalidInput):
            check_url(f"http://{name}/", STRICT)
        assert check_url(f"http://{name}/", EMBEDDED)


def test_what_is_said() -> None:
    assert body_of("session_started", ONE, NOW) == {
        "type": "session_lifecycle",
        "event": "started",
        "session_id": str(ONE),
        "when": "2026-01-01T00:00:00+00:00",
    }


@asynccontextmanager
async def server(answer: bytes | None, host: str = "127.0.0.1") -> AsyncIterator[tuple[int, list[bytes]]]:
    """Hears requests; `None`: it never answers."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(
            int(line.split(b":")[1])
            for line in head.splitlines()
            if line.lower().startswith(b"content-length")
        )
        heard.append(head + await reader.readexactly(size))
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    listener = await asyncio.start_server(serve, host, 0)
    try:
        yield listener.sockets[0].getsockname()[1], heard
    finally:
        listener.close()


async def test_a_post_is_sent_and_its_answer_not_read() -> None:
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nx"
    async with server(long) as (port, heard):
        assert (
            await CallbackClient(EMBEDDED).post(f"http://localhost:{port}/a?b=c", {"x": 1}, timeout_s=20)
            == 200
        )
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /a?b=c HTTP/1.1") and f"Host: localhost:{port}".encode() in head
    assert json.loads(body) == {"x": 1}


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
async def test_a_post_to_an_ipv6_address() -> None:
    async with server(b"HTTP/1.1 204 No Content\r\n\r\n", "::1") as (port, heard):
        assert await CallbackClient(EMBEDDED).post(f"http://[::1]:{port}/", {}, timeout_s=20) == 204
    assert len(heard) == 1


async def test_redirects_are_not_followed() -> None:
    async with server(
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
    ) as (port, heard):
        assert await CallbackClient(EMBEDDED).post(f"http://127.0.0.1:{port}/", {}, timeout_s=20) == 302
    assert len(heard) == 1


async def test_where_a_name_leads_is_judged_when_it_is_used() -> None:
    async with server(b"") as (port, heard):
        with pytest.raises(CallbackFailed, match="this server itself"):
            await CallbackClient(STRICT).post(f"http://localhost:{port}/", {}, timeout_s=20)
    assert heard == []


async def test_silence_ends_at_the_limit() -> None:
    async with server(None) as (port, _):
        with pytest.raises(CallbackFailed, match="no answer"):
            await CallbackClient(EMBEDDED).post(f"http://127.0.0.1:{port}/", {}, timeout_s=0.1)


class FakeDatabase:
    async def read(self, op: Any) -> str:
        await asyncio.sleep(0)
        return "http://x"


class FakePost:
    """Session ONE's server hangs until `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.sent: list[tuple[str, str]] = []

    async def post(self, url: str, body: dict[str, Any], *, timeout_s: float) -> int:
        assert timeout_s == 30
        if body["session_id"] == str(ONE):
            await self.gate.wait()
        if body["event"] == "scheduled":
            raise CallbackFailed("refused")
        self.sent.append((body["session_id"], body["event"]))
        return 200


def event(session_id: SessionId, name: str, **payload: Any) -> Event:
    return Event(id=1, created_at=NOW, name=name, session_id=session_id, payload=payload)


async def test_events_arrive_in_order_and_a_slow_server_delays_nobody_else() -> None:
    post = FakePost()
    callbacks = Callbacks(FakeDatabase(), post)  # type: ignore[arg-type]
    for name in ("session_enqueued", "session_scheduled", "kernel_started", "session_started"):
        for session_id in (ONE, TWO):
            callbacks.heard(event(session_id, name, hasCallback=True))
    callbacks.heard(event(SessionId(UUID(int=3)), "session_started"))
    while len(post.sent) < 2:
        await asyncio.sleep(0)
    assert post.sent == [(str(TWO), "enqueued"), (str(TWO), "started")], "one that failed is not tried again"
    post.gate.set()
    while len(post.sent) < 4:
        await asyncio.sleep(0)
    assert post.sent[2:] == [(str(ONE), "enqueued"), (str(ONE), "started")]
    await callbacks.close()
    assert not callbacks._waiting and callbacks._count == 0


async def test_what_waits_is_bounded_and_ends_with_the_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "WAITING_MAX", 3)
    callbacks = Callbacks(FakeDatabase(), FakePost())  # type: ignore[arg-type]
    for _ in range(5):
        callbacks.heard(event(ONE, "session_started", hasCallback=True))
    assert callbacks.dropped == 2
    await asyncio.sleep(0)
    await callbacks.close()
    assert not callbacks._tasks and not callbacks._waiting
