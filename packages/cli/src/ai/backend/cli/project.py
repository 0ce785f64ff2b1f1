"""`admin group ...`: who is in a project, and who administers it."""

import click

from .command import State, command, drive


@click.group("group")
def group() -> None:
    """Projects: for their administrators and the domain's."""


domain_option = click.option("-d", "--domain", default="", help="Where its name is found. [default: yours]")
who = click.argument("users", metavar="USER...", nargs=-1, required=True)


@command("members", parent=group)
@click.argument("project", metavar="GROUP")
@domain_option
@click.pass_obj
def members(state: State, project: str, domain: str) -> None:
    """List who is in GROUP (a name or an id), and who administers it."""
    from .display import print_json, print_table

    found = drive(state, lambda api: api.projects.members(project, domain=domain))
    if state.json:
        print_json({"items": found})
        return
    print_table(
        ("EMAIL", "NAME", "STATUS", "ROLE", "ID"),
        [(m.email, m.full_name, m.status, "admin" if m.is_admin else "member", m.uuid) for m in found],
        empty="Nobody that you see.",
    )


@command("add-users", parent=group)
@click.argument("project", metavar="GROUP")
@who
@domain_option
@click.option("--as-admin", is_flag=True, help="They administer the group: for administrators of its domain.")
@click.pass_obj
def add_users(state: State, project: str, users: tuple[str, ...], domain: str, as_admin: bool) -> None:
    """Make each USER (an id or an e-mail address) a member of GROUP. All of them, or none."""
    drive(state, lambda api: api.projects.add_users(project, users, as_admin=as_admin, domain=domain))
    _done(state, project, f"{', '.join(users)}: {'administrator' if as_admin else 'member'} of {project}")


@command("remove-users", parent=group)
@click.argument("project", metavar="GROUP")
@who
@domain_option
@click.option("--as-admin", is_flag=True, help="They stay members, but no longer administer the group.")
@click.pass_obj
def remove_users(state: State, project: str, users: tuple[str, ...], domain: str, as_admin: bool) -> None:
    """Take each USER (an id or an e-mail address) out of GROUP."""
    drive(state, lambda api: api.projects.remove_users(project, users, as_admin=as_admin, domain=domain))
    what = "administrator of" if as_admin else "in"
    _done(state, project, f"{', '.join(users)}: no longer {what} {project}")


@command("describe", parent=group)
@click.argument("project", metavar="GROUP")
@click.argument("description")
@domain_option
@click.pass_obj
def describe(state: State, project: str, description: str, domain: str) -> None:
    """Say what GROUP is for."""
    drive(state, lambda api: api.projects.describe(project, description, domain=domain))
    _done(state, project, f"{project} is described")


def _done(state: State, project: str, text: str) -> None:
    from .display import print_json

    if state.json:
        print_json({"ok": True, "group": project})
    else:
        click.echo(text)
