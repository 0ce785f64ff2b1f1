"""Finds plugins by their entry points and loads them. One that fails stops nobody: what failed is kept, and told by `backend.ai plugin ls`.

It knows the names of the groups and no more: what a plugin of a group has to be is defined where the group's host is.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

SCHEDULER = "backendai_scheduler_v10"
"""Orders of resource groups' queues: see `ai.backend.scheduler.queue`."""
ACCELERATOR = "backendai_accelerator_v21"
"""Kinds of devices of a node: see `ai.backend.plugin.accelerator`."""
GROUPS: Mapping[str, str] = {
    SCHEDULER: "in which order a resource group looks at the sessions that wait",
    ACCELERATOR: "a kind of device that a node has and containers get",
}
"""Each with what its plugins decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """`loaded` is None when it could not be loaded; then `problem` says why."""

    group: str
    name: str
    target: str
    """module:object"""
    distribution: str = ""
    version: str = ""
    loaded: Any = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugins:
    """Those of one group, by name."""

    found: tuple[Plugin, ...] = field(default=())

    def loaded(self) -> dict[str, Any]:
        return {one.name: one.loaded for one in self.found if not one.problem}


def load(
    group: str,
    *,
    check: Callable[[Any], str] = lambda _: "",
    disabled: Iterable[str] = (),
    points: Iterable[EntryPoint] | None = None,
) -> Plugins:
    """All plugins of a group, in the order of their names.

    Args:
        check: says what is wrong with what was loaded; empty: nothing.
        disabled: names that are not loaded.
        points: entry points to look at, instead of the installed ones.
    """
    known = sorted(entry_points(group=group) if points is None else points, key=lambda one: one.name)
    found: dict[str, Plugin] = {}
    for point in known:
        if point.name not in found:
            found[point.name] = _load(group, point, check, set(disabled))
            continue
        first = found[point.name]
        found[f"{point.name} ({point.value})"] = _plugin(
            group, point, problem=f"the name is taken by {first.target} of {first.distribution or 'nobody'}"
        )
    return Plugins(found=tuple(found.values()))


def _load(group: str, point: EntryPoint, check: Callable[[Any], str], disabled: set[str]) -> Plugin:
    if point.name in disabled:
        return _plugin(group, point, problem="disabled in the configuration")
    try:
        loaded = point.load()
        problem = check(loaded)
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        return _plugin(group, point, problem=f"{type(exc).__name__}: {exc}")
    return _plugin(group, point, loaded=None if problem else loaded, problem=problem)


def _plugin(group: str, point: EntryPoint, *, loaded: Any = None, problem: str = "") -> Plugin:
    return Plugin(
        group=group,
        name=point.name,
        target=point.value,
        distribution=point.dist.name if point.dist is not None else "",
        version=point.dist.version if point.dist is not None else "",
        loaded=loaded,
        problem=problem,
    )
