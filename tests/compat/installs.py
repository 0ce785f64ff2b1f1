"""Installs published clients, unmodified and exactly pinned, each into a folder of its own that later runs reuse.

A folder's name carries a digest of what was asked for, and it counts only once its marker is
written: an install that was cut off is begun anew.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .interpreters import NoInterpreter, find_python

HERE = Path(__file__).parent
MARKER = ".complete"


@dataclass(frozen=True)
class Release:
    """A published Python client and the Python that it runs on."""

    version: str
    python: str

    @property
    def pins(self) -> Path:
        return HERE / "pins" / f"{self.version}.txt"


RELEASES = {
    release.version: release
    for release in (Release("25.5.2", "3.12"), Release("23.9.10", "3.11"), Release("26.9.6", "3.13"))
}
JS_VERSION = "21.3.1"


def install_python_client(release: Release) -> Path:
    """The virtual environment of a client. Raises NoInterpreter."""

    def fill(folder: Path) -> None:
        _run(str(find_python(release.python)), "-m", "venv", str(folder))
        _run(str(folder / "bin/pip"), "install", "--quiet", "--no-deps", "--requirement", str(release.pins))

    return _made_once(release.version, [release.pins], fill)


def install_js_client() -> Path:
    """The folder whose node_modules holds the JavaScript client. Raises NoInterpreter."""
    if not shutil.which("npm") or not shutil.which("node"):
        raise NoInterpreter("node and npm are not on PATH: your system's packages of them, 18 or newer")
    wanted = [HERE / "node/package.json", HERE / "node/package-lock.json"]

    def fill(folder: Path) -> None:
        for file in wanted:
            shutil.copy(file, folder)
        _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder))

    return _made_once(f"js-{JS_VERSION}", wanted, fill)


def _made_once(name: str, wanted: list[Path], fill: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in wanted)).hexdigest()[:12]
    folder = _cache() / f"{name}-{digest}"
    with _locked(folder.with_suffix(".lock")):
        if not (folder / MARKER).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            fill(folder)
            (folder / MARKER).touch()
    return folder


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "backendai-compat"


class _locked:
    """Holds a lock file: test processes that run side by side install once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
