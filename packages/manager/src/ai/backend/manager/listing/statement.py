"""Filters and orders as SQL. A list says which names there are and what each one means; any other name is refused."""

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.errors import InvalidInput

from ..db.column import UtcDateTime
from .language import Both, Comparison, Either, Expression, Not, Order, Scalar, parse_filter, parse_order

Column = sa.ColumnElement[Any]


class Field(NamedTuple):
    """What a name of the mini-languages stands for."""

    column: Column
    upper: bool = False
    """Stored in upper case: what is compared with it is made so."""
    lower: bool = False
    words: Collection[str] | None = None
    """All that it can be, in the case that it is stored in: comparing it with another word is a mistake that is told."""
    any_of: Callable[[sa.ColumnElement[bool]], sa.ColumnElement[bool]] | None = None
    """Wraps a condition on a column of the members: true when it holds for any of them. Such a field can't be ordered by."""


Fields = Mapping[str, Field | Column]

_COMPARE: Mapping[str, Callable[[Column, Any], sa.ColumnElement[bool]]] = {
    "==": lambda column, value: column == value,
    "!=": lambda column, value: column != value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    "contains": lambda column, value: column.contains(value, autoescape=True),
    "like": lambda column, value: column.like(value),
    "ilike": lambda column, value: column.ilike(value),
    "in": lambda column, value: column.in_(value),
    "is": lambda column, value: column.is_(value),
    "isnot": lambda column, value: column.is_not(value),
}
_TEXTUAL = ("contains", "like", "ilike")
_ORDERED = (">", ">=", "<", "<=")


def condition(text: str | None, fields: Fields) -> sa.ColumnElement[bool] | None:
    """Raises InvalidInput."""
    return _condition(parse_filter(text), fields) if text and text.strip() else None


def ordering(text: str | None, fields: Fields) -> list[sa.ColumnElement[Any]]:
    """Raises InvalidInput."""
    if not text or not text.strip():
        return []
    return [_ordered(order, fields) for order in parse_order(text)]


def _ordered(order: Order, fields: Fields) -> sa.ColumnElement[Any]:
    field = _field(order.name, fields, "order")
    if field.any_of is not None:
        raise InvalidInput(f"lists can't be ordered by {order.name}", field="order")
    return field.column.desc() if order.descending else field.column.asc()


def _field(name: str, fields: Fields, where: str) -> Field:
    found = fields.get(name)
    if found is None:
        known = ", ".join(sorted(fields))
        raise InvalidInput(f"no field {name[:40]!r} in this list", hint=f"One of {known}.", field=where)
    return found if isinstance(found, Field) else Field(found)


def _condition(expression: Expression, fields: Fields) -> sa.ColumnElement[bool]:
    match expression:
        case Comparison():
            return _comparison(expression, _field(expression.name, fields, "filter"))
        case Not(inner):
            return sa.not_(_condition(inner, fields))
        case Both(left, right):
            return sa.and_(_condition(left, fields), _condition(right, fields))
        case Either(left, right):
            return sa.or_(_condition(left, fields), _condition(right, fields))


def _comparison(one: Comparison, field: Field) -> sa.ColumnElement[bool]:
    column = field.column
    if one.operator in ("is", "isnot") and one.value is not None and not isinstance(one.value, bool):
        raise InvalidInput(f"{one.operator!r} compares with null, true or false", field="filter")
    if one.operator in _ORDERED and (one.value is None or isinstance(one.value, bool)):
        raise InvalidInput(f"{one.operator!r} needs a text or a number", field="filter")
    if one.operator in _TEXTUAL:
        if not isinstance(one.value, str):
            raise InvalidInput(f"{one.operator!r} needs a text", field="filter")
        column, value = sa.cast(column, sa.String), _cased(one.value, field)
    elif isinstance(one.value, tuple):
        value = [_value(item, field, one.name) for item in one.value]
    else:
        value = _value(one.value, field, one.name)
    made = _COMPARE[one.operator](column, value)
    return field.any_of(made) if field.any_of is not None else made


def _cased(value: Scalar, field: Field) -> Any:
    if not isinstance(value, str):
        return value
    return value.upper() if field.upper else value.lower() if field.lower else value


def _value(value: Scalar, field: Field, name: str) -> Any:
    """As the column's type needs it. Raises InvalidInput."""
    kind = field.column.type
    if value is None:
        return None
    try:
        if isinstance(kind, type(UtcDateTime)):
            when = datetime.fromisoformat(str(value))
            return when if when.tzinfo else when.replace(tzinfo=UTC)
        if isinstance(kind, sa.Uuid):
            return UUID(str(value))
        if isinstance(kind, sa.Boolean):
            if not isinstance(value, bool):
                raise ValueError
            return value
        if isinstance(kind, sa.Integer):
            return _integer(value, 64 if isinstance(kind, sa.BigInteger) else 32)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{value!r} is no value of {name}", field="filter") from None
    word = _cased(value if isinstance(value, str) else str(value), field)
    if field.words is not None and word not in field.words:
        raise InvalidInput(
            f"{str(value)[:40]!r} is no value of {name}",
            hint=f"One of {', '.join(sorted(field.words))}.",
            field="filter",
        )
    return word


def _integer(value: Scalar, bits: int) -> int:
    """Raises ValueError for a number that is not whole, and for one that the column has no room for: the database would break off."""
    if isinstance(value, bool) or value is None or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    number = int(value)
    if not -(1 << (bits - 1)) <= number < 1 << (bits - 1):
        raise ValueError
    return number
