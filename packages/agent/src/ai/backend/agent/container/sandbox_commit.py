"""Images of sandbox containers.

A container sees its root read-only, made of its image or of this machine's programs; what it changes is in its home folder. So an image of
it is its root, read through /proc as the container sees it, and the home on top. Where the image stays on this node the root is not copied:
it is the container's image again, file by file linked to it, or this machine's programs.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from ..image.archive import ArchiveWriter, LayerCut, configuration_of
from ..image.layer import ImageBuildFailed, run
from ..image.recipe import safe_name
from ..image.work import Tell, in_thread
from .backend import WORK_DIR
from .errors import ContainerFailed
from .model import CommitSpec, Image

PARTIAL = ".partial"
"""Where images are put together: one folder deeper than where they are looked for."""
ON_HOST = "on_host_root"
"""In image.json: its root is this machine's programs, and `rootfs` holds the home alone."""
_WORDS = {"x86_64": "amd64", "aarch64": "arm64"}
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_OF_AN_IMAGE = ("proc", "dev", "sys", "tmp", "run", str(WORK_DIR.relative_to("/")))


async def write_archive(
    pid: int,
    base: Image,
    spec: CommitSpec,
    archive: Path,
    *,
    room: Callable[[int], None],
    tell: Callable[[int, int], None],
) -> Image:
    """`pid`: a process of the container, which keeps its root. Raises OSError, ContainerFailed or NoSpace."""
    command = _tar(Path(f"/proc/{pid}/root"), spec.left_out)
    root_bytes = await _size(command)
    home_bytes = spec.home.stat().st_size
    total_bytes = root_bytes + home_bytes
    room(total_bytes)
    labels = base.labels | dict(spec.labels)

    def write(report: Tell) -> str:
        with (
            spec.home.open("rb") as home,
            ArchiveWriter(archive, compress=True, tell=report) as writer,
            subprocess.Popen(
                [*command, "--file", "-"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath)},
            ) as process,
        ):
            try:
                packed = cast("BinaryIO", process.stdout)
                layers = [writer.add_layer(packed, root_bytes)]
                if packed.read(1):
                    raise LayerCut("the container's root has grown meanwhile")
            finally:
                process.kill()
            layers.append(writer.add_layer(home, home_bytes))
            return writer.describe(
                spec.name,
                layers,
                architecture=_WORDS.get(base.architecture, base.architecture),
                configuration=_configuration(labels),
            )

    digest = await in_thread(write, lambda done: tell(done, total_bytes))
    return Image(
        name=spec.name,
        digest=digest,
        architecture=base.architecture,
        size_bytes=total_bytes,
        labels=labels,
    )


def _configuration(labels: dict[str, str]) -> dict[str, object]:
    return {"Env": [_PATH], "Cmd": ["/bin/sh"], "WorkingDir": str(WORK_DIR), "Labels": labels}


def _tar(root: Path, left_out: tuple[PurePosixPath, ...]) -> list[str]:
    """What packs the root but for what no image holds; folders that are left out are there, empty."""
    excluded = [*_NOT_OF_AN_IMAGE, *(str(path.relative_to("/")) for path in left_out)]
    return [
        "tar", "--create", "--directory", str(root), "--numeric-owner", "--sort=name", "--format=pax",
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--ignore-failed-read",
        "--anchored", *(f"--exclude=./{path}/*" for path in excluded), ".",
    ]  # fmt: skip


async def _size(command: list[str]) -> int:
    """How long the tar will be; nothing of files is read for it."""
    try:
        said = await run(*command[:-1], "--totals", "--file", "/dev/null", command[-1])
    except ImageBuildFailed as exc:
        raise ContainerFailed(f"the container's root can't be read: {exc.message}") from exc
    match = re.search(r"Total bytes written: (\d+)", said)
    if match is None:
        raise ContainerFailed("the container's root can't be measured")
    return int(match[1])


async def keep(
    base: Image, rootfs: Path | None, spec: CommitSpec, images_dir: Path, *, room: Callable[[int], None]
) -> Image:
    """Puts the image among those of this node, whole or not at all. `rootfs`: of the container's image, None for this machine's root.

    Raises OSError, ContainerFailed or NoSpace."""
    home_bytes = spec.home.stat().st_size
    room(home_bytes)
    labels = base.labels | dict(spec.labels)
    home_digest = await in_thread(lambda _: _digest(spec.home), lambda _: None)
    config = configuration_of([base.digest, home_digest], base.architecture, _configuration(labels))
    image = Image(
        name=spec.name,
        digest=f"sha256:{hashlib.sha256(config).hexdigest()}",
        architecture=base.architecture,
        size_bytes=base.size_bytes + home_bytes,
        labels=labels,
    )
    partial = images_dir / PARTIAL / hashlib.sha256(spec.name.encode()).hexdigest()
    partial.mkdir(parents=True)
    try:
        await _assemble(partial / "rootfs", rootfs, spec.home)
        described = asdict(image) | ({ON_HOST: True} if rootfs is None else {})
        (partial / "image.json").write_text(json.dumps(described))
        partial.chmod(0o755)
        partial.rename(images_dir / safe_name(spec.name))
    except OSError as exc:
        if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise ContainerFailed(f"this node has an image {spec.name} already") from exc
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return image


async def _assemble(root: Path, rootfs: Path | None, home: Path) -> None:
    """`root` is not there yet."""
    try:
        if rootfs is None:
            await run("mkdir", str(root))
        else:
            await run("cp", "--archive", "--link", str(rootfs), str(root))
            await run("rm", "--recursive", "--force", str(root / WORK_DIR.relative_to("/")))
        owner = [] if os.geteuid() == 0 else ["--no-same-owner"]
        await run("tar", "--extract", "--file", str(home), "--directory", str(root), "-p", *owner)
    except ImageBuildFailed as exc:
        raise ContainerFailed(f"the image could not be put together: {exc.message}") from exc


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def remove(images_dir: Path, name: str, digest: str) -> None:
    """The kept image, if it is still that one."""
    folder = images_dir / safe_name(name)
    with contextlib.suppress(FileNotFoundError):
        if json.loads((folder / "image.json").read_bytes())["digest"] == digest:
            (folder / "image.json").unlink()  # from here on it is none
            shutil.rmtree(folder, ignore_errors=True)


async def unpack_home(rootfs: Path, folder: Path) -> None:
    """Raises ContainerFailed or NoSpace."""
    home = rootfs / WORK_DIR.relative_to("/")
    if home.is_dir():
        try:
            await run("cp", "--archive", "--no-target-directory", str(home), str(folder))
        except ImageBuildFailed as exc:
            raise ContainerFailed(f"the image's home folder could not be copied: {exc.message}") from exc
