"""`up`, `down`, `status`: a cluster on this machine, in a process of its own.

The process is always started the same way, detached, with a pipe on which it says one JSON line when it is ready or why it can't be.
In the foreground this command then only waits for it and passes the wish to stop on; so the log and the way down are the same too.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ai.backend.common.errors import BackendError, ConfigError, Conflict, Fault

from .command import EXIT_FAILURE, EXIT_TIMEOUT, State, command, home_of, home_option
from .display import Progress, print_fields, print_json, progress, remark
from .home import Home, Running, is_locked, running

DEFAULT_LISTEN = ("127.0.0.1", 8090)
LOG_BYTES_MAX = 10 << 20
STOP_WAIT_S = 60


class ClusterFailed(BackendError):
    """The cluster's process could not start."""

    code = "cluster.start-failed"


class AlreadyRunning(Conflict):
    code = "cluster.already-running"
    fault = Fault.USER


class Listen(click.ParamType["tuple[str, int]"]):
    """`HOST:PORT`; port 0 is any free one."""

    name = "HOST:PORT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            self.fail(f"{value!r} is not of the form HOST:PORT", param, ctx)
        return host.strip("[]"), int(port)


class MockGpus(click.ParamType["dict[str, Any]"]):
    """`N[:MODEL[:MEMORY]]`: options of the mock accelerator."""

    name = "N[:MODEL[:MEMORY]]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        count, *rest = str(value).split(":")
        if not count.isdigit() or len(rest) > 2 or not all(rest):
            self.fail(f"{value!r} is not of the form N[:MODEL[:MEMORY]], as in 4:A100:40g", param, ctx)
        return {"count": int(count), **dict(zip(("model", "memory"), rest, strict=False))}


def cluster_options(function: Any) -> Any:
    """The options of all commands that start a cluster."""
    for option in reversed(
        (
            home_option,
            click.option(
                "--listen", type=Listen(), help="[default: 127.0.0.1:8090, or a free port when it is taken]"
            ),
            click.option(
                "--backend",
                type=click.Choice(["auto", "docker", "sandbox"]),
                default="auto",
                show_default=True,
                help="What containers are made with; auto: docker when an engine answers.",
            ),
            click.option(
                "--docker-host", help="The engine's address. [default: $DOCKER_HOST, else the local one]"
            ),
            click.option(
                "--mock-gpus",
                type=MockGpus(),
                help="Pretend that there are N GPUs, to try out how they are given: 4, 4:A100 or 4:A100:40g.",
            ),
            click.option(
                "--fractional", is_flag=True, help="Give shares of the pretended GPUs, not whole ones."
            ),
        )
    ):
        function = option(function)
    return function


def choose_listen(given: tuple[str, int] | None) -> tuple[str, int]:
    """As given; else the default address, with a free port when somebody has its port."""
    if given is not None:
        return given
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(DEFAULT_LISTEN)
        except OSError:
            remark(f"Port {DEFAULT_LISTEN[1]} is taken by another program; taking a free one.")
            return DEFAULT_LISTEN[0], 0
    return DEFAULT_LISTEN


def check_free(home: Home) -> None:
    """Raises AlreadyRunning."""
    if (found := running(home)) is not None:
        raise AlreadyRunning(
            f"a cluster runs on {home.path} already, at {found.endpoint} (process {found.pid})",
            hint="Use it as it is, or stop it first with 'backend.ai down', or give another --home.",
        )
    if is_locked(home):
        raise AlreadyRunning(
            f"a cluster on {home.path} is just starting or stopping",
            hint="Look again in a moment with 'backend.ai status'.",
        )


