"""The kernel runner: the process inside the user's container that the agent talks to. This module is the
imperative shell.

Theory of operation. One poll loop, no threads. It turns what happens (messages of the agent, records of the
language worker, output and ends of child processes, signals) into events for `machine.Machine`, and carries
out the effects that come back. All state of the conversation is in the machine; here are only descriptors.

Back-pressure: while the agent has not taken `PAUSE_BYTES` of output, the loop reads nothing from the
children; they block on their full pipes, and the memory of both stays bounded. Messages of the agent are
served meanwhile, so an interrupt still works.

It must never know: what a session is, who the user is, HTTP.
"""

from __future__ import annotations

import os
import select
import time
from _codecs import utf_8_decode

from . import machine as m
from .child import Child, start
from .consolelog import ConsoleLog
from .lang.channel import ChannelError, Inbox, Outbox, pack
from .lang.language import Language, NotFound, heuristic, modes
from .link import Link
from .protocol import (
    FRAME_BYTES_MAX,
    HEURISTIC,
    STREAM_SOCKET_NAME,
    FromRunner,
    Html,
    Media,
    Stderr,
    Stdout,
)
from .stepinput import StepInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable

    from .dial import Dialer, Outcome
else:
    import _signal  # signal.py wraps it in enums, for 4 ms

PAUSE_BYTES, RESUME_BYTES = 512 << 10, 128 << 10
STOP_BYTES = 4 << 20
"""With this much queued even the agent's messages wait: it asks without listening."""
READ_BYTES = 65536
DRAIN_BYTES = 1 << 20
GRACE_S = 2.0
"""From SIGTERM to SIGKILL for the children, when the runner ends."""
NUDGE_S = 0.02
"""After so long a run is told that it lasts: what it prints is shown from then on while it goes on."""
FLUSH_S = 2.0
"""How long the runner waits at its end for the agent to take what is queued."""
_PYTHON_BATCH = __file__.rsplit("/", 1)[0] + "/lang/python_batch"
_TEXT_CHARS = FRAME_BYTES_MAX // 4


class Stream:
    """One output pipe of a child, decoded piece by piece. `token` is 0 for the worker, else the step's."""

    def __init__(self, fd: int, name: str, token: int) -> None:
        self.fd, self.name, self.token = fd, name, token
        self._rest = b""

    def decode(self, data: bytes, final: bool = False) -> str:
        data = self._rest + data
        text, used = utf_8_decode(data, "replace", final)
        self._rest = data[used:]
        return text


