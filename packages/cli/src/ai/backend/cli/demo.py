"""`demo`: from nothing to the output of code in a container, through the public API, telling what each step took."""

import os
import secrets
import time
from typing import Any

import click

from .cluster import choose_listen, cluster_options, start
from .command import State, command, home_of
from .display import print_fields, print_json, progress
from .home import Home, Running, running

CODE = """\
import os, platform
print("Hello from a container:", "Python", platform.python_version(), "on", platform.node() + ", 6 * 7 =", 6 * 7)
"""


class _Steps:
    """What was done and how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def did(self, name: str, seconds: float, note: str = "") -> None:
        self.seconds[name.replace(" ", "_")] = round(seconds, 3)
        click.echo(f"  {name:<16} {seconds:7.2f} s   {note}".rstrip(), err=True)


@command("demo")
@cluster_options
@click.option("--keep", is_flag=True, help="Leave the session running too.")
@click.pass_obj
def demo(
    state: State,
    home: str | None,
    listen: tuple[str, int] | None,
    backend: str,
    docker_host: str | None,
    mock_gpus: dict[str, Any] | None,
    fractional: bool,
    keep: bool,
) -> int:
    """Start a cluster here if none runs, and run code in a container of it.

    The cluster is left running.
    """
    import asyncio

    place = Home(home_of(home))
    steps = _Steps()
    if made_s := os.environ.pop("BACKENDAI_ENVIRONMENT_S", ""):
        steps.did("environment", float(made_s), "made by the launcher")
    began = time.monotonic()
    found = running(place)
    if found is None:
        start(
            place,
            listen=choose_listen(listen),
            backend=backend,
            docker_host=docker_host,
            mock_gpus=mock_gpus,
            fractional=fractional,
        )
        found = running(place)
        assert found is not None, "a ready cluster has written its file"
        steps.did("cluster start", time.monotonic() - began, f"{found.endpoint}, {found.backend} backend")
    else:
        steps.did(
            "cluster", time.monotonic() - began, f"runs already: {found.endpoint}, {found.backend} backend"
        )
    if found.backend == "docker":
        began = time.monotonic()
        if asyncio.run(_image_made(place, docker_host)):
            steps.did("image", time.monotonic() - began, "built, for this machine had none")
    told = asyncio.run(_story(place, steps, keep))
    if state.json:
        print_json({**told, "seconds": steps.seconds, "endpoint": found.endpoint, "env": str(place.env_file)})
    else:
        _summarize(place, found, told)
    return 0 if told["ok"] else 1


async def _image_made(place: Home, docker_host: str | None) -> bool:
    """Builds the image for Python where the engine has none for sessions, and waits until the cluster knows it."""
    import asyncio

    from ai.backend.client.client import AsyncClient
    from ai.backend.client.config import ClientConfig, read_assignments

    from .display import remark
    from .image import build_image, recipe_file

    config = ClientConfig.from_environ(read_assignments(place.env_file.read_text()))
    async with AsyncClient(config) as api:
        if await api.images():
            return False
        await build_image(recipe_file("python"), place.path, "docker", docker_host, remark)
        with progress("Waiting until the cluster has seen the image"):
            while not await api.images():  # noqa: ASYNC110 (another process tells)
                await asyncio.sleep(0.2)  # the next heartbeat of the agent tells of it
    return True


async def _story(place: Home, steps: _Steps, keep: bool) -> dict[str, Any]:
    from ai.backend.client.client import AsyncClient
    from ai.backend.client.config import ClientConfig, read_assignments

    config = ClientConfig.from_environ(read_assignments(place.env_file.read_text()))
    async with AsyncClient(config) as api:
        began = time.monotonic()
        with progress("Starting a session"):
            session = await api.sessions.create(image="python", name=f"demo-{secrets.token_hex(3)}")
        steps.did("session start", time.monotonic() - began, f"{session.name}, a container of its own")
        try:
            began = time.monotonic()
            with progress("Running the code"):
                ran = await session.run(CODE)
            steps.did("execute", time.monotonic() - began, "code in, output back")
        finally:
            if not keep:
                began = time.monotonic()
                with progress("Removing the session"):
                    await session.destroy()
                steps.did("session removal", time.monotonic() - began, "container and files are gone")
    return {
        "ok": not ran.exit_code and "42" in ran.stdout,
        "session": session.name,
        "stdout": ran.stdout,
        "stderr": ran.stderr,
    }


def _summarize(place: Home, found: Running, told: dict[str, Any]) -> None:
    from ai.backend.client.config import read_assignments

    known = read_assignments(place.env_file.read_text())
    click.echo()
    print_fields(
        [
            ("web and API", known.get("BACKEND_WEB_ENDPOINT", found.endpoint)),
            ("administrator", f"{known['BACKEND_ADMIN_EMAIL']} / {known['BACKEND_ADMIN_PASSWORD']}"),
            ("user", f"{known['BACKEND_USER_EMAIL']} / {known['BACKEND_USER_PASSWORD']}"),
            ("keys", f". {place.env_file}"),
        ]
    )
    click.echo(f"\nThe code printed:\n  {told['stdout'].strip() or told['stderr'].strip()}\n")
    click.echo("Go on:   ./backend.ai run python -c 'print(6*7)'     (more: ./backend.ai --help)")
    click.echo(
        "Stop it: ./backend.ai down" + ("" if place.path == home_of(None) else f" --home {place.path}")
    )
