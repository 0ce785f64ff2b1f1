"""What tests of services behind an app proxy share: a session with programs in it, and what can go wrong with a coordinator."""

import asyncio
import contextlib
import socket
from typing import Any

import sqlalchemy as sa
from aiohttp import web

from ai.backend.common.bus import Accept
from ai.backend.common.wire import rpc
from ai.backend.manager.db.schema import resource_groups
from ai.backend.testkit.app_proxy import SECRET, AppProxy

from .conftest import World

WAIT_S = 20
PORT, OTHER = 8000, 8001


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


async def task(world: World, **more: Any) -> Any:
    body = {"name": "train", "image": "python", "type": "batch", "startupCommand": "true", **more}
    return (await world.call("POST", "/session", body)).json


FAILED, MISCONFIGURED, UNREACHABLE = (
    f"coordinator.{word}" for word in ("failed", "misconfigured", "unreachable")
)


async def silence(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError


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
