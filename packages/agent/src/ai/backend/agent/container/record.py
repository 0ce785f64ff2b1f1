"""The sandbox's folder of one container: the truth about it, on disk, only root's to read.

    spec.json   image, labels, command, ids, limits
    args, hosts what bwrap is to do, the environment included; read as open files: no secret is on a command line
    run         boot id and /proc/PID/stat of the monitor, once it was started
    status      bwrap's own JSON lines: pid 1 and, at the end, the exit code
    killed      exists when the agent was about to kill the container: a kill before bwrap runs the command leaves no code
    oom         how many processes the out-of-memory killer had taken when the agent saw the container exit
    log         stdout and stderr of the main process

`run` and `status` get their disk blocks at creation and are written in place: an exit is recorded on a full disk as well. This
module reads and writes these files; it knows no process but by what is written here. Its errors are OSError and ValueError.
"""

import contextlib
import json
import os
import shutil
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .model import ContainerSpec, ExitCause, ExitInfo, Limits

LOG_LIMIT_BYTES = 16 << 20
LOG_KEPT_BYTES = 1 << 20
_PREALLOCATED_BYTES = 1024
_SIGKILL_CODE = 128 + signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Kept:
    """What of the spec is needed after creation."""

    image: str
    labels: dict[str, str]
    command: tuple[str, ...]
    uid: int
    gid: int
    limits: Limits
    cpuset: tuple[int, ...]
    network: str = ""
    """The name of the network that it enters as `host`; "" for none."""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """Which process the monitor is, or was."""

    boot_id: str
    pid: int
    start_time: str


class Record:
    """The files of one container. `folder` need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def exists(self) -> bool:
        return self.folder.is_dir()

    def write(self, spec: ContainerSpec, options: list[str], hosts: str) -> None:
        """Makes the folder with all its files, at once or not at all."""
        kept = Kept(
            image=spec.image,
            labels=dict(spec.labels),
            command=spec.command,
            uid=spec.uid,
            gid=spec.gid,
            limits=spec.limits,
            cpuset=spec.cpuset,
            network="" if spec.network is None else spec.network.name,
            host=spec.hostname,
        )
        content = {
            "spec.json": json.dumps(asdict(kept)).encode(),
            "args": b"".join(os.fsencode(option) + b"\0" for option in options),
            "hosts": hosts.encode(),
            "run": b"\n" * _PREALLOCATED_BYTES,
            "status": b"\n" * _PREALLOCATED_BYTES,
            "log": b"",
        }
        new = self.folder.with_name(f".new-{self.folder.name}")
        shutil.rmtree(new, ignore_errors=True)
        try:
            new.mkdir(mode=0o700)
            for name, data in content.items():
                (new / name).write_bytes(data)
            new.rename(self.folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def erase(self) -> None:
        gone = self.folder.with_name(f".gone-{self.folder.name}")
        with contextlib.suppress(FileNotFoundError):  # somebody else may be erasing it
            self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def kept(self) -> Kept:
        data: dict[str, Any] = json.loads((self.folder / "spec.json").read_bytes())
        data["limits"] = Limits(**data["limits"])
        data |= {key: tuple(data[key]) for key in ("command", "cpuset")}
        return Kept(**data)

    def run(self) -> Run | None:
        """None before the start."""
        lines = (self.folder / "run").read_text().strip().splitlines()
        if len(lines) != 2:
            return None
        boot_id, stat = lines
        return Run(boot_id, int(stat.split()[0]), start_time(stat))

    def exit(self, oom_kills: int) -> ExitInfo:
        """How the container ended, given that its monitor is gone."""
        code = None
        for line in (self.folder / "status").read_text().splitlines():
            if line.strip():
                code = json.loads(line).get("exit-code", code)
        if code is None and (self.folder / "killed").exists():
            code = _SIGKILL_CODE
        if code is None and self.log(4096).rstrip().rpartition(b"\n")[2].startswith(b"bwrap: "):
            code = 1  # bwrap itself gave up, the command being no program for one, and says no code
        if oom_kills and code in (None, _SIGKILL_CODE):
            return ExitInfo(cause=ExitCause.OUT_OF_MEMORY, exit_code=_SIGKILL_CODE)
        if code is None:
            return ExitInfo(cause=ExitCause.LOST, exit_code=None)
        killed = 128 < code <= 128 + signal.SIGRTMAX
        return ExitInfo(cause=ExitCause.KILLED if killed else ExitCause.EXITED, exit_code=code)

    def note_kill(self) -> None:
        with contextlib.suppress(OSError):  # a full disk stops no kill; the exit may then count as lost
            (self.folder / "killed").touch()

    def note_oom(self, oom_kills: int) -> None:
        with contextlib.suppress(OSError):  # the cgroup still knows, until the node restarts
            (self.folder / "oom").write_text(str(oom_kills))

    def oom_kills(self) -> int:
        try:
            return int((self.folder / "oom").read_text() or 0)
        except FileNotFoundError:
            return 0

    def log(self, max_bytes: int) -> bytes:
        """The log's end."""
        with (self.folder / "log").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            return file.read(max_bytes)

    def bound_log(self) -> None:
        """Over LOG_LIMIT_BYTES, drops all of the log but its end. Its writer appends, so it goes on behind that."""
        path = self.folder / "log"
        if path.stat().st_size > LOG_LIMIT_BYTES:
            kept = self.log(LOG_KEPT_BYTES)
            os.truncate(path, 0)
            with path.open("ab") as file:
                file.write(kept)


def start_time(stat: str) -> str:
    """Field 22 of /proc/PID/stat; the command before it may hold spaces and parentheses."""
    return stat.rpartition(")")[2].split()[19]
