"""`config`: which cluster and which identity the other commands use."""

from typing import TYPE_CHECKING

import click

from .command import State, client_config, command, drive

if TYPE_CHECKING:
    from ai.backend.client.config import ClientConfig


def _identity(found: "ClientConfig") -> dict[str, object]:
    if found.in_session_mode:
        return {"mode": "session", "logged in": "yes" if found.session_id else "no ('backend.ai login')"}
    return {
        "access key": found.access_key or "(none: anonymous)",
        "secret key": "(set)" if found.secret_key else "(none)",
    }


@command("config")
@click.pass_obj
def config(state: State) -> None:
    """Show which cluster and whose keys are used."""
    from ai.backend.client.error import ClientError

    from .display import print_fields, print_json

    found, origin = client_config(state)
    fields: dict[str, object] = {
        "endpoint": found.endpoint,
        **_identity(found),
        "domain": found.domain,
        "project": found.group,
        "known from": origin,
    }
    try:
        version = drive(state, lambda api: api.version())
        fields["server"] = f"manager {version.manager}, API {version.version}"
    except ClientError as exc:
        fields["server"] = f"does not answer: {exc.message}"
    if state.json:
        print_json({name.replace(" ", "_"): value for name, value in fields.items()})
    else:
        print_fields(list(fields.items()))
