"""Starts a published client's programs from a Python that has imported the client already: see `preloaded.py`, its other half."""

import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAM = Path(__file__).with_name("preloaded.py")
PIPE_BYTES = 1 << 16
"""What a pipe holds: a call's input is written before the call is made."""
LATE = 124


@dataclass(frozen=True)
class Ended:
    """How a process ended; a late one was killed and gives 124, as `timeout` does."""

    exit: int
    stdout: str
    stderr: str


class Starter:
    """Ends with `close`, and at the latest with the process that made it: its socket closes then."""

    def __init__(self, python: Path, environ: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._homes: dict[str, socket.socket] = {}
        with theirs:
            self._process = subprocess.Popen(
                [str(python), "-P", str(PROGRAM), str(theirs.fileno())],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def close(self) -> None:
        for control in (*self._homes.values(), self._control):
            control.close()
        self._process.wait()

    def command(
        self, argv: Sequence[str], environ: Mapping[str, str], input: str | None, timeout_s: float
    ) -> Ended:
        """Runs a Python program, such as the client's command line."""
        return self._call({"argv": list(argv)}, environ, input, timeout_s)

    def code(self, code: str, environ: Mapping[str, str], timeout_s: float) -> Ended:
        """As `python -c` does."""
        return self._call({"code": code}, environ, None, timeout_s)

    def _call(
        self, asked: dict[str, object], environ: Mapping[str, str], input: str | None, timeout_s: float
    ) -> Ended:
        control = self._at(environ)
        asked = {**asked, "environ": dict(environ), "cwd": environ["HOME"]}
        streams = [os.pipe() for _ in ("stdout", "stderr", "told")]
        stdin = _input(input)
        try:
            socket.send_fds(control, [json.dumps(asked).encode()], [stdin, *(write for _, write in streams)])
        finally:
            for descriptor in (stdin, *(write for _, write in streams)):
                os.close(descriptor)
        stdout, stderr, told = _read([read for read, _ in streams], timeout_s)
        lines = told.split()
        late = ""
        if len(lines) < 2:
            late = (
                f"\n(still running after {timeout_s:.0f} s)" if lines else "\n(the preloaded client is gone)"
            )
            for pid in lines:
                os.killpg(int(pid), signal.SIGKILL)
        return Ended(LATE if late else int(lines[1]), stdout, stderr + late)

    def _at(self, environ: Mapping[str, str]) -> socket.socket:
        """The process that has imported the client for this home folder."""
        home = environ["HOME"]
        if home not in self._homes:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                asked = json.dumps({"home": dict(environ)}).encode()
                socket.send_fds(self._control, [asked], [theirs.fileno()])
            self._homes[home] = ours
        return self._homes[home]


def _input(text: str | None) -> int:
    """A descriptor to read the text from, as from a pipe; without a text, nothing."""
    if text is None:
        return os.open(os.devnull, os.O_RDONLY)
    data = text.encode()
    assert len(data) <= PIPE_BYTES, "more input than a pipe holds"
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    return read


def _read(descriptors: list[int], timeout_s: float) -> list[str]:
    """What each descriptor gave until its end or the deadline; closes them."""
    deadline = time.monotonic() + timeout_s
    texts = {descriptor: bytearray() for descriptor in descriptors}
    with selectors.DefaultSelector() as ready:
        for descriptor in descriptors:
            ready.register(descriptor, selectors.EVENT_READ)
        while ready.get_map() and (left_s := deadline - time.monotonic()) > 0:
            for key, _ in ready.select(left_s):
                if chunk := os.read(key.fd, PIPE_BYTES):
                    texts[key.fd] += chunk
                else:
                    ready.unregister(key.fd)
    for descriptor in descriptors:
        os.close(descriptor)
    return [_lines(text.decode(errors="replace")) for text in texts.values()]


def _lines(text: str) -> str:
    """Ended as a program that reads text sees them."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
