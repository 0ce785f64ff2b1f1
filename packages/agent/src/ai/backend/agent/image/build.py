"""Makes images where there is no image registry: from a recipe to an image that Docker or the sandbox can
start.

The file system (`layer`) is built once and kept as `<cache>/images/<key>.tar`, where the key covers the
recipe, the architecture and the procedure; a second build takes seconds. Around it goes an image
configuration without dates: its SHA-256 is the image's digest, the same in the engine, in the sandbox's
folder and on every node that had the same packages.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ai.backend.agent.container.model import Image, architecture_of
from ai.backend.common.clock import Clock, SystemClock

from . import layer
from .recipe import Recipe, safe_name

_CHUNK_BYTES = 4 << 20
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImageStore(Protocol):
    """What building needs of a container engine; `DockerBackend` is one."""

    async def images(self) -> list[Image]: ...

    async def load_image(self, archive: AsyncIterable[bytes]) -> None: ...


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a packed file system; kept beside it in the cache."""

    digest: str
    size_bytes: int
    architecture: str
    packages: list[str]
    """Sorted "name=version"."""


def _silent(_: str) -> None:
    pass


async def build(
    recipe: Recipe,
    *,
    cache_dir: Path,
    engine: ImageStore | None = None,
    images_dir: Path | None = None,
    progress: Callable[[str], None] = _silent,
    clock: Clock | None = None,
) -> Image:
    """Makes the image and puts it into the engine and/or, unpacked, into `images_dir`. Does nothing that is
    already done.

    Building the file system needs root, debootstrap and a package mirror; a cached one needs none of them.
    `progress` gets one line a stage. Raises ImageBuildFailed, NoSpace, or what the engine raises.
    """
    clock = clock or SystemClock()
    begin = clock.monotonic()

    def tell(stage: str) -> None:
        progress(f"[{clock.monotonic() - begin:5.1f} s] {recipe.name}: {stage}")

    architecture = _architecture()
    tar = cache_dir / "images" / f"{_key(recipe, architecture)}.tar"
    tar.parent.mkdir(parents=True, exist_ok=True)
    async with _locked(tar.with_suffix(".lock"), tell):
        known = _cached(tar)
        if known is None:
            known = await _make_layer(recipe, architecture, tar, tell, built_from_s=clock.now().timestamp())
    configuration = _configuration(recipe, known)
    image = Image(
        name=recipe.name,
        digest=f"sha256:{hashlib.sha256(configuration).hexdigest()}",
        architecture=architecture_of(known.architecture),
        size_bytes=known.size_bytes,
        labels=dict(recipe.labels),
    )
    if engine is not None and not any(
        (i.name, i.digest) == (image.name, image.digest) for i in await engine.images()
    ):
        tell("loading it into the engine")
        await engine.load_image(_archive(image, configuration, tar))
    if images_dir is not None:
        await _unpack(image, tar, images_dir, tell)
    tell(f"ready, {image.size_bytes >> 20} MiB")
    return image


def _key(recipe: Recipe, architecture: str) -> str:
    """Names and labels are left out: they are not in the file system."""
    parts = [
        layer.REVISION,
        architecture,
        recipe.suite,
        sorted(recipe.packages),
        recipe.command,
        recipe.smoke,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _architecture() -> str:
    """Debian's name of this machine's architecture, which is the engines' too."""
    try:
        return subprocess.run(
            ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as exc:
        raise layer.ImageBuildFailed(
            "dpkg does not run", hint="Images are built on Debian or a system made from it."
        ) from exc


@asynccontextmanager
async def _locked(path: Path, tell: Callable[[str], None]) -> AsyncIterator[None]:
    """One build of a file system at a time, among all processes of the machine."""
    with path.open("w") as file:
        told = False
        while True:
            # A blocking wait could not be cancelled; this one ends with the caller.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if not told:
                tell("waiting for another build of it")
                told = True
            await asyncio.sleep(0.1)
        yield


def _cached(tar: Path) -> Layer | None:
    # The description is written last: where it is, the tar file is whole.
    try:
        return msgspec.json.decode(tar.with_suffix(".json").read_bytes(), type=Layer)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


async def _make_layer(
    recipe: Recipe, architecture: str, tar: Path, tell: Callable[[str], None], *, built_from_s: float
) -> Layer:
    layer.check_builder()
    with tempfile.TemporaryDirectory(prefix="build-", dir=tar.parent) as scratch:
        root, packed = Path(scratch) / "root", Path(scratch) / "layer.tar"
        packages = await layer.make_root(
            root, recipe.suite, recipe.packages, command=recipe.command, smoke=recipe.smoke, progress=tell
        )
        tell("packing")
        await layer.pack(root, packed, built_from_s=built_from_s)
        digest = await asyncio.to_thread(_digest, packed)
        known = Layer(
            digest=digest, size_bytes=packed.stat().st_size, architecture=architecture, packages=packages
        )
        packed.rename(tar)
        described = Path(scratch) / "layer.json"
        described.write_bytes(msgspec.json.encode(known))
        described.rename(tar.with_suffix(".json"))
    return known


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _configuration(recipe: Recipe, known: Layer) -> bytes:
    """The image's configuration as engines read it; equal inputs give equal bytes."""
    return json.dumps(
        {
            "architecture": known.architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Cmd": list(recipe.command),
                "Env": [f"PATH={_PATH}"],
                "Labels": recipe.labels,
                "WorkingDir": "/home/work",
            },
            "rootfs": {"type": "layers", "diff_ids": [known.digest]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": f"debootstrap {recipe.suite}"}],
        },
        sort_keys=True,
    ).encode()


async def _archive(image: Image, configuration: bytes, tar: Path) -> AsyncIterator[bytes]:
    """The form of `docker save`, made as it is sent: the file system is never copied."""
    config_name = f"{image.digest.removeprefix('sha256:')}.json"
    manifest: list[dict[str, Any]] = [
        {"Config": config_name, "RepoTags": [image.name], "Layers": ["layer.tar"]}
    ]
    for name, content in ((config_name, configuration), ("manifest.json", json.dumps(manifest).encode())):
        yield _header(name, len(content)) + content + _padding(len(content))
    yield _header("layer.tar", image.size_bytes)
    with tar.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk
    yield _padding(image.size_bytes) + bytes(2 * tarfile.BLOCKSIZE)


def _header(name: str, size_bytes: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    return info.tobuf()


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % tarfile.BLOCKSIZE)


async def _unpack(image: Image, tar: Path, images_dir: Path, tell: Callable[[str], None]) -> None:
    """Installs `images_dir/<safe name>/{rootfs,image.json}`: whole or not at all, even if we die."""
    final = images_dir / safe_name(image.name)
    description = msgspec.json.encode(msgspec.to_builtins(image))
    with contextlib.suppress(FileNotFoundError):
        if (final / "image.json").read_bytes() == description:
            return
    tell("unpacking it for the sandbox")
    # One folder deeper than where images are looked for.
    partial = images_dir / ".partial"
    partial.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=partial) as scratch:
        fresh = Path(scratch) / "fresh"
        (fresh / "rootfs").mkdir(parents=True)
        rootfs = str(fresh / "rootfs")
        await layer.run(
            "tar", "--extract", "--file", str(tar), "--directory", rootfs, "--numeric-owner", "-p"
        )
        (fresh / "image.json").write_bytes(description)
        if final.exists():
            final.rename(Path(scratch) / "old")
        os.sync()
        fresh.rename(final)
        await asyncio.to_thread(shutil.rmtree, Path(scratch) / "old", ignore_errors=True)
