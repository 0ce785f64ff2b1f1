"""A private Docker Engine with the Python image in it: both sides of a comparison use the same one."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ai.backend.agent.container.docker import DockerBackend
from ai.backend.agent.image.build import build
from ai.backend.agent.image.recipe import load_recipe
from ai.backend.testkit.dockerd import PrivateDockerd

from .cluster import ROOT


@contextmanager
def with_image() -> Iterator[tuple[PrivateDockerd, str]]:
    """The engine and the image's name. The first run on a machine builds the image."""
    root = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/tmp"))
    try:
        with PrivateDockerd(root, bridge=True) as engine:
            yield engine, asyncio.run(_load(engine.url))
    finally:
        shutil.rmtree(root, ignore_errors=True)


async def _load(url: str) -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "backend.ai"
    backend = DockerBackend(url, "bench")
    await backend.open()
    try:
        image = await build(
            load_recipe(ROOT / "kernels/python/kernel.toml"),
            cache_dir=cache,
            engine=backend,
            progress=lambda line: print(line, file=sys.stderr),
        )
        return image.name
    finally:
        await backend.close()


def version(url: str) -> str:
    done = subprocess.run(
        ["docker", "-H", url, "version", "--format", "{{.Server.Version}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
