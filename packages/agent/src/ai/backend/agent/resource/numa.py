"""Which cores are near which memory: NUMA nodes of this machine. Data that a device's node has to cross costs time, so who holds devices
near one node runs on that node's cores, if they are enough for it."""

from collections.abc import Collection, Mapping
from pathlib import Path

from ai.backend.common.quantity import MILLI

NODES = Path("/sys/devices/system/node")


def read_nodes(folder: Path = NODES) -> dict[int, frozenset[int]]:
    """Cores by node; empty where the machine does not tell."""
    found = {}
    for path in folder.glob("node[0-9]*"):
        try:
            found[int(path.name.removeprefix("node"))] = parse_cores((path / "cpulist").read_text())
        except (OSError, ValueError):
            continue
    return found


def parse_cores(text: str) -> frozenset[int]:
    """Of a list such as "0-3,8,10-11". Raises ValueError."""
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def cores_near(
    nodes: Mapping[int, frozenset[int]],
    devices: Collection[int],
    usable: Collection[int],
    cpu_milli: int,
) -> tuple[int, ...]:
    """The cores for who holds devices of these nodes; empty: any. `usable`: the cores that the agent may give."""
    near = {node for node in devices if node in nodes}
    if len(near) != 1 or len(nodes) < 2:
        return ()
    cores = nodes[near.pop()] & frozenset(usable)
    return tuple(sorted(cores)) if len(cores) * MILLI >= max(cpu_milli, 1) else ()
