"""The agent's memory of its kernels: one small JSON file each, written before the effect that it describes.

Containers' labels say which kernel a container is; the journal says what the kernel should be and why it ended. Together they are all that
a restarted agent needs. A file that can't be read is set aside and told of; it never stops the agent.
"""

import contextlib
import errno
import os
from pathlib import Path
from uuid import UUID

import msgspec

from ai.backend.common.log import get_logger
from ai.backend.common.wire.rpc import DesiredKernel

from ..container.errors import NoSpace

log = get_logger(__name__)

FORMAT = 1


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one kernel. Unknown fields of newer agents are ignored."""

    format: int = FORMAT
    desired: DesiredKernel
    state: str
    """A `machine.State` value."""
    uid: int
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    container_id: str = ""
    stats: dict[str, int] = {}
    ran: bool = False
    devices: dict[str, dict[str, int]] = {}
    """What it holds: slot -> device -> milli."""


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    agent_id: str
    generation: int = 0
    started_at_us: int = 0
    """Of the newest start. A later start is later even when the clock was put back."""


class Journal:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kernels = folder / "kernels"

    def open(self) -> None:
        self._kernels.mkdir(parents=True, exist_ok=True, mode=0o700)

    def facts(self) -> NodeFacts | None:
        try:
            return msgspec.json.decode((self._folder / "agent.json").read_bytes(), type=NodeFacts)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as exc:
            self._set_aside(self._folder / "agent.json", exc)
            return None

    def write_facts(self, facts: NodeFacts) -> None:
        self._write(self._folder / "agent.json", msgspec.json.encode(facts))

    def write(self, entry: Entry) -> None:
        """Atomic; survives the death of the agent. Raises NoSpace."""
        self._write(self._kernels / f"{entry.desired.kernel_id}.json", msgspec.json.encode(entry))

    def write_logs(self, kernel_id: UUID, content: bytes) -> None:
        """The end of what an ended kernel printed; losing it to a full disk is no reason to fail."""
        with contextlib.suppress(OSError):
            (self._kernels / f"{kernel_id}.log").write_bytes(content)

    def logs(self, kernel_id: UUID) -> bytes:
        try:
            return (self._kernels / f"{kernel_id}.log").read_bytes()
        except FileNotFoundError:
            return b""

    def forget(self, kernel_id: UUID) -> None:
        for suffix in (".json", ".log"):
            (self._kernels / f"{kernel_id}{suffix}").unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        found = []
        for path in sorted(self._kernels.glob("*.json")):
            try:
                entry = msgspec.json.decode(path.read_bytes(), type=Entry)
                if entry.format > FORMAT or path.stem != str(entry.desired.kernel_id):
                    raise msgspec.ValidationError("of a newer format, or misnamed")
                found.append(entry)
            except msgspec.MsgspecError as exc:
                self._set_aside(path, exc)
        return found

    @staticmethod
    def _set_aside(path: Path, exc: Exception) -> None:
        log.error("journal-entry-unreadable", path=str(path), error=str(exc))
        path.rename(path.with_suffix(".unreadable"))

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        new = path.with_suffix(".new")
        try:
            handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                if os.write(handle, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(handle)
            # Not flushed to the disk: what takes the page cache away, a crash of the machine, takes the containers too.
            new.replace(path)
        except OSError as exc:
            with contextlib.suppress(OSError):
                new.unlink()
            raise NoSpace(
                f"the agent's journal can't be written: {exc.strerror}", hint="Free some disk space."
            ) from exc
