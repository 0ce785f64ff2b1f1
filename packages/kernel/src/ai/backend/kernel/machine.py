"""What the runner does, decided without any I/O: `handle(event)` returns the effects to carry out.

Theory of operation. There is at most one *run* at a time, either a query (code for the language worker) or a
batch (steps, each a child process); the others wait in line. Two things are independent of each other and
make up the state: the *phase* (which kind of run goes on) and the *worker* (the process that holds the user's
variables: absent, loading or up). Streams (connections and terminals) depend on neither; here they are only
counted. Events are facts from the agent (the protocol's messages), from the worker,
from a step, or from the kernel (signals); effects are orders to the shell around it.

`TABLE` is total: every (phase, event type) has an entry, a method or `STALE`, which means that the event
comes too late and is dropped. Every accepted `Run` is answered by exactly one `Finished`, whatever happens.

It must never know: sockets, processes, clocks, files.
"""

from __future__ import annotations

from .protocol import (
    ONCE,
    PROTOCOL_VERSION,
    SKIP,
    BuildFinished,
    CleanFinished,
    Complete,
    Completions,
    Connect,
    Dying,
    Finished,
    FromRunner,
    Html,
    Input,
    Interrupt,
    Media,
    OpenTerminal,
    Ready,
    Run,
    Shutdown,
    Status,
    StatusReply,
    Stderr,
    Stdout,
    StreamFailed,
    WaitingInput,
)
from .record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Action = Callable[[Any, Any], None]

QUEUE_MAX = 64
"""Runs in line; one more is refused at once."""
COMPLETIONS_MAX = 64
DIALS_MAX = 64
TERMINALS_MAX = 16
ENDS_MAX = 64
EXIT_NO_RUNTIME = 127
EXIT_INTERRUPTED = 130
EXIT_REFUSED = 1
SIGINT, SIGKILL, SIGTERM = 2, 9, 15
_SIGNAL_NAMES = {
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    15: "SIGTERM",
    24: "SIGXCPU",
    31: "SIGSYS",
}

# ---- events besides the messages of the agent: from the worker, a batch step, the operating system


class WorkerReady(NamedTuple):
    runtime: str


class WorkerText(NamedTuple):
    stream: str
    """ "stdout" or "stderr"."""
    text: str


class WorkerMedia(NamedTuple):
    mime: str
    data: str


class WorkerHtml(NamedTuple):
    text: str


class WorkerAsked(NamedTuple):
    is_password: bool


class WorkerDone(NamedTuple):
    exit_code: int


class WorkerMatches(NamedTuple):
    request_id: str
    matches: tuple[str, ...]


class WorkerEnded(NamedTuple):
    """The worker process is gone; all it wrote has been handled. `signal` is 0 when it exited by itself."""

    exit_code: int
    signal: int


class StepText(NamedTuple):
    token: int
    stream: str
    text: str


class StepAsked(NamedTuple):
    token: int
    is_password: bool


class StepEnded(NamedTuple):
    """`exit_code` is 128 + N when signal N ended it."""

    token: int
    exit_code: int


class Dialed(NamedTuple):
    """The connection was handed over."""

    stream_id: str


class DialFailed(NamedTuple):
    stream_id: str
    refused: bool
    reason: str


class TerminalEnded(NamedTuple):
    """The process of a terminal is gone, or could not be started (then `failure` says why)."""

    stream_id: str
    failure: str


class Terminated(NamedTuple):
    """SIGTERM."""


Event = (
    Run
    | Input
    | Interrupt
    | Complete
    | Status
    | Connect
    | OpenTerminal
    | Shutdown
    | WorkerReady
    | WorkerText
    | WorkerMedia
    | WorkerHtml
    | WorkerAsked
    | WorkerDone
    | WorkerMatches
    | WorkerEnded
    | StepText
    | StepAsked
    | StepEnded
    | Dialed
    | DialFailed
    | TerminalEnded
    | Terminated
)

# ---- effects


class Send(NamedTuple):
    message: FromRunner


class StartWorker(NamedTuple):
    pass


class RunCode(NamedTuple):
    code: str


class GiveInput(NamedTuple):
    text: str


class InterruptWorker(NamedTuple):
    pass


class AskMatches(NamedTuple):
    request: Complete


class StartStep(NamedTuple):
    token: int
    step: str
    """ "clean", "build" or "exec"."""
    command: str


class SignalStep(NamedTuple):
    signal: int


class GiveStepInput(NamedTuple):
    text: str


class Dial(NamedTuple):
    """Connect to this port of the container's loopback and hand the connection to the agent."""

    stream_id: str
    port: int


class StartTerminal(NamedTuple):
    stream_id: str
    rows: int
    columns: int


class Exit(NamedTuple):
    """End the worker and the step that may run, let the agent have what is queued, exit."""

    exit_code: int


