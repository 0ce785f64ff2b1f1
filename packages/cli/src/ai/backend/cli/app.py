"""`apps` and `app`: programs in a session, and a local port that leads to one; `start-service`: the way through an app proxy."""

from typing import TYPE_CHECKING, Any

import click

from .command import State, command, drive

if TYPE_CHECKING:
    from ai.backend.client.client import AsyncClient
    from ai.backend.client.error import ClientError
    from ai.backend.client.stream import Forward
    from ai.backend.common.wire.rest.session import AppItem

LOCAL = "127.0.0.1"


class Bind(click.ParamType["tuple[str, int]"]):
    """`[HOST:]PORT`; port 0 is any free one."""

    name = "[HOST:]PORT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).rpartition(":")
        if not port.isdecimal() or int(port) > 65535:
            self.fail(f"{value!r} is not of the form HOST:PORT or PORT", param, ctx)
        return host.strip("[]") or LOCAL, int(port)


@command("apps")
@click.argument("session_ref", metavar="SESSION")
@click.argument("names", metavar="[APP]...", nargs=-1)
@click.pass_obj
def apps(state: State, session_ref: str, names: tuple[str, ...]) -> None:
    """List the programs of a session that can be connected to.

    These are the services of its image, and the ports that were opened for programs of your own with --preopen.
    """
    from .display import print_json, print_table

    found = drive(state, lambda api: api.sessions.at(session_ref).apps())
    shown = [one for one in found if not names or one.name in names]
    if state.json:
        print_json({"items": shown, "total_count": len(shown)})
        return
    print_table(
        ("APP", "PROTOCOL", "PORTS"),
        [(one.name, one.protocol, ", ".join(map(str, one.ports))) for one in shown],
        empty="No apps; create the session with --preopen PORT for programs of your own.",
    )


@command("app")
@click.argument("session_ref", metavar="SESSION")
@click.argument("name", metavar="APP")
@click.option("-b", "--bind", type=Bind(), help="[default: the app's own port on 127.0.0.1, or a free one]")
@click.option(
    "-p", "--port", type=click.IntRange(1, 65535), help="Which of the app's ports. [default: the first]"
)
@click.pass_obj
def app(state: State, session_ref: str, name: str, bind: tuple[str, int] | None, port: int | None) -> int:
    """Open a local port that leads to a program in a session.

    It stays open until Ctrl-C. Whoever can reach that port can use the program: by default only this machine can.

    \b
      backend.ai session create python -t mine --preopen 8000
      backend.ai exec mine -c 'import subprocess as s; s.Popen(["python3", "-m", "http.server", "8000"])'
      backend.ai app mine 8000
    """

    async def work(api: "AsyncClient") -> None:
        from ai.backend.client.error import InvalidCall

        from .display import remark

        def failed(error: "ClientError") -> None:
            remark(f"A connection failed: {error.message}")

        session = api.sessions.at(session_ref)
        offered = {one.name: one for one in await session.apps()}
        if name not in offered:
            raise InvalidCall(
                f"the session {session_ref} offers no app {name}",
                hint=f"It offers: {', '.join(offered)}."
                if offered
                else "Create it with --preopen PORT for programs of your own.",
            )
        forward = await _listen(
            lambda host, at: session.forward(name, host=host, bind_port=at, port=port, on_failure=failed),
            bind,
            port or offered[name].ports[0],
        )
        try:
            _tell(state, session_ref, offered[name], forward.address)
            await forward.serve_forever()
        finally:
            await forward.__aexit__()

    try:
        drive(state, work)
    except KeyboardInterrupt:
        click.echo("Closed.", err=True)
    return 0


async def _listen(make: Any, bind: tuple[str, int] | None, own_port: int) -> "Forward":
    """Where it was asked for; else at the app's own port, or at a free one when somebody has it. Raises InvalidCall."""
    from ai.backend.client.error import InvalidCall

    host, at = bind or (LOCAL, own_port)
    try:
        forward: Forward = await make(host, at).__aenter__()
        return forward
    except OSError as exc:
        if bind is None:
            return await _listen(make, (LOCAL, 0), own_port)
        raise InvalidCall(
            f"can't listen on {host}:{at}: {exc.strerror}",
            hint="Choose another with --bind (port 0: any free one).",
        ) from exc


def _tell(state: State, session_ref: str, item: "AppItem", address: tuple[str, int]) -> None:
    import sys

    from .display import print_json, remark

    host, port = address
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    url = f"http://{where}" if item.protocol in ("http", "preopen") else f"tcp://{where}"
    if state.json:
        print_json({"ok": True, "app": item.name, "host": host, "port": port, "url": url})
    else:
        click.echo(url)
        remark(f"leads to {item.name} in {session_ref} until Ctrl-C.")
    sys.stdout.flush()


@command("start-service")
@click.argument("session_ref", metavar="SESSION")
@click.argument("name", metavar="APP")
@click.option(
    "-p", "--port", type=click.IntRange(1, 65535), help="Which of the app's ports. [default: the first]"
)
@click.pass_obj
def start_service(state: State, session_ref: str, name: str, port: int | None) -> None:
    """Open a program in a session through the app proxy of its resource group.

    Prints the token for the proxy's coordinator, and where that is. Where there is no app proxy, use 'backend.ai app'.
    """
    from .display import print_fields, print_json

    opened = drive(state, lambda api: api.sessions.at(session_ref).start_service(name, port=port))
    if state.json:
        print_json({"ok": True, "app": name, "token": opened.token, "wsproxy_addr": opened.wsproxy_addr})
    else:
        print_fields([("coordinator", opened.wsproxy_addr), ("token", opened.token)])


@command("shutdown-service")
@click.argument("session_ref", metavar="SESSION")
@click.argument("name", metavar="APP")
@click.pass_obj
def shutdown_service(state: State, session_ref: str, name: str) -> None:
    """Close what start-service opened, and the connections through it. The program itself goes on."""
    from .display import print_json

    drive(state, lambda api: api.sessions.at(session_ref).shutdown_service(name))
    message = f"{name} in {session_ref} is closed to the app proxy"
    if state.json:
        print_json({"ok": True, "msg": message})
    else:
        click.echo(message)
