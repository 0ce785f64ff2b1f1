"""A command that stays, such as `events` and `app`: what it has said so far, and how it ends."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from threading import Thread
from types import TracebackType

DEADLINE_S = 60
"""A broken run's end, not an expectation."""


class Staying:
    """Started as its users start it, not from memory; killed at the end of the block if it is still there."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.said: list[str] = []
        self.process = subprocess.Popen(
            command,
            env={**environ, "PYTHONUNBUFFERED": "1"},
            cwd=environ["HOME"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line)

    def hears(self, word: str) -> str:
        """The first line with that word, waiting for it."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            ended = not self._reader.is_alive()
            for line in list(self.said):
                if word in line:
                    return line
            assert not ended and time.monotonic() < deadline, f"no {word!r} from {self}"
            time.sleep(0.05)

    def ends(self) -> int:
        """Its exit code, waiting for it."""
        return self.process.wait(timeout=DEADLINE_S)

    def __enter__(self) -> "Staying":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stdout:
            self.process.stdout.close()

    def __repr__(self) -> str:
        return f"{self.process.args!r} (exit code {self.process.poll()}):\n{''.join(self.said)}"
