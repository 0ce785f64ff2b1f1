"""`dotfile ...`: small files that are written into the home folders of new sessions."""

import sys
from pathlib import Path
from typing import Any

import click

from .command import State, command, drive


@click.group("dotfile")
def dotfile() -> None:
    """Small files for the home folders of new sessions.

    A keypair's go over its project's, and those over its domain's.
    """


def place_options(function: Any) -> Any:
    """Whose they are."""
    for option in (
        click.option("-d", "--domain", default="", help="A domain's; with --group: where its name is found."),
        click.option("-g", "--group", "project", default="", help="A project's, by name or id."),
        click.option("-o", "--owner", default="", help="Of another access key. Administrators only."),
    ):
        function = option(function)
    return function


def _text(path: str | None) -> str:
    """What the file says, or standard input. Raises click.BadParameter."""
    try:
        return sys.stdin.read() if path in (None, "-") else Path(str(path)).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise click.BadParameter(f"can't be read: {exc}", param_hint="-f") from exc


file_option = click.option(
    "-f", "--file", "source", help="The file's text; without it, it comes from standard input."
)


@command("list", parent=dotfile)
@place_options
@click.pass_obj
def list_(state: State, /, **place: str) -> None:
    """List dotfiles."""
    from .display import print_json, print_table

    found = drive(state, lambda api: api.dotfiles.list(**place))
    if state.json:
        print_json({"items": found, "total_count": len(found)})
        return
    print_table(
        ("PATH", "PERMISSION", "BYTES", "BEGINS"),
        [(f.path, f.permission, len(f.data.encode()), f.data.partition("\n")[0][:30]) for f in found],
        empty="No dotfiles.",
    )


@command("get", parent=dotfile)
@click.argument("path")
@place_options
@click.pass_obj
def get(state: State, /, path: str, **place: str) -> None:
    """Print a dotfile."""
    from .display import print_json

    found = drive(state, lambda api: api.dotfiles.get(path, **place))
    if state.json:
        print_json(found)
        return
    click.echo(found.data, nl=not found.data.endswith("\n"))


@command("create", parent=dotfile)
@click.argument("path")
@file_option
@click.option("--permission", "--perm", default="644", show_default=True, help="Three octal digits.")
@place_options
@click.pass_obj
def create(state: State, /, path: str, source: str | None, permission: str, **place: str) -> None:
    """Add a dotfile at PATH below the home folder."""
    text = _text(source)
    drive(state, lambda api: api.dotfiles.create(path, text, permission=permission, **place))
    _done(state, f"{path} will be in new sessions")


@command("update", parent=dotfile)
@click.argument("path")
@file_option
@click.option("--permission", "--perm", default="644", show_default=True, help="Three octal digits.")
@place_options
@click.pass_obj
def update(state: State, /, path: str, source: str | None, permission: str, **place: str) -> None:
    """Change a dotfile. Sessions that run keep what they have."""
    text = _text(source)
    drive(state, lambda api: api.dotfiles.update(path, text, permission=permission, **place))
    _done(state, f"{path} is changed for new sessions")


@command("delete", parent=dotfile)
@click.argument("path")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@place_options
@click.pass_obj
def delete(state: State, /, path: str, force: bool, **place: str) -> None:
    """Delete a dotfile. Sessions that run keep what they have."""
    if not force and not state.json and sys.stdin.isatty():
        click.confirm(f"Delete {path}?", abort=True)
    drive(state, lambda api: api.dotfiles.delete(path, **place))
    _done(state, f"{path} is deleted")


@command("bootstrap-script", parent=dotfile)
@click.option("-f", "--file", "source", help="Set it to the text of this file ('-': standard input).")
@click.option("--clear", is_flag=True, help="Have none.")
@click.pass_obj
def bootstrap_script(state: State, source: str | None, clear: bool) -> None:
    """Print or set what runs at the start of your sessions that bring no script of their own."""
    from .display import print_json

    if source is None and not clear:
        script = drive(state, lambda api: api.dotfiles.bootstrap_script())
        if state.json:
            print_json({"script": script})
        else:
            click.echo(script, nl=bool(script) and not script.endswith("\n"))
        return
    text = "" if clear else _text(source)
    drive(state, lambda api: api.dotfiles.set_bootstrap_script(text))
    _done(state, "the script is set for new sessions" if text else "there is no script any more")


def _done(state: State, text: str) -> None:
    from .display import print_json

    if state.json:
        print_json({"ok": True})
    else:
        click.echo(text)
