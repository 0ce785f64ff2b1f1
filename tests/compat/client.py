"""A published client, driven as its users drive it: its command line, its SDK in its own Python, or its JavaScript."""

import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .starter import LATE, Ended, Starter
from .staying import Staying

SHOWN = 4000
"""How many characters of a call's output a failing test shows: the end, where the error is."""


@dataclass(frozen=True)
class Result:
    """What one call of a client gave."""

    command: str
    exit: int
    stdout: str
    stderr: str

    def ok(self) -> "Result":
        """This result, when the client says that all went well."""
        assert self.exit == 0, self
        return self

    def failed(self, code: int = 1) -> "Result":
        """This result, when the client says so by its exit code, and not because it crashed."""
        assert self.exit == code and "Traceback" not in self.stderr, self
        return self

    @property
    def text(self) -> str:
        """Both streams: the clients write what they tell people to standard error or output, by version."""
        return self.stdout + self.stderr

    def json(self) -> Any:
        """The document that the client printed, when it printed nothing else."""
        try:
            return json.loads(self.stdout)
        except ValueError:
            raise AssertionError(f"standard output is no JSON\n{self}") from None

    def __str__(self) -> str:
        streams = f"--- stdout\n{self.stdout[-SHOWN:]}\n--- stderr\n{self.stderr[-SHOWN:]}"
        return f"$ {self.command}\nexit code {self.exit}\n{streams}"

    __repr__ = __str__


CALLS: list[Result] = []
"""The calls of the running test, for the report of its failure."""


@dataclass
class Client:
    """One client acting for one account, in a home folder of its own: the clients keep cookies, logs and announcements there."""

    version: str
    command: Sequence[str]
    home: Path
    env: Mapping[str, str] = field(repr=False)
    starter: Starter | None = field(default=None, repr=False)
    """Starts the command quickly; without one it is started as it is."""
    timeout_s: float = 45

    def cli(
        self, *args: str, input: str | None = None, env: Mapping[str, str] | None = None, timeout_s: float = 0
    ) -> Result:
        """Runs the command line. Without `input` it reads an empty file and never waits for a person."""
        command = [*self.command, *args]
        environ = self._environ(env or {})
        timeout_s = timeout_s or self.timeout_s
        start = self.starter.command if self.starter else _run
        ended = start(command, environ, input, timeout_s)
        return _noted(f"{Path(self.command[0]).name} {shlex.join(args)}", ended)

    def json(self, *args: str) -> Any:
        """What a command prints with `--output json`, when it succeeds."""
        return self.cli("--output", "json", *args).ok().json()

    def items(self, *args: str) -> list[dict[str, Any]]:
        """The items of a listing, which must count itself rightly."""
        told = self.json(*args)
        assert told["count"] == len(told["items"]), told
        return list(told["items"])

    def sdk(self, script: str, **values: Any) -> Any:
        """Runs a snippet in the client's own Python with `values` as its names; the snippet calls `give` with its answer."""
        assert self.starter, "a client without a Python"
        head = f"import json\nglobals().update(json.loads({json.dumps(values)!r}))\n"
        give = "def give(answer): print('\\n' + json.dumps(answer, default=str))\n"
        ended = self.starter.code(head + give + script, self._environ({}), self.timeout_s)
        done = _noted(f"{script}# with {values}", ended).ok()
        return json.loads(done.stdout.strip().rsplit("\n", 1)[-1])

    def stay(self, *args: str) -> Staying:
        """Starts a command that stays."""
        return Staying([*self.command, *args], self._environ({}))

    def _environ(self, env: Mapping[str, str]) -> dict[str, str]:
        return {**machine_environ(), "HOME": str(self.home), **self.env, **env}


def machine_environ() -> dict[str, str]:
    """The machine's environment without what would steer a client: another cluster, another state folder, a colour."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BACKEND_", "SORNA_", "XDG_", "PYTHON"))
    }
    # 23.09 warns of newer servers on standard output, before its JSON.
    return {**kept, "PYTHONWARNINGS": "ignore", "COLUMNS": "200"}


def _noted(command: str, ended: Ended) -> Result:
    result = Result(command, ended.exit, ended.stdout, ended.stderr)
    CALLS.append(result)
    return result


def _run(command: Sequence[str], environ: Mapping[str, str], input: str | None, timeout_s: float) -> Ended:
    try:
        done = subprocess.run(
            command,
            env=environ,
            cwd=environ["HOME"],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            start_new_session=True,  # else a password is asked for at the terminal of whoever runs the tests
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        still = f"\n(still running after {late.timeout:.0f} s)"
        return Ended(LATE, _text(late.stdout), _text(late.stderr) + still)
    return Ended(done.returncode, done.stdout, done.stderr)


def _text(stream: bytes | str | None) -> str:
    return stream.decode(errors="replace") if isinstance(stream, bytes) else stream or ""
