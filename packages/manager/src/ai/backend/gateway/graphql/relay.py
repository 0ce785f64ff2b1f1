"""Relay's way of lists: nodes with global ids, and connections of edges (https://relay.dev/graphql/connections.htm). Pure but `paged`.

A global id is base64 of "Type:key". Published clients write the type in several ways ("GroupNode", "group_node"), and some send the bare
key; all are taken. A cursor is a place in a list as it is filtered and ordered now, so while others add to the list, the next page may
repeat an item: nothing here keeps a list still.
"""

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NewType, TypeVar

import strawberry

from ai.backend.common.errors import InvalidInput
from ai.backend.common.ids import parse_uuid
from ai.backend.manager.directory.model import Listing, Page

from .context import listing
from .limit import PAGE_MAX

R = TypeVar("R")
PAGE_ITEMS = 20
"""Of a connection whose length is not said."""
PLACE_MAX = 2**53
GlobalID = NewType("GlobalID", str)
"""`GlobalIDField`: base64 of "Type:key", or the key alone."""
Scope = NewType("Scope", str)
"""`ScopeField`: `system`, `domain:NAME`, `project:ID` or `user:ID`."""

SCALARS: dict[object, Any] = {
    GlobalID: strawberry.scalar(
        name="GlobalIDField",
        description="A global id, or what it stands for.",
        serialize=str,
        parse_value=str,
    ),
    Scope: strawberry.scalar(
        name="ScopeField",
        description="system, domain:NAME, project:ID or user:ID.",
        serialize=str,
        parse_value=str,
    ),
}


@strawberry.interface
class Node:
    id: strawberry.ID


@strawberry.type
class PageInfo:
    has_next_page: bool = strawberry.field(name="hasNextPage")
    has_previous_page: bool = strawberry.field(name="hasPreviousPage")
    start_cursor: str | None = strawberry.field(name="startCursor")
    end_cursor: str | None = strawberry.field(name="endCursor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A connection's arguments."""

    filter: str | None = None
    order: str | None = None
    offset: int | None = None
    before: str | None = None
    after: str | None = None
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What a connection shows: items from a place on, of so many."""

    items: Sequence[Any]
    start: int
    total: int

    @property
    def info(self) -> PageInfo:
        end = self.start + len(self.items)
        return PageInfo(
            has_next_page=end < self.total,
            has_previous_page=self.start > 0,
            start_cursor=cursor_of(self.start) if self.items else None,
            end_cursor=cursor_of(end - 1) if self.items else None,
        )


def global_id(kind: str, key: object) -> strawberry.ID:
    return strawberry.ID(base64.b64encode(f"{kind}:{key}".encode()).decode("ascii"))


def _plain(kind: str) -> str:
    return kind.replace("_", "").lower()


def parts_of(text: str) -> tuple[str, str] | None:
    """Type (without underscores, in lower case) and key; None for what is no global id."""
    try:
        kind, colon, key = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (_plain(kind), key) if colon and re.fullmatch(r"\w{1,64}", kind) else None


def key_of(text: str, kind: str) -> str:
    """The key in the global id of a node of that type, or the text itself when it is none. Raises InvalidInput for another type's."""
    parts = parts_of(text)
    if parts is None or parse_uuid(text) is not None:
        return text
    if parts[0] != _plain(kind):
        raise InvalidInput(f"{text[:80]!r} is the id of no {kind}", field="id")
    return parts[1]


def scope_of(text: str | None) -> tuple[str, str]:
    """Kind and id; "system" has none. Raises InvalidInput."""
    kind, _, key = (text or "system").partition(":")
    if (kind == "system") != (not key) or kind not in ("system", "domain", "project", "user"):
        raise InvalidInput(
            f"{(text or '')[:80]!r} is no scope",
            hint="One of system, domain:NAME, project:ID and user:ID.",
            field="scope",
        )
    return kind, key


def cursor_of(place: int) -> str:
    return base64.b64encode(f"place:{place}".encode()).decode("ascii")


def place_of(cursor: str, field: str) -> int:
    """Raises InvalidInput."""
    parts = parts_of(cursor)
    if parts is None or parts[0] != "place" or not re.fullmatch(r"\d{1,15}", parts[1], re.ASCII):
        raise InvalidInput(f"{cursor[:80]!r} is no cursor", hint="Take one from an edge.", field=field)
    return int(parts[1])


def _count(value: int, field: str) -> int:
    if not 0 <= value <= PAGE_MAX:
        raise InvalidInput(f"{field} is 0 to {PAGE_MAX}, not {value}", field=field)
    return value


def bounds(asked: Asked, total: int | None) -> tuple[int, int]:
    """The first place, and how many from there on at most. `total` is needed only for `last` without `before`. Raises InvalidInput."""
    if asked.first is not None and asked.last is not None:
        raise InvalidInput("ask for the first or for the last, not for both", field="last")
    if asked.offset is not None and (asked.after is not None or asked.before is not None):
        raise InvalidInput("a cursor already says where: there is no offset to it", field="offset")
    start = asked.offset or 0
    if not 0 <= start < PLACE_MAX:
        raise InvalidInput(f"offset is 0 or more, not {start}", field="offset")
    if asked.after is not None:
        start = place_of(asked.after, "after") + 1
    end = None if asked.before is None else place_of(asked.before, "before")
    if asked.last is not None:
        end = end if end is not None else total or 0
        return max(start, end - _count(asked.last, "last")), min(asked.last, max(end - start, 0))
    many = PAGE_ITEMS if asked.first is None else _count(asked.first, "first")
    return start, many if end is None else max(min(many, end - start), 0)


async def paged(asked: Asked, page: Callable[[Listing], Awaitable[Page[R]]]) -> Slice:
    """Reads what is asked for, by a service's way to read a part of a list. Raises InvalidInput."""
    total = None
    if asked.last is not None and asked.before is None:
        total = (await page(listing(1, 0, asked.filter))).total_count
    start, many = bounds(asked, total)
    found = await page(listing(max(many, 1), start, asked.filter, asked.order))
    return Slice(items=found.items[:many], start=start, total=found.total_count)


def sliced(asked: Asked, items: Sequence[Any]) -> Slice:
    """Of a list that is there already. Raises InvalidInput."""
    start, many = bounds(asked, len(items))
    return Slice(items=items[start : start + many], start=start, total=len(items))
