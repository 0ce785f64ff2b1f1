"""The messages between the agent and the kernel runner, without any I/O.

Transport: one ZeroMQ DEALER socket on each side over a unix socket. The *agent* binds `runner.sock` in the
per-kernel folder before the container starts and owns that folder, so the runner's first connect succeeds at
once (nothing is polled) and user code can replace nothing there. The runner connects, and its queue of unsent
messages survives a restart of the agent.

Each message is a ZeroMQ multipart: the type's name, then its fields, each a frame of UTF-8 text (numbers in
decimal, booleans "1" or ""). There is no JSON and no pickle: decoding untrusted frames cannot execute
anything, and the runner need not import a parser.

A run whose id begins with `ONCE` is run at most once for each container: sent again after its end it is
answered with that end, so that an agent that was restarted can always ask.

Runs (`Run`) are strictly serial: a second one waits until the first has sent `Finished`. `Input`,
`Interrupt`, `Complete` and `Status` are served at once, while a run goes on. Every record of a run carries
its `run_id`.

Byte streams (`Connect`, `OpenTerminal`) do not go through these messages. The agent listens on a second unix
socket beside the first, `streams.sock`, from the first stream on. For each stream the runner's side connects
there once and sends the stream's id, `STREAM_ID_BYTES` of ASCII: for a TCP connection together with its
descriptor (SCM_RIGHTS), and closes; for a terminal alone, and what follows on that connection is the stream.

This module is imported by the agent and by the runner inside users' containers: stdlib only, and neither
dataclasses nor typing at run time, whose import costs more than the runner's start should.
"""

from __future__ import annotations

from .record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL_VERSION = 1
"""Diary. 1 (2026-11-24): first."""

SOCKET_NAME = "runner.sock"
STREAM_SOCKET_NAME = "streams.sock"
STREAM_ID_BYTES = 32
FRAME_BYTES_MAX = 1 << 20
"""A single output record is cut into pieces no larger than this."""
FRAMES_MAX = 4096
ONCE = "once:"
SKIP = ""
HEURISTIC = "*"
"""As a batch step: let the runtime decide (Makefile, main.py, ...). SKIP leaves the step out; anything else
is a shell command."""


class Run(NamedTuple):
    """agent -> runner. `mode` is "query" (run `code` in the persistent REPL) or "batch" (the three steps,
    each SKIP, HEURISTIC or a shell command run in the home folder)."""

    run_id: str
    mode: str
    code: str
    clean: str
    build: str
    exec: str


class Input(NamedTuple):
    """agent -> runner: the line the user typed, without a newline."""

    run_id: str
    text: str


class Interrupt(NamedTuple):
    """agent -> runner: SIGINT to whatever runs now. With a `run_id`, only if that run is the current one (""
    means any)."""

    run_id: str


class Complete(NamedTuple):
    """agent -> runner: completions at a cursor. `row`, `col` as the API gives them; `line` is the current
    line, `post` what follows."""

    request_id: str
    code: str
    row: int
    col: int
    line: str
    post: str


class Status(NamedTuple):
    """agent -> runner: are you there, and what are you doing?"""

    request_id: str


class Connect(NamedTuple):
    """agent -> runner: connect to a TCP port of this container's loopback and hand the connection over."""

    stream_id: str
    port: int


class OpenTerminal(NamedTuple):
    """agent -> runner: start a shell on a pseudo terminal of this size, with its stream."""

    stream_id: str
    rows: int
    columns: int


class Shutdown(NamedTuple):
    """agent -> runner: end the language process and exit 0."""

    reason: str


class Ready(NamedTuple):
    """runner -> agent: sent once, when the runtime accepts code."""

    version: int
    runtime: str
    """The runtime's type and version, e.g. "python 3.11.2"."""


class Stdout(NamedTuple):
    run_id: str
    text: str


class Stderr(NamedTuple):
    run_id: str
    text: str


class Media(NamedTuple):
    """Rich output: `data` is a data: URI for binary types, raw text for SVG and other text."""

    run_id: str
    mime: str
    data: str


class Html(NamedTuple):
    run_id: str
    text: str


class Log(NamedTuple):
    """Build output that the user asked to see (options.buildLog) and the runner's own remarks on a run."""

    run_id: str
    text: str