def start(
    home: Home,
    *,
    listen: tuple[str, int],
    backend: str,
    docker_host: str | None,
    mock_gpus: dict[str, Any] | None = None,
    fractional: bool = False,
) -> "tuple[subprocess.Popen[bytes], dict[str, Any]]":
    """Starts the cluster's process and waits until it is ready; returns it and what it told. Raises ClusterFailed."""
    if fractional and not mock_gpus:
        raise click.UsageError("--fractional says how --mock-gpus are given, and there are none")
    _rotate(home.log_file)
    ready, told = os.pipe()
    command_line = [
        sys.executable, "-P", "-m", "ai.backend.cli.embedded", "--home", str(home.path),
        "--listen", f"{listen[0]}:{listen[1]}", "--backend", backend, "--ready-fd", str(told),
    ]  # fmt: skip
    if docker_host:
        command_line += ["--docker-host", docker_host]
    if mock_gpus:
        command_line += ["--mock-gpus", json.dumps({**mock_gpus, "fractional": fractional})]
    with home.log_file.open("ab") as log:
        log_from = log.tell()
        process = subprocess.Popen(
            command_line,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[told],
            start_new_session=True,
            cwd=home.path,
        )
    os.close(told)
    try:
        with progress("Starting the cluster") as shown, os.fdopen(ready, "rb") as pipe:
            line = _await_line(pipe, home.log_file, log_from, shown)
    except BaseException:
        process.terminate()
        raise
    return process, _understood(line, process, home, log_from)


def _await_line(pipe: Any, log: Path, log_from: int, shown: Progress) -> bytes:
    """The first line on the pipe, or nothing when the process ended. Meanwhile tells what the log tells."""
    seen = ""
    while not select.select([pipe], [], [], 0.5)[0]:
        if (newest := _newest_event(log, log_from)) and newest != seen:
            seen = newest
            shown.step(f"Starting the cluster: {newest}")
    line: bytes = pipe.readline()
    return line


def _newest_event(log: Path, log_from: int) -> str:
    """The last thing the log says, in a few words."""
    lines = _tail(log, log_from, 1)
    try:
        record = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return ""
    words = [record.get("event"), record.get("stage") or record.get("message") or record.get("step")]
    return " ".join(str(word) for word in words if word)[:100]


def _tail(log: Path, log_from: int, count: int) -> list[str]:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(log_from, file.seek(0, os.SEEK_END) - 16384))
        return file.read().decode("utf-8", "replace").splitlines()[-count:]
    return []


def _understood(line: bytes, process: "subprocess.Popen[bytes]", home: Home, log_from: int) -> dict[str, Any]:
    if not line:
        code = process.wait()
        last = "\n".join(f"  | {text[:200]}" for text in _tail(home.log_file, log_from, 6))
        raise ClusterFailed(
            f"the cluster's process ended with {code} before it was ready\n{last}".rstrip(),
            hint=f"Its log is {home.log_file}.",
        )
    told: dict[str, Any] = json.loads(line)
    if "error" in told:
        process.wait()
        raise ClusterFailed(told["error"], hint=told.get("hint") or f"Its log is {home.log_file}.")
    return told


def _rotate(log: Path) -> None:
    try:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        log.parent.parent.chmod(0o700)
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.rename(log.with_suffix(".log.1"))
    except OSError as exc:
        raise ConfigError(
            f"{exc.filename} can't be used: {exc.strerror}", hint="Give another folder with --home."
        ) from exc


@command("up")
@cluster_options
@click.option("--detach", is_flag=True, help="Return when it is ready, and leave it running.")
@click.option("--json", "as_json", is_flag=True, help="The same as --output json.")
@click.pass_obj
def up(
    state: State,
    home: str | None,
    listen: tuple[str, int] | None,
    backend: str,
    docker_host: str | None,
    mock_gpus: dict[str, Any] | None,
    fractional: bool,
    detach: bool,
    as_json: bool,
) -> int:
    """Start a cluster on this machine.

    Stays in the foreground until Ctrl-C, which ends its sessions and stops it; with --detach it runs on by itself.
    """
    state.json = state.json or as_json
    place = Home(home_of(home))
    check_free(place)
    began = time.monotonic()
    process, told = start(
        place,
        listen=choose_listen(listen),
        backend=backend,
        docker_host=docker_host,
        mock_gpus=mock_gpus,
        fractional=fractional,
    )
    told["seconds"] = round(time.monotonic() - began, 3)
    if state.json:
        print_json(told)
    else:
        summarize(place, told)
    if detach:
        return 0
    return _stay(process)


def summarize(home: Home, told: dict[str, Any]) -> None:
    click.echo(
        f"The cluster is up at {told['endpoint']} ({told['backend']} backend, {told['seconds']:.1f} s)."
    )
    print_fields(
        [
            ("  keys", f". {home.env_file}"),
            ("  log", home.log_file),
            ("  try", "backend.ai run python -c 'print(6*7)'"),
            ("  stop", "backend.ai down"),
        ]
    )


