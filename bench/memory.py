"""Memory of an idle cluster, against the published figures of the original's daemons.

`python -m bench.memory [--json]`. Ours is the cluster's process and its children, by PSS (shared pages are counted once) and RSS. The
original (release 25.5.2, same kind of machine, by RSS): manager 338 MB, agent 296 MB, storage proxy 291 MB, web server 409 MB; its
PostgreSQL, Redis and etcd are not counted. We have no storage proxy and no web server yet, so the fair ratio is that to manager and agent.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from .cluster import running
from .measure import machine

ORIGINAL_MB = {"manager": 338, "agent": 296, "storage proxy": 291, "web server": 409}
SETTLE_S = 5.0


def memory_mb(pid: int) -> dict[str, float]:
    """RSS and PSS of a process and everything below it."""
    total = {"Rss": 0, "Pss": 0}
    for one in _family(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in total:
                total[name] += int(rest.split()[0])
    return {"rss_mb": round(total["Rss"] * 1024 / 1e6, 1), "pss_mb": round(total["Pss"] * 1024 / 1e6, 1)}


def _family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += _family(int(child))
    return found


def measure(backend: str = "sandbox") -> dict[str, Any]:
    surroundings = machine()
    with running(backend) as cluster:
        time.sleep(SETTLE_S)
        ours = memory_mb(cluster.pid)
    of_daemons = ORIGINAL_MB["manager"] + ORIGINAL_MB["agent"]
    return {
        "idle": ours,
        "original_mb": ORIGINAL_MB,
        "original_over_ours": {
            "manager_and_agent": round(of_daemons / ours["rss_mb"], 1),
            "all_daemons": round(sum(ORIGINAL_MB.values()) / ours["rss_mb"], 1),
        },
        "machine": surroundings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.memory", description="Memory of an idle cluster.")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    given = parser.parse_args()
    print(json.dumps(measure(), indent=None if given.json else 2))


if __name__ == "__main__":
    main()
