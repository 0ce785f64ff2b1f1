"""The invariants, checked after every commit and every change of a container, and at the end of a run.

Plain values in, violations out: nothing here knows the manager's or the agent's code, so a bug there can't hide itself here. What must
hold at every moment is checked at every moment. What must hold "soon" is timed from when it began to be untrue, or from when the last
fault ended, whichever is later: while something is broken on purpose, nobody can be asked to be quick.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

TERMINAL = frozenset({"TERMINATED", "CANCELLED"})
WAITING = "PENDING"
RUNNING = "RUNNING"
ENDING = frozenset({"TERMINATING", "TERMINATED", "ERROR"})
CAUSES = frozenset(
    {
        "user-requested",
        "force-terminated",
        "out-of-memory",
        "self-terminated",
        "container-not-found",
        "cluster-down",
        "task-finished",
        "task-timeout",
        "preempted",
    }
)
"""Why a session that runs may end: its owner, its own program, its node, or another session. Never a crash of ours."""
RESULTS = frozenset({"success", "failure"})


WHOLE = 1000
"""Of a device, in milli."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    id: str
    name: str
    access_key: str
    status: str
    version: int
    has_deadline: bool
    reason: str
    result: str = "undefined"
    single_node: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRow:
    id: str
    session_id: str
    status: str
    agent_id: str | None
    slots: Mapping[str, int]
    devices: Mapping[str, int] = field(default_factory=dict)
    """In milli, by id."""
    attempt: int = 0
    """Of its session; those that are over have numbers."""

    @property
    def occupies(self) -> bool:
        return self.status not in TERMINAL and self.status != WAITING


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What one committed transaction left in the database. Capacities are those of the agents' own rows."""

    sessions: tuple[SessionRow, ...]
    kernels: tuple[KernelRow, ...]
    capacities: Mapping[str, Mapping[str, int]]
    dependencies: tuple[tuple[str, str], ...] = ()
    """Pairs: this session starts only after the success of that one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFact:
    """A container on a node whose process runs."""

    agent_id: str
    name: str
    kernel_id: str
    uid: int
    memory_bytes: int
    cpu_milli: int
    devices: Mapping[str, int] = field(default_factory=dict)
    """In milli, by id, as the container itself says."""
    network: str = ""
    """The network that it was started in, if any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFact:
    """A network on a node; it is named after its session."""

    agent_id: str
    session_id: str


