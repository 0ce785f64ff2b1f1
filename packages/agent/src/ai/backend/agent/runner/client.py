"""Talks to one kernel's runner: runs and their output, completion, interrupts. No sockets here: frames go through a `RunnerLink`.

What the runner says is untrusted: user code in the container can say anything in its name. Frames that are no message are dropped and
counted; buffers are bounded, and a run that nobody reads holds back its runner.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from ai.backend.common.errors import KernelExecutionFailed, StreamClosed
from ai.backend.common.wire.rpc import Execute, ExecuteReply
from ai.backend.kernel import protocol as p

from .link import RunnerLink
from .stream import Pipe, Streams

OUTPUT_BYTES_READY = 64 << 10
"""With so much output waiting, an execute answers before its time is up."""
OUTPUT_BYTES_MAX = 16 << 20
"""With so much output that nobody fetches, the runner is held back."""
RECORD_BYTES = 64
"""What each record is counted for beside its text: hostile streams of empty ones must not be free."""
COMPLETION_TIMEOUT_S = 5.0
KILLED = 137
GONE = 130
RUNS_MAX = 64

Item = tuple[str, str | tuple[str, str]]


class _End:
    """A record at which an execute answers."""

    __slots__ = ("exit_code", "is_password", "status")

    def __init__(self, status: str, exit_code: int | None = None, is_password: bool = False) -> None:
        self.status = status
        self.exit_code = exit_code
        self.is_password = is_password


def _size(record: "Item | _End") -> int:
    if isinstance(record, _End):
        return 0
    value = record[1]
    return len(value) if isinstance(value, str) else len(value[0]) + len(value[1])


class _Run:
    __slots__ = ("build_log", "bytes", "changed", "finished", "records")

    def __init__(self, *, build_log: bool) -> None:
        self.records: deque[Item | _End] = deque()
        self.bytes = 0
        self.changed = asyncio.Event()
        self.finished = False
        self.build_log = build_log

    def put(self, record: Item | _End) -> None:
        self.bytes += RECORD_BYTES
        if isinstance(record, _End):
            self.finished = self.finished or record.status == "finished"
            self.records.append(record)
            self.changed.set()
            return
        self.bytes += _size(record)
        self.records.append(record)
        if self.bytes >= OUTPUT_BYTES_READY:
            self.changed.set()

    def take(self) -> tuple[list[Item], _End | None]:
        """Output in order with neighbours of a kind merged, up to and with the first end record."""
        items: list[Item] = []
        texts: list[str] = []

        def merge() -> None:
            if texts:
                items.append((kind, "".join(texts)))
                texts.clear()

        kind = ""
        while self.records:
            record = self.records.popleft()
            if isinstance(record, _End):
                merge()
                self._settle()
                return items, record
            name, value = record
            if isinstance(value, tuple):
                merge()
                items.append(record)
                continue
            if name != kind:
                merge()
                kind = name
            texts.append(value)
        merge()
        self._settle()
        return items, None

    def _settle(self) -> None:
        self.bytes = sum(RECORD_BYTES + _size(record) for record in self.records)
        if not any(isinstance(record, _End) for record in self.records):
            self.changed.clear()


class Runner:
    """`on_killed(exit_code, run_id)`: the language process was killed in this run; whoever knows why calls `settle` with a note."""

    def __init__(
        self,
        link_of: Callable[[Callable[[list[bytes]], None]], RunnerLink],
        *,
        on_killed: Callable[[str], None],
        on_dying: Callable[[str], None],
        streams_of: Callable[[Callable[[p.ToRunner], None]], Streams] | None = None,
    ) -> None:
        self._runs: dict[str, _Run] = {}
        self._completions: dict[str, asyncio.Future[list[str]]] = {}
        self._requests = 0
        self._on_killed = on_killed
        self._on_dying = on_dying
        self._paused = False
        self._gone: str | None = None
        self.dropped = 0
        """Frames that were no message of the protocol."""
        self.ready = asyncio.Event()
        self.runtime = ""
        self._link = link_of(self._on_frames)
        self._streams = streams_of(self._send) if streams_of is not None else None

    # -- what the agent asks ---------------------------------------------------------------------------------------------------

    async def execute(self, request: Execute) -> ExecuteReply:
        """One step of a run, as `rpc.Execute` says. Raises KernelExecutionFailed for a run that is not known."""
        run = self._runs.get(request.run_id)
        if request.mode in ("query", "batch"):
            run = self._begin(request, run)
        elif run is None:
            if self._gone is not None:
                return ExecuteReply(run_id=request.run_id, status="finished", exit_code=GONE)
            raise KernelExecutionFailed(
                f"no run {request.run_id[:64]!r} goes on",
                hint="Start it with mode query or batch.",
                run_id=request.run_id[:64],
            )
        elif request.mode == "input":
            self._send(p.Input(request.run_id, request.code))
        if not run.changed.is_set():
            try:
                async with asyncio.timeout(request.flush_s):
                    await run.changed.wait()
            except TimeoutError:
                pass
        items, end = run.take()
        if self._paused and self._pending() < OUTPUT_BYTES_MAX // 2:
            self._paused = False
            self._link.resume()
        if end is None:
            return ExecuteReply(run_id=request.run_id, status="continued", console=items)
        if end.status == "finished":
            self._runs.pop(request.run_id, None)
        return ExecuteReply(
            run_id=request.run_id,
            status=end.status,  # type: ignore[arg-type]
            exit_code=end.exit_code,
            is_password=end.is_password,
            console=items,
        )

    def _begin(self, request: Execute, known: _Run | None) -> _Run:
        if known is not None:
            raise KernelExecutionFailed(
                f"the run {request.run_id[:64]!r} goes on already", run_id=request.run_id[:64]
            )
        self._drop_abandoned()
        if len(self._runs) >= RUNS_MAX:
            raise KernelExecutionFailed(f"{RUNS_MAX} runs wait already", hint="Wait until one has finished.")
        run = self._runs[request.run_id] = _Run(build_log=request.build_log)
        if self._gone is not None:
            run.put(_End("finished", GONE))
            return run
        self._send(
            p.Run(request.run_id, request.mode, request.code, request.clean, request.build, request.exec)
        )
        return run

    def _drop_abandoned(self) -> None:
        """Finished runs whose end nobody fetched: their readers are gone."""
        done = [run_id for run_id, run in self._runs.items() if run.finished]
        for run_id in done[: max(0, len(done) - RUNS_MAX // 2)]:
            del self._runs[run_id]

    def goes_on(self, run_id: str) -> bool:
        """Whether this run was begun here and its end has not been fetched."""
        return run_id in self._runs

    def interrupt(self, run_id: str) -> None:
        self._send(p.Interrupt(run_id))

    async def complete(self, code: str, row: int, col: int, line: str, post: str) -> list[str]:
        """Completions, or none when the runner does not answer in time."""
        self._requests += 1
        request_id = f"c{self._requests}"
        answer = self._completions[request_id] = asyncio.get_running_loop().create_future()
        self._send(p.Complete(request_id, code, row, col, line, post))
        try:
            async with asyncio.timeout(COMPLETION_TIMEOUT_S):
                found: list[str] = await answer
                return found
        except TimeoutError:
            return []
        finally:
            del self._completions[request_id]

    async def connect(self, port: int) -> Pipe:
        """A TCP connection to a port of the container's loopback; close it. Raises what `Streams.connect` does."""
        return await self._streams_or_refusal().connect(port)

    async def terminal(self, rows: int, columns: int) -> Pipe:
        """A shell on a new terminal; close it. Raises what `Streams.terminal` does."""
        return await self._streams_or_refusal().terminal(rows, columns)

    def _streams_or_refusal(self) -> Streams:
        if self._streams is None:
            raise StreamClosed("no streams lead into this session")
        return self._streams

    def greet(self) -> None:
        """After adoption: a runner that is ready says so again."""
        self._requests += 1
        self._send(p.Status(f"s{self._requests}"))

    def settle(self, run_id: str, note: str) -> None:
        """Ends a run whose language process was killed, with a note for its reader."""
        run = self._runs.get(run_id)
        if run is not None:
            if note:
                run.put(("stderr", note))
            run.put(_End("finished", KILLED))

    def end(self, note: str, exit_code: int = GONE) -> None:
        """The kernel is gone: every run that goes on ends, with a note."""
        if self._gone is not None:
            return
        self._gone = note
        for run in self._runs.values():
            if not run.finished:
                if note:
                    run.put(("stderr", note))
                run.put(_End("finished", exit_code))
        self._link.close()
        if self._streams is not None:
            self._streams.close()

    def close(self) -> None:
        self.end("")

    # -- what the runner says --------------------------------------------------------------------------------------------------

    def _send(self, message: p.ToRunner) -> None:
        if self._gone is None:
            self._link.send(p.encode(message))

    def _pending(self) -> int:
        return sum(run.bytes for run in self._runs.values())

    def _on_frames(self, frames: list[bytes]) -> None:
        try:
            message = p.decode(frames)
        except p.ProtocolError:
            self.dropped += 1
            return
        match message:
            case p.Ready() | p.StatusReply():
                if message.runtime:
                    self.runtime = message.runtime[:200]
                    self.ready.set()
            case p.Completions():
                answer = self._completions.get(message.request_id)
                if answer is not None and not answer.done():
                    answer.set_result([match[:4096] for match in message.matches[:1000]])
            case p.StreamFailed():
                if self._streams is not None:
                    self._streams.failed(message)
            case p.Dying():
                self._on_dying(message.reason[:4096])
            case _:
                self._on_record(message)

    def _on_record(self, message: p.Message) -> None:
        run = self._runs.get(getattr(message, "run_id", ""))
        if run is None or run.finished:
            return
        match message:
            case p.Stdout():
                run.put(("stdout", message.text))
            case p.Stderr():
                run.put(("stderr", message.text))
            case p.Html():
                run.put(("html", message.text))
            case p.Log():
                run.put(("log", message.text))
            case p.Media():
                run.put(("media", (message.mime, message.data)))
            case p.WaitingInput():
                run.put(_End("waiting-input", is_password=message.is_password))
            case p.CleanFinished():
                run.put(_End("clean-finished", message.exit_code))
            case p.BuildFinished():
                run.put(_End("build-finished", message.exit_code))
            case p.Finished() if message.exit_code == KILLED:
                self._on_killed(message.run_id)
            case p.Finished():
                run.put(_End("finished", message.exit_code))
            case _:
                self.dropped += 1
        if not self._paused and self._pending() > OUTPUT_BYTES_MAX:
            self._paused = True
            self._link.pause()
