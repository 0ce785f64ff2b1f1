"""The agent's journal: one small file for each kernel, written whole and atomically before the effect that it tells of.

A file that cannot be read is moved aside and logged, never a reason not to start: its kernel is then found by its container's labels,
as unknown. Beside a record lies the kernel's log once its container is gone. One more file holds the newest generation ever accepted.
"""

import contextlib
import os
from pathlib import Path
from uuid import UUID

import msgspec

from ai.backend.common.log import get_logger

from .model import FORMAT, Record

log = get_logger(__name__)
_RECORD_BYTES_MAX = 4 << 20


class Journal:
    """`folder` is made if missing, private to the agent."""

    def __init__(self, folder: Path) -> None:
        self._kernels = folder / "kernels"
        self._kernels.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._generation = folder / "generation"

    def load(self) -> list[Record]:
        """Every readable record, in order of their ids."""
        records: list[Record] = []
        for leftover in self._kernels.glob("*.tmp"):
            leftover.unlink()
        for path in sorted(self._kernels.glob("*.json")):
            try:
                if path.stat().st_size > _RECORD_BYTES_MAX:
                    raise ValueError("too large")
                record = msgspec.json.decode(path.read_bytes(), type=Record)
                if record.format > FORMAT:
                    raise ValueError(f"format {record.format} is newer than this agent")
                if path.stem != str(record.kernel_id):
                    raise ValueError(f"it tells of kernel {record.kernel_id}")
            except (OSError, ValueError, msgspec.MsgspecError) as exc:
                log.error("journal-file-set-aside", path=str(path), error=str(exc))
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(".bad"))
                continue
            records.append(record)
        return records

    def write(self, record: Record, *, durable: bool) -> None:
        """Replaces the kernel's record. `durable`: it must survive a loss of power. Raises OSError."""
        _replace(self._record(record.kernel_id), msgspec.json.encode(record), durable=durable)

    def erase(self, kernel_id: UUID) -> None:
        """Forgets the kernel and its log."""
        self._record(kernel_id).unlink(missing_ok=True)
        self._log(kernel_id).unlink(missing_ok=True)

    def write_log(self, kernel_id: UUID, data: bytes) -> None:
        _replace(self._log(kernel_id), data, durable=False)

    def read_log(self, kernel_id: UUID, bytes_max: int) -> bytes:
        """The end of the log; empty when there is none."""
        try:
            with self._log(kernel_id).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - bytes_max))
                return file.read(bytes_max)
        except FileNotFoundError:
            return b""

    @property
    def generation(self) -> int:
        """The newest accepted; 0 when none is known."""
        try:
            return int(self._generation.read_text())
        except (OSError, ValueError):
            return 0

    @generation.setter
    def generation(self, value: int) -> None:
        _replace(self._generation, str(value).encode(), durable=False)

    def _record(self, kernel_id: UUID) -> Path:
        return self._kernels / f"{kernel_id}.json"

    def _log(self, kernel_id: UUID) -> Path:
        return self._kernels / f"{kernel_id}.log"


def _replace(path: Path, data: bytes, *, durable: bool) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
