"""A session's home folder as a layer of an image, and back.

User code changes the folder while it is read: every step goes through an open descriptor of the folder above and follows no link, a
file that shrinks is filled up with zeros, one that grows is cut, and nothing but files, folders and links is taken. Blocking: call it
in a thread.
"""

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ai.backend.common.errors import InvalidInput

from ..container.backend import WORK_DIR

OWNER_ID = 1000
"""The user that a session's home belongs to in an image."""
DEPTH_MAX = 200
ENTRIES_MAX = 5_000_000
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class _Entry(NamedTuple):
    path: PurePosixPath
    status: os.stat_result
    parent: int
    """The folder that it is in, open while the entry is looked at."""


class _Exactly:
    """A file of which exactly so many bytes are read, whatever becomes of it meanwhile."""

    def __init__(self, handle: int, size: int, tell: Callable[[int], None]) -> None:
        self._handle = handle
        self._left = size
        self._tell = tell

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        data = os.read(self._handle, size)
        self._left -= size
        self._tell(size)
        # A short read is the end here: what is missing was there when the size was taken.
        while 0 < len(data) < size and (more := os.read(self._handle, size - len(data))):
            data += more
        return data.ljust(size, b"\0")


def measure(folder: Path, left_out: frozenset[PurePosixPath]) -> Iterator[int]:
    """The sizes of all that `pack` would take."""
    for entry in _walk(folder, left_out):
        yield entry.status.st_size if stat.S_ISREG(entry.status.st_mode) else 0


def pack(
    folder: Path,
    target: Path,
    left_out: frozenset[PurePosixPath],
    *,
    bytes_max: int,
    tell: Callable[[int], None],
) -> int:
    """Writes the folder, but for `left_out` (relative to it), as an uncompressed tar with paths from the root on, and returns its size.

    `tell` is called with the bytes read since it was last called; what it raises breaks it off. Raises InvalidInput when it has grown
    beyond `bytes_max` meanwhile, or OSError."""
    prefix = WORK_DIR.relative_to("/")
    with target.open("xb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for above in (*reversed(prefix.parents),)[1:]:
            tar.addfile(_info(above, 0o755, tarfile.DIRTYPE, owner=0))
        for entry in _walk(folder, left_out):
            _add(tar, entry, prefix / entry.path, tell)
            if file.tell() > bytes_max:
                raise InvalidInput(
                    "the home folder grows while it is read", hint="Commit when less is written to it."
                )
    return target.stat().st_size


def _add(tar: tarfile.TarFile, entry: _Entry, path: PurePosixPath, tell: Callable[[int], None]) -> None:
    mode, name = entry.status.st_mode, entry.path.name
    info = _info(path, stat.S_IMODE(mode) & 0o777, tarfile.REGTYPE, owner=OWNER_ID)
    info.mtime = int(entry.status.st_mtime)
    if stat.S_ISDIR(mode):
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif stat.S_ISLNK(mode):
        info.type = tarfile.SYMTYPE
        with contextlib.suppress(FileNotFoundError):
            info.linkname = os.readlink(name, dir_fd=entry.parent)
            tar.addfile(info)
    elif (handle := _opened(name, _OPEN, entry.parent)) is not None:
        try:
            status = os.fstat(handle)
            if stat.S_ISREG(status.st_mode):
                info.size = status.st_size
                tar.addfile(info, _Exactly(handle, info.size, tell))  # type: ignore[arg-type]
        finally:
            os.close(handle)


def _opened(name: str, flags: int, folder: int) -> int | None:
    """None for what went away, was replaced by something else, or may not be read."""
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EACCES):
            return None
        raise


def _info(path: PurePosixPath, mode: int, kind: bytes, *, owner: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(str(path))
    info.mode, info.type, info.uid, info.gid = mode, kind, owner, owner
    return info


def _walk(folder: Path, left_out: frozenset[PurePosixPath]) -> Iterator[_Entry]:
    """The folder itself, then everything in it that can be taken; sorted, so that equal folders give equal layers."""
    root = os.open(folder, _OPEN | os.O_DIRECTORY)
    try:
        yield _Entry(PurePosixPath(), os.fstat(root), root)
        for count, entry in enumerate(_below(root, PurePosixPath(), left_out)):
            if count >= ENTRIES_MAX:
                raise InvalidInput(f"the home folder has more than {ENTRIES_MAX} entries")
            yield entry
    finally:
        os.close(root)


def _below(handle: int, path: PurePosixPath, left_out: frozenset[PurePosixPath]) -> Iterator[_Entry]:
    if len(path.parts) > DEPTH_MAX:
        raise InvalidInput(f"folders lie more than {DEPTH_MAX} deep", hint="Remove the deepest ones.")
    # A listing may have a name twice while entries are renamed; a layer must not.
    for name in sorted({*os.listdir(handle)}):
        inner = path / name
        if inner in left_out:
            continue
        try:
            status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            yield _Entry(inner, status, handle)
        elif stat.S_ISDIR(status.st_mode):
            yield _Entry(inner, status, handle)
            if (deeper := _opened(name, _OPEN | os.O_DIRECTORY, handle)) is None:
                continue
            try:
                yield from _below(deeper, inner, left_out)
            finally:
                os.close(deeper)


def own(folder: Path, uid: int) -> None:
    """Gives a folder that came out of an image to a session's user. What is neither file, folder nor link is removed; nobody else may
    write there meanwhile."""
    for _, folders, names, handle in os.fwalk(folder, follow_symlinks=False):
        for name in (*folders, *names):
            mode = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                os.unlink(name, dir_fd=handle)
            elif os.getuid() == 0:
                os.chown(name, uid, uid, dir_fd=handle, follow_symlinks=False)
