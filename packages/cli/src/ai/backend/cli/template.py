"""`template ...`, also `session-template ...`: kept descriptions from which sessions are made."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command import State, command, drive

if TYPE_CHECKING:
    from ai.backend.client.client import AsyncClient


@click.group("template")
def template() -> None:
    """Descriptions from which sessions are made.

    \b
      backend.ai template create -f trainer.yml
      backend.ai session create-from-template ID -t mine
    """


kind_option = click.option(
    "--kind",
    type=click.Choice(["task", "cluster"]),
    default="task",
    show_default=True,
    help="Of one session's container, or of the nodes of a cluster.",
)
file_option = click.option(
    "-f", "--file", "source", help="The template in YAML or JSON; without it, it comes from standard input."
)


def _text(path: str | None) -> str:
    try:
        return sys.stdin.read() if path in (None, "-") else Path(str(path)).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise click.BadParameter(f"can't be read: {exc}", param_hint="-f") from exc


@command("create", parent=template)
@file_option
@kind_option
@click.option("-g", "--group", help="The project, by name or id.")
@click.option("-d", "--domain")
@click.option("-o", "--owner", "owner_access_key", help="Keep it for the owner of this access key.")
@click.pass_obj
def create(state: State, /, source: str | None, **options: Any) -> None:
    """Keep a template, or several from one file."""
    from .display import print_json

    text = _text(source)
    made = drive(state, lambda api: api.templates.create(text, **options))
    if state.json:
        print_json({"ok": True, "ids": made})
    else:
        for one in made:
            click.echo(one)


@command("list", parent=template)
@kind_option
@click.option("-a", "--all", "everyones", is_flag=True, help="Also those of others that you may see.")
@click.pass_obj
def list_(state: State, kind: Any, everyones: bool) -> None:
    """List templates."""
    from .display import age, print_json, print_table

    found = drive(state, lambda api: api.templates.list(kind=kind, everyones=everyones))
    if state.json:
        print_json({"items": found, "total_count": len(found)})
        return
    print_table(
        ("NAME", "ID", "AGE", "OWNER", "PROJECT"),
        [(t.name, t.id, age(t.created_at), t.user_email, t.group_name) for t in found],
        empty="No templates.",
    )


@command("get", parent=template)
@click.argument("template_id", metavar="ID")
@kind_option
@click.pass_obj
def get(state: State, template_id: str, kind: Any) -> None:
    """Print a template, as YAML that `update` takes."""
    from .display import print_json

    async def work(api: "AsyncClient") -> Any:
        ask = api.templates.get if state.json else api.templates.get_yaml
        return await ask(template_id, kind=kind)

    found = drive(state, work)
    if state.json:
        print_json(found)
    else:
        click.echo(found, nl=False)


@command("update", parent=template)
@click.argument("template_id", metavar="ID")
@file_option
@kind_option
@click.pass_obj
def update(state: State, template_id: str, source: str | None, kind: Any) -> None:
    """Replace a template."""
    text = _text(source)
    drive(state, lambda api: api.templates.update(template_id, text, kind=kind))
    _done(state, f"{template_id} is replaced")


@command("delete", parent=template)
@click.argument("template_id", metavar="ID")
@kind_option
@click.option("-f", "--force", is_flag=True, help="Don't ask.")
@click.pass_obj
def delete(state: State, template_id: str, kind: Any, force: bool) -> None:
    """Delete a template."""
    if not force and sys.stdin.isatty():
        click.confirm(f"Delete the template {template_id}?", abort=True, err=True)
    drive(state, lambda api: api.templates.delete(template_id, kind=kind))
    _done(state, f"{template_id} is deleted")


def _done(state: State, message: str) -> None:
    from .display import print_json

    if state.json:
        print_json({"ok": True, "msg": message})
    else:
        click.echo(message)
