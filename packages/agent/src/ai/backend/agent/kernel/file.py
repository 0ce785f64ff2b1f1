"""Files of a session's home folder, touched by an agent that may be root while user code changes them at the same time.

Every path is resolved by the kernel (`openat2` with RESOLVE_BENEATH) from an open descriptor of the folder, so no "..", link or rename race
leads out of it. Only regular files are read; a FIFO or device never blocks the agent.
"""

import ctypes
import errno
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ai.backend.common.errors import FileNotFound, InvalidInput
from ai.backend.common.wire.rpc import Dotfile, FileEntry, ListFilesReply, UploadFile

from ..container.backend import WORK_DIR
from ..container.errors import NoSpace

_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08
_libc = ctypes.CDLL(None, use_errno=True)
LISTED_MAX = 10_000
ENTRY_BYTES = 512
"""What an entry of a tar costs beside its content."""
DEPTH_MAX = 100
PATH_BYTES_MAX = 4096


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def relative(path: str) -> str:
    """The path below the home folder: "/home/work/x" and "x" mean the same. Raises InvalidInput for what cannot be below it."""
    if "\0" in path or len(path.encode(errors="replace")) > PATH_BYTES_MAX:
        raise InvalidInput("that is no path", field="path")
    pure = PurePosixPath(path)
    if pure.is_absolute():
        if not pure.is_relative_to(WORK_DIR):
            raise FileNotFound(
                "The file is not found.", hint=f"Only files below {WORK_DIR} can be reached.", path=path[:200]
            )
        pure = pure.relative_to(WORK_DIR)
    if ".." in pure.parts:
        raise InvalidInput("a path may not contain '..'", field="path")
    return str(pure)


