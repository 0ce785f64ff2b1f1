"""Which plugins are installed here, and why some are not loaded. Asks no server: it is about this installation."""

import click

from .command import State, command


@click.group("plugin")
def plugin() -> None:
    """Plugins of this installation."""


@command("ls", parent=plugin)
@click.pass_obj
def ls(state: State) -> None:
    """List them, with what went wrong."""
    from ai.backend.plugin.accelerator import check_factory
    from ai.backend.plugin.host import ACCELERATOR, GROUPS, SCHEDULER, load
    from ai.backend.scheduler.queue import check_queue

    from .display import print_json, print_table

    checks = {SCHEDULER: check_queue, ACCELERATOR: check_factory}
    found = [one for name in GROUPS for one in load(name, check=checks[name]).found]
    if state.json:
        print_json(
            {
                "items": [
                    {
                        "group": one.group,
                        "name": one.name,
                        "distribution": one.distribution,
                        "version": one.version,
                        "target": one.target,
                        "loaded": not one.problem,
                        "problem": one.problem,
                    }
                    for one in found
                ]
            }
        )
        return
    rows = [
        (one.group, one.name, f"{one.distribution} {one.version}".strip(), one.problem or "loaded")
        for one in found
    ]
    print_table(("GROUP", "NAME", "FROM", "STATE"), rows, empty="no plugin is installed")
