"""The root command. Command modules are loaded when they are used, and load what they need when they run: a start must not cost more
than it does. Everything that goes wrong is told here, in one form, and becomes an exit code."""

import os
import signal
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from .command import EXIT_FAILURE, EXIT_INVALID, EXIT_USAGE, State, json_option

_COMMANDS = {
    "run": "run:run",
    "exec": "run:exec_",
    "ps": "session:list_",
    "info": "session:info",
    "rm": "session:destroy",
    "logs": "session:logs",
    "task-logs": "session:task_logs",
    "upload": "session:upload",
    "download": "session:download",
    "events": "session:events",
    "apps": "app:apps",
    "app": "app:app",
    "session": "session:session",
    "image": "image:image",
    "agent": "agent:agent",
    "template": "template:template",
    "session-template": "template:template",
    "dotfile": "dotfile:dotfile",
    "resource": "resource:resource",
    "announcement": "setting:announcement",
    "admin": "setting:admin",
    "server-logs": "setting:server_logs",
    "login": "login:login",
    "logout": "login:logout",
    "config": "config:config",
    "plugin": "plugin:plugin",
    "up": "cluster:up",
    "down": "cluster:down",
    "status": "cluster:status",
    "demo": "demo:demo",
    "completion": "completion:completion",
}
_TOPICS = {
    "Run code": ("run", "exec"),
    "Sessions": (
        "ps",
        "info",
        "logs",
        "task-logs",
        "upload",
        "download",
        "apps",
        "app",
        "events",
        "rm",
        "session",
    ),
    "Yours": ("template", "session-template", "dotfile", "resource"),
    "Cluster": ("demo", "up", "status", "down", "agent", "image", "announcement", "admin", "server-logs"),
    "This program": ("config", "login", "logout", "plugin", "completion"),
}


class Root(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (place := _COMMANDS.get(cmd_name)) is None:
            return None
        module, _, attribute = place.partition(":")
        found = getattr(import_module(f"{__package__}.{module}"), attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for topic, names in _TOPICS.items():
            with formatter.section(topic):
                rows = []
                for name in names:
                    command = self.get_command(ctx, name)
                    assert command is not None
                    rows.append((name, command.get_short_help_str(90)))
                formatter.write_dl(rows)


@click.command(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--skip-sslcert-validation", is_flag=True, help="Trust any server. For tests only.")
@json_option
@click.pass_context
def cli(ctx: click.Context, skip_sslcert_validation: bool) -> None:
    """Runs your code in containers.

    Try `backend.ai demo` first: it starts a cluster on this machine and runs code in it.
    """
    ctx.ensure_object(State).skip_sslcert_validation = skip_sslcert_validation


def tell(
    state: State, message: str, *, whose: str = "", hint: str = "", code: str = "", data: Any = None
) -> None:
    """One form for all that goes wrong: what happened, whose fault, what to do. On the error stream; in JSON on the output as well."""
    lines = [f"Error: {message}"]
    if whose:
        lines.append(f"  whose: {whose}")
    if hint:
        lines.append(f"  do:    {hint}")
    click.echo("\n".join(lines), err=True)
    if state.json:
        from .display import print_json

        problem = {"code": code, "message": message, "hint": hint, "data": data}
        print_json({"ok": False, "error": problem})


_WHOSE = {
    "user": "yours (what was asked for)",
    "quota": "a limit of your account",
    "infrastructure": "the platform's, not yours",
}


def _failed(state: State, exc: Exception) -> int:
    """Tells of an error that is known; raises it again when it is not."""
    from ai.backend.client.error import ApiError, ClientError, RequestTimeout
    from ai.backend.common.errors import BackendError

    from .command import EXIT_TIMEOUT

    if not isinstance(exc, ClientError | BackendError):
        raise exc
    message = exc.message or str(exc)
    data = exc.data if isinstance(exc, ApiError) else None
    if isinstance(exc, ApiError) and exc.title not in ("", message, "Missing or invalid API parameters."):
        message = f"{exc.title.rstrip('.')}: {message}"
    tell(state, message, whose=_WHOSE[exc.fault.value], hint=exc.hint, code=exc.code, data=data)
    return EXIT_TIMEOUT if isinstance(exc, RequestTimeout) else EXIT_FAILURE


def _usage(state: State, exc: click.UsageError) -> int:
    hint = f"See '{exc.ctx.command_path} --help'." if exc.ctx else "See 'backend.ai --help'."
    tell(state, exc.format_message(), whose=_WHOSE["user"], hint=hint, code="cli.usage")
    bad_value = isinstance(exc, click.BadParameter) and not isinstance(exc, click.MissingParameter)
    return EXIT_INVALID if bad_value else EXIT_USAGE


def invoke(args: list[str]) -> int:
    """Runs one command line; returns the exit code."""
    state = State()
    try:
        outcome = cli.main(args, prog_name="backend.ai", standalone_mode=False, obj=state)
        return outcome if isinstance(outcome, int) else 0
    except click.UsageError as exc:
        return _usage(state, exc)
    except click.ClickException as exc:
        tell(state, exc.format_message())
        return EXIT_FAILURE
    except (KeyboardInterrupt, click.Abort):
        click.echo("Broken off.", err=True)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has left; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except Exception as exc:
        return _failed(state, exc)


def main() -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    code = invoke(sys.argv[1:])
    sys.stdout.flush()
    sys.exit(code)
