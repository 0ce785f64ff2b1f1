"""`announcement ...`, `admin ...`, `server-logs ...`: what administrators set, and what went wrong where."""

import json
from typing import TYPE_CHECKING, Any

import click

from .command import State, command, drive
from .project import group
from .secret import secrets
from .simulate import scheduler as simulations

if TYPE_CHECKING:
    from ai.backend.client.client import AsyncClient
    from ai.backend.common.wire.rest.root import ManagerStatus

WAIT_S = 1.0


def _done(state: State, text: str) -> None:
    from .display import print_json

    if state.json:
        print_json({"ok": True})
    else:
        click.echo(text)


@click.group("announcement")
def announcement() -> None:
    """What administrators tell everybody."""


@command("get", parent=announcement)
@click.pass_obj
def get_announcement(state: State) -> None:
    """Print the announcement."""
    from .display import print_json, remark

    found = drive(state, lambda api: api.settings.announcement())
    if state.json:
        print_json(found)
    elif found.enabled:
        click.echo(found.message)
    else:
        remark("No announcement.")


@command("update", parent=announcement)
@click.option("-m", "--message", required=True, help="What it says.")
@click.pass_obj
def update_announcement(state: State, message: str) -> None:
    """Set the announcement. Superadministrators only."""
    if not message.strip():
        raise click.BadParameter("it has to say something", param_hint="-m")
    drive(state, lambda api: api.settings.announce(message))
    _done(state, "everybody is told")


@command("delete", parent=announcement)
@click.pass_obj
def delete_announcement(state: State) -> None:
    """Take the announcement down. Superadministrators only."""
    drive(state, lambda api: api.settings.announce(""))
    _done(state, "there is no announcement any more")


@click.group("admin")
def admin() -> None:
    """For administrators: most of it for those of the whole cluster."""


admin.add_command(announcement)
admin.add_command(group)
admin.add_command(secrets)
admin.add_command(simulations)


@admin.group("manager")
def manager() -> None:
    """The manager's state."""


@command("status", parent=manager)
@click.pass_obj
def manager_status(state: State) -> None:
    """Show whether the cluster takes changes, and how many sessions live."""
    from .display import print_fields, print_json

    found = drive(state, lambda api: api.settings.status())
    if state.json:
        print_json(found)
        return
    node = found.nodes[0]
    print_fields(
        [
            ("status", found.status),
            ("active sessions", str(found.active_sessions)),
            ("version", node.version),
            ("address", node.service_addr),
        ]
    )


@command("freeze", parent=manager)
@click.option("--force-kill", is_flag=True, help="End every session, and wait for that.")
@click.option("--wait", is_flag=True, help="Wait until every session has ended by itself.")
@click.pass_obj
def freeze(state: State, force_kill: bool, wait: bool) -> None:
    """Refuse changes, for maintenance. What runs can still be used and ended."""
    from .display import progress

    async def work(api: "AsyncClient") -> "ManagerStatus":
        import asyncio

        await api.settings.freeze(force_kill=force_kill)
        status = await api.settings.status()
        while wait and status.active_sessions:
            await asyncio.sleep(WAIT_S)
            status = await api.settings.status()
        return status

    with progress("waiting for the sessions to end"):
        status = drive(state, work)
    _done(state, f"the cluster is frozen; {status.active_sessions} sessions live")


@command("unfreeze", parent=manager)
@click.pass_obj
def unfreeze(state: State) -> None:
    """Take changes again."""
    drive(state, lambda api: api.settings.unfreeze())
    _done(state, "the cluster takes changes again")


@manager.group("scheduler")
def scheduler() -> None:
    """Which agents take new sessions."""


@command("include-agents", parent=scheduler)
@click.argument("agents", nargs=-1, required=True)
@click.pass_obj
def include_agents(state: State, agents: tuple[str, ...]) -> None:
    """Let agents take new sessions again."""
    drive(state, lambda api: api.settings.include_agents(agents))
    _done(state, f"included: {', '.join(agents)}")


