"""The recipe of an image: the file `kernels/<runtime>/kernel.toml`, read strictly.

A recipe is plain data. It says which packages of which Debian suite make the root file system and which
labels tell the scheduler and the runner what the image can do; it knows no engine and no mirror.
"""

import re
import tomllib
from pathlib import Path
from urllib.parse import quote

import msgspec

from ai.backend.common.errors import ConfigError

KERNELSPEC_LABEL = "ai.backend.kernelspec"

_NAME = re.compile(
    r"[a-z0-9][a-z0-9._-]*(?::\d+)?(?:/[a-z0-9][a-z0-9._-]*)*:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_SUITE = re.compile(r"[a-z][a-z0-9-]*")
_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_MAX_FILE_BYTES = 64 << 10


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One image."""

    name: str
    """Canonical: `[registry/]path:tag`."""
    suite: str
    """The Debian release, by its code name."""
    packages: tuple[str, ...]
    command: tuple[str, ...]
    """What the image runs when nothing else is said."""
    labels: dict[str, str]
    smoke: str
    """The text of a program for `command` that prints "ok" when the image is good; the file names a file
    beside it.
    """


def load_recipe(path: Path) -> Recipe:
    """The recipe in a kernel.toml. Raises ConfigError naming the file and the key that is wrong."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(f"{path} is larger than {_MAX_FILE_BYTES} bytes")
        recipe = msgspec.convert(tomllib.loads(path.read_text()), Recipe)
    except OSError as exc:
        raise ConfigError(
            f"{path} can't be read: {exc.strerror}", hint="Name a kernel.toml of the kernels/ folder."
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is no TOML: {exc}") from exc
    except msgspec.ValidationError as exc:
        raise ConfigError(
            f"{path}: {exc}", hint=f"Known keys: {', '.join(Recipe.__struct_fields__)}."
        ) from exc
    if problem := _problem(recipe):
        raise ConfigError(f"{path}: {problem}")
    try:
        return msgspec.structs.replace(recipe, smoke=(path.parent / Path(recipe.smoke).name).read_text())
    except OSError as exc:
        raise ConfigError(f"{path}: smoke: there is no file {recipe.smoke!r} beside it") from exc


def _problem(recipe: Recipe) -> str:
    """What is wrong with the values, or nothing. All of them end up as arguments of programs that run as
    root.
    """
    if not _NAME.fullmatch(recipe.name):
        return f"name {recipe.name!r} is no image name with a tag"
    if not _SUITE.fullmatch(recipe.suite):
        return f"suite {recipe.suite!r} is no code name of a release"
    if bad := [package for package in recipe.packages if not _PACKAGE.fullmatch(package)]:
        return f"packages: {bad[0]!r} is no package name"
    if not recipe.command:
        return "command is empty"
    if bad := [key for key in recipe.labels if not _LABEL.fullmatch(key)]:
        return f"labels: {bad[0]!r} is no label key"
    if KERNELSPEC_LABEL not in recipe.labels:
        return f"labels: {KERNELSPEC_LABEL!r} is missing, so no session could use the image"
    return ""


def safe_name(image: str) -> str:
    """An image's name as a file name; different images get different names."""
    return quote(image, safe="")
