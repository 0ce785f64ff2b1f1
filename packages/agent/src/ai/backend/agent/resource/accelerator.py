"""The shell around accelerator plugins: loads them, and calls them in threads, one call at a time for each, with a time limit.

A plugin that fails or hangs costs its own devices and nothing else: they are told as unusable, with the reason, until it answers again.
"""

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ai.backend.common.log import get_logger
from ai.backend.plugin.accelerator import Accelerator, Device, check_factory, wrongs
from ai.backend.plugin.host import ACCELERATOR, Plugin, load

log = get_logger(__name__)

T = TypeVar("T")
CALL_S = 10.0


class Silent(Exception):
    """It did not answer in time, or failed; the text says how."""


class Caller:
    """One plugin. `problem`: why its devices can't be used now; empty: they can."""

    def __init__(self, name: str, version: str, accelerator: Accelerator) -> None:
        self.name = name
        self.version = version
        self.accelerator = accelerator
        self.problem = ""
        self._turn = asyncio.Lock()
        self._under_way: asyncio.Future[Any] | None = None

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Raises Silent. A call that hangs is left alone; until it ends there is no other."""
        async with self._turn:
            if self._under_way is not None and not self._under_way.done():
                raise Silent("an earlier call still hangs")
            loop = asyncio.get_running_loop()
            made = loop.run_in_executor(None, functools.partial(function, *args, **kwargs))
            self._under_way = made
            done, _ = await asyncio.wait({made}, timeout=CALL_S)
            if not done:
                raise Silent(f"it did not answer within {CALL_S:g} s")
            try:
                return made.result()
            except Exception as exc:
                raise Silent(f"{type(exc).__name__}: {exc}") from exc

    async def devices(self) -> Sequence[Device]:
        """Those that it has now; none when something is wrong, which `problem` tells then."""
        before, found = self.problem, list[Device]()
        try:
            found = list(await self.call(self.accelerator.devices))
            self.problem = "; ".join(wrongs(self.accelerator, found))
        except Silent as exc:
            self.problem = str(exc)
        if self.problem != before:
            log.warning("accelerator", plugin=self.name, problem=self.problem or "none")
        return [] if self.problem else found


def load_accelerators(
    options: Mapping[str, Mapping[str, Any]], *, disabled: Iterable[str] = (), found: Iterable[Plugin] = ()
) -> list[Caller]:
    """Those of the installed plugins (or of `found`) that have something to offer here. Of two with the same key the first counts. A
    plugin that can't be made is told in the log; options of one that is not installed, or that it can't take, are a ValueError."""
    plugins = list(found) or list(load(ACCELERATOR, check=check_factory, disabled=disabled).found)
    unknown = sorted(options.keys() - {one.name for one in plugins})
    if unknown:
        known = ", ".join(one.name for one in plugins) or "none"
        raise ValueError(
            f"no accelerator plugin {', '.join(map(repr, unknown))} is installed; there are: {known}"
        )
    callers: dict[str, Caller] = {}
    for plugin in plugins:
        if plugin.problem:
            log.warning("accelerator-not-loaded", plugin=plugin.name, problem=plugin.problem)
            continue
        try:
            made = plugin.loaded(options.get(plugin.name, {}))
        except Exception as exc:
            if plugin.name in options:
                raise ValueError(f"[accelerators.{plugin.name}]: {exc}") from exc
            log.warning("accelerator-not-made", plugin=plugin.name, problem=f"{type(exc).__name__}: {exc}")
            continue
        if made is None:
            log.debug("accelerator-absent", plugin=plugin.name)
        elif made.key in callers:
            taken = callers[made.key].name
            log.error("accelerator-not-used", plugin=plugin.name, problem=f"{made.key} is {taken}'s already")
            made.close()
        else:
            callers[made.key] = Caller(plugin.name, plugin.version, made)
    return list(callers.values())
