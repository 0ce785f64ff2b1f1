"""`image ...`: the images that sessions are started from."""

from pathlib import Path
from typing import Any

import click

from ai.backend.common.errors import ConfigError

from .command import State, command, drive, home_of, home_option


@click.group("image")
def image() -> None:
    """Images that sessions are started from."""


@command("ls", parent=image)
@click.pass_obj
def ls(state: State) -> None:
    """List images."""
    from ai.backend.common.quantity import format_size

    from .display import print_json, print_table

    found = drive(state, lambda api: api.images())
    if state.json:
        print_json({"items": found, "total_count": len(found)})
        return
    print_table(
        ("NAME", "ARCH", "SIZE", "DIGEST"),
        [(i.name, i.architecture, format_size(i.size_bytes), i.digest[:19]) for i in found],
        empty="No images. Make one with 'backend.ai image build python'.",
    )


image.add_command(ls, "list")


def recipe_file(given: str) -> Path:
    """A recipe by the name of its folder in kernels/, or by path. Raises ConfigError."""
    path = Path(given)
    if path.suffix == ".toml" or path.is_dir():
        return path / "kernel.toml" if path.is_dir() else path
    for above in Path(__file__).resolve().parents:
        if (kernels := above / "kernels").is_dir():
            if (found := kernels / given / "kernel.toml").is_file():
                return found
            known = ", ".join(sorted(one.parent.name for one in kernels.glob("*/kernel.toml")))
            raise ConfigError(f"there is no recipe {given!r}", hint=f"Known: {known}; or name a kernel.toml.")
    raise ConfigError(f"there is no recipe {given!r}", hint="Name a kernel.toml.")


@command("build", parent=image)
@click.argument("recipe", default="python")
@home_option
@click.option(
    "--backend",
    type=click.Choice(["auto", "docker", "sandbox"]),
    default="auto",
    show_default=True,
    help="Which container backend gets it; auto: both that are here.",
)
@click.option("--docker-host", help="The engine's address. [default: $DOCKER_HOST, else the local one]")
@click.pass_obj
def build(state: State, recipe: str, home: str | None, backend: str, docker_host: str | None) -> None:
    """Build an image without a registry. RECIPE is a folder of kernels/, or a kernel.toml."""
    import asyncio

    from .display import print_json, remark

    path = recipe_file(recipe)
    made = asyncio.run(build_image(path, home_of(home), backend, docker_host, remark))
    if state.json:
        print_json(made)
    else:
        click.echo(f"{made.name} is ready ({made.digest[:19]})")


async def build_image(path: Path, home: Path, backend: str, docker_host: str | None, tell: Any) -> Any:
    """Builds the recipe and hands the image to the backends asked for; returns it. `tell` is called with each stage."""
    import os

    from ai.backend.agent.container.docker import DockerBackend
    from ai.backend.agent.image import build as building
    from ai.backend.agent.image.recipe import load_recipe
    from ai.backend.agent.main import node_folder
    from ai.backend.common import config as configuration
    from ai.backend.common.errors import BackendError

    from .embedded import ClusterConfig
    from .home import Home

    recipe = load_recipe(path)
    settings_file = Home(home).config_file
    settings = configuration.load(
        ClusterConfig, settings_file if settings_file.exists() else None, environ=os.environ
    )
    node = node_folder(settings.agent)
    engine: DockerBackend | None = None
    if backend != "sandbox":
        engine = DockerBackend(docker_host, "image-build")
        try:
            await engine.open()
        except BackendError as exc:
            if backend == "docker":
                raise
            tell(f"No container engine answers, so the image is for the sandbox only ({exc.message}).")
            engine = None
    try:
        return await building.build(
            recipe,
            cache_dir=node / "cache",
            engine=engine,
            images_dir=None if backend == "docker" else node / "images",
            progress=tell,
        )
    finally:
        if engine is not None:
            await engine.close()
