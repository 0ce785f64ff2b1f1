"""`resource ...`: what you may use, use, and could get."""

import click

from .command import State, command, drive

project_option = click.option(
    "-g", "--group", "project", default="default", show_default=True, help="Project, by name or id."
)
group_option = click.option("--scaling-group", "--sgroup", "resource_group", help="Only this resource group.")


@click.group("resource")
def resource() -> None:
    """What you may use, use, and could get."""


def _shown(slots: dict[str, str]) -> str:
    from ai.backend.common.quantity import format_size, slot_type

    def amount(slot: str, value: str) -> str:
        if value == "Infinity":
            return "any"
        if value == "NaN":
            return "?"
        return format_size(int(value)) if slot_type(slot) == "bytes" else value

    return ", ".join(f"{slot} {amount(slot, value)}" for slot, value in slots.items()) or "-"


@command("groups", parent=resource)
@project_option
@click.pass_obj
def groups(state: State, project: str) -> None:
    """List the resource groups where your sessions may run."""
    from .display import print_json, print_table

    found = drive(state, lambda api: api.resources.groups(project))
    if state.json:
        print_json({"items": [{"name": name} for name in found], "total_count": len(found)})
        return
    print_table(("NAME",), [(name,) for name in found], empty="No resource groups.")


@command("presets", parent=resource)
@group_option
@click.pass_obj
def presets(state: State, resource_group: str | None) -> None:
    """List presets: named amounts of resources."""
    from .display import print_json, print_table

    found = drive(state, lambda api: api.resources.presets(resource_group))
    if state.json:
        print_json({"items": found, "total_count": len(found)})
        return
    print_table(
        ("NAME", "RESOURCES", "SHARED MEMORY"),
        [
            (p.name, _shown(p.resource_slots), _shown({"mem": p.shared_memory} if p.shared_memory else {}))
            for p in found
        ],
        empty="No presets.",
    )


@command("check", parent=resource)
@project_option
@group_option
@click.pass_obj
def check(state: State, project: str, resource_group: str | None) -> None:
    """Show your limits, what you use, what is left, and which presets could run now."""
    from .display import print_fields, print_json, print_table

    found = drive(state, lambda api: api.resources.check(project, resource_group))
    if state.json:
        print_json(found)
        return
    print_fields(
        [
            ("you may use", _shown(found.keypair_limits)),
            ("you use", _shown(found.keypair_using)),
            ("you have left", _shown(found.keypair_remaining)),
            ("the project may use", _shown(found.group_limits)),
            ("the project uses", _shown(found.group_using)),
            *((f"free in {name}", _shown(g.remaining)) for name, g in found.scaling_groups.items()),
        ]
    )
    if found.presets:
        click.echo()
        print_table(
            ("PRESET", "RESOURCES", "COULD RUN NOW"),
            [(p.name, _shown(p.resource_slots), "yes" if p.allocatable else "no") for p in found.presets],
            empty="",
        )
