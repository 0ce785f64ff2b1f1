"""A real runner as a child process, driven over a real ZeroMQ socket, outside any container."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from ai.backend.kernel import protocol
from ai.backend.kernel.protocol import (
    Finished,
    FromRunner,
    Ready,
    Run,
    Shutdown,
    Stderr,
    Stdout,
    ToRunner,
    WaitingInput,
)

LAUNCHER = Path(protocol.__file__).parent / "launch.py"
INTERPRETER = getattr(sys, "_base_executable", sys.executable)
TIMEOUT_MS = 15_000


class Agent:
    """The agent's end. `expect` returns the records up to and including the first of a type."""

    def __init__(self, folder: Path, *arguments: str, ready: bool = True) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(exist_ok=True)
        self.address = f"ipc://{folder}/runner.sock"
        self.context = zmq.Context()
        self.socket = self.bind()
        self.log = (folder / "container.log").open("ab")
        options = (
            "--socket",
            f"{folder}/runner.sock",
            "--home",
            str(self.home),
            "--environ",
            f"{folder}/environ.txt",
        )
        self.process = subprocess.Popen(
            [INTERPRETER, "-I", "-S", str(LAUNCHER), *options, *arguments], stdout=self.log, stderr=self.log
        )
        self.ready: Any = self.receive() if ready else None

    def bind(self, hwm: int = 1000) -> "zmq.Socket[bytes]":
        socket = self.context.socket(zmq.DEALER)
        socket.set_hwm(hwm)
        socket.linger = 0
        socket.bind(self.address)
        return socket

    def send(self, message: ToRunner) -> None:
        self.socket.send_multipart(protocol.encode(message))

    def receive(self) -> FromRunner:
        assert self.socket.poll(TIMEOUT_MS), f"the runner is silent: {self.container_log()[-2000:]}"
        return protocol.decode(self.socket.recv_multipart())  # type: ignore[return-value]

    def expect(self, *kinds: type) -> list[Any]:
        records: list[Any] = []
        while not records or not isinstance(records[-1], kinds):
            records.append(self.receive())
        return records

    def run(self, code: str, run_id: str = "r1") -> list[Any]:
        self.send(Run(run_id, "query", code, "", "", ""))
        return self.expect(Finished, WaitingInput)

    def batch(self, clean: str = "", build: str = "", exec: str = "", run_id: str = "b1") -> list[Any]:
        self.send(Run(run_id, "batch", "", clean, build, exec))
        return self.expect(Finished, WaitingInput)

    @staticmethod
    def out(records: list[Any]) -> str:
        return "".join(record.text for record in records if isinstance(record, Stdout))

    @staticmethod
    def err(records: list[Any]) -> str:
        return "".join(record.text for record in records if isinstance(record, Stderr))

    def container_log(self) -> str:
        return (self.folder / "container.log").read_text(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.send(Shutdown("test over"))
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
        self.socket.close()
        self.context.term()
        self.log.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def factory(*arguments: str, ready: bool = True) -> Agent:
        folder = tmp_path / str(len(agents))
        folder.mkdir()
        agents.append(Agent(folder, *arguments, ready=ready))
        return agents[-1]

    yield factory
    for agent in agents:
        agent.close()


@pytest.fixture
def agent(start: Callable[..., Agent]) -> Agent:
    """A runner for Python in the interpreter of its own."""
    agent = start()
    assert isinstance(agent.ready, Ready)
    return agent