def _open_beneath(folder: int, path: str, flags: int, mode: int = 0) -> int:
    how = _How(flags | os.O_CLOEXEC, mode, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    handle = _libc.syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(folder),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if handle < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(handle)


class HomeFolder:
    """All operations are blocking: call them in a thread."""

    def __init__(self, root: Path, uid: int) -> None:
        self._root = root
        self._uid = uid

    @contextmanager
    def _folder(self) -> Iterator[int]:
        handle = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield handle
        finally:
            os.close(handle)

    def write(self, files: list[UploadFile]) -> None:
        """Writes each file whole, making its folders. Raises InvalidInput, NoSpace."""
        with self._folder() as root:
            for file in files:
                path = PurePosixPath(relative(file.path))
                if not path.name:
                    raise InvalidInput("a file needs a name", field="path")
                try:
                    self._write_one(root, path, file.content)
                except OSError as exc:
                    raise _mapped(exc, file.path) from exc

    def write_dotfiles(self, files: list[Dotfile]) -> None:
        """Like `write`, with the mode that each file asks for. Raises InvalidInput, NoSpace."""
        with self._folder() as root:
            for file in files:
                path = PurePosixPath(relative(file.path))
                try:
                    self._write_one(root, path, file.content.encode(), int(file.permission, 8))
                except OSError as exc:
                    raise _mapped(exc, file.path) from exc

    def _write_one(self, root: int, path: PurePosixPath, content: bytes, mode: int | None = None) -> None:
        parent = self._make_folders(root, path.parent)
        temporary = f".upload-{os.urandom(6).hex()}"
        try:
            handle = os.open(
                temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o644,
                dir_fd=parent,
            )
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    self._own(handle)
                    if mode is not None:
                        os.fchmod(handle, mode)
                os.rename(temporary, path.name, src_dir_fd=parent, dst_dir_fd=parent)
            except OSError:
                os.unlink(temporary, dir_fd=parent)
                raise
        finally:
            os.close(parent)

    def _make_folders(self, root: int, path: PurePosixPath) -> int:
        current = _open_beneath(root, ".", os.O_RDONLY | os.O_DIRECTORY)
        for part in path.parts:
            try:
                os.mkdir(part, 0o755, dir_fd=current)
                made = True
            except FileExistsError:
                made = False
            try:
                # Links are not followed here: what is made below one would not be where the user thinks.
                deeper = os.open(
                    part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current
                )
            finally:
                os.close(current)
            current = deeper
            if made:
                self._own(current)
        return current

    def _own(self, handle: int) -> None:
        if os.getuid() == 0:
            os.fchown(handle, self._uid, self._uid)

    def read(self, path: str, *, bytes_max: int) -> bytes:
        """Raises FileNotFound when it is missing, no regular file, or larger than `bytes_max`."""
        with self._opened(path) as (handle, status):
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFound("The file is not found.", hint="That is no regular file.", path=path[:200])
            return _read_all(handle, path, bytes_max)

    def archive(self, path: str, *, bytes_max: int) -> bytes:
        """An uncompressed tar of a file or a folder, of at most `bytes_max` bytes. Links in it are left out, never followed."""
        name = PurePosixPath(relative(path)).name or "work"
        buffer = io.BytesIO()
        with self._opened(path) as (handle, status), tarfile.open(fileobj=buffer, mode="w") as tar:
            budget = bytes_max
            for entry_name, entry_handle, entry_status in _walk(handle, status, name):
                info = tarfile.TarInfo(entry_name)
                info.mode, info.mtime = stat.S_IMODE(entry_status.st_mode), entry_status.st_mtime
                info.uname = info.gname = "work"
                budget -= ENTRY_BYTES
                if budget < 0:
                    raise _too_large(path, bytes_max)
                if stat.S_ISDIR(entry_status.st_mode):
                    info.type = tarfile.DIRTYPE
                    tar.addfile(info)
                else:
                    content = _read_all(entry_handle, path, budget)
                    budget -= len(content)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    def list(self, path: str) -> ListFilesReply:
        """Up to 10,000 entries of a folder, by name. Raises FileNotFound."""
        below = relative(path)
        with self._opened(path) as (handle, status):
            if not stat.S_ISDIR(status.st_mode):
                raise FileNotFound("The file is not found.", hint="That is no folder.", path=path[:200])
            entries = []
            for name in sorted(os.listdir(handle))[:LISTED_MAX]:
                try:
                    one = os.stat(name, dir_fd=handle, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                entries.append(
                    FileEntry(
                        mode=stat.filemode(one.st_mode),
                        size=one.st_size,
                        ctime=one.st_ctime,
                        mtime=one.st_mtime,
                        atime=one.st_atime,
                        filename=name.encode(errors="surrogateescape").decode(errors="replace"),
                    )
                )
        return ListFilesReply(abspath=str(WORK_DIR / below), files=entries)

    @contextmanager
    def _opened(self, path: str) -> Iterator[tuple[int, os.stat_result]]:
        below = relative(path)
        with self._folder() as root:
            try:
                handle = _open_beneath(root, below, os.O_RDONLY | os.O_NONBLOCK)
            except OSError as exc:
                raise _mapped(exc, path) from exc
            try:
                yield handle, os.fstat(handle)
            finally:
                os.close(handle)


def _too_large(path: str, bytes_max: int) -> FileNotFound:
    return FileNotFound(
        "The file is not found.",
        hint=f"It is larger than the limit of {bytes_max >> 10} KiB.",
        path=path[:200],
    )


def _walk(
    handle: int, status: os.stat_result, name: str, depth: int = 0
) -> Iterator[tuple[str, int, os.stat_result]]:
    """The entry and, for a folder, everything in it that is a file or a folder."""
    if stat.S_ISREG(status.st_mode):
        yield name, handle, status
    elif stat.S_ISDIR(status.st_mode):
        if depth >= DEPTH_MAX:
            raise FileNotFound("The file is not found.", hint=f"Folders lie more than {DEPTH_MAX} deep.")
        yield name, handle, status
        for child in sorted(os.listdir(handle)):
            try:
                deeper = os.open(
                    child, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle
                )
            except OSError:
                continue
            try:
                yield from _walk(deeper, os.fstat(deeper), f"{name}/{child}", depth + 1)
            finally:
                os.close(deeper)
    else:
        raise FileNotFound("The file is not found.", hint="That is neither a file nor a folder.")


def _read_all(handle: int, path: str, bytes_max: int) -> bytes:
    chunks, total = [], 0
    while chunk := os.read(handle, 1 << 20):
        total += len(chunk)
        if total > bytes_max:
            raise _too_large(path, bytes_max)
        chunks.append(chunk)
    return b"".join(chunks)


def _mapped(exc: OSError, path: str) -> Exception:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("the node's disk is full", hint="Free some space or ask an administrator.")
    if exc.errno in (errno.EXDEV, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENXIO):
        return FileNotFound("The file is not found.", path=path[:200])
    return InvalidInput(f"{path[:200]!r}: {exc.strerror}", field="path")
