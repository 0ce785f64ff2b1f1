"""Finds the Python that a published client needs: each line of releases admits one minor version only."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


class NoInterpreter(RuntimeError):
    """The machine has nothing that runs the client."""


def find_python(version: str) -> Path:
    """The newest Python of this minor version (`3.12`) on PATH or under pyenv."""
    for candidate in _candidates(version):
        if _answers_to(candidate, version):
            return candidate
    raise NoInterpreter(
        f"Python {version} is neither on PATH nor under pyenv: `pyenv install {version}`, or your system's package of it"
    )


def _candidates(version: str) -> Iterator[Path]:
    """pyenv's own builds come first: a shim on PATH refuses versions that are installed but not chosen."""
    installed = _pyenv_root() / "versions"
    yield from sorted(installed.glob(f"{version}.*/bin/python{version}"), key=_patch, reverse=True)
    if found := shutil.which(f"python{version}"):
        yield Path(found)


def _pyenv_root() -> Path:
    if pyenv := shutil.which("pyenv"):
        return Path(
            subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip()
        )
    return Path.home() / ".pyenv"


def _patch(python: Path) -> int:
    digits = python.parents[1].name.rsplit(".", 1)[-1]
    return int(digits) if digits.isdigit() else -1


def _answers_to(python: Path, version: str) -> bool:
    """Asks the program itself: a shim may exist for a version that is not there."""
    script = "import sys; print('{}.{}'.format(*sys.version_info))"
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=False)
    return done.stdout.strip() == version
