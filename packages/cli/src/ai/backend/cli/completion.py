"""`completion`: the script that makes a shell complete our commands and options."""

import click

from .command import command


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
      eval "$(backend.ai completion bash)"
    """
    from click.shell_completion import get_completion_class

    from .main import cli

    found = get_completion_class(shell)
    assert found is not None, "the choices are those that click has"
    click.echo(found(cli, {}, "backend.ai", "_BACKEND_AI_COMPLETE").source())
