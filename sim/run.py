"""`python -m sim.run --seeds 200 [--start N] [--jobs 2] [--agents real] [--json]`: runs seeds, tells of those that fail.

A failing seed prints its number, what was violated, its faults and the newest part of its story. The same seed gives the same run, in this
process or another: text hashing, which orders Python's sets, is fixed before anything else is imported.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

STORY_LINES = 80


def fix_hashing() -> None:
    """Starts this program anew when Python's text hashing is random."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "sim.run", *sys.argv[1:]])  # noqa: S606


def one(task: tuple[int, str]) -> dict[str, Any]:
    """A seed's outcome as plain values, for another process."""
    from .agents import MAKERS
    from .scenario import run_seed

    seed, agents = task
    begin = time.perf_counter()
    outcome = run_seed(seed, make_agent=MAKERS[agents])
    return {**dataclasses.asdict(outcome), "real_s": time.perf_counter() - begin}


def outcomes(seeds: range, agents: str, jobs: int) -> Iterator[dict[str, Any]]:
    tasks = [(seed, agents) for seed in seeds]
    if jobs <= 1 or len(tasks) == 1:
        yield from map(one, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(one, tasks, chunksize=4)


def report(outcome: dict[str, Any], *, whole: bool) -> str:
    """What a failing seed says: the newest part of its story, or the whole."""
    lines = [f"seed {outcome['seed']} FAILED (fingerprint {outcome['fingerprint']})"]
    lines += [f"  violated: {violation}" for violation in outcome["violations"]]
    lines += [f"  fault: {fault}" for fault in outcome["faults"]]
    lines += [f"  {line}" for line in outcome["story"][0 if whole else -STORY_LINES :]]
    lines.append(f"  replay: python -m sim.run --start {outcome['seed']} --seeds 1 --story")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="sim.run", description="The whole cluster in virtual time.")
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--agents", choices=("real", "model"), default="real")
    parser.add_argument("--story", action="store_true", help="tell the story of every seed")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    given = parser.parse_args()
    begin = time.perf_counter()
    totals = {"seeds": 0, "failed": 0, "steps": 0, "virtual_s": 0.0, "sessions": 0, "checks": 0}
    failures = []
    for outcome in outcomes(range(given.start, given.start + given.seeds), given.agents, given.jobs):
        totals["seeds"] += 1
        for name in ("steps", "virtual_s", "sessions", "checks"):
            totals[name] += outcome[name]
        if outcome["violations"]:
            totals["failed"] += 1
            failures.append({"seed": outcome["seed"], "violations": outcome["violations"]})
            if not given.json:
                print(report(outcome, whole=given.story), flush=True)
        elif given.story:
            print("\n".join([*outcome["story"], f"seed {outcome['seed']}: {outcome['fingerprint']}"]))
    took_s = time.perf_counter() - begin
    totals["real_s"] = round(took_s, 1)
    totals["compression"] = round(totals["virtual_s"] / max(took_s, 0.001))
    totals["virtual_s"] = round(totals["virtual_s"])
    print(json.dumps({**totals, "failures": failures} if given.json else totals))
    return 1 if totals["failed"] else 0


if __name__ == "__main__":
    fix_hashing()
    sys.exit(main())