@dataclass(slots=True)
class Checkers:
    """Feed it with `rows_changed`, `containers_changed` and `networks_changed`; read `violations` at any time, `finish` at the end.

    `patience_s` is how long a wrong that must heal may last after the last fault.
    """

    patience_s: float
    faults_end_at_s: float = 0.0
    violations: list[str] = field(default_factory=list)
    checks: int = 0
    _rows: Rows = field(default_factory=lambda: Rows(sessions=(), kernels=(), capacities={}))
    _containers: tuple[ContainerFact, ...] = ()
    _networks: tuple[NetworkFact, ...] = ()
    _seen: dict[str, SessionRow] = field(default_factory=dict)
    _wrong_since: dict[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> Rows:
        return self._rows

    @property
    def containers(self) -> tuple[ContainerFact, ...]:
        return self._containers

    def rows_changed(self, now_s: float, rows: Rows) -> None:
        self._rows = rows
        self.checks += 1
        self._add(capacity_violations(rows))
        self._add(name_violations(rows))
        self._add(dependency_violations(rows))
        self._add(gang_violations(rows))
        self._add(attempt_violations(rows))
        self._add(self._history_violations(rows))
        self._heal(now_s)

    def containers_changed(self, now_s: float, containers: Iterable[ContainerFact]) -> None:
        self._containers = tuple(containers)
        self.checks += 1
        self._add(uid_violations(self._containers))
        self._add(device_violations("containers", ((one.agent_id, one.devices) for one in self._containers)))
        self._add(network_violations(self._containers, self._networks))
        self._heal(now_s)

    def networks_changed(self, now_s: float, networks: Iterable[NetworkFact]) -> None:
        self._networks = tuple(networks)
        self.checks += 1
        self._add(network_violations(self._containers, self._networks))
        self._heal(now_s)

    def tick(self, now_s: float) -> None:
        """Time has passed: call at least every few seconds."""
        self._heal(now_s)

    def acknowledged(self, session_id: str) -> None:
        """A user was told that this session exists."""
        if session_id not in self._seen:
            self._add([f"session {short(session_id)} was acknowledged, but no commit holds it"])

    def finish(self, *, all_ended: bool) -> None:
        """After the last fault and the patience: nothing is in between, and with `all_ended` nothing is left at all."""
        for session in self._rows.sessions:
            settled = session.status in TERMINAL or (not all_ended and session.status in (RUNNING, WAITING))
            if not settled:
                self._add([f"session {short(session.id)} is stuck in {session.status} ({session.reason})"])
            elif session.status == WAITING and not session.reason:
                self._add([f"session {short(session.id)} waits without a reason"])
        if all_ended:
            self._add(
                f"container {fact.name} on {fact.agent_id} is left over at the end"
                for fact in self._containers
            )
            self._add(
                f"the network of {short(fact.session_id)} on {fact.agent_id} is left over at the end"
                for fact in self._networks
            )

    def _add(self, found: Iterable[str]) -> None:
        for violation in found:
            if violation not in self.violations:
                self.violations.append(violation)

    def _history_violations(self, rows: Rows) -> list[str]:
        """Sessions never vanish, versions never fall, terminal states are final, and what may be stuck has a deadline."""
        found = []
        now = {session.id: session for session in rows.sessions}
        for session_id, before in self._seen.items():
            after = now.get(session_id)
            if after is None:
                found.append(f"session {short(session_id)} vanished")
                continue
            if after.version < before.version:
                found.append(
                    f"session {short(session_id)} fell from version {before.version} to {after.version}"
                )
            if before.status == RUNNING and after.status in ENDING and after.reason not in CAUSES:
                found.append(f"session {short(session_id)} ran and was ended for {after.reason!r}")
            if before.result in RESULTS and after.result != before.result:
                found.append(f"session {short(session_id)}: {before.result} became {after.result}")
            if before.status in TERMINAL and after.status != before.status:
                found.append(
                    f"session {short(session_id)} left the terminal {before.status} for {after.status}"
                )
        for session in rows.sessions:
            if session.reason == "task-finished" and session.result not in RESULTS:
                found.append(f"session {short(session.id)} finished its task without a result")
            if session.status not in TERMINAL and session.status != RUNNING and not session.has_deadline:
                found.append(f"session {short(session.id)} is {session.status} without a deadline")
        self._seen = now
        return found

    def _heal(self, now_s: float) -> None:
        held = ((one.agent_id or "", one.devices) for one in self._rows.kernels if one.occupies)
        wrongs = {
            *mismatches(self._rows, self._containers),
            *lonely(self._rows, self._networks),
            # An agent that takes another device than was chosen tells it a moment later.
            *device_violations("rows", held),
        }
        for wrong in [known for known in self._wrong_since if known not in wrongs]:
            del self._wrong_since[wrong]
        for wrong in sorted(wrongs):
            since = self._wrong_since.setdefault(wrong, now_s)
            if now_s - max(since, self.faults_end_at_s) > self.patience_s:
                self._add([f"{wrong}, for more than {self.patience_s:g} s"])


def short(identifier: str) -> str:
    return identifier[:8]


def capacity_violations(rows: Rows) -> list[str]:
    """No agent holds more than it has, by rows, in any slot."""
    used: dict[tuple[str, str], int] = {}
    for kernel in rows.kernels:
        if kernel.occupies and kernel.agent_id is not None:
            for slot, amount in kernel.slots.items():
                used[kernel.agent_id, slot] = used.get((kernel.agent_id, slot), 0) + amount
    return [
        f"agent {agent_id} is over capacity: {slot} {amount} of {rows.capacities.get(agent_id, {}).get(slot, 0)}"
        for (agent_id, slot), amount in sorted(used.items())
        if amount > rows.capacities.get(agent_id, {}).get(slot, 0)
    ]


def name_violations(rows: Rows) -> list[str]:
    """One live session for each name and key."""
    live: dict[tuple[str, str], str] = {}
    found = []
    for session in rows.sessions:
        if session.status in TERMINAL:
            continue
        other = live.setdefault((session.access_key, session.name), session.id)
        if other != session.id:
            found.append(f"two live sessions named {session.name}: {short(other)}, {short(session.id)}")
    return found


def dependency_violations(rows: Rows) -> list[str]:
    """Nothing starts before all that it depends on have ended with success."""
    known = {session.id: session for session in rows.sessions}
    found = []
    for session_id, needed_id in rows.dependencies:
        session, needed = known[session_id], known[needed_id]
        ended_well = needed.status in TERMINAL and needed.result == "success"
        if session.status not in (WAITING, "CANCELLED") and not ended_well:
            found.append(
                f"session {short(session_id)} is {session.status}, but {short(needed_id)} is {needed.status} ({needed.result})"
            )
    return found


def gang_violations(rows: Rows) -> list[str]:
    """The kernels of a session are placed all or none, and on one node where that is asked for."""
    places: dict[str, set[str | None]] = {}
    for kernel in rows.kernels:
        if kernel.attempt == 0:
            places.setdefault(kernel.session_id, set()).add(kernel.agent_id)
    found = []
    for session in rows.sessions:
        at = places.get(session.id, set())
        if None in at and len(at) > 1:
            found.append(f"session {short(session.id)} is placed in part")
        elif session.single_node and len(at) > 1:
            found.append(f"session {short(session.id)} of one node is on {len(at)}")
    return found


def attempt_violations(rows: Rows) -> list[str]:
    """No session is tried again before its last attempt is over."""
    return [
        f"session {short(kernel.session_id)} still holds what its attempt {kernel.attempt} got"
        for kernel in rows.kernels
        if kernel.attempt and kernel.status not in TERMINAL
    ]


def device_violations(where: str, held: Iterable[tuple[str, Mapping[str, int]]]) -> list[str]:
    """Of no device more is given than there is."""
    used: dict[tuple[str, str], int] = {}
    for agent_id, devices in held:
        for device, milli in devices.items():
            used[agent_id, device] = used.get((agent_id, device), 0) + milli
    return [
        f"{where} hold {milli} of device {device} on {agent_id}, which has {WHOLE}"
        for (agent_id, device), milli in sorted(used.items())
        if milli > WHOLE
    ]


def uid_violations(containers: Iterable[ContainerFact]) -> list[str]:
    """No two running containers of a node share a user, and none runs a kernel twice."""
    found = []
    by_uid: dict[tuple[str, int], str] = {}
    by_kernel: dict[str, str] = {}
    for fact in containers:
        other = by_uid.setdefault((fact.agent_id, fact.uid), fact.name)
        if other != fact.name:
            found.append(f"containers {other} and {fact.name} on {fact.agent_id} share uid {fact.uid}")
        place = by_kernel.setdefault(fact.kernel_id, f"{fact.agent_id}/{fact.name}")
        if place != f"{fact.agent_id}/{fact.name}":
            found.append(
                f"kernel {short(fact.kernel_id)} runs twice: {place} and {fact.agent_id}/{fact.name}"
            )
    return found


def network_violations(containers: Iterable[ContainerFact], networks: Iterable[NetworkFact]) -> list[str]:
    """No network goes while a container runs in it."""
    there = {(fact.agent_id, fact.session_id) for fact in networks}
    return [
        f"container {fact.name} on {fact.agent_id} runs without its network"
        for fact in containers
        if fact.network and (fact.agent_id, fact.network) not in there
    ]


def lonely(rows: Rows, networks: Iterable[NetworkFact]) -> list[str]:
    """Networks whose session has no kernel on their node. May be so for a while, never for long."""
    used = {(kernel.agent_id, kernel.session_id) for kernel in rows.kernels if kernel.occupies}
    return [
        f"the network of {short(fact.session_id)} on {fact.agent_id} has no kernel that uses it"
        for fact in networks
        if (fact.agent_id, fact.session_id) not in used
    ]


def mismatches(rows: Rows, containers: Iterable[ContainerFact]) -> list[str]:
    """Where rows and containers tell different stories. May be so for a while, never for long."""
    occupying = {kernel.id for kernel in rows.kernels if kernel.occupies}
    running = {kernel.id for kernel in rows.kernels if kernel.status == RUNNING}
    present = set()
    found = []
    for fact in containers:
        present.add(fact.kernel_id)
        if fact.kernel_id not in occupying:
            found.append(f"container {fact.name} on {fact.agent_id} has no row that wants it")
    found.extend(
        f"kernel {short(kernel_id)} is RUNNING without a container" for kernel_id in running - present
    )
    return found
