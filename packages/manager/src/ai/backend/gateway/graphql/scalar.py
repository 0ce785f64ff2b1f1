"""The published scalars."""

import json
from typing import Any, NewType

import strawberry

JSON = NewType("JSON", object)
"""A JSON document: in the schema `JSONString`, on the wire its text, both ways."""
Big = NewType("Big", int)
"""`BigInt`: an integer of any size, a JSON number."""


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=str)


def _given(value: Any) -> Any:
    return value if isinstance(value, str) else json.dumps(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is no integer")
    return int(value)


SCALARS: dict[object, Any] = {
    JSON: strawberry.scalar(
        name="JSONString", description="A JSON document as text.", serialize=_text, parse_value=_given
    ),
    Big: strawberry.scalar(
        name="BigInt", description="An integer of any size.", serialize=int, parse_value=_integer
    ),
}
