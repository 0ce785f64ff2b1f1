"""`login`, `logout`: session mode, where a password is given once instead of signing each request with a keypair."""

import os
import sys
from typing import TYPE_CHECKING

import click

from .command import State, client_config, command, drive

if TYPE_CHECKING:
    from ai.backend.client.config import ClientConfig


def _config(state: State) -> "ClientConfig":
    """Raises ConfigError outside session mode."""
    from ai.backend.common.errors import ConfigError

    config, _ = client_config(state)
    if not config.in_session_mode:
        raise ConfigError(
            "this is for session mode only; your requests are signed with a keypair",
            hint="Set BACKEND_ENDPOINT_TYPE=session to log in by password instead.",
        )
    return config


def _ask(question: str, *, secret: bool = False) -> str:
    """At a terminal the question is asked there; otherwise the answer is the next line of the input. Raises click.Abort at its end."""
    if sys.stdin.isatty():
        return str(click.prompt(question, hide_input=secret, err=True))
    line = sys.stdin.readline()
    if not line:
        raise click.UsageError(f"there is no answer to {question!r}")
    return line.rstrip("\n")


@command("login")
@click.argument("user", required=False)
@click.pass_obj
def login(state: State, user: str | None) -> None:
    """Log in by password; for BACKEND_ENDPOINT_TYPE=session.

    USER is your e-mail address. What is not given is asked for; without a terminal, it is read from the input, a line each.
    """
    from ai.backend.client.error import OtpNeeded
    from ai.backend.client.login import SavedLogin, login_file, save

    config = _config(state)
    name = user or _ask("E-mail address")
    password = _ask("Password", secret=True)
    try:
        session_id = drive(state, lambda api: api.log_in(name, password))
    except OtpNeeded:
        code = _ask("One-time password").strip()
        session_id = drive(state, lambda api: api.log_in(name, password, code))
    save(login_file(os.environ), config.endpoint, SavedLogin(session_id=session_id, username=name))
    _tell(state, "Logged in.", user=name, endpoint=config.endpoint)


@command("logout")
@click.pass_obj
def logout(state: State) -> None:
    """End the login of session mode."""
    from ai.backend.client.login import forget, login_file

    config = _config(state)
    try:
        if config.session_id:
            drive(state, lambda api: api.log_out())
    finally:
        # Also when the server can't be reached: then nobody on this machine goes on being logged in, at least.
        forget(login_file(os.environ), config.endpoint)
    _tell(state, "Logged out." if config.session_id else "You were not logged in.", endpoint=config.endpoint)


def _tell(state: State, text: str, **fields: str) -> None:
    from .display import print_json

    if state.json:
        print_json({"ok": True, **fields})
    else:
        click.echo(text)
