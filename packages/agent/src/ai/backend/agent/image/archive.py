"""Writes an image as one file in the form of `docker save`: layers, then a configuration and the manifest that names them.

`docker load` takes it, and so does whatever unpacks its layers in order. A layer is copied as it comes and never held in memory; its
digest is made on the way. Knows no engine, no container and no clock; blocking: call it in a thread.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

CHUNK_BYTES = 1 << 20
_COMPRESSION = 1
"""The quickest: whoever waits for an archive waits for this."""
_MANIFEST = "manifest.json"


class Source(Protocol):
    """What a layer is read from."""

    def read(self, size: int, /) -> bytes: ...


class LayerCut(OSError):
    """A layer had fewer bytes than were promised, or more."""


class ArchiveWriter:
    """One archive; a context manager. `tell` is called with how many bytes of layers were written so far; what it raises breaks it off.

    The file is written in place: give it a temporary name, and another one when all is done."""

    def __init__(self, path: Path, *, compress: bool, tell: Callable[[int], None]) -> None:
        self._raw = path.open("xb")
        self._file: BinaryIO | gzip.GzipFile = self._raw
        if compress:
            self._file = gzip.GzipFile(
                filename="", mode="wb", compresslevel=_COMPRESSION, fileobj=self._raw, mtime=0
            )
        self._tell = tell
        self._done_bytes = 0
        self._layers: dict[str, str] = {}

    def __enter__(self) -> "ArchiveWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._raw.close() if kind is not None else self._finish()

    def _finish(self) -> None:
        with self._raw:
            self._file.write(bytes(2 * tarfile.BLOCKSIZE))
            if self._file is not self._raw:
                self._file.close()

    def add_layer(self, source: Source, size_bytes: int) -> str:
        """Copies a layer, an uncompressed tar of that many bytes, and returns its name in the archive. Raises LayerCut or OSError."""
        name = f"layer{len(self._layers)}.tar"
        digest = hashlib.sha256()
        self._file.write(_header(name, size_bytes))
        left = size_bytes
        while left:
            chunk = source.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise LayerCut(f"a layer ended {left} bytes early")
            left -= len(chunk)
            digest.update(chunk)
            self._file.write(chunk)
            self._done_bytes += len(chunk)
            self._tell(self._done_bytes)
        self._file.write(_padding(size_bytes))
        self._layers[name] = f"sha256:{digest.hexdigest()}"
        return name

    def describe(
        self,
        image: str,
        layers: Sequence[str],
        *,
        architecture: str,
        configuration: Mapping[str, Any],
    ) -> str:
        """Writes what makes the layers, named from the lowest up, an image of that name, and returns the image's digest."""
        config = configuration_of([self._layers[name] for name in layers], architecture, configuration)
        digest = hashlib.sha256(config).hexdigest()
        manifest = [{"Config": f"{digest}.json", "RepoTags": [image], "Layers": list(layers)}]
        for name, content in ((f"{digest}.json", config), (_MANIFEST, json.dumps(manifest).encode())):
            self._file.write(_header(name, len(content)) + content + _padding(len(content)))
        return f"sha256:{digest}"


def configuration_of(layers: Sequence[str], architecture: str, configuration: Mapping[str, Any]) -> bytes:
    """An image's configuration as engines read it, without dates; its SHA-256 is the image's digest. `layers`: their digests;
    `configuration`: Env, Cmd, Labels and the like; `architecture`: the engines' word."""
    return json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": dict(configuration),
            "rootfs": {"type": "layers", "diff_ids": list(layers)},
            "history": [
                {"created": "1970-01-01T00:00:00Z", "created_by": "ai.backend commit"} for _ in layers
            ],
        },
        sort_keys=True,
    ).encode()


def copy_layers(saved: Source, writer: ArchiveWriter) -> list[str]:
    """Copies the layers of an image from what an engine's `save` sends, and nothing else of it: its configuration stays behind.

    Returns their names in the new archive, from the lowest up. Raises LayerCut, tarfile.TarError, OSError, or ValueError when it is no
    such archive. Both forms are read: `<id>/layer.tar`, and `blobs/sha256/<digest>` of later engines.
    """
    written: dict[str, str] = {}
    small: dict[str, bytes] = {}
    links: dict[str, str] = {}
    with tarfile.open(fileobj=saved, mode="r|", bufsize=CHUNK_BYTES) as tar:  # type: ignore[call-overload]
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if member.issym():
                links[member.name] = _beside(member.name, member.linkname)
            elif content is not None and member.size <= CHUNK_BYTES:
                # The manifest, which says what is what, comes last.
                small[member.name] = content.read()
            elif content is not None:
                written[member.name] = writer.add_layer(content, member.size)
    try:
        (manifest,) = json.loads(small[_MANIFEST])
        named = [links.get(name, name) for name in manifest["Layers"]]
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError("the engine's archive has no manifest of one image") from exc
    if unknown := written.keys() - set(named):
        raise ValueError(f"the engine's archive holds {sorted(unknown)[0]!r}, which is no layer")
    for name in named:
        if name not in written:
            written[name] = writer.add_layer(io.BytesIO(small[name]), len(small[name]))
    return [written[name] for name in named]


def _beside(name: str, target: str) -> str:
    """The member that a link in the archive leads to."""
    parts = name.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _header(name: str, size_bytes: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    return info.tobuf(format=tarfile.PAX_FORMAT)


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % tarfile.BLOCKSIZE)
