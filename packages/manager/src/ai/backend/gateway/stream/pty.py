"""A terminal in a session over a WebSocket, in the published form: text frames of JSON.

The client sends `stdin` (`chars`: base 64), `resize` (`rows`, `cols`), `ping` and `restart`; the server sends `out` (`data`: base 64).
`restart` makes the session's containers anew, as published, and opens a terminal of the same size in them.
"""

import base64
import binascii
from contextlib import suppress

import msgspec
from litestar import websocket
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from ai.backend.common.errors import BackendError, InvalidInput, StreamClosed
from ai.backend.common.log import get_logger
from ai.backend.common.stream import Stream
from ai.backend.common.wire import terminal
from ai.backend.common.wire.rest.session import GetSession, TerminalFrame
from ai.backend.manager.access.model import Principal

from ..call import acting, gateway_of, query_form
from ..decode import body_values, convert
from ..openapi import Operation
from ..port import Sessions
from .socket import FAILED, NORMAL, UNSUPPORTED, AnySocket, close, close_code, race, reason_of, receive, send

log = get_logger(__name__)

ROWS, COLUMNS = 24, 80
_encoder = msgspec.json.Encoder()


class _Restart(Exception):
    """The client asked for it."""


class Terminal:
    """One socket."""

    def __init__(self, socket: AnySocket, sessions: Sessions, principal: Principal, ref: str) -> None:
        self._socket = socket
        self._sessions = sessions
        self._principal = principal
        self._ref = ref
        self._size = (ROWS, COLUMNS)

    async def hold(self) -> None:
        """Until either side ends it."""
        while True:
            try:
                await self._talk()
            except _Restart:
                try:
                    await self._sessions.restart(self._principal, self._ref)
                    continue
                except BackendError as exc:
                    await close(self._socket, FAILED, reason_of(exc))
            except InvalidInput as exc:
                await close(self._socket, UNSUPPORTED, reason_of(exc))
            except BackendError as exc:
                log.info("terminal-ended", session=self._ref, code=exc.code, reason=exc.message)
                await close(self._socket, close_code(exc), reason_of(exc))
            else:
                await close(self._socket, NORMAL)
            return

    async def _talk(self) -> None:
        rows, columns = self._size
        stream = await self._sessions.terminal(self._principal, self._ref, rows=rows, columns=columns)
        try:
            with suppress(StreamClosed):
                await race(self._inwards(stream), self._outwards(stream))
        finally:
            stream.close()

    async def _inwards(self, stream: Stream) -> None:
        while (text := await receive(self._socket)) is not None:
            frame = convert(TerminalFrame, body_values(text.encode() if isinstance(text, str) else text))
            match frame.type:
                case "stdin":
                    if typed := _typed(frame.chars):
                        await stream.send(terminal.typed(typed))
                case "resize":
                    self._size = terminal.bounded_size(frame.rows, frame.cols)
                    await stream.send(terminal.resized(*self._size))
                case "restart":
                    raise _Restart

    async def _outwards(self, stream: Stream) -> None:
        while data := await stream.receive():
            frame = {"type": "out", "data": base64.b64encode(data).decode()}
            if not await send(self._socket, _encoder.encode(frame).decode()):
                return


def _typed(chars: str) -> bytes:
    """Raises InvalidInput."""
    try:
        return base64.b64decode(chars, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInput("chars is base 64", field="chars") from exc


@websocket(
    "/stream/session/{name:str}/pty",
    opt={
        "operation": Operation(
            summary="Open a terminal in a session",
            description='A shell on a pseudo terminal. Send text frames `{"type": "stdin", "chars": BASE64}`, '
            '`{"type": "resize", "rows", "cols"}`, `{"type": "ping"}` or `{"type": "restart"}`; the server sends '
            '`{"type": "out", "data": BASE64}`. Closing hangs up.',
            tag="stream",
            form=GetSession,
            status=101,
            refusals=(403, 404),
        )
    },
)
async def open_terminal(socket: AnySocket, name: FromPath[str]) -> None:
    form = query_form(socket, GetSession)
    principal = await acting(socket, form)
    sessions = gateway_of(socket).manager.sessions
    await sessions.apps(principal, name)  # whoever may not use it is told before the upgrade
    await socket.accept()
    await Terminal(socket, sessions, principal, name).hold()


ROUTES: tuple[ControllerRouterHandler, ...] = (open_terminal,)
