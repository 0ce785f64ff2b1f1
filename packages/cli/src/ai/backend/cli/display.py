"""What people see: tables, remarks, progress; and JSON for programs. Output goes to stdout, all that is only a remark to stderr."""

import contextlib
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import click

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SHOW_AFTER_S = 1.0
_BACK, _CLEAR = "\r", "\x1b[K"


def print_json(value: Any) -> None:
    """One line; structs as objects with their names on the wire."""
    import msgspec

    click.echo(msgspec.json.encode(value).decode())


def remark(text: str) -> None:
    click.echo(text, err=True)


def width(text: str) -> int:
    """Columns on a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Columns as wide as they need to be. Control characters from elsewhere are made visible: a name must not steer the terminal."""
    if not rows:
        remark(empty)
        return
    cells = [list(head), *([_plain(str(cell)) for cell in row] for row in rows)]
    widths = [max(width(row[i]) for row in cells) for i in range(len(head))]
    for number, row in enumerate(cells):
        line = "  ".join(c + " " * (w - width(c)) for c, w in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line)


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Names and values, one a line; empty values are left out."""
    shown = [(name, _plain(str(value))) for name, value in fields if value not in (None, "", {}, [])]
    widest = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name:<{widest}}  {value}")


def age(iso: str) -> str:
    """How long ago, roughly: "42 s", "3 min", "5 h", "2 d"."""
    from ai.backend.common.clock import SystemClock  # brings asyncio, which --help does not need

    try:
        then = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    seconds = max((SystemClock().now() - then).total_seconds(), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


class Progress:
    """Tells on stderr what is being done once it takes longer than a second: a spinner on a terminal, one plain line elsewhere."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._drawn = False
        self._terminal = sys.stderr.isatty()
        self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)

    def step(self, text: str) -> None:
        """From now on it is this that is being done."""
        self._step = text
        if self._drawn and not self._terminal:
            remark(f"{text} ...")

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        if self._drawn and self._terminal:
            click.echo(_BACK + _CLEAR, nl=False, err=True)

    def _draw(self) -> None:
        if self._ended.wait(_SHOW_AFTER_S):
            return
        self._drawn = True
        if not self._terminal:
            remark(f"{self._step} ...")
            return
        turn = 0
        while not self._ended.is_set():
            frame = _FRAMES[turn % len(_FRAMES)]
            text = f"{_BACK}{frame} {self._step} ... {self.elapsed_s:.0f} s{_CLEAR}"
            click.echo(text, nl=False, err=True)
            turn += 1
            self._ended.wait(0.1)


@contextlib.contextmanager
def progress(step: str) -> Iterator[Progress]:
    shown = Progress(step)
    shown.start()
    try:
        yield shown
    finally:
        shown.stop()
