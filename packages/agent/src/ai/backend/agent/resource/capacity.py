"""What this node can offer, read from the machine once at start."""

import os
import shutil
from pathlib import Path

from ai.backend.common.quantity import MILLI


def node_capacity(*, reserved_memory_bytes: int, cores: int = 0) -> dict[str, int]:
    """Slots: `cpu` in milli-units for `cores`, or for those that this process may use, `mem` in bytes, less what is reserved."""
    cores = cores or len(usable_cores())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cores * MILLI, "mem": max(memory - reserved_memory_bytes, memory // 2)}


def usable_cores() -> frozenset[int]:
    """The numbers of the processors that this process may use."""
    return frozenset(os.sched_getaffinity(0))


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
