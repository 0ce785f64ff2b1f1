"""The folders of one kernel on its node: home (read-write, its user's), config (read-only inside), run (the socket; the agent's own)."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from ai.backend.common.quantity import CPU, MILLI, ResourceSlots
from ai.backend.common.wire.rpc import ClusterKey, DesiredKernel

from ..commit.home import own
from ..container.errors import ContainerFailed, NoSpace
from ..resource.device import NOTHING, Grant, resource_lines
from .file import HomeFolder


@dataclass(frozen=True, slots=True)
class Scratch:
    root: Path

    @classmethod
    def of(cls, folder: Path, kernel_id: UUID) -> "Scratch":
        return cls(folder / str(kernel_id))

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def run(self) -> Path:
        return self.root / "run"

    def make(self, desired: DesiredKernel, uid: int, grant: Grant = NOTHING) -> None:
        """Makes all folders and files; again over an older incarnation's, whose home stays. Raises NoSpace or ContainerFailed."""
        with _mapped():
            for folder, mode in (
                (self.root, 0o711),
                (self.work, 0o700),
                (self.config, 0o755),
                (self.run, 0o711),
            ):
                folder.mkdir(exist_ok=True, parents=True)
                folder.chmod(mode)
            if os.getuid() == 0:
                os.chown(self.work, uid, uid)
            _write(self.config / "environ.txt", environ_of(desired, grant))
            _write(self.config / "resource.txt", resources_of(desired, grant))
            if desired.cluster_key is not None:
                self._write_key(desired.cluster_key, uid)
            bootstrap = self.work / ".bootstrap.sh"
            if desired.bootstrap_script and not bootstrap.exists():
                bootstrap.write_text(desired.bootstrap_script)
                bootstrap.chmod(0o700)
                if os.getuid() == 0:
                    os.chown(bootstrap, uid, uid)
            if desired.dotfiles:
                HomeFolder(self.work, uid).write_dotfiles(desired.dotfiles)

    @property
    def _fresh(self) -> Path:
        return self.root / "fresh"

    def make_fresh(self) -> Path:
        """An empty folder in which a home folder is put together. Raises NoSpace or ContainerFailed."""
        with _mapped():
            shutil.rmtree(self._fresh, ignore_errors=True)
            self._fresh.mkdir(parents=True)
            self._fresh.chmod(0o700)  # what is in it has its old owners still
            self.root.chmod(0o711)
        return self._fresh

    def take_fresh(self, uid: int) -> None:
        """Makes it the home folder, its user's. Raises NoSpace or ContainerFailed."""
        with _mapped():
            own(self._fresh, uid)
            self._fresh.rename(self.work)

    def _write_key(self, key: ClusterKey, uid: int) -> None:
        """The private one is for the kernel's user alone: SSH programs refuse one that others may read."""
        folder = self.config / "ssh"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        _write(folder / "id_cluster.pub", key.public + "\n")
        private = folder / "id_cluster"
        private.unlink(missing_ok=True)
        with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key.private)
        if os.getuid() == 0:
            os.chown(private, uid, uid)

    def erase(self) -> None:
        """Idempotent; a file that user code made undeletable for others is no obstacle for the owner."""
        if self.root.exists():
            shutil.rmtree(self.root, ignore_errors=True)


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        kind = NoSpace if exc.errno in (28, 122) else ContainerFailed
        raise kind(
            f"the kernel's folders can't be made: {exc.strerror}", hint="Look at the node's disk."
        ) from exc


def environment_of(desired: DesiredKernel, grant: Grant = NOTHING) -> dict[str, str]:
    """The variables of the session's processes: the published ones, and the user's on top."""
    cpu = max(1, ResourceSlots(desired.slots)[CPU] // MILLI)
    hosts = desired.cluster_hosts
    roles = Counter(host.rstrip("0123456789") for host in hosts)
    ours = {
        "BACKENDAI_SESSION_ID": str(desired.session_id),
        "BACKENDAI_SESSION_NAME": desired.session_name,
        "BACKENDAI_KERNEL_ID": str(desired.kernel_id),
        "BACKENDAI_KERNEL_IMAGE": desired.image,
        "BACKENDAI_ACCESS_KEY": desired.access_key,
        "BACKENDAI_CLUSTER_SIZE": str(len(hosts)),
        "BACKENDAI_CLUSTER_REPLICAS": ",".join(f"{role}:{count}" for role, count in roles.items()),
        "BACKENDAI_CLUSTER_HOST": desired.hostname,
        "BACKENDAI_CLUSTER_HOSTS": ",".join(hosts),
        "BACKENDAI_CLUSTER_ROLE": desired.cluster_role,
        "BACKENDAI_CLUSTER_IDX": str(desired.cluster_idx),
        "BACKENDAI_CLUSTER_LOCAL_RANK": str(
            hosts.index(desired.hostname) if desired.hostname in hosts else 0
        ),
        "BACKENDAI_SERVICE_PORTS": "",
        "BACKENDAI_PREOPEN_PORTS": "",
        "GPU_COUNT": "0",
        "N_GPUS": "0",
        # Numerical libraries start a thread for each core of the machine unless they are told.
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(cpu)),
    }
    return {**ours, **grant.environ, **desired.environ}


def environ_of(desired: DesiredKernel, grant: Grant = NOTHING) -> str:
    """environ.txt: `key=value` lines. A value with a line break can't be written so and is left out."""
    return "".join(f"{k}={v}\n" for k, v in environment_of(desired, grant).items() if "\n" not in v)


def resources_of(desired: DesiredKernel, grant: Grant = NOTHING) -> str:
    slots: Mapping[str, str] = ResourceSlots(desired.slots).texts()
    listed = ",".join(f'"{name}": "{amount}"' for name, amount in slots.items())
    return (
        f"KERNEL_ID={desired.kernel_id}\nSCRATCH_SIZE=0\nMOUNTS=\nSLOTS={{{listed}}}\n"
        f"UNIFIED_DEVICES=[]\n{resource_lines(grant.held)}"
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)
