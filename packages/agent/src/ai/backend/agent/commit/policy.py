"""What a commit may write and how much. Pure."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from ai.backend.common.errors import BackendError, InvalidInput, QuotaExceeded
from ai.backend.common.quantity import format_size

from ..container.errors import NoSpace

SUFFIX = ".tar.gz"
_FOLDER = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.tar\.gz")
LEFT_OUT = (PurePosixPath(".ssh"), PurePosixPath(".bootstrap.sh"))
"""Of every home folder: keys, and what is written anew at each start."""
_ENTRY_BYTES = 1024


def check_place(folder: str, filename: str) -> None:
    """The manager has checked what users give; this agent takes nobody's word for a path. Raises InvalidInput."""
    if not _FOLDER.fullmatch(folder) or not _FILE.fullmatch(filename) or ".." in filename:
        raise InvalidInput(
            f"{folder[:80]}/{filename[:160]} is no place for an archive",
            hint=f"A file's name has letters, digits, '.', '_' and '-', and ends in {SUFFIX}.",
            field="filename",
        )


def left_out_of(dotfiles: Iterable[str]) -> frozenset[PurePosixPath]:
    """What of a home folder is not archived, relative to it."""
    paths = (PurePosixPath(path) for path in dotfiles)
    return frozenset({*LEFT_OUT, *(path for path in paths if path.parts and ".." not in path.parts)})


def room_refusal(
    needed_bytes: int, *, free_bytes: int, reserve_bytes: int, used_bytes: int, size_max: int, user_max: int
) -> BackendError | None:
    """Why an archive that may take `needed_bytes` is not begun; None when it may be.

    `free_bytes`: of the disk; `reserve_bytes` of it stay free. `used_bytes`: what the user's archives take already. `size_max` and
    `user_max`: of one archive, and of all of a user's.
    """
    if needed_bytes > size_max:
        return QuotaExceeded(
            f"the session's image may take {format_size(needed_bytes)}, and an archive at most {format_size(size_max)}",
            hint="Remove files from the session, or ask for a higher commit-size-max of the agent.",
            needed_bytes=needed_bytes,
            limit_bytes=size_max,
        )
    if used_bytes + needed_bytes > user_max:
        return QuotaExceeded(
            f"the session's image may take {format_size(needed_bytes)}, and your archives take {format_size(used_bytes)} "
            f"of {format_size(user_max)} already",
            hint="Ask for older ones to be removed, or for a higher commit-user-max of the agent.",
            needed_bytes=needed_bytes,
            used_bytes=used_bytes,
            limit_bytes=user_max,
        )
    if needed_bytes + reserve_bytes > free_bytes:
        return NoSpace(
            f"the session's image may take {format_size(needed_bytes)}, and the node has {format_size(max(0, free_bytes))} free, "
            f"of which {format_size(reserve_bytes)} are kept",
            hint="Free disk space on the node, or set the agent's commit-dir to a larger disk.",
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
        )
    return None


def tar_bytes(sizes: Iterable[int]) -> int:
    """At most so many bytes are in a tar of entries of these sizes."""
    return sum(size + _ENTRY_BYTES for size in sizes) + 20 * 512