class WaitingInput(NamedTuple):
    run_id: str
    is_password: bool


class CleanFinished(NamedTuple):
    run_id: str
    exit_code: int


class BuildFinished(NamedTuple):
    run_id: str
    exit_code: int


class Finished(NamedTuple):
    """End of a run. Query mode: 0, also after an exception in user code; 127 when there is no REPL; 130 after
    an interrupt that stopped it; 128 + N when the language process was ended by signal N (state is lost).
    Batch: exit code of the last step."""

    run_id: str
    exit_code: int


class Completions(NamedTuple):
    request_id: str
    matches: tuple[str, ...]


class StatusReply(NamedTuple):
    request_id: str
    run_id: str
    """The run that goes on now, or ""."""
    runtime: str
    """As in Ready; "" when the runtime is not ready yet."""


class StreamFailed(NamedTuple):
    """runner -> agent: no stream of this id will come. `refused`: nothing listens at that port."""

    stream_id: str
    refused: bool
    reason: str


class Dying(NamedTuple):
    """runner -> agent: the runtime cannot go on (the reason is for people); the runner exits right after."""

    exit_code: int
    reason: str


ToRunner = Run | Input | Interrupt | Complete | Status | Connect | OpenTerminal | Shutdown
FromRunner = (
    Ready
    | Stdout
    | Stderr
    | Media
    | Html
    | Log
    | WaitingInput
    | CleanFinished
    | BuildFinished
    | Finished
    | Completions
    | StatusReply
    | StreamFailed
    | Dying
)
Message = ToRunner | FromRunner

_NAMES: dict[type[Message], bytes] = {
    Run: b"run",
    Input: b"input",
    Interrupt: b"interrupt",
    Complete: b"complete",
    Status: b"status",
    Connect: b"connect",
    OpenTerminal: b"open-terminal",
    Shutdown: b"shutdown",
    Ready: b"ready",
    Stdout: b"stdout",
    Stderr: b"stderr",
    Media: b"media",
    Html: b"html",
    Log: b"log",
    WaitingInput: b"waiting-input",
    CleanFinished: b"clean-finished",
    BuildFinished: b"build-finished",
    Finished: b"finished",
    Completions: b"completions",
    StatusReply: b"status-reply",
    StreamFailed: b"stream-failed",
    Dying: b"dying",
}
_TYPES: dict[bytes, Any] = {name: kind for kind, name in _NAMES.items()}
_INTS = {"row", "col", "exit_code", "version", "port", "rows", "columns"}
_BOOLS = {"is_password", "refused"}


class ProtocolError(ValueError):
    """A peer sent frames that are no message. Drop them and count; never crash."""


def encode(message: Message) -> list[bytes]:
    """The frames of a message. Lone surrogates in user text become U+FFFD-like escapes rather than errors."""
    frames = [_NAMES[type(message)]]
    value: Any
    for name, value in zip(message._fields, message, strict=True):
        if name == "matches":
            frames.extend(_text(item) for item in value)
        elif name in _BOOLS:
            frames.append(b"1" if value else b"")
        else:
            frames.append(_text(str(value)))
    return frames


def decode(frames: list[bytes]) -> Message:
    """The message of some frames. Raises ProtocolError for anything that `encode` cannot have made."""
    if not frames or len(frames) > FRAMES_MAX:
        raise ProtocolError("wrong number of frames")
    kind: Any = _TYPES.get(frames[0])
    if kind is None:
        raise ProtocolError("unknown message type")
    try:
        values = [frame.decode("utf-8") for frame in frames[1:]]
    except UnicodeDecodeError as exc:
        raise ProtocolError("not UTF-8") from exc
    if kind is Completions:
        if not values:
            raise ProtocolError("wrong number of fields")
        return Completions(values[0], tuple(values[1:]))
    if len(values) != len(kind._fields):
        raise ProtocolError("wrong number of fields")
    try:
        message: Message = kind(
            *(_value(name, value) for name, value in zip(kind._fields, values, strict=True))
        )
    except ValueError as exc:
        raise ProtocolError("not a number") from exc
    return message


def _value(name: str, text: str) -> str | int | bool:
    if name in _INTS:
        return int(text)
    if name in _BOOLS:
        return bool(text)
    return text


def _text(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