def _stay(process: "subprocess.Popen[bytes]") -> int:
    """Until the cluster ends, by itself or because we are told to stop."""

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        remark("Press Ctrl-C to stop it.")  # from here on it is so
        code = process.wait()
        remark(f"Error: the cluster ended by itself, with {code}.")
        return EXIT_FAILURE
    except KeyboardInterrupt:
        process.terminate()
    with progress("Stopping the cluster and its sessions"):
        process.wait()
    click.echo("The cluster has stopped; its sessions were ended.")
    return 0


@contextlib.contextmanager
def _process_of(found: Running) -> Iterator[int | None]:
    """A handle of the process that can't come to mean another one; None when it is gone."""
    try:
        handle = os.pidfd_open(found.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


@command("down")
@home_option
@click.option("--leave-sessions", is_flag=True, help="Sessions go on; the next 'up' takes them over.")
@click.option("--kill", is_flag=True, help="Kill the cluster's process at once. Sessions go on.")
@click.option(
    "--timeout", type=click.IntRange(1), default=STOP_WAIT_S, show_default=True, help="Seconds to wait."
)
@click.pass_obj
def down(state: State, home: str | None, leave_sessions: bool, kill: bool, timeout: int) -> int:
    """Stop the cluster and end its sessions. Its data stays."""
    place = Home(home_of(home))
    found = running(place)
    if found is None:
        if is_locked(place):
            check_free(place)
        _told_down(state, f"No cluster runs on {place.path}.", stopped=False)
        return 0
    if leave_sessions:
        place.leave_file.touch(mode=0o600)
    with _process_of(found) as handle:
        if handle is not None and running(place) is not None:
            signal.pidfd_send_signal(handle, signal.SIGKILL if kill else signal.SIGTERM)
            with progress("Stopping the cluster" + ("" if kill or leave_sessions else " and its sessions")):
                ended = bool(select.select([handle], [], [], timeout)[0])
            if not ended:
                remark(
                    f"Error: the cluster (process {found.pid}) still stops after {timeout} s\n"
                    f"  do:    Look into {place.log_file}, wait, or use --kill."
                )
                return EXIT_TIMEOUT
    left = (
        "Sessions go on; the next 'backend.ai up' takes them over."
        if kill or leave_sessions
        else "Its sessions were ended."
    )
    _told_down(state, f"The cluster has stopped. {left} Data stays in {place.path}.", stopped=True)
    return 0


def _told_down(state: State, message: str, *, stopped: bool) -> None:
    if state.json:
        print_json({"ok": True, "stopped": stopped, "msg": message})
    else:
        click.echo(message)


@command("status")
@home_option
@click.pass_obj
def status(state: State, home: str | None) -> int:
    """Say whether the cluster runs, and where. The exit code is 0 when it does, else 1."""
    place = Home(home_of(home))
    found = running(place)
    told: dict[str, Any] = {"running": found is not None, "home": str(place.path)}
    if found is not None:
        told |= {
            "endpoint": found.endpoint,
            "pid": found.pid,
            "backend": found.backend,
            "version": found.version,
        }
        told |= _health(found.endpoint)
    elif is_locked(place):
        told["note"] = "it is just starting or stopping"
    if state.json:
        print_json(told)
    elif found is None:
        click.echo(f"No cluster runs on {place.path}{': ' + told['note'] if 'note' in told else ''}.")
        remark("Start one with 'backend.ai up'.")
    else:
        print_fields(list(told.items()))
    return 0 if found is not None else EXIT_FAILURE


def _health(endpoint: str) -> dict[str, Any]:
    """How it answers."""
    import asyncio

    from ai.backend.client.client import AsyncClient
    from ai.backend.client.config import ClientConfig
    from ai.backend.client.error import ClientError

    async def ask() -> dict[str, Any]:
        began = time.monotonic()
        async with AsyncClient(ClientConfig(endpoint=endpoint, read_timeout_s=5.0)) as api:
            health = await api.health()
        took_ms = (time.monotonic() - began) * 1000
        return {"health": health.status, "agents": health.agents, "answered_in_ms": round(took_ms, 1)}

    try:
        return asyncio.run(ask())
    except ClientError as exc:
        return {"health": f"does not answer: {exc.message}"}
