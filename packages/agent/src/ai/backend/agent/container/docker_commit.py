"""Images of running containers, with an engine's own means.

The engine makes an image of the container's root (it pauses the container meanwhile, so that the files agree), which is never
seen by users: it has no name, and its configuration holds the container's environment. Its layers alone are copied, out of
what `save` sends, into an archive with a configuration made from the image that the container was started from; that archive
is the result, or is loaded into the engine. What is made on the way carries a label, by which a later start finds and removes
what a killed agent left.
"""

import asyncio
import contextlib
import errno
import os
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
from aiodocker import Docker
from aiodocker.exceptions import DockerError

from ..image.archive import CHUNK_BYTES, ArchiveWriter, copy_layers
from ..image.layer import ImageBuildFailed, run
from ..image.work import Tell, in_thread
from .backend import WORK_DIR
from .errors import ContainerFailed, NoSpace
from .model import CommitSpec, Image, architecture_of

LABEL = "ai.backend.docker.commit-of"
"""On what exists only while a commit goes on; its value is the owner."""
_OWN_PREFIX = "ai.backend.docker."

Stream = Callable[..., AbstractAsyncContextManager[aiohttp.StreamReader]]
"""The body of a GET: path, parameters, `timeout_s`."""


async def commit(
    engine: Docker,
    stream: Stream,
    owner: str,
    reference: str,
    spec: CommitSpec,
    *,
    room: Callable[[int], None],
    tell: Callable[[int, int], None],
) -> Image:
    """See `ContainerBackend.commit`. Raises DockerError and aiohttp's errors for the engine's, ContainerError for ours."""
    container = engine.containers.container(reference)
    shown = await container.show(size="1")
    if not shown["State"]["Running"]:
        raise ContainerFailed("the container does not run")
    base = await engine.images.inspect(shown["Image"])
    home_bytes = spec.home.stat().st_size
    total_bytes = int(shown.get("SizeRootFs") or 0) + home_bytes
    room(total_bytes)
    archive = spec.archive or spec.scratch / "image.tar"
    raw_id = await _snapshot(container, engine, owner)
    try:
        labels = {**(base["Config"].get("Labels") or {}), **dict(spec.labels)}
        labels = {key: text for key, text in labels.items() if not key.startswith(_OWN_PREFIX)}
        kept = ("Env", "Cmd", "Entrypoint", "WorkingDir", "User", "Volumes", "ExposedPorts")
        configuration = {key: base["Config"][key] for key in kept if base["Config"].get(key)}

        def write(source: int, report: Tell) -> str:
            with (
                os.fdopen(source, "rb", closefd=False) as saved,
                spec.home.open("rb") as home,
                ArchiveWriter(archive, compress=spec.archive is not None, tell=report) as writer,
            ):
                layers = [*copy_layers(saved, writer), writer.add_layer(home, home_bytes)]
                return writer.describe(
                    spec.name,
                    layers,
                    architecture=base["Architecture"],
                    configuration=configuration | {"Labels": labels},
                )

        async with stream(f"images/{raw_id}/get", {}, timeout_s=None) as body:
            digest = await _through_pipe(body, write, lambda done: tell(done, max(done, total_bytes)))
        image = Image(
            name=spec.name,
            digest=digest,
            architecture=architecture_of(base["Architecture"]),
            size_bytes=total_bytes,
            labels=labels,
        )
        if spec.archive is None:
            await _load(engine, archive, image)
    finally:
        await _whole(_forget(engine, raw_id))
    return image


async def _snapshot(container: Any, engine: Docker, owner: str) -> str:
    """The id of a nameless image of the container. One that appears after its caller was cancelled is removed."""
    task = asyncio.ensure_future(container.commit(config={"Labels": {LABEL: owner}}))
    try:
        made: str = (await asyncio.shield(task))["Id"]
        return made
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            await _forget(engine, task.result()["Id"])
        raise


