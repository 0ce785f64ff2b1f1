"""`agent ...`: the nodes of the cluster."""

import click

from .command import State, command, drive


@click.group("agent")
def agent() -> None:
    """The nodes of the cluster."""


@command("ls", parent=agent)
@click.pass_obj
def ls(state: State) -> None:
    """List nodes, what they have and what is taken of it."""
    from ai.backend.common.quantity import format_size, slot_type

    from .display import print_json, print_table

    found = drive(state, lambda api: api.agents())
    if state.json:
        print_json({"items": found, "total_count": len(found)})
        return

    def amount(slot: str, value: str) -> str:
        return format_size(int(value)) if slot_type(slot) == "bytes" else value

    def used(occupied: dict[str, str], capacity: dict[str, str]) -> str:
        return ", ".join(
            f"{slot} {amount(slot, occupied.get(slot, '0'))} of {amount(slot, most)}"
            for slot, most in capacity.items()
        )

    print_table(
        ("ID", "STATUS", "BACKEND", "ARCH", "TAKEN", "PROBLEM"),
        [(a.id, a.status, a.backend, a.architecture, used(a.occupied, a.capacity), a.problem) for a in found],
        empty="No agents.",
    )


agent.add_command(ls, "list")


@command("sync", parent=agent)
@click.argument("agent_id", metavar="AGENT")
@click.pass_obj
def sync(state: State, agent_id: str) -> None:
    """Send a node anew what it should run; what differs is set right. For superadministrators."""
    from .display import print_json

    drive(state, lambda api: api.sync_agent(agent_id))
    message = f"{agent_id} is sent what it should run"
    if state.json:
        print_json({"ok": True, "msg": message})
    else:
        click.echo(message)
