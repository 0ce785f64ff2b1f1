"""A run at the terminal: the program's output goes out as it comes, its questions are answered from standard input, Ctrl-C interrupts it.

Standard input is read only when the program asks, and by a thread that holds no lock of Python's streams, so that leaving never hangs.
"""

import asyncio
import base64
import binascii
import contextlib
import mimetypes
import os
import signal
import sys
import termios
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from ai.backend.client.error import ApiError, ClientError
from ai.backend.client.execution import Finished, InputRequest, Item, Media, Mode, StepEnd, Text
from ai.backend.client.session import AsyncSession, AsyncSessions

from .command import EXIT_FAILURE, EXIT_TIMEOUT
from .display import remark

_KERNEL_GONE, _KILLED = 130, 137


class EndOfInput(ClientError):
    code = "cli.end-of-input"


class Keyboard:
    """Lines of standard input, a terminal or not."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._buffer = b""
        self._pending: asyncio.Future[bytes] | None = None

    async def line(self, request: InputRequest) -> str:
        """The next line without its end. Raises EndOfInput. Breaking it off loses nothing: the next call gets that line."""
        with self._echo_off() if request.is_password else contextlib.nullcontext():
            if self._pending is None:
                loop = asyncio.get_running_loop()
                self._pending = loop.create_future()
                threading.Thread(target=self._read, args=(loop, self._pending), daemon=True).start()
            line = await asyncio.shield(self._pending)
        self._pending = None
        if not line:
            raise EndOfInput(
                "the program asks for input, and standard input is at its end",
                hint="Give it as many lines as it asks for.",
            )
        return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")

    def _read(self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[bytes]") -> None:
        while b"\n" not in self._buffer:
            try:
                chunk = os.read(self._fd, 65536)
            except OSError:
                chunk = b""
            if not chunk:
                break
            self._buffer += chunk
        line, end, self._buffer = self._buffer.partition(b"\n")
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, future, line + end)

    @contextlib.contextmanager
    def _echo_off(self) -> Iterator[None]:
        if not os.isatty(self._fd):
            yield
            return
        before = termios.tcgetattr(self._fd)
        silent = [*before]
        silent[3] &= ~termios.ECHO
        termios.tcsetattr(self._fd, termios.TCSADRAIN, silent)
        try:
            yield
        finally:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, before)
            click.echo(err=True)


def _settle(future: "asyncio.Future[bytes]", line: bytes) -> None:
    if not future.done():
        future.set_result(line)


class Screen:
    """Where items go. With `keep` (JSON output) they are only kept. `errors` is the end of what went to stderr."""

    def __init__(self, *, save_media: Path | None = None, keep: bool = False) -> None:
        self._save_media = save_media
        self._keep = keep
        self._saved = 0
        self.items: list[Item] = []
        self.errors = ""

    def show(self, item: Item) -> None:
        if isinstance(item, Text) and item.kind == "stderr":
            self.errors = (self.errors + item.text)[-4096:]
        if self._keep:
            self.items.append(item)
        elif isinstance(item, Text):
            err = item.kind in ("stderr", "log")
            stream = sys.stderr if err else sys.stdout
            stream.write(item.text)
            stream.flush()
        elif isinstance(item, Media):
            self._media(item)
        elif isinstance(item, StepEnd) and item.exit_code:
            remark(f"The {item.step} step ended with exit code {item.exit_code}.")

    def _media(self, item: Media) -> None:
        if self._save_media is None:
            remark(f"[{item.mime}, {len(item.data)} characters; keep it with --save-media DIR]")
            return
        self._saved += 1
        suffix = mimetypes.guess_extension(item.mime) or ".bin"
        path = self._save_media / f"output-{self._saved}{suffix}"
        self._save_media.mkdir(parents=True, exist_ok=True)
        path.write_bytes(media_bytes(item.data))
        remark(f"[{item.mime} saved as {path}]")


def media_bytes(data: str) -> bytes:
    """The content of a data URI, or of the text itself."""
    head, comma, rest = data.partition(",")
    if not (head.startswith("data:") and comma):
        return data.encode()
    if head.endswith(";base64"):
        try:
            return base64.b64decode(rest, validate=False)
        except binascii.Error:
            return rest.encode()
    return rest.encode()


class Interruption:
    """Ctrl-C: the first interrupts the program, the second leaves."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._task = asyncio.current_task()
        self._sent: asyncio.Task[None] | None = None

    @property
    def happened(self) -> bool:
        return self._sent is not None

    def __enter__(self) -> "Interruption":
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._signal)
        return self

    def __exit__(self, *exc_info: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _signal(self) -> None:
        if self._sent is None:
            remark("Interrupting the program. Press Ctrl-C again to leave.")
            self._sent = asyncio.create_task(self._interrupt())
        elif self._task is not None:
            self._task.cancel()

    async def _interrupt(self) -> None:
        try:
            await self._session.interrupt()
        except ClientError as exc:
            remark(f"It could not be interrupted: {exc.message}")


async def run_at_terminal(
    sessions: AsyncSessions,
    session: AsyncSession,
    code: str,
    *,
    mode: Mode,
    options: Mapping[str, Any] | None,
    screen: Screen,
) -> int:
    """Runs code to its end; returns the exit code. Raises ClientError."""
    keyboard = Keyboard()
    end: Finished | None = None
    with Interruption(session) as interruption:
        try:
            async for item in session.execute(code, mode=mode, options=options, on_input=keyboard.line):
                screen.show(item)
                if isinstance(item, Finished):
                    end = item
        except asyncio.CancelledError:
            if interruption.happened:
                raise KeyboardInterrupt from None
            raise
        except ApiError as exc:
            if not await explain_end(sessions, session, screen, asks=8):
                raise exc
            return EXIT_FAILURE
    assert end is not None, "a run ends with Finished"
    if end.timed_out:
        remark("Error: the program took longer than a run may take, and was ended.")
        return EXIT_TIMEOUT
    if end.exit_code in (_KERNEL_GONE, _KILLED) and not interruption.happened:
        await explain_end(sessions, session, screen, asks=4 if end.exit_code == _KILLED else 1)
    return end.exit_code or 0


async def explain_end(sessions: AsyncSessions, session: AsyncSession, screen: Screen, *, asks: int) -> bool:
    """Says why the session is no more, if it is and nobody said it: a program that was killed can't say so itself.

    The node's report may come a moment after the program's end, so it is asked for a few times.
    """
    for _ in range(asks):
        found = await sessions.find(session.id or session.ref)
        if found is None:
            return False
        if found.status not in ("RUNNING", "RESTARTING"):
            why = found.message or found.reason or found.status
            if why not in screen.errors:
                remark(
                    f"Error: the session ended: {why}" + (f"\n  do:    {found.hint}" if found.hint else "")
                )
            return True
        await asyncio.sleep(0.25)
    return False
