"""Samples and what to say of them. Rounds are interleaved by the callers, so that a busy moment hurts both sides alike."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any


def timed(action: Callable[[], object]) -> float:
    """Seconds that it took."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def summary(samples_s: list[float]) -> dict[str, Any]:
    """Milliseconds: median, 90th percentile, least; and how many."""
    ordered = sorted(samples_s)
    return {
        "median_ms": round(statistics.median(ordered) * 1000, 2),
        "p90_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.9))] * 1000, 2),
        "min_ms": round(ordered[0] * 1000, 2),
        "rounds": len(ordered),
    }


def ratio(peer_s: list[float], ours_s: list[float]) -> float:
    """How many times faster ours is, by medians."""
    return round(statistics.median(peer_s) / statistics.median(ours_s), 2)


def machine() -> dict[str, Any]:
    """What a figure depends on. Take it before the rounds: the load average is that of the surroundings."""
    return {
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "backend.ai": metadata.version("backend-ai-manager"),
    }
