"""Replays a published trace of GPU tasks against the product's own placement code.

`python -m sim.replay --nodes NODES.csv --pods PODS.csv --policy fgd [--load 1.3] [--seed 42] [--json]`

The steps are those of the published figures (Weng et al., USENIX ATC 2023, for the trace "openb"): the tasks are shuffled; tasks drawn from
the same list follow until what is asked for adds up to `load` times the cluster's devices; each is placed in its turn on an initially empty
cluster, nothing ends, and what fits nowhere is dropped. Nodes: `sn, cpu_milli, memory_mib, gpu, model`. Tasks: `name, cpu_milli,
memory_mib, num_gpu, gpu_milli[, gpu_spec]`, where `gpu_milli` is a share if `num_gpu` is 1 and it is below 1000, and `gpu_spec` lists
the models that will do, with bars between.
"""

import argparse
import csv
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai.backend.common.quantity import ResourceSlots
from ai.backend.scheduler.demand import WHOLE, Demand, Mix
from ai.backend.scheduler.fleet import Fleet
from ai.backend.scheduler.fragmentation import Fragmentation
from ai.backend.scheduler.model import AgentView, Device
from ai.backend.scheduler.packing import BestFit, DotProduct, GpuClustering, GpuPacking, Random
from ai.backend.scheduler.placer import Placer, Strategy

MARKS_PCT = (80, 100, 130)
FAMILY = "cuda"


class BadFile(Exception):
    """A row that cannot be read; the message names file, line and column."""


@dataclass(frozen=True)
class Trace:
    agents: list[AgentView]
    tasks: list[Demand]


def _rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise BadFile(f"{path}, line 1: no column {', '.join(missing)}")
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise BadFile(f"{path}: {exc}") from exc


def _amount(path: Path, line: int, row: dict[str, str], name: str, most: int | None = None) -> int:
    text = (row[name] or "").strip()
    try:
        value = int(text)
    except ValueError:
        raise BadFile(f"{path}, line {line}: {name} is {text!r}, not a whole number") from None
    if value < 0 or (most is not None and value > most):
        raise BadFile(
            f"{path}, line {line}: {name} is {value}, not 0 to {most if most is not None else 'anything'}"
        )
    return value


def _slots(path: Path, line: int, row: dict[str, str]) -> ResourceSlots:
    return ResourceSlots(
        {
            "cpu": _amount(path, line, row, "cpu_milli"),
            "mem": _amount(path, line, row, "memory_mib") << 20,
        }
    )


def read_nodes(path: Path) -> list[AgentView]:
    """Raises BadFile."""
    agents = []
    for line, row in _rows(path, ("sn", "cpu_milli", "memory_mib", "gpu", "model")):
        device = Device(family=FAMILY, model=row["model"] or "", free=WHOLE)
        agents.append(
            AgentView(
                id=row["sn"],
                resource_group="",
                architecture="",
                capacity=_slots(path, line, row),
                occupied=ResourceSlots(),
                images=frozenset(),
                devices=(device,) * _amount(path, line, row, "gpu", 64),
            )
        )
    if not agents:
        raise BadFile(f"{path}: no node")
    return agents


def read_tasks(path: Path) -> list[Demand]:
    """Raises BadFile."""
    tasks: list[Demand] = []
    same: dict[Demand, Demand] = {}
    for line, row in _rows(path, ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli")):
        devices = _amount(path, line, row, "num_gpu", 64)
        milli = _amount(path, line, row, "gpu_milli", WHOLE)
        if devices and not milli:
            raise BadFile(f"{path}, line {line}: gpu_milli is 0, but num_gpu is {devices}")
        shares = devices == 1 and milli < WHOLE
        demand = Demand(
            slots=_slots(path, line, row),
            devices=0 if shares else devices,
            share=milli if shares else 0,
            family=FAMILY if devices else "",
            models=frozenset(filter(None, (row.get("gpu_spec") or "").split("|"))),
        )
        tasks.append(same.setdefault(demand, demand))
    if not tasks:
        raise BadFile(f"{path}: no task")
    return tasks


def arrivals(tasks: Sequence[Demand], capacity_milli: int, load: float, rng: random.Random) -> list[Demand]:
    """The tasks in the order in which they come."""
    coming = list(tasks)
    rng.shuffle(coming)
    asked = sum(task.device_milli for task in coming)
    if asked == 0:
        return coming
    while asked < load * capacity_milli:
        task = rng.choice(tasks)
        coming.append(task)
        asked += task.device_milli
    return coming


@dataclass
class Held:
    """What is placed where, by agent and kind: GpuClustering asks it."""

    counts: dict[tuple[int, int, int], int]


POLICIES: dict[str, Callable[[Fleet, Mix, int, Held], Strategy]] = {
    "fgd": lambda fleet, mix, seed, held: Fragmentation(fleet, mix),
    "best-fit": lambda fleet, mix, seed, held: BestFit(),
    "random": lambda fleet, mix, seed, held: Random(seed),
    "dot-product": lambda fleet, mix, seed, held: DotProduct(),
    "gpu-packing": lambda fleet, mix, seed, held: GpuPacking(),
    "gpu-clustering": lambda fleet, mix, seed, held: GpuClustering(held.counts),
}


def replay(trace: Trace, policy: str, load: float, seed: int) -> dict[str, Any]:
    fleet, held = Fleet(trace.agents), Held({})
    capacity_milli = int(fleet.devices.sum())
    coming = arrivals(trace.tasks, capacity_milli, load, random.Random(seed))
    placer = Placer(fleet, POLICIES[policy](fleet, Mix.of(trace.tasks), seed, held))
    marks = list(MARKS_PCT)
    allocated_at: dict[str, float] = {}
    asked = allocated = placements = 0
    began_s = time.perf_counter()
    for task in coming:
        asked += task.device_milli
        taken = placer.place(task)
        if taken is not None:
            placements += 1
            allocated += task.device_milli
            key = (taken.row, task.devices, task.share)
            held.counts[key] = held.counts.get(key, 0) + 1
        while marks and asked * 100 >= marks[0] * capacity_milli:
            allocated_at[str(marks.pop(0))] = round(100 * allocated / max(capacity_milli, 1), 3)
    seconds = time.perf_counter() - began_s
    return {
        "allocated_gpu_pct_at": allocated_at,
        "placements": placements,
        "rejected": len(coming) - placements,
        "seconds": round(seconds, 3),
        "decisions_per_s": round(len(coming) / seconds, 1),
        "policy": policy,
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="sim.replay", description="Replay a trace of GPU tasks against the scheduler."
    )
    parser.add_argument("--nodes", type=Path, required=True, help="CSV of the cluster's nodes")
    parser.add_argument("--pods", type=Path, required=True, help="CSV of the tasks")
    parser.add_argument("--policy", default="fgd", help=f"one of {', '.join(POLICIES)}")
    parser.add_argument(
        "--load", type=float, default=1.3, help="what is asked for, as a multiple of all devices"
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    given = parser.parse_args()
    if given.policy not in POLICIES:
        parser.error(f"no policy {given.policy!r}; one of {', '.join(POLICIES)}")
    if not 0 < given.load <= 100:
        parser.error("--load is more than 0, and at most 100")
    try:
        trace = Trace(read_nodes(given.nodes), read_tasks(given.pods))
    except BadFile as exc:
        sys.exit(f"sim.replay: {exc}")
    found = {**replay(trace, given.policy, given.load, given.seed), "workload": given.pods.stem}
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
