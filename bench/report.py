"""All figures in one table: what `make bench` prints. Ratios first, for only they mean something on another machine."""

import sys
from typing import Any

from . import api, execute, memory, placement, scheduler, start

WIDTHS = (44, 12, 12, 9)


def row(*cells: str) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def table(started: dict[str, Any], executed: dict[str, Any], used: dict[str, Any]) -> str:
    """The report as text."""

    def ms(result: dict[str, Any], name: str) -> str:
        return f"{result[name]['median_ms']:.1f} ms"

    lines = [row("figure (medians)", "ours", "peer", "ratio")]
    for name in ("sandbox", "docker"):
        factor = started["speedup_over_docker_run"][f"{name}_cold"]
        lines.append(
            row(
                f"{name}: create to first output / docker run",
                ms(started, name),
                ms(started, "docker_run"),
                f"{factor}x",
            )
        )
    for name, factor in executed["speedup_over_jupyter"].items():
        lines.append(
            row(
                f"execute over {name} / jupyter_client",
                ms(executed, name),
                ms(executed, "jupyter"),
                f"{factor}x",
            )
        )
    ours = used["idle"]["rss_mb"]
    original = used["original_mb"]
    for label, peer, key in (
        (
            "idle memory / original manager, agent",
            original["manager"] + original["agent"],
            "manager_and_agent",
        ),
        ("idle memory / original, all four daemons", sum(original.values()), "all_daemons"),
    ):
        lines.append(row(label, f"{ours:.0f} MB", f"{peer} MB", f"{used['original_over_ours'][key]}x"))
    facts = {**executed["machine"], **started["machine"]}
    lines += ["", *(f"{name}: {value}" for name, value in facts.items())]
    return "\n".join(lines)


def main() -> None:
    print("measuring session starts ...", file=sys.stderr)
    started = start.measure(15)
    print("measuring executions ...", file=sys.stderr)
    executed = execute.measure(50)
    print("measuring memory ...", file=sys.stderr)
    print(table(started, executed, memory.measure()))
    print("measuring the API ...", file=sys.stderr)
    told = api.measure(3, 2.0, 1000)
    print("\nAPI, requests of 32 connections; times slower than a handler that only verifies the signature")
    for name, times in told["times_slower_than_bare"].items():
        print(
            row(
                name,
                f"{told['requests_per_s'][name]:.0f}/s",
                f"p99 {told['p99_ms'][name]:.0f} ms",
                f"{times}x",
            )
        )
    print("measuring scheduling ...", file=sys.stderr)
    decided = scheduler.measure(5000, 50_000, 42, 1000)
    print("\nscheduling decisions, 5,000 agents and 50,000 sessions")
    print(row("durable, on SQLite", f"{decided['durable_decisions_per_s']:.0f}/s", "", ""))
    placed = decided["enqueue_to_placement"]
    print(row("enqueued to placed, idle cluster", f"{placed['median_ms']:.1f} ms", "", ""))
    if decided["durable_decisions_per_s_postgresql"] is not None:
        print(row("durable, on PostgreSQL", f"{decided['durable_decisions_per_s_postgresql']:.0f}/s", "", ""))
    if decided["slurm_jobs_per_s"] is not None:
        print(
            row(
                "durable, on SQLite / Slurm, empty jobs",
                f"{decided['durable_decisions_per_s']:.0f}/s",
                f"{decided['slurm_jobs_per_s']:.0f}/s",
                f"{decided['durable_over_slurm']}x",
            )
        )
    print(row("of the cycle alone", f"{decided['pure_decisions_per_s']:.0f}/s", "", ""))
    print("measuring placement ...", file=sys.stderr)
    print("\nallocated GPU capacity of the trace openb at 130 % load")
    print(placement.table(placement.measure(3, list(placement.PUBLISHED))))


if __name__ == "__main__":
    main()
