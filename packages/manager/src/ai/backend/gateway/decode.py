"""From what clients send to what services take. Pure; knows forms, not frameworks.

The published convention: parameters are in the JSON body if there is one, in the query otherwise. We merge both, the body winning, so that
`owner_access_key` in the query of a call with a body is found. Keys may be snake_case or camelCase; unknown ones are ignored; null
is absent; numbers and booleans may be text ("12", "True").
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin
from urllib.parse import unquote

import msgspec

from ai.backend.common.errors import InvalidInput, MalformedBody
from ai.backend.common.wire.rest.form import Form
from ai.backend.manager.yamltext import texts_of

from .limits import PATH_BYTES_MAX

F = TypeVar("F", bound=Form)

HOME = "/home/work"
_FULLY_QUOTED = re.compile(r"^(?:[A-Za-z0-9_.~-]|%[0-9A-Fa-f]{2})+$")


class _Field(NamedTuple):
    wire_name: str
    is_list: bool
    form: type[Form] | None


def fold(key: str) -> str:
    """One spelling for `ownerAccessKey`, `owner_access_key` and `OWNER-ACCESS-KEY`."""
    return key.replace("_", "").replace("-", "").lower()


def _takes_many(kind: Any) -> bool:
    """Whether a lone value means a list of one: where nothing but a list (or nothing) is taken."""
    inner = [one for one in get_args(kind) if one is not NoneType] if isinstance(kind, UnionType) else [kind]
    return all(get_origin(one) is list for one in inner)


@cache
def _fields(form: type[Form]) -> dict[str, _Field]:
    by_name: dict[str, _Field] = {}
    for field in msgspec.structs.fields(form):
        is_form = isinstance(field.type, type) and issubclass(field.type, Form)
        plain = get_args(field.type)[0] if hasattr(field.type, "__metadata__") else field.type
        by_name[field.encode_name] = _Field(
            field.encode_name, _takes_many(plain), field.type if is_form else None
        )
    table = {fold(alias): by_name[name] for alias, name in form.ALIASES.items()}
    return table | {fold(name): field for name, field in by_name.items()}


def body_values(body: bytes, *, is_yaml: bool = False) -> dict[str, Any]:
    """The object in a JSON body, or in a YAML one whose scalars are all texts; an empty body has none. Raises MalformedBody."""
    if not body.strip():
        return {}
    form = "YAML" if is_yaml else "JSON"
    try:
        values = texts_of(body) if is_yaml else msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise MalformedBody("Malformed body", hint=f"The body must be {form}.") from exc
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise MalformedBody("Malformed body", hint=f"The body must be a {form} object.")
    return values


class _Repeated(list[str]):
    """The values of a query key that was given several times; where one is wanted, the last counts."""


def query_values(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Values by key; those of a repeated key are a list."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            before = values[key]
            values[key] = _Repeated([*before, value] if isinstance(before, _Repeated) else [before, value])
        else:
            values[key] = value
    return values


def _canonical(form: type[Form], values: Mapping[str, Any]) -> dict[str, Any]:
    table = _fields(form)
    known: dict[str, Any] = {}
    exact: set[str] = set()
    for key, value in values.items():
        field = table.get(fold(key))
        if field is None or value is None or field.wire_name in exact:
            continue
        if fold(key) == fold(field.wire_name):
            exact.add(field.wire_name)
        if field.form is not None and isinstance(value, dict):
            known[field.wire_name] = _canonical(field.form, value)
        elif field.is_list:
            known[field.wire_name] = value if isinstance(value, list) else [value]
        elif isinstance(value, dict):
            known[field.wire_name] = {k: v for k, v in value.items() if v is not None}
        else:
            known[field.wire_name] = value[-1] if isinstance(value, _Repeated) else value
    return known


def convert(form: type[F], values: Mapping[str, Any]) -> F:
    """The form that the values fill. Raises InvalidInput naming the field."""
    try:
        return msgspec.convert(_canonical(form, values), form, strict=False)
    except msgspec.ValidationError as exc:
        text, _, place = str(exc).partition(" - at `$.")
        missing = re.search(r"required field `(\w+)`", text)
        field = place.rstrip("`") or (missing[1] if missing else "")
        message = f"{field}: {text}" if field else text
        raise InvalidInput(message, hint="See /openapi.json for what this call takes.", field=field) from exc


def parameters(form: type[F], query: Iterable[tuple[str, str]], body: bytes, *, is_yaml: bool = False) -> F:
    """Raises MalformedBody or InvalidInput."""
    return convert(form, query_values(query) | body_values(body, is_yaml=is_yaml))


def upload_path(filename: str | None) -> str:
    """Where an uploaded file goes, relative to the home folder. Raises InvalidInput for what leaves it.

    aiohttp clients percent-encode the whole name, slashes included; a name that can only have been made so is decoded.
    """
    if not filename:
        raise InvalidInput("A file has no name.", field="src")
    path = unquote(filename) if "%" in filename and _FULLY_QUOTED.match(filename) else filename
    if path.startswith(HOME + "/"):
        path = path[len(HOME) + 1 :]
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if (
        path.startswith("/")
        or ".." in parts
        or not parts
        or path.endswith("/")
        or any(ord(char) < 32 or char == "\x7f" for char in path)
        or len(path.encode("utf-8", "surrogatepass")) > PATH_BYTES_MAX
    ):
        raise InvalidInput(
            f"{path[:80]!r} is no name for an uploaded file",
            hint=f"Use a path inside {HOME}, of at most {PATH_BYTES_MAX} bytes.",
            field="src",
        )
    return "/".join(parts)


def prefers_html(accept: str) -> bool:
    """Whether an Accept header asks for a page rather than for JSON."""
    weights = {"text/html": 0.0, "application/json": 0.0}
    for item in accept.lower().split(",")[:32]:
        media, _, rest = item.partition(";")
        match = re.search(r"\bq\s*=\s*([0-9.]{1,5})", rest)
        try:
            weight = float(match[1]) if match else 1.0
        except ValueError:
            weight = 0.0
        if media.strip() in weights:
            weights[media.strip()] = max(weights[media.strip()], weight)
    return weights["text/html"] > weights["application/json"]
