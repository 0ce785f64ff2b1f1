"""Configuration: defaults < file (TOML) < environment < flags, decoded strictly into frozen msgspec structs.

An unknown key or a wrong value is an error that names the file, the line and the key: a typo must never silently mean "default".
Environment variables are `BACKENDAI_<SECTION>_<KEY>` for a struct with sections, or `BACKENDAI_<KEY>` for plain keys.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)
PREFIX = "BACKENDAI_"


def load(
    kind: type[T],
    path: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> T:
    """The configuration of struct type `kind` (declared with `forbid_unknown_fields=True`, `rename="kebab"`).

    `overrides` are flags: dotted names ("gateway.listen") to values; None is ignored. Raises ConfigError.
    """
    text = ""
    data: dict[str, Any] = {}
    if path is not None:
        text, data = _read(path)
        _check_keys(kind, data, path, text, ())
    origins: dict[str, str] = {}
    _apply_environ(kind, data, environ, (), origins)
    for dotted, value in (overrides or {}).items():
        if value is not None:
            _put(data, dotted.split("."), value)
            origins[dotted] = f"--{dotted}"
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as exc:
        found = re.search(r" - at `\$\.?([^`]*)`$", str(exc))
        keys = re.findall(r"[\w-]+", found[1]) if found else []
        where = origins.get(".".join(keys), "")
        if not where and path is not None:
            where = f"{path}:{_line_of(text, keys)}" if keys else str(path)
        raise ConfigError(f"{where}: {exc}" if where else str(exc), key=".".join(keys)) from exc


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as exc:
        raise ConfigError(
            f"{path} can't be read: {exc.strerror}", hint="Give another --config, or create it."
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is no TOML: {exc}") from exc


def _fields(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {f.encode_name: f.type for f in msgspec.structs.fields(kind)}


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _check_keys(
    kind: type[msgspec.Struct], data: dict[str, Any], path: Path, text: str, above: tuple[str, ...]
) -> None:
    fields = _fields(kind)
    for key, value in data.items():
        where = (*above, key)
        if key not in fields:
            raise ConfigError(
                f"{path}:{_line_of(text, list(where))}: unknown key {'.'.join(where)!r}",
                hint=f"Known here: {', '.join(sorted(fields))}.",
                key=".".join(where),
            )
        if isinstance(value, dict) and _is_struct(fields[key]):
            _check_keys(fields[key], value, path, text, where)


def _apply_environ(
    kind: type[msgspec.Struct],
    data: dict[str, Any],
    environ: Mapping[str, str],
    above: tuple[str, ...],
    origins: dict[str, str],
) -> None:
    for key, inner in _fields(kind).items():
        if _is_struct(inner):
            _apply_environ(inner, data, environ, (*above, key), origins)
            continue
        name = PREFIX + "_".join((*above, key)).replace("-", "_").upper()
        if name in environ:
            _put(data, [*above, key], environ[name])
            origins[".".join((*above, key))] = f"environment variable {name}"


def _put(data: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = data.setdefault(key, {})
        if not isinstance(inner, dict):
            return  # a value where a section belongs: decoding will say so
        data = inner
    data[keys[-1]] = value


def _line_of(text: str, keys: list[str]) -> int:
    """The line (from 1) where a dotted key is set: the last `key =` below its `[section]` header, else the header itself."""
    section = ".".join(keys[:-1])
    current, found = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if header := re.match(r"^\[+\s*([\w.\-\"' ]+?)\s*\]+", stripped):
            current = header[1].replace('"', "")
            if current == ".".join(keys):
                return number
        elif current == section and re.match(rf"^[\"']?{re.escape(keys[-1])}[\"']?\s*=", stripped):
            found = number
    return found