class Runner:
    """Runs until Shutdown, SIGTERM or the worker's failure to start; `serve` returns the exit code.

    `start_worker` forks the language worker (None: the language has none); `worker` is one that was started
    before this module was imported. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        *,
        link: Link,
        log: ConsoleLog,
        label: str,
        language: Language,
        runtime_path: str,
        home: str,
        env: dict[str, str],
        start_worker: Callable[[], Child] | None,
        worker: Child | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link, self._log, self._clock = link, log, clock
        self._language, self._runtime_path, self._home, self._env = language, runtime_path, home, env
        self._start_worker = start_worker
        self._machine = m.Machine(label, start_worker is not None, modes(language))
        self._worker: Child | None = None
        self._step: Child | None = None
        self._step_token = 0
        self._step_input: StepInput | None = None
        self._dialer: Dialer | None = None
        self._terminals: dict[int, str] = {}
        self._streams_path = link.path.rpartition("/")[0] + "/" + STREAM_SOCKET_NAME
        self._inbox, self._shelf = Inbox(), Inbox()
        self._runs, self._asides = Outbox(-1), Outbox(-1)
        self._run_number = 0
        self._nudge_s: float | None = None
        self._texts = {"stdout": Stream(-1, "stdout", 0), "stderr": Stream(-1, "stderr", 0)}
        self._streams: dict[int, Stream] = {}
        self._pending: tuple[type[Stdout | Stderr], str, list[str]] | None = None
        self._poll = select.poll()
        self._polled: dict[int, int] = {}
        self._paused = False
        self._exit_code: int | None = None
        self._signals = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        if worker is not None:
            self._adopt_worker(worker)

    def serve(self) -> int:
        """The loop. Returns the exit code once everything is ended and flushed."""
        _signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)
        for number in (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGINT):
            _signal.signal(number, lambda number, frame: None)
        _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
        self._do(self._machine.start())
        self._reap()  # a child may have ended before the handlers were there
        while self._exit_code is None:
            self._turn(None)
        return self._end(self._exit_code)

    # ---- the loop

    def _turn(self, timeout_s: float | None) -> None:
        now_s = self._clock()
        if self._link.retry_s is not None:
            if self._link.retry_s <= now_s:
                self._link.connect(now_s)
            if self._link.retry_s is not None:
                wait_s = max(0.0, self._link.retry_s - now_s)
                timeout_s = wait_s if timeout_s is None else min(timeout_s, wait_s)
        if self._dialer and self._dialer.deadline_s is not None:
            wait_s = max(0.0, self._dialer.deadline_s - now_s)
            timeout_s = wait_s if timeout_s is None else min(timeout_s, wait_s)
        if self._nudge_s is not None:
            wait_s = max(0.0, self._nudge_s - now_s)
            timeout_s = wait_s if timeout_s is None else min(timeout_s, wait_s)
        self._watch()
        ready = dict(self._poll.poll(None if timeout_s is None else int(timeout_s * 1000) + 1))
        now_s = self._clock()
        if self._link.fd in ready:
            if ready[self._link.fd] & ~select.POLLOUT:
                for message in self._link.read(now_s):
                    if type(message) in m.EVENTS:
                        self._do(self._machine.handle(message))
            self._link.write(now_s)
        if self._dialer and self._dialer.watched:
            for outcome in self._dialer.settle(ready, now_s):
                self._take_outcome(outcome)
        worker = self._worker
        if self._nudge_s is not None and self._nudge_s <= now_s:
            self._nudge_s = None
            self._read_shelf()
            self._asides.put(pack(b"F"))
        for outbox in (self._runs, self._asides):
            if outbox.waiting and ready.get(outbox.fd, 0) & ~select.POLLIN:
                outbox.write()
        if not self._paused:
            # The worker's records first: those it sent before it started a subprocess are older.
            if worker and (worker.control in ready or worker.stdout in ready or worker.stderr in ready):
                self._read_worker()
            for fd in ready:
                stream = self._streams.get(fd)
                if stream:
                    if stream.token == 0:
                        self._read_shelf()  # nothing is put there before the pipes are empty: it is older
                    self._read_stream(stream)
            if self._step_input and self._step_input.fd in ready:
                is_password = self._step_input.ready()
                if is_password is not None:
                    self._drain_streams(self._step_token)
                    self._do(self._machine.handle(m.StepAsked(self._step_token, is_password)))
        if self._signals[0] in ready:
            numbers = os.read(self._signals[0], 4096)
            if _signal.SIGCHLD in numbers:
                self._reap()
            if _signal.SIGTERM in numbers:
                self._do(self._machine.handle(m.Terminated()))
        self._flush_text()
        self._link.write(now_s)
        self._log.flush()  # last: nobody waits for it

    def _watch(self) -> None:
        """Tells poll what matters now."""
        queued = self._link.queued_bytes
        self._paused = queued > (RESUME_BYTES if self._paused else PAUSE_BYTES)
        wanted = {self._signals[0]: select.POLLIN}
        if self._link.fd >= 0:
            wanted[self._link.fd] = (select.POLLIN if queued < STOP_BYTES else 0) | (
                select.POLLOUT if self._link.wants_write else 0
            )
        if self._dialer:
            for fd in self._dialer.watched:
                wanted[fd] = select.POLLOUT
        if not self._paused:
            for fd in self._streams:
                wanted[fd] = select.POLLIN
            if self._step_input and self._step_input.fd >= 0:
                wanted[self._step_input.fd] = select.POLLIN
        if self._worker and self._worker.control >= 0:
            mask = (0 if self._paused else select.POLLIN) | (select.POLLOUT if self._runs.waiting else 0)
            if mask:
                wanted[self._worker.control] = mask
            if self._asides.waiting:
                wanted[self._worker.aside] = select.POLLOUT
        if wanted != self._polled:
            for fd in self._polled:
                if fd not in wanted:
                    self._poll.unregister(fd)
            for fd, mask in wanted.items():
                self._poll.register(fd, mask)
            self._polled = wanted

    # ---- effects

    def _do(self, effects: list[m.Effect]) -> None:
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: m.Effect) -> None:
        kind = type(effect)
        if isinstance(effect, m.Send):
            self._send(effect.message)
        elif isinstance(effect, m.RunCode):
            self._run_number += 1
            self._nudge_s = self._clock() + NUDGE_S
            self._runs.put(pack(b"R", effect.code))
        elif isinstance(effect, m.GiveInput):
            self._asides.put(pack(b"I", effect.text))
        elif isinstance(effect, m.AskMatches):
            request = effect.request
            line = request.line or request.code.rpartition("\n")[2]
            self._asides.put(
                pack(
                    b"C", request.request_id.replace("\0", ""), line[: request.col] if request.line else line
                )
            )
        elif kind is m.InterruptWorker:
            self._asides.put(pack(b"N", str(self._run_number)))
        elif kind is m.StartWorker:
            if self._worker is None and self._start_worker:
                self._adopt_worker(self._start_worker())
        elif isinstance(effect, m.StartStep):
            self._begin_step(effect)
        elif isinstance(effect, m.SignalStep):
            if self._step:
                self._step.signal(effect.signal)
        elif isinstance(effect, m.GiveStepInput):
            if self._step_input:
                self._step_input.answer(effect.text)
        elif isinstance(effect, m.Dial):
            self._dial(effect)
        elif isinstance(effect, m.StartTerminal):
            self._start_terminal(effect)
        elif isinstance(effect, m.Exit):
            self._exit_code = effect.exit_code

    def _send(self, message: FromRunner) -> None:
        if isinstance(message, Stdout | Stderr):
            if self._pending and self._pending[0] is type(message) and self._pending[1] == message.run_id:
                self._pending[2].append(message.text)
                return
            self._flush_text()
            self._pending = (type(message), message.run_id, [message.text])
            return
        self._flush_text()
        if isinstance(message, Media | Html) and sum(map(len, message)) > 16 << 20:
            message = Stderr(message.run_id, "a result was too large to show\n")
        self._link.send(message)

    def _flush_text(self) -> None:
        """Neighbouring pieces of the same stream leave as one record."""
        if self._pending:
            kind, run_id, pieces = self._pending
            self._pending = None
            text = "".join(pieces)
            for start_ in range(0, len(text), _TEXT_CHARS):
                self._link.send(kind(run_id, text[start_ : start_ + _TEXT_CHARS]))

    # ---- the worker

    def _adopt_worker(self, child: Child) -> None:
        self._worker = child
        self._inbox, self._shelf = Inbox(), Inbox()
        self._runs, self._asides = Outbox(child.control), Outbox(child.aside)
        self._run_number, self._nudge_s = 0, None
        self._texts = {"stdout": Stream(-1, "stdout", 0), "stderr": Stream(-1, "stderr", 0)}
        self._streams[child.stdout] = Stream(child.stdout, "stdout", 0)
        self._streams[child.stderr] = Stream(child.stderr, "stderr", 0)

    def _read_worker(self) -> bool:
        """Takes in one piece of the control channel. False when there is nothing now."""
        worker = self._worker
        if not worker or worker.control < 0:
            return False
        try:
            data = os.read(worker.control, READ_BYTES)
            self._read_shelf()  # what lies there is older
            records = self._inbox.receive(data)
        except BlockingIOError:
            return False
        except (ConnectionResetError, ChannelError):
            data = b""
        if not data:
            # Closed or corrupt: a worker without its channel is of no use, whether it lives or not.
            worker.signal(_signal.SIGKILL)
            self._hang_up(worker)
            return False
        for kind, payload in records:
            self._take_record(kind, payload)
        return True

    def _read_shelf(self) -> None:
        """Takes what the worker has put on the shelf: text alone, and less than one read takes."""
        worker = self._worker
        if not worker or worker.shelf < 0:
            return
        try:
            records = self._shelf.receive(os.read(worker.shelf, READ_BYTES))
        except (BlockingIOError, ChannelError):
            return
        for kind, payload in records:
            if kind in (b"O", b"E"):
                self._take_record(kind, payload)

    def _take_record(self, kind: bytes, payload: bytes) -> None:
        handle = self._machine.handle
        if kind in (b"O", b"E"):
            name = "stdout" if kind == b"O" else "stderr"
            self._log.put(payload)
            text = self._texts[name].decode(payload)
            if text:
                self._do(handle(m.WorkerText(name, text)))
            return
        first, _, rest = payload.decode("utf-8", "replace").partition("\0")
        if kind == b"D":
            self._nudge_s = None
            self._drain_streams(0)
            self._do(handle(m.WorkerDone(int(first) if first.isdecimal() else 1)))
        elif kind == b"H":
            self._do(handle(m.WorkerReady(first)))
        elif kind == b"M":
            self._do(handle(m.WorkerMedia(first, rest)))
        elif kind == b"L":
            self._do(handle(m.WorkerHtml(payload.decode("utf-8", "replace"))))
        elif kind == b"W":
            self._do(handle(m.WorkerAsked(bool(first))))
        elif kind == b"K":
            self._do(handle(m.WorkerMatches(first, tuple(rest.split("\n")) if rest else ())))

    # ---- output pipes

    def _read_stream(self, stream: Stream) -> int:
        """Takes in one piece; returns its size, 0 when there is nothing now. Forgets the pipe at its end."""
        try:
            data = os.read(stream.fd, READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self._streams.pop(stream.fd, None)
            os.close(stream.fd)
            return 0
        self._log.put(data)
        text = stream.decode(data)
        if text and stream.token == 0:
            self._do(self._machine.handle(m.WorkerText(stream.name, text)))
        elif text:
            self._do(self._machine.handle(m.StepText(stream.token, stream.name, text)))
        return len(data)

    def _drain_streams(self, token: int) -> None:
        """All that is in the pipes of the worker or a step now; bounded, since others may go on writing into
        them."""
        for stream in [stream for stream in self._streams.values() if stream.token == token]:
            left = DRAIN_BYTES
            while left > 0:
                size = self._read_stream(stream)
                if not size:
                    break
                left -= size

    # ---- batch steps

    def _begin_step(self, effect: m.StartStep) -> None:
        self._step_token = effect.token
        command: str | NotFound = effect.command
        if command == HEURISTIC:
            command = heuristic(self._language, effect.step, os.listdir(self._home), self._runtime_path)
        if isinstance(command, NotFound):
            text = f"no way to {effect.step} was found: looked for {command.looked_for} in {self._home}\n"
            self._fail_step(text, m.EXIT_NO_RUNTIME)
            return
        if self._step_input is None:
            folder = self._env.get("TMPDIR", "/tmp")  # noqa: S108 -- the container's own
            self._step_input = StepInput(f"{folder}/.backend-input-{os.getpid()}.sock")
        env = dict(self._env, BACKEND_INPUT_SOCKET=self._step_input.path)
        env["PYTHONPATH"] = f"{_PYTHON_BATCH}:{env['PYTHONPATH']}" if env.get("PYTHONPATH") else _PYTHON_BATCH
        try:
            child = start(["/bin/sh", "-c", command], env, self._home, control=False)
        except OSError as exc:
            self._fail_step(f"cannot start a process: {exc.strerror}\n", 126)
            return
        self._step = child
        self._streams[child.stdout] = Stream(child.stdout, "stdout", effect.token)
        self._streams[child.stderr] = Stream(child.stderr, "stderr", effect.token)

    def _fail_step(self, text: str, exit_code: int) -> None:
        self._do(self._machine.handle(m.StepText(self._step_token, "stderr", text)))
        self._do(self._machine.handle(m.StepEnded(self._step_token, exit_code)))

    # ---- streams: what they need is imported with the first of them

    def _dial(self, effect: m.Dial) -> None:
        if self._dialer is None:
            from .dial import Dialer

            self._dialer = Dialer(self._streams_path)
        outcome = self._dialer.dial(effect.stream_id, effect.port, self._clock())
        if outcome:
            self._take_outcome(outcome)

    def _take_outcome(self, outcome: Outcome) -> None:
        stream_id, refused, failure = outcome
        event = m.DialFailed(stream_id, refused, failure) if failure else m.Dialed(stream_id)
        self._do(self._machine.handle(event))

    def _start_terminal(self, effect: m.StartTerminal) -> None:
        from . import terminal

        try:
            pid = terminal.start(
                effect.stream_id, self._streams_path, effect.rows, effect.columns, self._env, self._home
            )
        except OSError as exc:
            failure = f"cannot start a process: {exc.strerror}"
            self._do(self._machine.handle(m.TerminalEnded(effect.stream_id, failure)))
            return
        self._terminals[pid] = effect.stream_id

    # ---- ends

    def _reap(self) -> None:
        """Collects children that have ended, our own and those that were left to PID 1."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if self._worker and pid == self._worker.pid:
                self._worker_ended(self._worker, code)
            elif pid in self._terminals:
                self._do(self._machine.handle(m.TerminalEnded(self._terminals.pop(pid), "")))
            elif self._step and pid == self._step.pid:
                self._step = None
                if self._step_input:
                    self._step_input.drop()
                self._drain_streams(self._step_token)
                self._do(
                    self._machine.handle(m.StepEnded(self._step_token, code if code >= 0 else 128 - code))
                )

    def _worker_ended(self, worker: Child, code: int) -> None:
        self._read_shelf()
        while self._read_worker():
            pass
        self._drain_streams(0)
        self._hang_up(worker)
        for fd in (worker.stdout, worker.stderr):
            if self._streams.pop(fd, None):
                os.close(fd)
        self._worker = None
        self._do(self._machine.handle(m.WorkerEnded(max(code, 0), max(-code, 0))))

    def _hang_up(self, worker: Child) -> None:
        if worker.control >= 0:
            self._read_shelf()
            for fd in (worker.control, worker.aside, worker.shelf):
                os.close(fd)
        worker.control = worker.aside = worker.shelf = -1
        self._runs, self._asides, self._nudge_s = Outbox(-1), Outbox(-1), None

    def _end(self, exit_code: int) -> int:
        """Ends the children, gives the agent a moment to take what is queued."""
        if self._step_input:
            self._step_input.close()
        self._step_input = None
        children = [child for child in (self._worker, self._step) if child]
        for child in children:
            child.signal(_signal.SIGTERM)
        grace_s, flush_s = self._clock() + GRACE_S, self._clock() + FLUSH_S
        while (self._worker or self._step) and self._clock() < grace_s:
            self._turn(0.05)
        for child in children:
            child.signal(_signal.SIGKILL)
        while self._link.queued_bytes and self._clock() < flush_s:
            self._turn(0.05)
        return exit_code
