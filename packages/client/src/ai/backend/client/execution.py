"""Running code in a session: one stream of items, over a WebSocket or over plain requests.

A run yields text and media as they are printed, `StepEnd` after the steps of a batch, and at last exactly one `Finished`. When the program
waits for input, `on_input` is asked; a plain function is called in a thread of its own, so that it may block.
"""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal

import aiohttp
import msgspec

from ai.backend.common.wire.rest.session import Executed, StreamFrame

from .error import ApiError, ClientError, InvalidCall
from .request import Requester, segment

Mode = Literal["query", "batch"]
_ENDS = frozenset({"finished", "exec-timeout"})


class Text(msgspec.Struct, frozen=True, tag="text"):
    kind: Literal["stdout", "stderr", "html", "log"]
    text: str


class Media(msgspec.Struct, frozen=True, tag="media"):
    mime: str
    data: str
    """As the runtime sent it: a data URI for binary types, the text itself for others."""


class StepEnd(msgspec.Struct, frozen=True, tag="step-end"):
    step: Literal["clean", "build"]
    exit_code: int | None


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    exit_code: int | None
    timed_out: bool = False
    """The run took longer than its limit and was ended."""


Item = Text | Media | StepEnd | Finished


class InputRequest(msgspec.Struct, frozen=True):
    is_password: bool


InputSource = Callable[[InputRequest], str] | Callable[[InputRequest], Awaitable[str]]


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. `exit_code`: 0 when all went well, also None from runtimes that know none."""

    stdout: str
    stderr: str
    media: list[Media]
    items: list[Item]
    exit_code: int | None
    timed_out: bool

    @classmethod
    def of(cls, items: list[Item]) -> "RunResult":
        end = items[-1]
        assert isinstance(end, Finished), "a run ends with Finished"
        return cls(
            stdout="".join(i.text for i in items if isinstance(i, Text) and i.kind == "stdout"),
            stderr="".join(i.text for i in items if isinstance(i, Text) and i.kind == "stderr"),
            media=[i for i in items if isinstance(i, Media)],
            items=items,
            exit_code=end.exit_code,
            timed_out=end.timed_out,
        )


def batch_options(
    *, clean: str | None = "*", build: str | None = "*", exec: str | None = "*", build_log: bool = False
) -> dict[str, Any]:
    """Commands of a batch run; "*" is the runtime's own way, None or "" leaves the step out."""
    return {"clean": clean, "build": build, "exec": exec, "buildLog": build_log}


def items_of(status: str, exit_code: int | None, console: Iterable[tuple[str, Any]]) -> list[Item]:
    """What one answer says. Kinds of console records that are not known are passed over."""
    found: list[Item] = []
    for kind, content in console:
        if kind == "media":
            found.append(Media(*content))
        elif kind in ("stdout", "stderr", "html", "log"):
            found.append(Text(kind, content))  # type: ignore[arg-type]
    if status == "clean-finished":
        found.append(StepEnd("clean", exit_code))
    elif status == "build-finished":
        found.append(StepEnd("build", exit_code))
    elif status in _ENDS:
        found.append(Finished(exit_code, timed_out=status == "exec-timeout"))
    return found


async def answer(source: InputSource | None, options: Mapping[str, Any] | None) -> str:
    """Raises InvalidCall when the program asks for input that nobody gives."""
    if source is None:
        raise InvalidCall("the program waits for input", hint="Pass on_input to answer it.")
    request = InputRequest(is_password=bool((options or {}).get("is_password")))
    if inspect.iscoroutinefunction(source):
        return str(await source(request))
    given = await asyncio.to_thread(source, request)
    return str(await given if inspect.isawaitable(given) else given)


