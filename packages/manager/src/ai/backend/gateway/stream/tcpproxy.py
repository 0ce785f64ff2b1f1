"""TCP into a session over a WebSocket: binary frames are bytes of one connection, both ways.

Neither side is read faster than the other takes: the WebSocket is not read while the session does not, and the session's program is held
back while the client does not read. What a client sent before it left is still delivered.
"""

from contextlib import suppress

import msgspec
from litestar import websocket
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from ai.backend.common.errors import BackendError, InvalidInput, StreamClosed
from ai.backend.common.log import get_logger
from ai.backend.common.stream import Stream
from ai.backend.common.wire.rest.session import StreamApp

from ..call import acting, gateway_of, query_form
from ..openapi import Operation
from .socket import AnySocket, close, close_code, race, reason_of, receive, send

log = get_logger(__name__)

OPTIONS_CHARS_MAX = 16 << 10


def options_of(text: str | None, field: str) -> dict[str, str | list[str] | None]:
    """What is given for a service that is started on demand. Raises InvalidInput."""
    if not text:
        return {}
    try:
        if len(text) > OPTIONS_CHARS_MAX:
            raise ValueError(f"longer than {OPTIONS_CHARS_MAX} characters")
        return msgspec.json.decode(text, type=dict[str, str | list[str] | None])
    except (ValueError, msgspec.DecodeError) as exc:
        raise InvalidInput(f"{field}: {exc}", hint="A JSON object of text.", field=field) from exc


async def _inwards(socket: AnySocket, stream: Stream) -> None:
    while (data := await receive(socket)) is not None:
        if isinstance(data, bytes):
            await stream.send(data)


async def _outwards(socket: AnySocket, stream: Stream) -> None:
    while data := await stream.receive():
        if not await send(socket, data):
            return


@websocket(
    ["/stream/session/{name:str}/tcpproxy", "/stream/session/{name:str}/httpproxy"],
    opt={
        "operation": Operation(
            summary="Connect to a service of a session",
            description="One WebSocket is one TCP connection: binary frames are its bytes, text frames are ignored. Closed with 1001 when "
            "the service closes, with 1013 when nothing listens there (yet), with 1011 when it fails.",
            tag="stream",
            form=StreamApp,
            status=101,
            refusals=(403, 404),
        )
    },
)
async def proxy_tcp(socket: AnySocket, name: FromPath[str]) -> None:
    form = query_form(socket, StreamApp)
    principal = await acting(socket, form)
    sessions = gateway_of(socket).manager.sessions
    options_of(form.arguments, "arguments"), options_of(form.envs, "envs")
    port = await sessions.app_port(principal, name, form.app, form.port)
    await socket.accept()
    failure: BackendError | None = None
    try:
        stream = await sessions.connect(principal, name, port)
        try:
            with suppress(StreamClosed):
                await race(_inwards(socket, stream), _outwards(socket, stream))
        finally:
            stream.close()
    except BackendError as exc:
        log.info("stream-ended", session=name, app=form.app, port=port, code=exc.code, reason=exc.message)
        failure = exc
    await close(socket, close_code(failure), reason_of(failure))


ROUTES: tuple[ControllerRouterHandler, ...] = (proxy_tcp,)
