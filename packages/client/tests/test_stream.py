"""Connections to programs in a session, against a server that plays one."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from ai.backend.client.client import AsyncClient
from ai.backend.client.config import ClientConfig
from ai.backend.client.error import ApiError, ClientError
from ai.backend.client.sync import Client


def config_of(server: Any) -> ClientConfig:
    return ClientConfig(
        endpoint=server.url,
        access_key=server.environ["BACKEND_ACCESS_KEY"],
        secret_key=server.environ["BACKEND_SECRET_KEY"],
    )


@pytest.fixture
async def api(server: Any) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(config_of(server)) as client:
        yield client


async def test_the_wish_for_ports_is_sent(server: Any, api: AsyncClient) -> None:
    await api.sessions.create(image="python", name="mine", preopen_ports=[8000])
    assert next(body for method, _, body in server.requests if method == "POST")["config"][
        "preopen_ports"
    ] == [8000]


async def test_one_connection(api: AsyncClient) -> None:
    session = api.sessions.at("mine")
    assert [(one.name, one.ports) for one in await session.apps()] == [("8000", [8000]), ("8001", [8001])]
    async with session.connect("8000") as stream:
        await stream.send(b"\0hello")
        assert await stream.receive() == b"\0hello"
        await stream.send(b"bye")
        assert await stream.receive() == b""
        assert await stream.receive() == b""
        with pytest.raises(ApiError):
            await stream.send(b"x")


async def test_what_goes_wrong(api: AsyncClient) -> None:
    session = api.sessions.at("mine")
    async with session.connect("8001") as stream:
        with pytest.raises(ApiError) as told:
            await stream.receive()
    assert (told.value.message, told.value.code) == ("nothing listens on port 8001", "stream.refused")
    async with session.connect("8000") as stream:
        await stream.send(b"break")
        with pytest.raises(ApiError) as told:
            await stream.receive()
    assert told.value.code == "client.stream-closed"
    with pytest.raises(ApiError) as told:
        async with session.connect("nope"):
            pass
    assert "offers no nope" in told.value.message
    with pytest.raises(ApiError) as told:
        async with api.sessions.at("gone").connect("8000"):
            pass
    assert told.value.code == "session.not-found"


async def test_a_local_port_leads_there(api: AsyncClient) -> None:
    async with api.sessions.at("mine").forward("8000") as local:
        assert local.address[0] == "127.0.0.1"

        async def one(number: int) -> None:
            reader, writer = await asyncio.open_connection(*local.address)
            word = f"{number}".encode() * 50_000
            writer.write(word)
            assert await reader.readexactly(len(word)) == word
            writer.write(b"bye")
            assert await reader.read() == b""
            writer.close()

        await asyncio.gather(*(one(number) for number in range(8)))
        address = local.address
        held, _ = await asyncio.open_connection(*address)
    with suppress(ConnectionResetError):
        assert await held.read() == b"", "what is open when it is left is cut off"
    with pytest.raises(OSError):
        await asyncio.open_connection(*address)


async def test_a_connection_that_fails_is_told_and_closed(api: AsyncClient) -> None:
    failures: list[ClientError] = []
    async with api.sessions.at("mine").forward("8001", on_failure=failures.append) as local:
        reader, writer = await asyncio.open_connection(*local.address)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        while not failures:
            await asyncio.sleep(0.01)
    assert failures[0].message == "nothing listens on port 8001"


def test_the_blocking_twin(server: Any) -> None:
    with Client(config_of(server)) as api:
        session = api.sessions.at("mine")
        assert [one.name for one in session.apps()] == ["8000", "8001"]
        with session.connect("8000") as stream:
            stream.send(b"x")
            assert stream.receive() == b"x"
        with (
            session.forward("8000") as local,
            socket.create_connection(local.address, timeout=10) as connection,
        ):
            connection.sendall(b"y")
            assert connection.recv(1) == b"y"
