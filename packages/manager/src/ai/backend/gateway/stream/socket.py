"""What the streams over WebSockets share: copying until one side ends, and close codes."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect

from ai.backend.common.errors import BackendError, ServiceRefused, Timeout, TooManyStreams
from ai.backend.common.log import get_logger

log = get_logger(__name__)

AnySocket = WebSocket[Any, Any, Any]
_GONE = (OSError, WebSocketDisconnect)
NORMAL, GOING_AWAY, UNSUPPORTED, FAILED, TRY_AGAIN = 1000, 1001, 1003, 1011, 1013


def close_code(error: BackendError | None) -> int:
    """How a stream that ended with this is closed; None is an end in order."""
    match error:
        case None:
            return GOING_AWAY
        case ServiceRefused() | TooManyStreams() | Timeout():
            return TRY_AGAIN
        case _:
            return FAILED


def reason_of(error: BackendError | None) -> str:
    """As much of an error's message as a close frame has room for."""
    text = (error.message or error.code) if error is not None else ""
    return text.encode()[:120].decode("utf-8", "ignore")


async def receive(socket: AnySocket) -> bytes | str | None:
    """The next frame; None when the client has gone."""
    message: Any = await socket.receive()
    if message["type"] == "websocket.disconnect":
        return None
    found: bytes | str = message.get("text") if message.get("text") is not None else message["bytes"]
    return found


async def send(socket: AnySocket, data: bytes | str) -> bool:
    """Whether the client is still there."""
    binary = isinstance(data, bytes)
    message: Any = {
        "type": "websocket.send",
        "bytes": data if binary else None,
        "text": None if binary else data,
    }
    try:
        await socket.send(message)
    except _GONE:
        return False
    return True


async def close(socket: AnySocket, code: int, reason: str = "") -> None:
    """Nothing happens when the client has gone."""
    try:
        await socket.send({"type": "websocket.close", "code": code, "reason": reason})
    except _GONE:
        return


async def race(*sides: Coroutine[Any, Any, None]) -> None:
    """Until one of them returns or raises, which it then raises; the others are cancelled."""
    tasks = [asyncio.create_task(side) for side in sides]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
