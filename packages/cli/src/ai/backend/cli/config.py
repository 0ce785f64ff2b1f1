"""`config`: which cluster and which identity the other commands use."""

import click

from .command import State, client_config, command, drive


@command("config")
@click.pass_obj
def config(state: State) -> None:
    """Show which cluster and whose keys are used."""
    from ai.backend.client.error import ClientError

    from .display import print_fields, print_json

    found, origin = client_config(state)
    fields: dict[str, object] = {
        "endpoint": found.endpoint,
        "access key": found.access_key or "(none: anonymous)",
        "secret key": "(set)" if found.secret_key else "(none)",
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
