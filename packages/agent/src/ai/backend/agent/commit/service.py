"""Makes images of this agent's running kernels: archives below one folder, or images that the backend keeps.

One at a time for each kernel. It ends with the kernel's run, with the manager's interest, and with this agent, and then leaves nothing:
everything is put together in a folder of its own, which is erased in the end, or at the next start.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from ai.backend.common.bus import Accept
from ai.backend.common.errors import (
    BackendError,
    CommitBroken,
    CommitExists,
    CommitOngoing,
    InvalidSessionState,
    Unavailable,
)
from ai.backend.common.log import get_logger
from ai.backend.common.quantity import parse_size
from ai.backend.common.stream import Stream
from ai.backend.common.wire import rpc
from ai.backend.common.wire.commit import CommitStep, encode

from ..config import AgentConfig
from ..container.backend import CONFIG_DIR, KERNEL_DIR, RUNNER_DIR, ContainerBackend
from ..container.errors import ContainerFailed, NoSpace
from ..container.model import CommitSpec, Image
from ..image.work import in_thread
from ..kernel.driver import Driver
from ..kernel.machine import State
from ..resource.capacity import free_bytes
from . import home
from .policy import check_place, left_out_of, room_refusal, tar_bytes

log = get_logger(__name__)

AT_ONCE_MAX = 4
"""More would only share the disk."""
_PARTIAL = ".partial-"
_MOUNTED = (RUNNER_DIR, KERNEL_DIR, CONFIG_DIR)
_SLACK_BYTES = 16 << 20
"""By how much a home folder may grow while it is read."""


class _State(NamedTuple):
    done_bytes: int
    total_bytes: int
    message: str


class _Progress:
    """The newest state; whoever tells it sends no more often than it can be taken."""

    def __init__(self) -> None:
        self.state = _State(0, 0, "")
        self.changed = asyncio.Event()

    def show(self, done_bytes: int, total_bytes: int, message: str) -> None:
        self.state = _State(done_bytes, total_bytes, message)
        self.changed.set()

    async def tell(self, stream: Stream) -> None:
        while True:
            await self.changed.wait()
            self.changed.clear()
            done, total, message = self.state
            await stream.send(encode(CommitStep(done_bytes=done, total_bytes=total, message=message)))


class Commits:
    """`made` is awaited when the backend has an image more."""

    def __init__(
        self,
        *,
        config: AgentConfig,
        backend: ContainerBackend,
        folder: Path,
        made: Callable[[], Awaitable[None]],
    ) -> None:
        self._backend = backend
        self._folder = folder
        self._made = made
        self._size_max = parse_size(config.commit_size_max)
        self._user_max = parse_size(config.commit_user_max)
        self._reserve_bytes = parse_size(config.scratch_free_min)
        self._ongoing: set[UUID] = set()

    def open(self) -> None:
        """Removes what an earlier process of this agent did not finish."""
        for leftover in self._folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    async def serve(self, request: rpc.Commit, driver: Driver, accept: Accept) -> None:
        """Refuses with CommitOngoing, CommitExists, InvalidInput, InvalidSessionState or Unavailable before it accepts."""
        if driver.state is not State.RUNNING:
            raise InvalidSessionState("the session's container does not run", hint="Wait until it does.")
        target = self._target(request)
        if request.kernel_id in self._ongoing:
            raise CommitOngoing(
                "an image is being made of this session already", hint="Wait until it is done."
            )
        if len(self._ongoing) >= AT_ONCE_MAX:
            raise Unavailable(
                f"{len(self._ongoing)} images of sessions are being made on this node",
                hint="Try again when one is done.",
            )
        self._ongoing.add(request.kernel_id)
        try:
            stream = accept()
            last = await self._follow(request, driver, target, stream)
        finally:
            self._ongoing.discard(request.kernel_id)
        await stream.send(encode(last))  # whoever hears of it may ask for the next one

    def _target(self, request: rpc.Commit) -> Path | None:
        if not request.filename:
            return None
        check_place(request.folder, request.filename)
        target = self._folder / request.folder / request.filename
        if target.exists():
            raise CommitExists(f"there is an archive {request.filename} already", hint="Choose another name.")
        return target

    async def _follow(
        self, request: rpc.Commit, driver: Driver, target: Path | None, stream: Stream
    ) -> CommitStep:
        """Works until it is done, or until the kernel or whoever asked for it is gone."""
        progress = _Progress()
        work = asyncio.create_task(self._make(request, driver, target, progress), name="commit")
        telling = asyncio.create_task(progress.tell(stream))
        closed = asyncio.create_task(stream.receive())
        driver.companions.add(work)
        helpers: set[asyncio.Task[None] | asyncio.Task[bytes]] = {telling, closed}
        try:
            await asyncio.wait({work, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, *helpers):
                task.cancel()
            await asyncio.wait({work, *helpers})
            driver.companions.discard(work)
            for task in helpers:
                if not task.cancelled():
                    task.exception()  # of a stream that is gone nobody wants to hear
        if work.cancelled():
            log.info("commit-broken-off", kernel=str(request.kernel_id))
            raise CommitBroken("the session ended, or was restarted, while an image was being made of it")
        image = work.result()
        log.info("commit-done", kernel=str(request.kernel_id), image=image.name, size=image.size_bytes)
        done, total, _ = progress.state
        report = rpc.ImageReport(
            name=image.name,
            digest=image.digest,
            architecture=image.architecture,
            size_bytes=image.size_bytes,
            labels=image.labels,
        )
        return CommitStep(done_bytes=max(done, total), total_bytes=max(done, total), image=report)

    async def _make(
        self, request: rpc.Commit, driver: Driver, target: Path | None, progress: _Progress
    ) -> Image:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            scratch = Path(tempfile.mkdtemp(dir=self._folder, prefix=_PARTIAL))
            try:
                return await self._make_in(scratch, request, driver, target, progress)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        except OSError as exc:
            if exc.errno in (28, 122):
                raise NoSpace(
                    "the node's disk became full while the session's image was written",
                    hint="Free disk space on the node.",
                ) from exc
            raise ContainerFailed(f"the session's image can't be written: {exc.strerror}") from exc

    async def _make_in(
        self, scratch: Path, request: rpc.Commit, driver: Driver, target: Path | None, progress: _Progress
    ) -> Image:
        packed = scratch / "home.tar"
        left_out = left_out_of([*request.left_out, *(file.path for file in driver.desired.dotfiles)])
        work_dir = driver.scratch.work
        home_bytes = await asyncio.to_thread(lambda: tar_bytes(home.measure(work_dir, left_out)))
        self._check_room(home_bytes, target)
        read_bytes = 0

        def read(size: int) -> None:
            nonlocal read_bytes
            read_bytes += size
            progress.show(read_bytes, home_bytes, "reading the home folder")

        progress.show(0, home_bytes, "reading the home folder")
        await in_thread(
            lambda tell: home.pack(
                work_dir, packed, left_out, bytes_max=home_bytes + _SLACK_BYTES, tell=tell
            ),
            read,
        )
        spec = CommitSpec(
            name=request.image,
            labels=tuple(request.labels.items()),
            home=packed,
            left_out=_MOUNTED,
            archive=None if target is None else scratch / "image.tar.gz",
            scratch=scratch,
        )
        image = await self._backend.commit(
            driver.name,
            spec,
            room=lambda size: self._check_room(size, target),
            tell=lambda done, total: progress.show(
                home_bytes + done, home_bytes + total, "writing the image"
            ),
        )
        if target is None:
            await self._announce(image)
            return image
        return replace(image, size_bytes=self._put(scratch / "image.tar.gz", target))

    async def _announce(self, image: Image) -> None:
        try:
            await self._made()
        except asyncio.CancelledError:
            with contextlib.suppress(BackendError):
                await self._backend.remove_image(image.name, image.digest)
            raise

    def _put(self, archive: Path, target: Path) -> int:
        """Gives the finished archive its name, and returns its size."""
        target.parent.mkdir(mode=0o700, exist_ok=True)
        with archive.open("rb") as file:
            os.fsync(file.fileno())
        try:
            os.link(archive, target)
        except FileExistsError as exc:
            raise CommitExists(
                f"there is an archive {target.name} already", hint="Choose another name."
            ) from exc
        return target.stat().st_size

    def _check_room(self, needed_bytes: int, target: Path | None) -> None:
        used_bytes = 0
        if target is not None and target.parent.is_dir():
            used_bytes = sum(one.stat().st_size for one in target.parent.iterdir())
        refusal = room_refusal(
            needed_bytes,
            free_bytes=free_bytes(self._folder),
            reserve_bytes=self._reserve_bytes,
            used_bytes=used_bytes,
            size_max=self._size_max,
            user_max=max(self._size_max, self._user_max) if target is None else self._user_max,
        )
        if refusal is not None:
            raise refusal
