"""The sandbox backend under test: a small node in a temporary folder, with real processes, and a look at what
is left of them."""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from ai.backend.agent.container import netns
from ai.backend.agent.container.errors import BackendUnavailable
from ai.backend.agent.container.model import Image
from ai.backend.agent.container.sandbox import SandboxBackend

_FIRST_UID = 400_000


class SandboxHarness:
    """See `container_contract.Harness`. `node` is the folder of the node, with `images/` below it."""

    def __init__(self, node: Path) -> None:
        self.node = node
        self.cgroup_parent = f"/backend.ai-{node.name}"
        self.backend = self._make()
        # Ids of its own, so that `leftovers` sees this test's processes alone.
        number = _FIRST_UID + os.getpid() % 100_000
        self.ids = (number, number) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
        self.shared_dir = node / "shared"
        self.shared_dir.mkdir()
        if os.geteuid() == 0:
            os.chown(self.shared_dir, *self.ids)

    @property
    def image(self) -> str:
        return self.backend._host_image().name

    @property
    def small_image(self) -> str:
        """Made of what a shell and `sleep` need of this machine."""
        folder = self.node / "images" / "small"
        rootfs = folder / "rootfs"
        if not folder.exists():
            for name in ("etc", "tmp", "proc", "home/work", "opt/kernel"):
                (rootfs / name).mkdir(parents=True)
            for program in ("dash", "sleep", "env"):
                told = subprocess.run(
                    ["ldd", f"/usr/bin/{program}"], capture_output=True, text=True, check=True
                )
                for word in (f"/usr/bin/{program}", *told.stdout.split()):
                    if word.startswith("/"):
                        target = rootfs / word[1:]
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(word, target)
            (rootfs / "usr/bin/sh").symlink_to("dash")
            (rootfs / "bin").symlink_to("usr/bin")
            (rootfs / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
            image = Image(
                name="local/small:1",
                digest="sha256:1",
                architecture=platform.machine(),
                size_bytes=1,
                labels={"ai.backend.kernelspec": "1"},
            )
            (folder / "image.json").write_text(json.dumps(asdict(image)))
        return "local/small:1"

    def _make(self) -> SandboxBackend:
        return SandboxBackend(
            state_dir=self.node / "containers",
            bin_dir=self.node / "bin",
            images_dir=self.node / "images",
            runner_volume=self.node / "runner-test",
            cgroup_parent=self.cgroup_parent,
            network_range="10.213.77.0/24",
        )

    async def reopen(self) -> SandboxBackend:
        # The old object is only put aside, as `kill -9` would: of what it did, nothing but the files counts.
        await self.backend.close()
        self.backend = self._make()
        await self.backend.open()
        return self.backend

    async def leftovers(self, name: str) -> list[str]:
        return self._leftovers(name)

    async def leftover_images(self) -> list[str]:
        return [str(path) for path in (self.node / "images-committed").rglob("*")]

    async def network_leftovers(self) -> list[str]:
        return self._network_leftovers()

    def _network_leftovers(self) -> list[str]:
        """Files, and holders, which tell of themselves in their environment."""
        found = [f"file {path}" for path in (self.node / "containers" / "_networks").glob("*")]
        mark = f"{netns.MARK}={self.node}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "environ").read_bytes().startswith(mark):
                    found.append(f"holder {process.name}")
        return found

    def _leftovers(self, name: str) -> list[str]:
        found = [f"file {path}" for path in (self.node / "containers").rglob("*") if name in path.parts]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                # The dead that the machine's init has not reaped yet are nobody's leftovers.
                dead = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if process.stat().st_uid == self.ids[0] != os.geteuid() and not dead:
                    found.append(f"process {process.name}: {(process / 'cmdline').read_bytes()!r}")
            except (FileNotFoundError, ProcessLookupError):
                continue
        for root in Path("/sys/fs/cgroup").glob("*"):
            group = root / self.cgroup_parent.strip("/") / name
            if group.exists():
                found.append(f"cgroup {group}")
        found += [
            f"mount {line}"
            for line in Path("/proc/self/mounts").read_text().splitlines()
            if str(self.node) in line
        ]
        return found

    def script(self, name: str, line: str) -> None:
        """Real processes need no script."""


@asynccontextmanager
async def sandbox_harness() -> AsyncIterator[SandboxHarness]:
    """A node that is erased at the end. Skips the test, or in CI fails it, on a machine that cannot run the
    sandbox."""
    harness = SandboxHarness(_make_node())
    try:
        try:
            await harness.backend.open()
        except BackendUnavailable as exc:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"the sandbox cannot run on this machine: {exc.message}")
        yield harness
        for container in await harness.backend.list():
            await harness.backend.remove(container.name)
        for name in await harness.backend.networks():
            await harness.backend.remove_network(name)
        await harness.backend.close()
    finally:
        _erase(harness)


def _make_node() -> Path:
    # Not pytest's own folder: that one is closed to the users of sessions.
    node = Path(tempfile.mkdtemp(prefix="sandbox-test-", dir="/var/tmp"))
    node.chmod(0o755)
    return node


def _erase(harness: SandboxHarness) -> None:
    shutil.rmtree(harness.node)
    for root in Path("/sys/fs/cgroup").glob("*"):
        group = root / harness.cgroup_parent.strip("/")
        if group.is_dir():
            group.rmdir()
