"""How much of a GPU cluster is put to use, beside the published figures for the same trace.

`python -m bench.placement [--seeds 10] [--policies fgd,best-fit] [--json]`: mean, least and most allocated GPU capacity in percent, when
what is asked for has reached 130 % of it, and decisions a second. Published: Weng et al., USENIX ATC 2023 (see `data/openb`).
"""

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

from sim.replay import POLICIES, Trace, read_nodes, read_tasks, replay

from .measure import machine

DATA = Path(__file__).parent / "data" / "openb"
WORKLOADS = ("openb_pod_list_default", "openb_pod_list_gpushare40", "openb_pod_list_multigpu20")
PUBLISHED = {
    "fgd": "FGD",
    "best-fit": "BestFit",
    "random": "Random",
    "dot-product": "DotProd",
    "gpu-packing": "GpuPacking",
    "gpu-clustering": "GpuClustering",
}
LOAD = 1.3


def published() -> dict[tuple[str, str], float]:
    """Mean by workload and policy, at the load."""
    with (DATA / "published_allocation.csv").open(newline="") as file:
        return {
            (row["workload"], row["policy"]): float(row["mean_allocated_gpu_pct"])
            for row in csv.DictReader(file)
            if float(row["arrived_pct"]) == LOAD * 100
        }


def measure(seeds: int, policies: list[str]) -> dict[str, Any]:
    surroundings, known = machine(), published()
    nodes = read_nodes(DATA / "openb_node_list_gpu_node.csv")
    rows: list[dict[str, Any]] = []
    for workload in WORKLOADS:
        trace = Trace(nodes, read_tasks(DATA / f"{workload}.csv"))
        for policy in policies:
            runs = [replay(trace, policy, LOAD, seed) for seed in range(42, 42 + seeds)]
            allocated = [run["allocated_gpu_pct_at"]["130"] for run in runs]
            rows.append(
                {
                    "workload": workload,
                    "policy": policy,
                    "mean_pct": round(statistics.mean(allocated), 3),
                    "min_pct": min(allocated),
                    "max_pct": max(allocated),
                    "published_mean_pct": known.get((workload, PUBLISHED[policy])),
                    "decisions_per_s": round(statistics.median(run["decisions_per_s"] for run in runs), 1),
                }
            )
    ours = (
        statistics.mean(row["mean_pct"] for row in rows if row["policy"] == "fgd")
        if "fgd" in policies
        else None
    )
    theirs = statistics.mean(known[workload, "FGD"] for workload in WORKLOADS)
    return {
        "fgd_mean_pct": ours,
        "published_fgd_mean_pct": theirs,
        "rows": rows,
        "seeds": seeds,
        "machine": surroundings,
    }


def table(found: dict[str, Any]) -> str:
    lines = [f"{'workload':28} {'policy':16} {'ours %':>8} {'published %':>12} {'decisions/s':>12}"]
    for row in found["rows"]:
        theirs = row["published_mean_pct"]
        lines.append(
            f"{row['workload']:28} {row['policy']:16} {row['mean_pct']:8.2f} "
            f"{theirs if theirs is not None else '-':>12} {row['decisions_per_s']:12.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.placement", description="Placement of a published trace.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--policies", default=",".join(POLICIES), help="some of %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    given = parser.parse_args()
    policies = given.policies.split(",")
    if unknown := set(policies) - set(POLICIES):
        parser.error(f"no policy {', '.join(sorted(unknown))}; some of {', '.join(POLICIES)}")
    found = measure(given.seeds, policies)
    print(json.dumps(found) if given.json else table(found))


if __name__ == "__main__":
    main()
