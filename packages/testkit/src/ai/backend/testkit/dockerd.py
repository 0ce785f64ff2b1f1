"""A Docker Engine of the tests' own, and pytest fixtures that share one among all test modules of a run.

`PrivateDockerd(root)` keeps everything below `root` (data, runtime state, socket) and below a cgroup of its
own, has no bridge and touches no firewall rule; so it disturbs no engine that the machine may have, and
several can run side by side. With `kill` and `start` a test plays an engine outage: containers live on, as
under `live-restore`. As a pytest plugin (`-p ai.backend.testkit.dockerd` or `pytest_plugins`) it offers
`dockerd`, the running engine, and `python_image`, an image made from kernels/python.
"""

import asyncio
import contextlib
import http.client
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai.backend.agent.container.docker import DockerBackend
from ai.backend.agent.container.model import Image
from ai.backend.agent.image.build import build
from ai.backend.agent.image.recipe import load_recipe

PACKAGES = ("docker.io", "debootstrap", "iptables")
RECIPE = Path("kernels/python/kernel.toml")
_CGROUPS = Path("/sys/fs/cgroup")
_SOCKET_MAX = 100
_START_S = 60
_STOP_S = 30


def ensure_engine_packages() -> str:
    """Installs the engine from Debian when it is missing; returns why there is none, or nothing."""
    if os.geteuid() != 0:
        return "a private Docker Engine needs root"
    if shutil.which("dockerd") and shutil.which("debootstrap"):
        return ""
    if shutil.which("apt-get") is None:
        return "dockerd is not installed and this is no Debian"
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for _ in range(2):
        done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True)
        if done.returncode == 0:
            return ""
        # A fresh machine has no package lists.
        subprocess.run(["apt-get", "update"], env=environ, check=False, capture_output=True)
    return f"apt-get install {' '.join(PACKAGES)} failed: {done.stderr.strip()[-300:]}"


