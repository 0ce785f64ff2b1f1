"""The embedded cluster: manager, gateway and agent in one process and one event loop, on the in-process bus.

Started by `backend.ai up` (as a child when detached). It holds the lock of its home folder for as long as it lives, so that a stale
pid file is never believed. Everything in it is built from the same parts as a large installation; only the adapters differ.
"""

import argparse
import asyncio
import fcntl
import gc
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from ai.backend.agent.config import AgentConfig
from ai.backend.agent.main import build_agent
from ai.backend.common import config as configuration
from ai.backend.common import log
from ai.backend.common.bus import InProcessBus
from ai.backend.common.clock import SystemClock
from ai.backend.common.errors import BackendError, ConfigError, Conflict, Fault
from ai.backend.gateway.limits import GatewayConfig
from ai.backend.gateway.main import bind
from ai.backend.gateway.main import serve as serve_gateway
from ai.backend.manager.assembly import build
from ai.backend.manager.config import ManagerConfig
from ai.backend.manager.db.migration import migrate
from ai.backend.manager.db.opening import open_database
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.secret import FileSecrets

from .home import Home, write_cluster_file, write_env_file


class HomeInUse(Conflict):
    code = "cluster.already-running"
    fault = Fault.USER


class DatabaseConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    url: str = ""
    """Empty: SQLite in the home folder. Else postgresql://user:password@host:port/name."""


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    level: str = "info"


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """HOME/config.toml, all of it optional."""

    manager: ManagerConfig = msgspec.field(default_factory=ManagerConfig)
    gateway: GatewayConfig = msgspec.field(default_factory=GatewayConfig)
    agent: AgentConfig = msgspec.field(default_factory=AgentConfig)
    database: DatabaseConfig = msgspec.field(default_factory=DatabaseConfig)
    log: LogConfig = msgspec.field(default_factory=LogConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    home: Home
    listen: tuple[str, int]
    backend: str
    docker_host: str | None
    mock_gpus: dict[str, Any] | None
    """Options of the mock accelerator."""
    end_sessions: Callable[[], bool]
    """Asked at a clean shutdown: whether sessions are ended, or left for the next start to adopt."""


def lock_home(home: Home) -> IO[str]:
    """The open lock file; the lock is held until the process ends. Raises HomeInUse."""
    home.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = home.lock_file.open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        handle.close()
        raise HomeInUse(
            f"a cluster runs on {home.path} already", hint=f"See 'backend.ai status --home {home.path}'."
        ) from exc
    return handle


async def serve(options: Options, *, on_ready: Callable[[dict[str, Any]], None]) -> None:
    """Runs a cluster until SIGTERM or SIGINT. `on_ready` is told endpoint, pid, backend and seconds once it accepts requests."""
    began = time.monotonic()
    home = options.home
    settings = configuration.load(
        ClusterConfig,
        home.config_file if home.config_file.exists() else None,
        environ=os.environ,
        overrides={
            "agent.backend": options.backend,
            "agent.docker-host": options.docker_host,
            "agent.accelerators.mock": options.mock_gpus,
        },
    )
    log.configure(settings.log.level)
    clock, rng = SystemClock(), secrets.SystemRandom()
    listener = _listen(*options.listen)
    host = options.listen[0]
    endpoint = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    bus = InProcessBus()
    database = await open_database(settings.database.url or f"sqlite:///{home.database_file}", rng=rng)
    try:
        await migrate(database)
        identity = IdentityService(database, FileSecrets(home.secret_file, rng), clock=clock, rng=rng)
        seeded = await identity.seed(rng, clock.now())
        write_env_file(home, endpoint, seeded)
        config = settings.manager
        if config.callback_loopback is None:  # here "this machine" is the user's own
            config = msgspec.structs.replace(config, callback_loopback=True)
        manager = build(config=config, clock=clock, rng=rng, database=database, bus=bus, identity=identity)
        agent = await build_agent(settings.agent, home=home.path, clock=clock, rng=rng, bus=bus)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        ready = asyncio.Event(), asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(manager.run(ready=ready[0])),
                group.create_task(agent.run(ready=ready[1])),
                group.create_task(serve_gateway(manager, listener, ready=ready[2], config=settings.gateway)),
            ]
            for event in ready:
                await event.wait()
            told = {
                "endpoint": endpoint,
                "pid": os.getpid(),
                "backend": agent.backend.kind,
                "home": str(home.path),
                "seconds": round(time.monotonic() - began, 3),
            }
            write_cluster_file(home, told)
            # What is loaded by now stays: keep the collector from looking through all of it again and again, in mid-request.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 20, 20)
            on_ready(told)
            await stop.wait()
            if options.end_sessions():
                await manager.sessions.end_all("cluster-down")
            for task in reversed(running):
                task.cancel()
    finally:
        home.cluster_file.unlink(missing_ok=True)
        await database.close()
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return bind(host, port)
    except OSError as exc:
        raise ConfigError(
            f"can't listen on {host}:{port}: {exc.strerror}",
            hint="Choose another with --listen HOST:PORT (port 0: any free one).",
        ) from exc


def main() -> None:
    """The child of a detached `up`: tells its parent one JSON line on --ready-fd, then serves."""
    parser = argparse.ArgumentParser(prog="backend.ai-embedded")
    parser.add_argument("--home", required=True, type=Path)
    parser.add_argument("--listen", required=True, help="HOST:PORT")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--docker-host")
    parser.add_argument("--mock-gpus", type=json.loads)
    parser.add_argument("--ready-fd", type=int)
    given = parser.parse_args()
    host, _, port = given.listen.rpartition(":")
    home = Home(given.home)

    def tell(message: dict[str, Any]) -> None:
        if given.ready_fd is not None:
            with os.fdopen(given.ready_fd, "w") as pipe:
                pipe.write(json.dumps(message) + "\n")

    options = Options(
        home=home,
        listen=(host.strip("[]"), int(port)),
        backend=given.backend,
        docker_host=given.docker_host,
        mock_gpus=given.mock_gpus,
        end_sessions=lambda: not home.leave_file.exists(),
    )
    try:
        with lock_home(home):
            home.leave_file.unlink(missing_ok=True)
            run(options, on_ready=tell)
    except BackendError as exc:
        tell({"error": exc.message, "code": exc.code, "hint": exc.hint})
        sys.exit(1)


def run(options: Options, *, on_ready: Callable[[dict[str, Any]], None]) -> None:
    """`serve` in a fresh uvloop event loop; a single BackendError comes out of its task group as itself."""
    import uvloop

    # The event loop and the database's threads take turns often and briefly: with the default of 5 ms each turn costs a session's
    # start a good part of its time.
    sys.setswitchinterval(0.0005)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(options, on_ready=on_ready))
    except BaseExceptionGroup as group:
        known = group.subgroup(BackendError)
        if known is None:
            raise
        first: BaseException = known
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from group


if __name__ == "__main__":
    main()
