"""Control groups of the sandbox's containers: make, limit, read, kill, remove. Version 1 (a folder per
controller) and version 2.

Which version serves is read from the mount table, never guessed: version 1 when it holds the memory, cpu or
pids controller, else version 2. A controller that cannot be used here (not mounted, not delegated, not ours
to write) is left out and the rest works; `enforced` says what is left. The module deals in names, numbers and
files; it does not know what a container is, and starts nothing. All errors are OSError.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from .model import Limits, Usage

PERIOD_US = 100_000
_MIN_QUOTA_US = 1_000
_REMOVE_ATTEMPTS = 60


class CgroupTree(Protocol):
    """The groups below one parent, one per container name.

    Attributes:
        enforced: the limits that hold here, of "memory", "cpu", "pids", "cpuset".
    """

    enforced: frozenset[str]

    def create(self, name: str, limits: Limits, cpuset: tuple[int, ...] = ()) -> list[Path]:
        """Makes the group and sets its limits; returns the files into which a process writes "0" to enter
        it."""

    def pids(self, name: str) -> list[int]: ...

    def confines(self, name: str, pid: int) -> bool:
        """Whether all limits of the group hold for this process."""

    def usage(self, name: str) -> Usage: ...

    def oom_kills(self, name: str) -> int:
        """Processes of the group that the out-of-memory killer took; 0 when unknown."""

    def watch_oom(self, name: str) -> int | None:
        """A file descriptor that becomes readable when the group hits its memory limit. The caller reads it
        and closes it."""

    async def kill(self, name: str) -> None:
        """SIGKILL to every process of the group until none is left."""

    async def remove(self, name: str) -> None:
        """Erases the (empty) group; does nothing when there is none."""


def detect(
    parent: str, *, mounts: Path = Path("/proc/self/mountinfo"), own: Path = Path("/proc/self/cgroup")
) -> CgroupTree | None:
    """The tree that can be used on this machine, or None.

    `parent` is the folder of our groups: from the root of the hierarchy when it starts with "/", else below
    this process's own group (version 2 with delegation, as under `systemd`'s `Delegate=yes`).
    """
    version1: dict[str, Path] = {}
    version2: Path | None = None
    for line in mounts.read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(fields.split()[4])
        kind, _, options = rest.split()[:3]
        if kind == "cgroup2":
            version2 = point
        elif kind == "cgroup":
            version1 |= dict.fromkeys(options.split(","), point)
    membership = dict(line.split(":", 2)[1:] for line in own.read_text().splitlines())
    if version1.keys() & {"memory", "cpu", "pids"}:
        tree1 = CgroupV1(
            {
                name: _below(point, parent, _own_v1(membership, name))
                for name, point in version1.items()
                if name in CgroupV1.CONTROLLERS
            }
        )
        return tree1 if tree1.enforced else None
    if version2 is not None:
        tree2 = CgroupV2(version2, _below(version2, parent, membership.get("", "/")))
        return tree2 if tree2.enforced else None
    return None


def _own_v1(membership: dict[str, str], controller: str) -> str:
    return next((path for names, path in membership.items() if controller in names.split(",")), "/")


def _below(point: Path, parent: str, own: str) -> Path:
    return point / parent.lstrip("/") if parent.startswith("/") else point / own.lstrip("/") / parent


def _write(path: Path, value: object) -> None:
    # One write call on an existing file: a kernel file takes the value whole or not at all.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text and text.strip().isdigit() else None


def _keyed(path: Path, key: str) -> int | None:
    for line in (_read(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return None


def _pids(path: Path) -> list[int]:
    return [int(word) for word in (_read(path) or "").split()]


def _quota_us(limits: Limits) -> int:
    return max(_MIN_QUOTA_US, limits.cpu_milli * PERIOD_US // 1000)


async def _rmdir(folder: Path) -> None:
    # A group stays busy for a moment after its last process is gone; nothing announces the end of it.
    for attempt in range(_REMOVE_ATTEMPTS):
        try:
            folder.rmdir()  # noqa: ASYNC240
        except FileNotFoundError:
            return
        except OSError as exc:
            if exc.errno != errno.EBUSY or attempt == _REMOVE_ATTEMPTS - 1:
                raise
            await asyncio.sleep(min(0.001 * 2**attempt, 0.05))
        else:
            return


def _signal_all(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class CgroupV1:
    """Version 1: the same group in the folder of every controller."""

    CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "freezer", "cpuset")

    def __init__(self, parents: dict[str, Path]) -> None:
        """`parents` has, by controller, the folder in which the groups are made. It is created here where
        possible."""
        self._parents: dict[str, Path] = {}
        for controller, folder in parents.items():
            try:
                self._prepare(controller, folder)
            except OSError:
                continue
            self._parents[controller] = folder
        self.enforced = frozenset(self._parents) & {"memory", "cpu", "pids", "cpuset"}

    @staticmethod
    def _prepare(controller: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        if controller == "cpuset":
            # A new cpuset is empty and nothing may enter it before it has cores and memory nodes, from the
            # top downwards.
            for level in (*reversed(folder.parents), folder):
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if (_read(level / file) or "x").strip() == "":
                        _write(level / file, (_read(level.parent / file) or "").strip())

    def _folder(self, controller: str, name: str) -> Path:
        return self._parents.get(controller, Path("/nonexistent")) / name

    def create(self, name: str, limits: Limits, cpuset: tuple[int, ...] = ()) -> list[Path]:
        used = [controller for controller in self._parents if controller != "cpuset" or cpuset]
        # cpu and cpuacct are often one mount under two names.
        folders = list(dict.fromkeys(self._folder(controller, name).resolve() for controller in used))
        for folder in folders:
            folder.mkdir(exist_ok=True)
        if "memory" in used:
            memory = self._folder("memory", name)
            _write(memory / "memory.limit_in_bytes", limits.memory_bytes)
            # Memory plus swap; absent where the node counts no swap.
            with contextlib.suppress(FileNotFoundError):
                _write(memory / "memory.memsw.limit_in_bytes", limits.memory_bytes)
        if "cpu" in used:
            _write(self._folder("cpu", name) / "cpu.cfs_period_us", PERIOD_US)
            _write(self._folder("cpu", name) / "cpu.cfs_quota_us", _quota_us(limits))
        if "pids" in used:
            _write(self._folder("pids", name) / "pids.max", limits.pids)
        if "cpuset" in used:
            group = self._folder("cpuset", name)
            _write(group / "cpuset.mems", (_read(group.parent / "cpuset.mems") or "0").strip())
            _write(group / "cpuset.cpus", ",".join(map(str, cpuset)))
        return [folder / "cgroup.procs" for folder in folders]

    def pids(self, name: str) -> list[int]:
        found: dict[int, None] = {}
        for controller in self._parents:
            found |= dict.fromkeys(_pids(self._folder(controller, name) / "cgroup.procs"))
        return list(found)

    def confines(self, name: str, pid: int) -> bool:
        folders = [self._folder(controller, name) for controller in self._parents]
        return all(pid in _pids(folder / "cgroup.procs") for folder in folders if folder.exists())

    def usage(self, name: str) -> Usage:
        memory = self._folder("memory", name)
        used_ns = _number(self._folder("cpuacct", name) / "cpuacct.usage")
        return Usage(
            memory_bytes=_number(memory / "memory.usage_in_bytes"),
            memory_peak_bytes=_number(memory / "memory.max_usage_in_bytes"),
            cpu_used_us=None if used_ns is None else used_ns // 1000,
            pids=_number(self._folder("pids", name) / "pids.current"),
        )

    def oom_kills(self, name: str) -> int:
        return _keyed(self._folder("memory", name) / "memory.oom_control", "oom_kill") or 0

    def watch_oom(self, name: str) -> int | None:
        memory = self._folder("memory", name)
        try:
            control = os.open(memory / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            _write(memory / "cgroup.event_control", f"{event} {control}")
        except OSError:
            os.close(event)
            return None
        finally:
            os.close(control)
        return event

    async def kill(self, name: str) -> None:
        freezer = self._folder("freezer", name) / "freezer.state"
        while pids := self.pids(name):
            # Frozen processes cannot fork faster than they are killed; SIGKILL takes effect as they thaw.
            for state in ("FROZEN", "THAWED"):
                with contextlib.suppress(OSError):
                    _write(freezer, state)
                if state == "FROZEN":
                    _signal_all(self.pids(name) or pids)
            await asyncio.sleep(0.002)

    async def remove(self, name: str) -> None:
        for controller in self._parents:
            await _rmdir(self._folder(controller, name))


class CgroupV2:
    """Version 2: one folder for all controllers. `point` is where it is mounted, `parent` the folder of our
    groups."""

    CONTROLLERS = ("memory", "cpu", "pids", "cpuset")

    def __init__(self, point: Path, parent: Path) -> None:
        self._parent = parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self._enable(point)
        except OSError:
            self.enforced: frozenset[str] = frozenset()
            return
        enabled = (_read(parent / "cgroup.subtree_control") or "").split()
        self.enforced = frozenset(enabled) & frozenset(self.CONTROLLERS)

    def _enable(self, point: Path) -> None:
        """Hands the controllers down, from the mount point to the parent of our groups, as far as they are
        ours to hand."""
        for level in (*reversed(self._parent.parents), self._parent):
            if not level.is_relative_to(point):
                continue
            available = (_read(level / "cgroup.controllers") or "").split()
            enabled = (_read(level / "cgroup.subtree_control") or "").split()
            for controller in self.CONTROLLERS:
                if controller in available and controller not in enabled:
                    self._hand_down(level, controller)

    @staticmethod
    def _hand_down(level: Path, controller: str) -> None:
        try:
            _write(level / "cgroup.subtree_control", f"+{controller}")
        except PermissionError:
            return
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                return
            # A group that hands controllers down may hold no process itself: this one moves to a leaf beside
            # ours.
            leaf = level / "agent"
            leaf.mkdir(exist_ok=True)
            for pid in _pids(level / "cgroup.procs"):
                _write(leaf / "cgroup.procs", pid)
            _write(level / "cgroup.subtree_control", f"+{controller}")

    def create(self, name: str, limits: Limits, cpuset: tuple[int, ...] = ()) -> list[Path]:
        group = self._parent / name
        group.mkdir(exist_ok=True)
        if "memory" in self.enforced:
            _write(group / "memory.max", limits.memory_bytes)
            with contextlib.suppress(FileNotFoundError):
                _write(group / "memory.swap.max", 0)
        if "cpu" in self.enforced:
            _write(group / "cpu.max", f"{_quota_us(limits)} {PERIOD_US}")
        if "pids" in self.enforced:
            _write(group / "pids.max", limits.pids)
        if cpuset and "cpuset" in self.enforced:
            _write(group / "cpuset.cpus", ",".join(map(str, cpuset)))
        return [group / "cgroup.procs"]

    def pids(self, name: str) -> list[int]:
        return _pids(self._parent / name / "cgroup.procs")

    def confines(self, name: str, pid: int) -> bool:
        return pid in self.pids(name)

    def usage(self, name: str) -> Usage:
        group = self._parent / name
        return Usage(
            memory_bytes=_number(group / "memory.current"),
            memory_peak_bytes=_number(group / "memory.peak"),
            cpu_used_us=_keyed(group / "cpu.stat", "usage_usec"),
            pids=_number(group / "pids.current"),
        )

    def oom_kills(self, name: str) -> int:
        return _keyed(self._parent / name / "memory.events", "oom_kill") or 0

    def watch_oom(self, name: str) -> int | None:
        return _watch_modified(self._parent / name / "memory.events")

    async def kill(self, name: str) -> None:
        while pids := self.pids(name):
            try:
                _write(self._parent / name / "cgroup.kill", 1)
            except FileNotFoundError:  # before Linux 5.14
                _signal_all(pids)
            await asyncio.sleep(0.002)

    async def remove(self, name: str) -> None:
        await _rmdir(self._parent / name)


_IN_MODIFY = 0x2
_LIBC = ctypes.CDLL(None, use_errno=True)


def _watch_modified(path: Path) -> int | None:
    """An inotify descriptor for one file, or None. The kernel marks cgroup event files as modified when they
    change."""
    fd: int = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        return None
    if _LIBC.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(_IN_MODIFY)) < 0:
        os.close(fd)
        return None
    return fd


def drain(fd: int) -> None:
    """Takes what a descriptor of `watch_oom` has to say, so that it is readable again only at the next
    event."""
    with contextlib.suppress(BlockingIOError):
        os.read(fd, 4096)