Effect = (
    Send
    | StartWorker
    | RunCode
    | GiveInput
    | InterruptWorker
    | AskMatches
    | StartStep
    | SignalStep
    | GiveStepInput
    | Dial
    | StartTerminal
    | Exit
)

IDLE, QUERY, BATCH, ENDED = "idle", "query", "batch", "ended"
PHASES = (IDLE, QUERY, BATCH, ENDED)
ABSENT, LOADING, UP = "absent", "loading", "up"


class Machine:
    """One per runner. `runtime` names the language for people; `has_worker` tells whether it has a query mode
    at all."""

    def __init__(self, runtime: str, has_worker: bool, modes: str = "batch") -> None:
        self.phase = IDLE
        self.worker = LOADING if has_worker else ABSENT
        self.runtime = "" if has_worker else runtime
        self._modes = modes
        self._label = runtime
        self._announced = False
        self._queue: list[Run] = []
        self._ends: dict[str, int] = {}
        self._run_id = ""
        self._asked = False
        self._notice = ""
        self._last_words = ""
        self._completing: list[str] = []
        self._dialing: list[str] = []
        self._terminals: list[str] = []
        self._steps: list[tuple[str, str]] = []
        self._step = ""
        self._token = 0
        self._interrupts = 0
        self._effects: list[Effect] = []

    @property
    def run_id(self) -> str:
        """The run that goes on, or ""."""
        return self._run_id

    @property
    def takes_output(self) -> bool:
        """Whether what the worker prints now belongs to a run (else only the container's log gets it)."""
        return self.phase == QUERY

    def start(self) -> list[Effect]:
        """The first effects. The shell may have started the worker already: then it ignores StartWorker."""
        if self.worker == LOADING:
            return [StartWorker()]
        self._announced = True
        return [Send(Ready(PROTOCOL_VERSION, self.runtime))]

    def handle(self, event: Event) -> list[Effect]:
        """Takes in one fact; returns what to do about it, in order."""
        action = TABLE[self.phase, type(event)]
        if action is STALE:
            return []
        self._effects = []
        action(self, event)
        return self._effects

    # ---- from the agent

    def _on_run(self, run: Run) -> None:
        if run.run_id == self._run_id or any(run.run_id == waiting.run_id for waiting in self._queue):
            return  # a repeated message: that run is answered once
        if run.run_id in self._ends:
            self._send(Finished(run.run_id, self._ends[run.run_id]))
            return
        if len(self._queue) >= QUEUE_MAX:
            self._send(Stderr(run.run_id, f"refused: {QUEUE_MAX} runs are waiting already\n"))
            self._send(Finished(run.run_id, EXIT_REFUSED))
            return
        self._queue.append(run)
        self._next()

    def _on_run_ended(self, run: Run) -> None:
        self._send(Finished(run.run_id, EXIT_INTERRUPTED))

    def _on_input(self, event: Input) -> None:
        if event.run_id == self._run_id and self._asked:
            self._asked = False
            self._do(GiveInput(event.text) if self.phase == QUERY else GiveStepInput(event.text))

    def _on_interrupt(self, event: Interrupt) -> None:
        if event.run_id not in ("", self._run_id):
            return
        self._asked = False
        if self.phase == QUERY:
            self._do(InterruptWorker())
        else:
            self._interrupts += 1
            self._do(SignalStep((SIGINT, SIGTERM, SIGKILL)[min(self._interrupts, 3) - 1]))

    def _on_complete(self, event: Complete) -> None:
        if (
            self.worker != UP
            or len(self._completing) >= COMPLETIONS_MAX
            or event.request_id in self._completing
        ):
            self._send(Completions(event.request_id, ()))
            return
        self._completing.append(event.request_id)
        self._do(AskMatches(event))

    def _on_status(self, event: Status) -> None:
        self._send(StatusReply(event.request_id, self._run_id, self.runtime))

    def _on_connect(self, event: Connect) -> None:
        if event.stream_id in self._dialing:
            return  # a repeated message
        if not 0 < event.port < 65536:
            self._send(StreamFailed(event.stream_id, False, f"there is no port {event.port}"))
        elif len(self._dialing) >= DIALS_MAX:
            self._send(StreamFailed(event.stream_id, False, f"{DIALS_MAX} connections are being made"))
        else:
            self._dialing.append(event.stream_id)
            self._do(Dial(event.stream_id, event.port))

    def _on_open_terminal(self, event: OpenTerminal) -> None:
        if event.stream_id in self._terminals:
            return  # a repeated message
        if len(self._terminals) >= TERMINALS_MAX:
            self._send(StreamFailed(event.stream_id, False, f"{TERMINALS_MAX} terminals are open already"))
        else:
            self._terminals.append(event.stream_id)
            self._do(StartTerminal(event.stream_id, event.rows, event.columns))

    def _on_stream_ended(self, event: Connect | OpenTerminal) -> None:
        self._send(StreamFailed(event.stream_id, False, "the session is ending"))

    def _on_end(self, event: Event) -> None:
        self._end(0)

    # ---- from streams

    def _on_dialed(self, event: Dialed) -> None:
        if event.stream_id in self._dialing:
            self._dialing.remove(event.stream_id)

    def _on_dial_failed(self, event: DialFailed) -> None:
        if event.stream_id in self._dialing:
            self._dialing.remove(event.stream_id)
            self._send(StreamFailed(event.stream_id, event.refused, event.reason))

    def _on_terminal_ended(self, event: TerminalEnded) -> None:
        if event.stream_id in self._terminals:
            self._terminals.remove(event.stream_id)
            if event.failure:
                self._send(StreamFailed(event.stream_id, False, event.failure))

    # ---- from the worker

    def _on_ready(self, event: WorkerReady) -> None:
        if self.worker != LOADING:
            return
        self.worker = UP
        self.runtime = event.runtime
        self._last_words = ""
        if not self._announced:
            self._announced = True
            self._send(Ready(PROTOCOL_VERSION, event.runtime))
        self._next()

    def _on_text(self, event: WorkerText) -> None:
        if self.worker == LOADING:
            self._last_words = (self._last_words + event.text)[-2000:]
        if self.phase == QUERY:
            self._send((Stdout if event.stream == "stdout" else Stderr)(self._run_id, event.text))

    def _on_media(self, event: WorkerMedia) -> None:
        self._send(Media(self._run_id, event.mime, event.data))

    def _on_html(self, event: WorkerHtml) -> None:
        self._send(Html(self._run_id, event.text))

    def _on_asked(self, event: WorkerAsked) -> None:
        self._asked = True
        self._send(WaitingInput(self._run_id, event.is_password))

    def _on_done(self, event: WorkerDone) -> None:
        self._finish(event.exit_code)

    def _on_matches(self, event: WorkerMatches) -> None:
        if event.request_id in self._completing:
            self._completing.remove(event.request_id)
            self._send(Completions(event.request_id, event.matches))

    def _on_worker_ended(self, event: WorkerEnded) -> None:
        for request_id in self._completing:
            self._send(Completions(request_id, ()))
        self._completing = []
        what = _account(self._label, event)
        if self.worker == LOADING:
            reason = f"{what} before it was ready"
            self._send(
                Dying(_exit_code(event) or 1, f"{reason}: {self._last_words}" if self._last_words else reason)
            )
            self._end(1)
            return
        self.worker = LOADING
        self._do(StartWorker())
        notice = f"{what}; its variables are lost and a new one was started\n"
        if self.phase == QUERY:
            self._send(Stderr(self._run_id, notice))
            self._finish(_exit_code(event))
        else:
            self._notice = notice

    # ---- from a batch step

    def _on_step_text(self, event: StepText) -> None:
        if event.token == self._token:
            self._send((Stdout if event.stream == "stdout" else Stderr)(self._run_id, event.text))

    def _on_step_asked(self, event: StepAsked) -> None:
        if event.token == self._token:
            self._asked = True
            self._send(WaitingInput(self._run_id, event.is_password))

    def _on_step_ended(self, event: StepEnded) -> None:
        if event.token != self._token:
            return
        self._asked = False
        code = event.exit_code
        if self._step == "clean":
            self._send(CleanFinished(self._run_id, code))
        elif self._step == "build":
            self._send(BuildFinished(self._run_id, code))
            if code and self._steps and not self._interrupts:
                self._send(Stderr(self._run_id, f"the build failed (exit code {code}), so nothing was run\n"))
                self._finish(EXIT_NO_RUNTIME)
                return
        self._next_step(code)

    # ---- the parts they share

    def _next(self) -> None:
        while self.phase == IDLE and self._queue:
            run = self._queue[0]
            if run.mode == "query" and self.worker == LOADING:
                return
            del self._queue[0]
            self._run_id = run.run_id
            self._interrupts = 0
            if run.mode == "query":
                self._query(run)
            elif run.mode == "batch":
                self.phase = BATCH
                steps = (("clean", run.clean), ("build", run.build), ("exec", run.exec))
                self._steps = [(step, command) for step, command in steps if command != SKIP]
                self._next_step(0)
            else:
                self._send(Stderr(run.run_id, f"there is no mode {run.mode[:40]!r}: use query or batch\n"))
                self._finish(EXIT_REFUSED)

    def _query(self, run: Run) -> None:
        self.phase = QUERY
        if self._notice:
            self._send(Stderr(run.run_id, self._notice))
            self._notice = ""
        if self.worker == ABSENT:
            text = f"{self._label} has no interactive mode here; it supports: {self._modes}\n"
            self._send(Stderr(run.run_id, text))
            self._finish(EXIT_NO_RUNTIME)
        else:
            self._do(RunCode(run.code))

    def _next_step(self, last_code: int) -> None:
        if self._interrupts or not self._steps:
            self._finish(last_code)
            return
        self._step, command = self._steps.pop(0)
        self._token += 1
        self._do(StartStep(self._token, self._step, command))

    def _finish(self, exit_code: int) -> None:
        self._send(Finished(self._run_id, exit_code))
        if self._run_id.startswith(ONCE) and len(self._ends) < ENDS_MAX:
            self._ends[self._run_id] = exit_code
        self._run_id = self._step = ""
        self._asked = False
        self._steps = []
        self.phase = IDLE
        self._next()

    def _end(self, exit_code: int) -> None:
        if self._run_id:
            self._send(Finished(self._run_id, EXIT_INTERRUPTED))
        for run in self._queue:
            self._send(Finished(run.run_id, EXIT_INTERRUPTED))
        self._queue, self._run_id = [], ""
        self.phase = ENDED
        self._do(Exit(exit_code))

    def _send(self, message: FromRunner) -> None:
        self._effects.append(Send(message))

    def _do(self, effect: Effect) -> None:
        self._effects.append(effect)


