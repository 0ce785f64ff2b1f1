"""Asks the machine what it has: cores that this process may use, memory, and room on its disks."""

import os
from pathlib import Path

from .model import Capacity

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_DISK_BYTES_MIN, _DISK_PERCENT_MIN = 64 << 20, 1


def read_capacity(*, reserved_cpu_milli: int, reserved_memory_bytes: int, uid_first: int) -> Capacity:
    """The capacity without the reserves. A limit of the agent's own cgroup counts like the machine's size."""
    root = os.geteuid() == 0
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return Capacity(
        cores=cores,
        cpu_milli=max(0, len(cores) * 1000 - reserved_cpu_milli),
        memory_bytes=max(0, _memory_bytes() - reserved_memory_bytes),
        uid_first=uid_first if root else os.geteuid(),
        gid_first=uid_first if root else os.getegid(),
        uids_shared=not root,
    )


def _memory_bytes() -> int:
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total = int(facts["MemTotal"].split()[0]) << 10
    for limit in map(Path, _CGROUP_LIMITS):
        try:
            total = min(total, int(limit.read_text()))
        except (OSError, ValueError):
            continue  # there is no such file with the other cgroup version, and "max" is no number
    return total


def disk_problem(folder: Path) -> str:
    """A sentence for people when the disk below `folder` is nearly full, else ""."""
    status = os.statvfs(folder)
    free_bytes = status.f_bavail * status.f_frsize
    if free_bytes >= _DISK_BYTES_MIN and status.f_bavail * 100 >= status.f_blocks * _DISK_PERCENT_MIN:
        return ""
    return f"The disk below {folder} is nearly full: {free_bytes >> 20} MiB are left. Free some space there."