class Console:
    """One WebSocket over which runs go, one after the other, without connecting anew. Leaving it interrupts what still runs."""

    def __init__(self, requester: Requester, ref: str, *, keep: bool = True) -> None:
        self._requester = requester
        self._ref = ref
        self._keep = keep
        self._stack = contextlib.AsyncExitStack()
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def __aenter__(self) -> "Console":
        path = f"/stream/session/{segment(self._ref)}/execute"
        query = {"keep": 1} if self._keep else None
        try:
            self._socket = await self._stack.enter_async_context(self._requester.websocket(path, query=query))
        except ApiError as refused:
            # The refusal's body is lost in an upgrade; a plain request has the same reason and tells it.
            await self._requester.call("GET", f"/session/{segment(self._ref)}")
            raise refused
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def run(
        self,
        code: str,
        *,
        mode: Mode = "query",
        options: Mapping[str, Any] | None = None,
        on_input: InputSource | None = None,
    ) -> RunResult:
        stream = self.execute(code, mode=mode, options=options, on_input=on_input)
        return RunResult.of([item async for item in stream])

    async def execute(
        self,
        code: str,
        *,
        mode: Mode = "query",
        options: Mapping[str, Any] | None = None,
        on_input: InputSource | None = None,
    ) -> AsyncIterator[Item]:
        assert self._socket is not None, "use 'async with'"
        await self._send(msgspec.json.encode({"code": code, "mode": mode, "options": options or {}}).decode())
        frame = await self._receive()
        while True:
            for item in items_of(frame.status, frame.exit_code, frame.console):
                yield item
            if frame.status in _ENDS:
                return
            if frame.status == "waiting-input":
                frame = await self._answer(on_input, frame.options)
            else:
                frame = await self._receive()

    async def _answer(self, source: InputSource | None, options: Mapping[str, Any] | None) -> StreamFrame:
        """Sends what `source` gives, unless the server says something first: an interrupted program waits no more. Returns what the
        server says then."""
        asking = asyncio.ensure_future(answer(source, options))
        receiving = asyncio.ensure_future(self._receive())
        both: set[asyncio.Future[Any]] = {asking, receiving}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                await self._send(asking.result())
            return await receiving
        finally:
            for task in both:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ClientError):
                await receiving

    async def _send(self, text: str) -> None:
        assert self._socket is not None
        try:
            await self._socket.send_str(text)
        except (aiohttp.ClientError, OSError) as exc:
            raise _closed() from exc

    async def _receive(self) -> StreamFrame:
        assert self._socket is not None
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise _closed()
        try:
            body = msgspec.json.decode(message.data)
            if body.get("status") in ("error", "server-restarting"):
                raise ApiError.of(0, body)
            return msgspec.convert(
                {"console": [], "exitCode": None, "options": None, **body, "files": []}, StreamFrame
            )
        except (msgspec.MsgspecError, AttributeError) as exc:
            raise ApiError(
                f"the server's frame is not understood: {exc}", code="client.answer-not-understood"
            ) from exc


def _closed() -> ApiError:
    return ApiError(
        "the connection closed before the run ended",
        code="client.stream-closed",
        hint="See with 'backend.ai ps --all' whether the session still runs.",
    )


async def execute_by_requests(
    requester: Requester,
    ref: str,
    code: str,
    *,
    mode: Mode = "query",
    options: Mapping[str, Any] | None = None,
    on_input: InputSource | None = None,
) -> AsyncIterator[Item]:
    """The same run over plain requests: for networks that let no WebSocket through."""
    run_id: str | None = None
    step: dict[str, Any] = {"mode": mode, "code": code, "options": dict(options or {})}
    while True:
        got = await requester.call("POST", f"/session/{segment(ref)}", json={**step, "runId": run_id})
        result = got.decode(Executed).result
        run_id = result.run_id
        for item in items_of(result.status, result.exit_code, result.console):
            yield item
        if result.status in _ENDS:
            return
        step = {"mode": "continue", "code": "", "options": {}}
        if result.status == "waiting-input":
            step["mode"], step["code"] = "input", await answer(on_input, result.options)
