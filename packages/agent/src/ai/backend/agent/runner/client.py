"""The agent's end of the conversation with one kernel runner: runs, their output, interrupts, completions.

Theory of operation. The runner sends records of runs as they come; callers fetch them in pieces (`execute`, again and again with mode
"continue"). In between they wait here, in order, text beside *marks*: the points where a call returns. When more than `BUFFER_BYTES` wait,
nothing more is taken from the socket, so that the runner, and then the user's program, blocks: memory stays bounded on all sides.

What comes from a container is hostile until decoded: frames that are no message, or of the wrong direction, are dropped and counted.

It must never know: containers, what a session is, the manager.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ai.backend.common.errors import KernelExecutionFailed
from ai.backend.common.wire.rpc import Complete, Execute, ExecuteReply
from ai.backend.kernel import protocol
from ai.backend.kernel.protocol import ProtocolError, decode, encode

from .link import RunnerLink

RETURN_BYTES = 64 << 10
"""With this much output waiting a call returns at once."""
REPLY_BYTES = 1 << 20
"""About the most that one reply carries; a single record may be larger."""
BUFFER_BYTES = 16 << 20
ABANDONED_BYTES = 64 << 10
RUNS_MAX = 64
COMPLETE_TIMEOUT_S = 5.0
INTERRUPTED_CODE, KILLED_CODE = 130, 137

Status = Literal["waiting-input", "clean-finished", "build-finished", "finished"]
Item = tuple[str, str | tuple[str, str]]


@dataclass(slots=True)
class Mark:
    status: Status
    exit_code: int | None = None
    is_password: bool = False


@dataclass(slots=True)
class _Run:
    run_id: str
    mode: str
    records: deque[Item | Mark] = field(default_factory=deque)
    text_bytes: int = 0
    marks: int = 0
    over: bool = False
    """Its last mark has come."""
    waiter: asyncio.Future[None] | None = None

    @property
    def ripe(self) -> bool:
        return self.marks > 0 or self.text_bytes > RETURN_BYTES


class RunnerClient:
    """One for each container. After `end` it still hands out what it has.

    Attributes:
        ready: the runtime accepts code.
        runtime: its type and version, once it is ready.
        last_words: why the runner could not go on, if it said so.
        dropped: messages that were no messages.
    """

    def __init__(self, link: RunnerLink, *, on_killed: Callable[[str, str], None]) -> None:
        """`on_killed(run_id, mode)` is asked when a run ended by SIGKILL; whoever knows why answers with `conclude`."""
        self._link = link
        self._on_killed = on_killed
        self._runs: dict[str, _Run] = {}
        self._waiting_bytes = 0
        self._paused = False
        self._adopting = False
        self._asked: dict[str, asyncio.Future[list[str]]] = {}
        self._requests = 0
        self._settled = asyncio.Event()
        self._ended: tuple[int, str] | None = None
        self.ready = False
        self.runtime = ""
        self.last_words = ""
        self.dropped = 0

    def open(self, *, adopt: bool = False) -> None:
        """Binds the socket. `adopt`: the runner may be there already, with runs that this agent process has never heard of."""
        self._link.open(self._take)
        if adopt:
            self._adopting = True
            self._send(protocol.Status("adopt"))

    async def wait_ready(self) -> bool:
        """True when the runtime accepts code; False when the runner gave up (see `last_words`) or was ended."""
        await self._settled.wait()
        return self.ready

    @property
    def busy(self) -> bool:
        return any(not run.over for run in self._runs.values())

    # ---- requests

    async def execute(self, request: Execute) -> ExecuteReply:
        """See `rpc.Execute`. Raises KernelExecutionFailed for a run that is not known, or when the runner takes nothing more."""
        run = self._runs.get(request.run_id)
        if request.mode in ("query", "batch"):
            run = run or self._start(request)
        elif run is None:
            raise KernelExecutionFailed(
                f"there is no run {request.run_id[:64]!r} here",
                hint="It has ended, or the session was restarted: start a new run.",
                run_id=request.run_id[:64],
            )
        elif request.mode == "input":
            self._send(protocol.Input(run.run_id, request.code))
        if not run.ripe:
            await self._wait(run, request.flush_s)
        return self._reply(run)

    def _start(self, request: Execute) -> _Run:
        if len(self._runs) >= RUNS_MAX:
            self._forget_abandoned()
        if len(self._runs) >= RUNS_MAX:
            raise KernelExecutionFailed(
                f"{RUNS_MAX} runs are going on or waiting already", hint="Wait for some to finish."
            )
        run = _Run(request.run_id, request.mode)
        self._runs[run.run_id] = run
        if self._ended is not None:
            self._finish(run, *self._ended)
            return run
        if self._paused:
            self._drop_text(lambda other: other.waiter is None)
        try:
            self._send(
                protocol.Run(
                    run.run_id, request.mode, request.code, request.clean, request.build, request.exec
                )
            )
        except KernelExecutionFailed:
            del self._runs[run.run_id]
            raise
        return run

    async def _wait(self, run: _Run, limit_s: float) -> None:
        if run.waiter is not None and not run.waiter.done():
            run.waiter.set_result(None)  # the newer call takes over
        loop = asyncio.get_running_loop()
        waiter = run.waiter = loop.create_future()
        timer = loop.call_later(max(0.0, limit_s), _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            if run.waiter is waiter:
                run.waiter = None

    def _reply(self, run: _Run) -> ExecuteReply:
        console: list[Item] = []
        texts: list[str] = []
        kind = ""
        size = 0
        mark: Mark | None = None
        while run.records and size < REPLY_BYTES:
            record = run.records.popleft()
            if isinstance(record, Mark):
                mark = record
                run.marks -= 1
                break
            size += _size(record)
            name, value = record
            if name == kind and isinstance(value, str) and name != "html":
                texts.append(value)
                continue
            if texts:
                console.append((kind, "".join(texts)))
            if isinstance(value, str):
                kind, texts = name, [value]
            else:
                kind, texts = "", []
                console.append(record)
        if texts:
            console.append((kind, "".join(texts)))
        self._taken(run, size)
        if mark is None:
            return ExecuteReply(run_id=run.run_id, status="continued", console=console)
        if mark.status == "finished":
            self._runs.pop(run.run_id, None)
        return ExecuteReply(
            run_id=run.run_id,
            status=mark.status,
            exit_code=mark.exit_code,
            is_password=mark.is_password,
            console=console,
        )

    def interrupt(self, run_id: str) -> None:
        """SIGINT to what runs. Output that nobody fetched is dropped when it keeps the runner from going on."""
        if self._paused:
            self._drop_text(lambda run: run_id in ("", run.run_id))
        self._send(protocol.Interrupt(run_id))

    async def complete(self, request: Complete) -> list[str]:
        """Possible completions; none when the runner does not answer in time."""
        self._requests += 1
        request_id = str(self._requests)
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._asked[request_id] = answer
        try:
            self._send(
                protocol.Complete(
                    request_id, request.code, request.row, request.col, request.line, request.post
                )
            )
            async with asyncio.timeout(COMPLETE_TIMEOUT_S):
                return await answer
        except TimeoutError:
            return []
        finally:
            del self._asked[request_id]

    def conclude(self, run_id: str, text: str) -> None:
        """Answers `on_killed`: the run is over, after `text` on its stderr."""
        run = self._runs.get(run_id)
        if run is not None and not run.over:
            self._finish(run, KILLED_CODE, text)

    def end(self, exit_code: int = INTERRUPTED_CODE, text: str = "") -> None:
        """The container is gone: every open run finishes, with `text` on its stderr. Safe to call again."""
        if self._ended is not None:
            return
        self._ended = exit_code, text
        self._link.close()
        for run in self._runs.values():
            if not run.over:
                self._finish(run, exit_code, text)
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result([])
        self._settled.set()

    def detach(self) -> None:
        """Lets go of the socket and leaves the runner alone: the agent is about to end."""
        self._link.close()

    def _send(self, message: protocol.ToRunner) -> None:
        if self._ended is None and not self._link.send(encode(message)):
            raise KernelExecutionFailed(
                "the session's runner takes no more messages", hint="Try again, or restart the session."
            )

    # ---- records

    def _take(self, frames: list[bytes]) -> None:
        try:
            message = decode(frames)
            handler = _HANDLERS[type(message)]
        except (ProtocolError, KeyError):
            self.dropped += 1
            return
        handler(self, message)

    def _run_of(self, run_id: str) -> _Run | None:
        run = self._runs.get(run_id)
        if run is None and self._adopting and run_id and len(self._runs) < RUNS_MAX:
            run = self._runs[run_id] = _Run(run_id, "query")
        if run is None or run.over:
            self.dropped += 1
            return None
        return run

    def _put(self, run_id: str, item: Item) -> None:
        run = self._run_of(run_id)
        if run is not None:
            self._put_item(run, item)

    def _put_item(self, run: _Run, item: Item) -> None:
        size = _size(item)
        run.records.append(item)
        run.text_bytes += size
        self._waiting_bytes += size
        if self._waiting_bytes > BUFFER_BYTES and not self._paused:
            self._paused = True
            self._link.pause()
        if run.text_bytes > RETURN_BYTES:
            _wake(run.waiter)

    def _mark(self, run: _Run, mark: Mark) -> None:
        run.records.append(mark)
        run.marks += 1
        run.over = run.over or mark.status == "finished"
        _wake(run.waiter)

    def _finish(self, run: _Run, exit_code: int, text: str) -> None:
        if text:
            self._put_item(run, ("stderr", text if text.endswith("\n") else text + "\n"))
        self._mark(run, Mark("finished", exit_code))

    def _taken(self, run: _Run, size: int) -> None:
        run.text_bytes -= size
        self._waiting_bytes -= size
        if self._paused and self._waiting_bytes < BUFFER_BYTES // 2:
            self._paused = False
            self._link.resume()

    def _drop_text(self, chosen: Callable[[_Run], bool]) -> None:
        """Of the chosen runs, all waiting output but their marks, with a note in its place."""
        for run in [run for run in self._runs.values() if chosen(run) and run.text_bytes > ABANDONED_BYTES]:
            size = run.text_bytes
            run.records = deque(record for record in run.records if isinstance(record, Mark))
            self._taken(run, size)
            note = f"({size} bytes of output that nobody fetched were dropped)\n"
            run.records.appendleft(("stderr", note))
            run.text_bytes += len(note)
            self._waiting_bytes += len(note)

    def _forget_abandoned(self) -> None:
        for run in [run for run in self._runs.values() if run.over and run.waiter is None]:
            self._taken(run, run.text_bytes)
            del self._runs[run.run_id]

    def _on_ready(self, message: protocol.Ready) -> None:
        self.ready, self.runtime = True, message.runtime
        self._settled.set()

    def _on_status(self, message: protocol.StatusReply) -> None:
        if message.run_id:
            self._run_of(message.run_id)
        self._adopting = False
        if message.runtime:
            self._on_ready(protocol.Ready(protocol.PROTOCOL_VERSION, message.runtime))

    def _on_dying(self, message: protocol.Dying) -> None:
        self.last_words = message.reason[:4096]
        self._settled.set()

    def _on_waiting(self, message: protocol.WaitingInput) -> None:
        if (run := self._run_of(message.run_id)) is not None:
            self._mark(run, Mark("waiting-input", None, message.is_password))

    def _on_step(self, message: protocol.CleanFinished | protocol.BuildFinished) -> None:
        if (run := self._run_of(message.run_id)) is not None:
            clean = isinstance(message, protocol.CleanFinished)
            self._mark(run, Mark("clean-finished" if clean else "build-finished", message.exit_code))

    def _on_finished(self, message: protocol.Finished) -> None:
        if (run := self._run_of(message.run_id)) is None:
            return
        if message.exit_code == KILLED_CODE:
            self._on_killed(run.run_id, run.mode)
        else:
            self._mark(run, Mark("finished", message.exit_code))

    def _on_completions(self, message: protocol.Completions) -> None:
        answer = self._asked.get(message.request_id)
        if answer is not None and not answer.done():
            answer.set_result(list(message.matches))


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _size(item: Item) -> int:
    value = item[1]
    return len(value) if isinstance(value, str) else len(value[0]) + len(value[1])


_HANDLERS: dict[type, Callable[[RunnerClient, Any], None]] = {
    protocol.Ready: RunnerClient._on_ready,
    protocol.Stdout: lambda client, m: client._put(m.run_id, ("stdout", m.text)),
    protocol.Stderr: lambda client, m: client._put(m.run_id, ("stderr", m.text)),
    protocol.Media: lambda client, m: client._put(m.run_id, ("media", (m.mime, m.data))),
    protocol.Html: lambda client, m: client._put(m.run_id, ("html", m.text)),
    protocol.Log: lambda client, m: client._put(m.run_id, ("log", m.text)),
    protocol.WaitingInput: RunnerClient._on_waiting,
    protocol.CleanFinished: RunnerClient._on_step,
    protocol.BuildFinished: RunnerClient._on_step,
    protocol.Finished: RunnerClient._on_finished,
    protocol.Completions: RunnerClient._on_completions,
    protocol.StatusReply: RunnerClient._on_status,
    protocol.Dying: RunnerClient._on_dying,
}
"""Messages of the other direction are not in it, and dropped like noise."""
