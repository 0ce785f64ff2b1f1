"""The runners inside simulated containers, and the links between them and agents.

A runner lives as long as its container; links come and go with agents. What a runner says while no link is there waits, as in the real
one's socket. It says that it is ready some time after its start, answers greetings, and runs any code by printing a line. Of a batch step
it understands "sleep SECONDS" and "exit CODE", separated by ";". What it was told to run at most once it runs once (`Runners.ran` tells).
"""

import asyncio
from collections.abc import Callable
from random import Random
from uuid import UUID

from ai.backend.kernel import protocol as p
from ai.backend.testkit.fake_container import FakeContainer, FakeWorld

OnMessage = Callable[[list[bytes]], None]
BOOT_S = (0.01, 0.5)
RUNTIME = "python 3.11"


class Link:
    """A `RunnerLink`."""

    def __init__(self, runners: "Runners", name: str, on_message: OnMessage) -> None:
        self._runners = runners
        self._name = name
        self._on_message = on_message
        self._unsent: list[list[bytes]] = []
        self._open = True

    def send(self, frames: list[bytes]) -> None:
        runner = self._runners.alive.get(self._name)
        if runner is None:
            self._unsent.append(frames)
        elif self._open:
            asyncio.get_running_loop().call_soon(runner.take, frames)

    def started(self) -> None:
        """The runner has connected."""
        for frames in self._unsent:
            self.send(frames)
        self._unsent.clear()

    def deliver(self, frames: list[bytes]) -> None:
        if self._open:
            self._on_message(frames)

    @property
    def is_open(self) -> bool:
        return self._open

    def pause(self) -> None:
        """Nothing here ever says so much."""

    def resume(self) -> None:
        """See `pause`."""

    def close(self) -> None:
        self._open = False


class SimRunner:
    def __init__(self, runners: "Runners", name: str, incarnation: str) -> None:
        self._runners = runners
        self._name = name
        self._incarnation = incarnation
        self._ready = False
        self._unheard: list[list[bytes]] = []
        self._once: dict[str, int | None] = {}
        """Ends of runs that are run at most once; None: it goes on."""

    def boot(self) -> None:
        self._ready = True
        self.say(p.Ready(p.PROTOCOL_VERSION, RUNTIME))

    def say(self, message: p.Message) -> None:
        if self._runners.alive.get(self._name) is self:
            self._unheard.append(p.encode(message))
            self.flush()

    def flush(self) -> None:
        """Sends what waits, if somebody listens."""
        link = self._runners.links.get(self._name)
        while link is not None and link.is_open and self._unheard:
            asyncio.get_running_loop().call_soon(link.deliver, self._unheard.pop(0))

    def take(self, frames: list[bytes]) -> None:
        match p.decode(frames):
            case p.Status(request_id=request_id):
                self.say(
                    p.StatusReply(request_id=request_id, run_id="", runtime=RUNTIME if self._ready else "")
                )
            case p.Run(run_id=run_id) as run if run_id.startswith(p.ONCE):
                self._run_once(run)
            case p.Run(run_id=run_id):
                self.say(p.Stdout(run_id, "done\n"))
                self.say(p.Finished(run_id, 0))
            case _:
                return

    def _run_once(self, run: p.Run) -> None:
        if run.run_id in self._once:
            code = self._once[run.run_id]
            if code is not None:
                self.say(p.Finished(run.run_id, code))
            return
        self._once[run.run_id] = None
        self._runners.ran.append((self._name, self._incarnation))
        words = dict(part.split() for part in run.exec.split(";"))
        self.say(p.Stdout(run.run_id, "working\n"))
        asyncio.get_running_loop().call_later(
            float(words.get("sleep", 0)), self._ended, run.run_id, int(words.get("exit", 0))
        )

    def _ended(self, run_id: str, code: int) -> None:
        self._once[run_id] = code
        self.say(p.Finished(run_id, code))


class Runners:
    """All of one node."""

    def __init__(self, engine: FakeWorld, rng: Random) -> None:
        self._rng = rng
        self.alive: dict[str, SimRunner] = {}
        self.ran: list[tuple[str, str]] = []
        """Each beginning of a command: in which container, of which incarnation."""
        self.links: dict[str, Link] = {}
        engine.on_start.append(self._started)
        engine.on_gone.append(self._gone)

    def _started(self, container: FakeContainer) -> None:
        name = container.spec.name
        incarnation = dict(container.spec.labels).get("ai.backend.incarnation", "")
        runner = self.alive[name] = SimRunner(self, name, incarnation)
        asyncio.get_running_loop().call_later(self._rng.uniform(*BOOT_S), runner.boot)
        if (link := self.links.get(name)) is not None:
            link.started()

    def _gone(self, container: FakeContainer) -> None:
        self.alive.pop(container.spec.name, None)

    def link(self, kernel_id: UUID, on_message: OnMessage) -> Link:
        """The agent binds a kernel's socket; an older link hears nothing more."""
        name = str(kernel_id)
        if (before := self.links.get(name)) is not None:
            before.close()
        link = self.links[name] = Link(self, name, on_message)
        if (runner := self.alive.get(name)) is not None:
            asyncio.get_running_loop().call_soon(runner.flush)
        return link
