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


@command("devices", parent=agent)
@click.argument("agent_id", metavar="[AGENT]", required=False)
@click.pass_obj
def devices(state: State, agent_id: str | None) -> None:
    """List accelerators of one node or of all: what they are, how much of each is held, and what is wrong with them."""
    import msgspec

    from ai.backend.common.errors import AgentNotFound
    from ai.backend.common.quantity import format_size

    from .display import print_json, print_table

    found = [one for one in drive(state, lambda api: api.agents()) if agent_id in (None, one.id)]
    if agent_id is not None and not found:
        raise AgentNotFound(f"no agent {agent_id[:64]!r}", hint="See 'backend.ai agent ls'.")
    rows = [(one.id, device) for one in found for device in one.devices]
    if state.json:
        print_json(
            {
                "items": [{"agent": name, **msgspec.to_builtins(device)} for name, device in rows],
                "total_count": len(rows),
            }
        )
        return
    print_table(
        ("AGENT", "DEVICE", "SLOT", "MODEL", "MEMORY", "NUMA", "HELD", "BUSY", "PROBLEM"),
        [
            (
                name,
                device.id,
                device.slot,
                device.model,
                format_size(device.memory_bytes),
                device.numa_node if device.numa_node >= 0 else "-",
                device.held,
                "-" if device.percent is None else f"{device.percent:.0f} %",
                device.problem,
            )
            for name, device in rows
        ],
        empty="No accelerators. Plugins for them: 'backend.ai plugin ls'.",
    )


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
