"""What all commands share: exit codes, `--output`, and the way from a command to the cluster."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ai.backend.client.client import AsyncClient
    from ai.backend.client.config import ClientConfig

EXIT_FAILURE, EXIT_USAGE, EXIT_TIMEOUT, EXIT_INVALID = 1, 2, 3, 4
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@dataclass
class State:
    """What the command line said that is not one command's business."""

    json: bool = False
    skip_sslcert_validation: bool = False


def _set_output(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(State).json = value == "json"


json_option = click.option(
    "--output",
    type=click.Choice(["console", "json"]),
    expose_value=False,
    is_eager=True,
    callback=_set_output,
    help="What the output is for: people or programs.",
)


def command(name: str, *, parent: click.Group | None = None, **settings: Any) -> Callable[[F], click.Command]:
    """A command that takes `--output` after its name too."""
    make = parent.command if parent is not None else click.command

    def decorate(function: F) -> click.Command:
        made: click.Command = make(name, **settings)(json_option(function))
        return made

    return decorate


def home_of(given: str | None) -> Path:
    """The cluster's folder: as given, else $BACKENDAI_HOME, else ~/.backend.ai."""
    return (
        Path(given or os.environ.get("BACKENDAI_HOME") or Path.home() / ".backend.ai").expanduser().absolute()
    )


home_option = click.option(
    "--home",
    type=click.Path(file_okay=False),
    help="The cluster's folder. [default: $BACKENDAI_HOME, else ~/.backend.ai]",
)


def client_config(state: State) -> "tuple[ClientConfig, str]":
    """Who and where, and from where that is known: the environment, else the env.sh of this machine's cluster. Raises ConfigError."""
    import msgspec

    from ai.backend.client.config import ClientConfig, read_assignments

    environ, origin = dict(os.environ), "environment"
    if not environ.get("BACKEND_ENDPOINT") and not environ.get("SORNA_ENDPOINT"):
        env_file = home_of(None) / "env.sh"
        try:
            environ.update(read_assignments(env_file.read_text()))
            origin = str(env_file)
        except OSError:
            origin = "environment"
    config = ClientConfig.from_environ(environ, folder=Path.cwd())
    if state.skip_sslcert_validation:
        config = msgspec.structs.replace(config, skip_sslcert_validation=True)
    return config, origin


def drive(state: State, work: "Callable[[AsyncClient], Awaitable[T]]") -> T:
    """Runs `work` with a client of the configured cluster, in an event loop of its own."""
    import asyncio

    from ai.backend.client.client import AsyncClient

    config, _ = client_config(state)

    async def inner() -> T:
        async with AsyncClient(config) as api:
            return await work(api)

    return asyncio.run(inner())


class Pair(click.ParamType["tuple[str, str]"]):
    """`KEY=VALUE`."""

    name = "K=V"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, rest = str(value).partition("=")
        if not (key and equals):
            self.fail(f"{value!r} is not of the form KEY=VALUE", param, ctx)
        return key, rest


PAIR = Pair()


def slot_amounts(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Amounts of resources; memory without a unit is in MiB, as the published command line has it. Raises click.BadParameter."""
    from ai.backend.common.errors import InvalidInput
    from ai.backend.common.quantity import parse_amount, slot_type

    amounts: dict[str, str] = {}
    for slot, text in pairs:
        in_mib = slot_type(slot) == "bytes" and text.replace(".", "", 1).isdigit()
        amounts[slot] = f"{text}m" if in_mib else text
        try:
            parse_amount(slot, amounts[slot])
        except InvalidInput as exc:
            raise click.BadParameter(f"{exc.message}. {exc.hint}", param_hint="-r") from exc
    return amounts