async def _through_pipe(body: aiohttp.StreamReader, work: Callable[[int, Tell], str], tell: Tell) -> str:
    """Runs `work` in a thread, which reads what comes in `body` from a pipe."""
    reading, writing = os.pipe()

    def read_all(report: Tell) -> str:
        try:
            return work(reading, report)
        finally:
            os.close(reading)  # whoever writes hears of it

    async def feed() -> None:
        try:
            async for chunk in body.iter_chunked(CHUNK_BYTES):
                await _whole(asyncio.to_thread(_write_all, writing, chunk))
        finally:
            os.close(writing)

    working = asyncio.ensure_future(_mapped(in_thread(read_all, tell)))
    feeding = asyncio.ensure_future(feed())
    both: set[asyncio.Future[Any]] = {working, feeding}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in both:
            if not (task is working and feeding.done()):
                task.cancel()
        await asyncio.wait(both)
        failures = [None if task.cancelled() else task.exception() for task in (feeding, working)]
    for failure in failures:
        if failure is not None and not isinstance(failure, BrokenPipeError):
            raise failure
    return working.result()


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


async def _mapped(writing: Awaitable[str]) -> str:
    """What goes wrong while a file of ours is written."""
    try:
        return await writing
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace("the disk of this node is full", hint="Free disk space on the node.") from exc
        raise ContainerFailed(f"the image could not be written: {exc.strerror or exc}") from exc
    except (tarfile.TarError, ValueError) as exc:
        raise ContainerFailed(f"the engine's archive of the image ended early or is damaged: {exc}") from exc


async def _load(engine: Docker, archive: Path, image: Image) -> None:
    """Gives the archive to the engine. Of a load that was broken off nothing stays."""
    loading = asyncio.ensure_future(engine.images.import_image(_chunks(archive)))
    try:
        await asyncio.shield(loading)
    except BaseException:
        loading.cancel()
        await asyncio.wait({loading})
        await _whole(remove_image(engine, image.name, image.digest))
        raise


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk


async def remove_image(engine: Docker, name: str, digest: str) -> None:
    """The image, if the name still means that one."""
    try:
        found = await engine.images.inspect(name)
        if found["Id"] == digest:
            await engine.images.delete(name)
    except DockerError as exc:
        if exc.status != 404:
            raise


async def _forget(engine: Docker, image_id: str) -> None:
    with contextlib.suppress(DockerError, aiohttp.ClientError):  # the next start removes it
        await engine.images.delete(image_id, force=True)


async def _whole(call: Awaitable[None]) -> None:
    """Lets a cleaning end even when its caller is cancelled once more."""
    task = asyncio.ensure_future(call)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def sweep(engine: Docker, owner: str) -> None:
    """Removes what commits of an earlier process of this agent left."""
    mine = {"label": [f"{LABEL}={owner}"]}
    for container in await engine.containers.list(all=True, filters=mine):
        with contextlib.suppress(DockerError):
            await container.delete(force=True)
    for image in await engine.images.list(filters=mine):
        await _forget(engine, image["Id"])


async def unpack_home(engine: Docker, stream: Stream, owner: str, image: str, folder: Path) -> None:
    """See `ContainerBackend.unpack_home`."""
    configuration: dict[str, Any] = {"Image": image, "Cmd": ["true"], "Labels": {LABEL: owner}}
    container = await engine.containers.create(configuration)
    packed = folder.with_name(f"{folder.name}.tar")
    try:
        async with stream(
            f"containers/{container.id}/archive", {"path": f"{WORK_DIR}/."}, timeout_s=None
        ) as body:
            with packed.open("wb") as file:
                async for chunk in body.iter_chunked(CHUNK_BYTES):
                    await asyncio.to_thread(file.write, chunk)
        await unpack(packed, folder)
    except DockerError as exc:
        if exc.status != 404:
            raise
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace("the disk of this node is full", hint="Free disk space on the node.") from exc
        raise
    finally:
        packed.unlink(missing_ok=True)
        await _whole(_remove(container))


async def _remove(container: Any) -> None:
    with contextlib.suppress(DockerError, aiohttp.ClientError):
        await container.delete(force=True)


async def unpack(packed: Path, folder: Path) -> None:
    """Raises NoSpace or ContainerFailed."""
    try:
        await run(
            "tar", "--extract", "--file", str(packed), "--directory", str(folder), "--no-same-owner", "-p"
        )
    except ImageBuildFailed as exc:
        raise ContainerFailed("the image's home folder could not be unpacked") from exc
