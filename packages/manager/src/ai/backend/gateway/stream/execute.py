"""Execution of code over a WebSocket: the hot path.

The client's first text frame is a request; frames of console output follow until `finished`, then the server closes. When a run waits for
input, the client answers with one plain text frame. With `keep=1` (ours) the socket stays open, and the next frame is another request.
A client that goes away has its run interrupted; the run is then read to its end, for a while, so that it does not block the next one.
"""

import asyncio
import secrets
from typing import Any

import msgspec
from litestar import WebSocket, websocket
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from ai.backend.common.errors import BackendError, InvalidInput
from ai.backend.common.log import get_logger
from ai.backend.common.wire import problem, rpc
from ai.backend.common.wire.rest.session import StreamCode, StreamExecution, StreamFrame
from ai.backend.manager.access.model import Principal

from ..call import acting, gateway_of, query_form
from ..decode import body_values, convert
from ..limits import FRAMES_WAITING_MAX, STREAM_FLUSH_S
from ..openapi import Operation
from ..port import Sessions

log = get_logger(__name__)

AnySocket = WebSocket[Any, Any, Any]
DRAIN_STEPS_MAX = 25
WATCH_AFTER_S = 0.02
"""A run that lasts so long is interrupted when its client goes away."""
NORMAL, UNSUPPORTED, VIOLATION, FAILED = 1000, 1003, 1008, 1011
_ended = frozenset({"finished", "exec-timeout"})
_encoder = msgspec.json.Encoder()


class _Gone(Exception):
    """The client went away."""


class Conversation:
    """One socket. The talker reads a frame and answers it, one after the other; while a run lasts, a reader takes frames in and notices the
    end. A short run goes without: that saves a change of tasks each way."""

    def __init__(
        self, socket: AnySocket, sessions: Sessions, principal: Principal, ref: str, *, keep: bool
    ) -> None:
        self._socket = socket
        self._sessions = sessions
        self._principal = principal
        self._ref = ref
        self._keep = keep
        self._frames: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        """What the reader took in; None is the end."""
        self._reader: asyncio.Task[None] | None = None
        self._gone = False
        self._run_id = ""

    async def hold(self) -> None:
        """Until either side ends it."""
        try:
            await self._talk()
        finally:
            await self._stop_reader()

    def _start_reader(self) -> None:
        self._reader = asyncio.create_task(self._read(), name="execute-reader")

    async def _stop_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None

    async def _read(self) -> None:
        while (frame := await self._receive()) is not None:
            if self._frames.qsize() >= FRAMES_WAITING_MAX:
                await self._close(VIOLATION)
                break
            self._frames.put_nowait(frame)
        self._gone = True
        self._frames.put_nowait(None)
        if self._run_id:
            await self._interrupt()

    async def _receive(self) -> str | bytes | None:
        """None: the client went away."""
        message: Any = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message.get("text")
        return text if text is not None else message["bytes"]

    async def _interrupt(self) -> None:
        try:
            await self._sessions.interrupt(self._principal, self._ref, self._run_id)
        except BackendError as exc:
            log.info("interrupt-failed", session=self._ref, code=exc.code, reason=exc.message)

    async def _talk(self) -> None:
        while True:
            try:
                frame = await self._next_frame()
                code = await self._answer(frame)
            except _Gone:
                if self._run_id:
                    await self._drain()
                return
            if not self._keep or code == UNSUPPORTED:
                await self._close(code)
                return

    async def _next_frame(self) -> str | bytes:
        if self._reader is not None or not self._frames.empty():
            frame = await self._frames.get()
        else:
            frame = await self._receive()
            if frame is None:
                self._gone = True
                if self._run_id:
                    await self._interrupt()
        if frame is None:
            raise _Gone
        return frame

    async def _answer(self, frame: str | bytes) -> int:
        """Runs one request; returns the code to close with."""
        try:
            request = convert(StreamCode, body_values(frame.encode() if isinstance(frame, str) else frame))
            if request.mode not in ("query", "batch"):
                raise InvalidInput(f"no mode {request.mode[:40]!r} here", hint="query or batch", field="mode")
        except InvalidInput as exc:
            await self._send_error(exc)
            return UNSUPPORTED
        try:
            await self._run(request)
        except BackendError as exc:
            await self._send_error(exc)
            return FAILED
        return NORMAL

    async def _run(self, request: StreamCode) -> None:
        self._run_id = secrets.token_hex(8)
        mode, code = request.mode, request.code or ""
        options = request.options
        watch = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start_reader)
        try:
            while True:
                step = await self._step(mode, code, options)
                await self._send(step)
                if step.status in _ended:
                    break
                mode, code, options = "continue", "", {}
                if step.status == "waiting-input":
                    mode, answer = "input", await self._next_frame()
                    code = answer if isinstance(answer, str) else answer.decode("utf-8", "replace")
        except BackendError:
            self._run_id = ""
            raise
        finally:
            watch.cancel()
            if not self._gone:
                await self._stop_reader()
        self._run_id = ""

    async def _step(self, mode: str, code: str, options: dict[str, Any]) -> rpc.ExecuteReply:
        return await self._sessions.execute(
            self._principal,
            self._ref,
            mode=mode,
            code=code,
            run_id=self._run_id,
            options=options,
            flush_s=STREAM_FLUSH_S,
        )

    async def _drain(self) -> None:
        """Reads an interrupted run to its end, within limits; what it prints is lost."""
        try:
            for _ in range(DRAIN_STEPS_MAX):
                step = await self._step("continue", "", {})
                if step.status in _ended or step.status == "waiting-input":
                    return
        except BackendError as exc:
            log.info("drain-failed", session=self._ref, code=exc.code, reason=exc.message)

    async def _send(self, step: rpc.ExecuteReply) -> None:
        frame = StreamFrame(
            status=step.status,
            console=step.console,
            exit_code=step.exit_code,
            options={"is_password": step.is_password} if step.status == "waiting-input" else None,
        )
        await self._send_text(_encoder.encode(frame).decode())

    async def _send_error(self, error: BackendError) -> None:
        body = problem.body_of(error)
        body["msg"] = error.message or body["title"]
        await self._send_text(_encoder.encode({"status": "error", **body, "console": []}).decode())

    async def _send_text(self, text: str) -> None:
        if self._gone:
            raise _Gone
        try:
            await self._socket.send({"type": "websocket.send", "bytes": None, "text": text})
        except OSError as exc:
            raise _Gone from exc

    async def _close(self, code: int) -> None:
        if not self._gone:
            try:
                await self._socket.send({"type": "websocket.close", "code": code, "reason": None})
            except OSError:
                self._gone = True


@websocket(
    "/stream/session/{name:str}/execute",
    opt={
        "operation": Operation(
            summary="Execute code over a WebSocket",
            description='First frame: `{"code", "mode": "query"|"batch", "options"}`. The server answers with frames of `status`, '
            "`console`, `exitCode`, `options`, `files` and closes after `finished`. At `waiting-input` send one plain text frame.",
            tag="session",
            form=StreamExecution,
            status=101,
            refusals=(403, 404),
        )
    },
)
async def stream_execution(socket: AnySocket, name: FromPath[str]) -> None:
    form = query_form(socket, StreamExecution)
    principal = await acting(socket, form)
    sessions = gateway_of(socket).manager.sessions
    await sessions.get(principal, name)
    await socket.accept()
    await Conversation(socket, sessions, principal, name, keep=form.keep).hold()


ROUTES: tuple[ControllerRouterHandler, ...] = (stream_execution,)