@command("exclude-agents", parent=scheduler)
@click.argument("agents", nargs=-1, required=True)
@click.pass_obj
def exclude_agents(state: State, agents: tuple[str, ...]) -> None:
    """Let agents take no new sessions; what runs there goes on."""
    drive(state, lambda api: api.settings.exclude_agents(agents))
    _done(state, f"excluded: {', '.join(agents)}")


@admin.group("etcd")
def etcd() -> None:
    """Settings of the cluster, by key."""


prefix_option = click.option("-p", "--prefix", is_flag=True, help="All that is below the key.")


@command("get", parent=etcd)
@click.argument("key")
@prefix_option
@click.pass_obj
def etcd_get(state: State, key: str, prefix: bool) -> None:
    """Print a setting, or with --prefix all below a key as JSON."""
    from .display import print_json, remark

    found = drive(state, lambda api: api.settings.get(key, prefix=prefix))
    if state.json:
        print_json({"result": found})
    elif isinstance(found, str):
        click.echo(found)
    elif found is None:
        remark("No such setting.")
    else:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))


@command("set", parent=etcd)
@click.argument("key")
@click.argument("value")
@click.pass_obj
def etcd_set(state: State, key: str, value: str) -> None:
    """Write a setting; a VALUE that is a JSON object is written as a tree."""
    given: Any = value
    if value.lstrip().startswith("{"):
        try:
            given = json.loads(value)
        except ValueError as exc:
            raise click.BadParameter(
                f"it begins like a JSON object but is none: {exc}", param_hint="VALUE"
            ) from exc
    drive(state, lambda api: api.settings.set(key, given))
    _done(state, f"{key} is set")


@command("delete", parent=etcd)
@click.argument("key")
@prefix_option
@click.pass_obj
def etcd_delete(state: State, key: str, prefix: bool) -> None:
    """Delete a setting, or with --prefix all below a key."""
    drive(state, lambda api: api.settings.delete(key, prefix=prefix))
    _done(state, f"{key} is deleted")


@admin.group("audit")
def audit() -> None:
    """What administrators changed."""


@command("list", parent=audit)
@click.option(
    "--action", default="", help="The beginning of an action, such as 'setting' or 'agent:exclude'."
)
@click.option("--target", default="", help="The beginning of what was changed.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0)
@click.pass_obj
def audit_list(state: State, action: str, target: str, limit: int, offset: int) -> None:
    """List changes, newest first."""
    from .display import print_json, print_table

    found = drive(
        state,
        lambda api: api.settings.audit_logs(action=action, target=target, limit=limit, offset=offset),
    )
    if state.json:
        print_json(found)
        return
    print_table(
        ("WHEN", "WHO", "ACTION", "TARGET", "REQUEST"),
        [(i.created_at[:19], i.access_key, i.action, i.target, i.request_id) for i in found.items],
        empty="No changes.",
    )


@click.group("server-logs")
def server_logs() -> None:
    """Errors that clients reported to the server."""


@command("list", parent=server_logs)
@click.option("--mark-read", is_flag=True, help="They count as read from now on.")
@click.option("-l", "--page-size", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("-n", "--page-number", type=click.IntRange(1), default=1, show_default=True)
@click.pass_obj
def server_logs_list(state: State, mark_read: bool, page_size: int, page_number: int) -> None:
    """List reported errors: yours, or those that you administrate."""
    from datetime import UTC, datetime

    from .display import print_json, print_table

    found = drive(
        state,
        lambda api: api.settings.error_logs(mark_read=mark_read, page_size=page_size, page_no=page_number),
    )
    if state.json:
        print_json(found)
        return
    print_table(
        ("WHEN", "SEVERITY", "SOURCE", "MESSAGE"),
        [
            (
                datetime.fromtimestamp(log.created_at, UTC).isoformat(timespec="seconds"),
                log.severity,
                log.source,
                log.message.partition("\n")[0][:80],
            )
            for log in found.logs
        ],
        empty="No errors were reported.",
    )