def _exit_code(event: WorkerEnded) -> int:
    return 128 + event.signal if event.signal else event.exit_code


def _account(label: str, event: WorkerEnded) -> str:
    if event.signal:
        name = _SIGNAL_NAMES.get(event.signal)
        return f"the {label} interpreter was killed by signal {event.signal}" + (f" ({name})" if name else "")
    return f"the {label} interpreter ended with exit code {event.exit_code}"


def STALE(machine: Machine, event: object) -> None:
    """The event comes too late (or too early) to mean anything: it is dropped."""


def _row(event: type, **actions: Action) -> dict[tuple[str, type], Action]:
    return {(phase, event): actions.get(phase, STALE) for phase in PHASES}


def _rows() -> dict[tuple[str, type], Action]:
    m = Machine
    table: dict[tuple[str, type], Action] = {}
    for row in (
        _row(Run, idle=m._on_run, query=m._on_run, batch=m._on_run, ended=m._on_run_ended),
        _row(Input, query=m._on_input, batch=m._on_input),
        _row(Interrupt, query=m._on_interrupt, batch=m._on_interrupt),
        _row(Complete, idle=m._on_complete, query=m._on_complete, batch=m._on_complete),
        _row(Status, idle=m._on_status, query=m._on_status, batch=m._on_status, ended=m._on_status),
        _row(
            Connect,
            idle=m._on_connect,
            query=m._on_connect,
            batch=m._on_connect,
            ended=m._on_stream_ended,
        ),
        _row(
            OpenTerminal,
            idle=m._on_open_terminal,
            query=m._on_open_terminal,
            batch=m._on_open_terminal,
            ended=m._on_stream_ended,
        ),
        _row(Shutdown, idle=m._on_end, query=m._on_end, batch=m._on_end),
        _row(Terminated, idle=m._on_end, query=m._on_end, batch=m._on_end),
        _row(WorkerReady, idle=m._on_ready, batch=m._on_ready),
        _row(WorkerText, idle=m._on_text, query=m._on_text, batch=m._on_text),
        _row(WorkerMedia, query=m._on_media),
        _row(WorkerHtml, query=m._on_html),
        _row(WorkerAsked, query=m._on_asked),
        _row(WorkerDone, query=m._on_done),
        _row(WorkerMatches, idle=m._on_matches, query=m._on_matches, batch=m._on_matches),
        _row(WorkerEnded, idle=m._on_worker_ended, query=m._on_worker_ended, batch=m._on_worker_ended),
        _row(StepText, batch=m._on_step_text),
        _row(StepAsked, batch=m._on_step_asked),
        _row(StepEnded, batch=m._on_step_ended),
        _row(Dialed, idle=m._on_dialed, query=m._on_dialed, batch=m._on_dialed, ended=m._on_dialed),
        _row(
            DialFailed,
            idle=m._on_dial_failed,
            query=m._on_dial_failed,
            batch=m._on_dial_failed,
            ended=m._on_dial_failed,
        ),
        _row(
            TerminalEnded,
            idle=m._on_terminal_ended,
            query=m._on_terminal_ended,
            batch=m._on_terminal_ended,
            ended=m._on_terminal_ended,
        ),
    ):
        table.update(row)
    return table


TABLE = _rows()
"""(phase, event type) -> method of Machine, or STALE."""
EVENTS = tuple({event: None for _, event in TABLE})
