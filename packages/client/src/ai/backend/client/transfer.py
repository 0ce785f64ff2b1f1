"""Files on the way: which local files go up under which names, in how many requests; and unpacking what comes down.

The published protocol takes 20 files of at most 1 MiB in an upload and 5 paths in a download; larger wishes are split or refused here,
before anything is sent.
"""

import io
import tarfile
from collections.abc import Iterator, Sequence
from email.message import EmailMessage
from pathlib import Path, PurePosixPath

from .error import ApiError, InvalidCall

UPLOAD_FILES_MAX = 20
UPLOAD_FILE_BYTES_MAX = 1 << 20
UPLOAD_REQUEST_BYTES = 8 << 20
DOWNLOAD_PATHS_MAX = 5


def plan_upload(paths: Sequence[Path], basedir: Path | None) -> list[tuple[str, Path]]:
    """Names in the session and the local files. Folders are walked.

    With `basedir` names are relative to it; without, a relative path keeps its form and an absolute one its last part.
    Raises InvalidCall for what is not there, lies outside `basedir` or is too large.
    """
    planned: list[tuple[str, Path]] = []
    for path in paths:
        if not path.exists():
            raise InvalidCall(f"{path} does not exist", hint="Check the path.")
        root = _name_of(path, basedir)
        if path.is_dir():
            planned += [
                (str(root / one.relative_to(path).as_posix()), one)
                for one in sorted(path.rglob("*"))
                if one.is_file()
            ]
        else:
            planned.append((str(root), path))
    for name, path in planned:
        if (size := path.stat().st_size) > UPLOAD_FILE_BYTES_MAX:
            raise InvalidCall(
                f"{name} is too large: {size} bytes, and {UPLOAD_FILE_BYTES_MAX} (1 MiB) is the most",
                hint="Split or compress it.",
            )
    return planned


def _name_of(path: Path, basedir: Path | None) -> PurePosixPath:
    if basedir is not None:
        try:
            return PurePosixPath(path.resolve().relative_to(basedir.resolve()).as_posix())
        except ValueError:
            raise InvalidCall(
                f"{path} is not inside {basedir}", hint="Give another --basedir, or none."
            ) from None
    if path.is_absolute() or ".." in path.parts:
        return PurePosixPath(path.resolve().name)
    return PurePosixPath(path.as_posix())


def upload_requests(planned: Sequence[tuple[str, Path]]) -> Iterator[list[tuple[str, bytes]]]:
    """The contents, read as they are needed, in portions that one request may carry."""
    portion: list[tuple[str, bytes]] = []
    size = 0
    for name, path in planned:
        content = path.read_bytes()
        if portion and (len(portion) == UPLOAD_FILES_MAX or size + len(content) > UPLOAD_REQUEST_BYTES):
            yield portion
            portion, size = [], 0
        portion.append((name, content))
        size += len(content)
    if portion:
        yield portion


def archives_of(content_type: str, body: bytes) -> list[bytes]:
    """The parts of a multipart/mixed body: one tar for each path. Raises ApiError when it is none."""
    header = EmailMessage()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str):
        raise ApiError("the download is no multipart body", code="client.answer-not-understood")
    archives = []
    for part in body.split(b"--" + boundary.encode())[1:]:
        if part.startswith(b"--"):
            break
        archives.append(part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))
    return archives


def unpack(archive: bytes, folder: Path) -> list[Path]:
    """Extracts plain files and folders below `folder`, nothing outside it; returns the files written. Raises ApiError."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            members = tar.getmembers()
            tar.extractall(folder, members, filter="data")
    except (tarfile.TarError, OSError) as exc:
        raise ApiError(
            f"the archive can't be unpacked into {folder}: {exc}", code="client.unpack-failed"
        ) from exc
    return [folder / member.name for member in members if member.isfile()]
