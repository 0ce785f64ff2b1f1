"""The scratch folder of a kernel: three folders on the host that become its home, its configuration and its runner's folder.

    <root>/<kernel id>/work     0700, the kernel's user: /home/work
    <root>/<kernel id>/config   0750, root and the kernel's group, mounted read-only: /home/config
    <root>/<kernel id>/run      0711, root; holds the socket that the agent binds, mounted read-only: /opt/kernel

Everything above `work` belongs to the agent, so user code can move or replace nothing on the way to it.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from ai.backend.common.quantity import CPU, MEM, MILLI
from ai.backend.common.wire.rpc import DesiredKernel

from ..container.backend import CONFIG_DIR, KERNEL_DIR, WORK_DIR
from ..container.model import Mount
from ..resource.model import Allocation, Capacity


class Scratch:
    """All scratch folders of one agent. `root` is made if missing. Methods raise OSError."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o711)
        self._trash = root / ".trash"
        self._trash.mkdir(exist_ok=True, mode=0o700)

    def folder(self, kernel_id: UUID) -> Path:
        return self.root / str(kernel_id)

    def work(self, kernel_id: UUID) -> Path:
        return self.folder(kernel_id) / "work"

    def run(self, kernel_id: UUID) -> Path:
        return self.folder(kernel_id) / "run"

    def mounts(self, kernel_id: UUID) -> tuple[Mount, ...]:
        folder = self.folder(kernel_id)
        return (
            Mount(source=folder / "work", target=WORK_DIR, read_only=False),
            Mount(source=folder / "config", target=CONFIG_DIR),
            Mount(source=folder / "run", target=KERNEL_DIR),
        )

    def make(self, desired: DesiredKernel, allocation: Allocation, files: Mapping[str, str]) -> None:
        """Makes what is missing and writes `files` into config; what the user has in work stays as it is."""
        folder = self.folder(desired.kernel_id)
        uid, gid = allocation.uid, allocation.gid
        _make_dir(folder, 0o711, -1, -1)
        _make_dir(folder / "config", 0o750, -1, gid)
        _make_dir(folder / "run", 0o711, -1, -1)
        new = not (folder / "work").exists()
        _make_dir(folder / "work", 0o700, uid, gid)
        for name, text in files.items():
            _write(folder / "config" / name, text, 0o640, -1, gid)
        if new and desired.bootstrap_script:
            _write(folder / "work" / "bootstrap.sh", desired.bootstrap_script, 0o755, uid, gid)

    def discard(self, kernel_id: UUID) -> None:
        """Takes the folder out of sight at once; `empty_trash` erases it."""
        folder = self.folder(kernel_id)
        if folder.exists():
            target = self._trash / folder.name
            if target.exists():
                shutil.rmtree(target)
            folder.rename(target)

    def empty_trash(self) -> None:
        """May take long. Never follows links out (shutil.rmtree walks by descriptors)."""
        for path in self._trash.iterdir():
            shutil.rmtree(path, ignore_errors=True)


def _make_dir(path: Path, mode: int, uid: int, gid: int) -> None:
    path.mkdir(exist_ok=True, mode=0o700)
    if os.geteuid() == 0:
        os.chown(path, uid, gid, follow_symlinks=False)
    path.chmod(mode)


def _write(path: Path, text: str, mode: int, uid: int, gid: int) -> None:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        if os.geteuid() == 0:
            os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
        file.write(text.encode("utf-8", "surrogateescape"))


def published_environ(desired: DesiredKernel) -> dict[str, str]:
    """The BACKENDAI_* variables of a session of one container."""
    return {
        "BACKENDAI_SESSION_ID": str(desired.session_id),
        "BACKENDAI_SESSION_NAME": desired.session_name,
        "BACKENDAI_KERNEL_ID": str(desired.kernel_id),
        "BACKENDAI_KERNEL_IMAGE": desired.image,
        "BACKENDAI_ACCESS_KEY": desired.access_key,
        "BACKENDAI_CLUSTER_SIZE": "1",
        "BACKENDAI_CLUSTER_HOST": desired.hostname,
        "BACKENDAI_CLUSTER_HOSTS": desired.hostname,
        "BACKENDAI_CLUSTER_ROLE": "main",
        "BACKENDAI_CLUSTER_IDX": "1",
        "BACKENDAI_CLUSTER_LOCAL_RANK": "0",
        "BACKENDAI_CLUSTER_REPLICAS": "main:1",
        "BACKENDAI_SERVICE_PORTS": "",
        "BACKENDAI_PREOPEN_PORTS": "",
    }


def environ_of(
    desired: DesiredKernel, allocation: Allocation, labels: Mapping[str, str]
) -> tuple[dict[str, str], str]:
    """The variables for the container itself, and the text of environ.txt for user code.

    The user's variables stay out of the runner's own environment (an LD_PRELOAD would break it), except those of several lines, which
    environ.txt cannot hold.
    """
    cpus = str(max(1, -(-allocation.cpu_milli // MILLI)))
    counts = labels.get("ai.backend.envs.corecount", "")
    everything = {name.strip(): cpus for name in counts.split(",") if name.strip()}
    everything |= {**desired.environ, **published_environ(desired)}
    usable = {
        key: value
        for key, value in everything.items()
        if key.isidentifier() and key.isascii() and "\0" not in value
    }
    long = {key for key, value in usable.items() if len(f"x{value}x".splitlines()) > 1}
    own = {
        key: value
        for key, value in usable.items()
        if key.startswith("BACKENDAI_") or (key in long and not key.startswith("LD_"))
    }
    text = "".join(f"{key}={value}\n" for key, value in sorted(usable.items()) if key not in long)
    return own, text


def resource_text(desired: DesiredKernel, allocation: Allocation, capacity: Capacity, root: Path) -> str:
    """resource.txt, in the published form."""
    amounts = {str(CPU): allocation.cpu_milli, str(MEM): allocation.memory_bytes}
    slots = ", ".join(f'"{name}": "{amount}"' for name, amount in amounts.items())
    cores = allocation.cores or capacity.cores
    share = allocation.cpu_milli // max(1, len(cores))
    shares = ",".join(f"{core}:{share / MILLI:g}" for core in cores)
    return (
        f"SCRATCH_SIZE=0\nMOUNTS={root}:{WORK_DIR}:rw\nSLOTS={{{slots}}}\nUNIFIED_DEVICES=[]\n"
        f"CPU_SHARES={shares}\nMEM_SHARES=root:{allocation.memory_bytes}\nKERNEL_ID={desired.kernel_id}\n"
    )