class PrivateDockerd:
    """One engine. Use as a context manager, or `start` and `stop`. `root` must be short: a socket's path has
    at most 100 bytes.
    """

    def __init__(self, root: Path, *arguments: str, bridge: bool = False) -> None:
        """`arguments` go to dockerd as they are. `bridge`: with the default network of an engine as it is installed, firewall rules
        included; only for comparisons, on a machine without another engine."""
        self.root = root
        self.socket = root / "docker.sock"
        if len(os.fsencode(self.socket)) > _SOCKET_MAX:
            raise ValueError(f"{self.socket} is too long for a socket")
        self.url = f"unix://{self.socket}"
        self.cgroup_parent = f"/dockerd-{root.name}"
        isolated = () if bridge else ("--bridge", "none", "--iptables=false", "--ip-masq=false")
        self._arguments = (*isolated, *arguments)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "PrivateDockerd":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the engine answers. Raises RuntimeError with the end of its log when it does not come
        up.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "daemon.json").write_text("{}")
        self.socket.unlink(missing_ok=True)
        # A killed containerd may stay a zombie where init reaps slowly, and would be taken for running.
        (self.root / "exec/containerd/containerd.pid").unlink(missing_ok=True)
        with (self.root / "log").open("ab") as log:
            # Not to outlive a test run that was killed.
            self._process = subprocess.Popen(
                [
                    "setpriv", "--pdeathsig", "TERM", "dockerd", "--config-file", str(self.root /
                    "daemon.json"), "--host", self.url, "--data-root", str(self.root / "data"), "--exec-root",
                    str(self.root / "exec"), "--pidfile", str(self.root / "pid"), "--cgroup-parent",
                    self.cgroup_parent, "--live-restore", *self._arguments,
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_answer()
        except BaseException:
            self.stop()
            raise

    def _wait_answer(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            with (
                socket.socket(socket.AF_UNIX) as client,
                contextlib.suppress(OSError, http.client.HTTPException),
            ):
                client.settimeout(_START_S)
                client.connect(str(self.socket))
                # The engine listens before it is ready: from here its own answer wakes us.
                client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if b" 200 " in client.recv(64):
                    return
            time.sleep(0.02)
        log = (self.root / "log").read_text(errors="replace")
        raise RuntimeError(f"dockerd did not come up: {log[-1500:]}")

    def kill(self) -> None:
        """SIGKILL, as in an outage: containers go on running and `start` finds them."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        # Its containerd dies with it, by PR_SET_PDEATHSIG; a new engine must not meet the old one.
        for pid in self._pids("containerd"):
            _end(pid)

    def stop(self) -> None:
        """Ends the engine and every container, and leaves no mount and no cgroup; `root`'s files stay."""
        if self._process is not None:
            if self._process.poll() is None:
                self._remove_containers()
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        for pid in self._pids(""):
            _end(pid)
        self._kill_cgroups()
        self._unmount()

    def leftovers(self) -> list[str]:
        """What containers have of this machine, in words: nothing when all of them are removed."""
        found = [f"files {path}" for path in (self.root / "data" / "containers").glob("*")]
        found += [f"cgroup {path}" for top in self._cgroups() for path in top.rglob("*/") if path != top]
        found += [f"mount {point}" for point in self._mounts() if self.root / "data" in point.parents]
        shims = self._pids("shim-runc-v2")
        return found + [f"process {pid}" for pid in shims]

    def _cgroups(self) -> list[Path]:
        """The folder of all its containers, once for each controller."""
        folders = [_CGROUPS / self.cgroup_parent[1:], *_CGROUPS.glob(f"*{self.cgroup_parent}")]
        return [folder for folder in dict.fromkeys(folder.resolve() for folder in folders) if folder.is_dir()]

    @staticmethod
    def _mounts() -> list[Path]:
        return [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]

    def _remove_containers(self) -> None:
        docker = ["docker", "--host", self.url]
        with contextlib.suppress(subprocess.TimeoutExpired):
            listed = subprocess.run(
                [*docker, "ps", "--all", "--quiet"],
                check=False,
                capture_output=True,
                text=True,
                timeout=_STOP_S,
            )
            if ids := listed.stdout.split():
                subprocess.run(
                    [*docker, "rm", "--force", "--volumes", *ids],
                    check=False,
                    capture_output=True,
                    timeout=_STOP_S,
                )

    def _pids(self, program: str) -> list[int]:
        """Processes whose command line names a path below our runtime folder: the engine's containerd and
        shims.
        """
        own = os.fsencode(self.root / "exec") + b"/"
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = entry.read_bytes()
                if own in line and line.split(b"\0")[0].endswith(program.encode()):
                    found.append(int(entry.parent.name))
        return found

    def _kill_cgroups(self) -> None:
        for top in self._cgroups():
            # Deepest first; containers whose engine died are still in there.
            for folder in sorted([*top.rglob("*/"), top], reverse=True):
                for pid in (folder / "cgroup.procs").read_text().split():
                    _end(int(pid))
                for _ in range(50):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                        break
                    time.sleep(0.02)

    def _unmount(self) -> None:
        for point in reversed(self._mounts()):
            if point.is_relative_to(self.root):
                subprocess.run(["umount", "--lazy", str(point)], check=False, capture_output=True)


def _end(pid: int) -> None:
    """SIGKILL, and returns when the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            _wait_exit(fd)
        finally:
            os.close(fd)


def _wait_exit(fd: int) -> None:
    select.select([fd], [], [], _STOP_S)


def _missing(reason: str) -> None:
    """In CI a missing service is a failure, elsewhere a skip that says so."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def dockerd() -> Iterator[PrivateDockerd]:
    """A running engine without images, shared by all tests of the run (of this worker, under xdist)."""
    if reason := ensure_engine_packages():
        _missing(reason)
    root = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/tmp"))
    try:
        with PrivateDockerd(root) as engine:
            yield engine
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def image_cache() -> Path:
    """Where packed file systems are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "backend.ai"


@pytest.fixture(scope="session")
def python_image(dockerd: PrivateDockerd, image_cache: Path, pytestconfig: pytest.Config) -> Image:
    """`local/python:3.11-debian12` in the engine; the first run on a machine builds it (half a minute), later
    ones load it.
    """
    recipe = load_recipe(pytestconfig.rootpath / RECIPE)

    async def load() -> Image:
        backend = DockerBackend(dockerd.url, "testkit")
        await backend.open()
        try:
            return await build(recipe, cache_dir=image_cache, engine=backend)
        finally:
            await backend.close()

    return asyncio.run(load())
