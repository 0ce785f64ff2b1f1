"""The published filter and order mini-languages of paginated lists, as trees. Pure.

    expr  := "!" expr | term [("&" | "|") expr]
    term  := NAME OP value | "(" expr ")"
    OP    := == != > >= < <= contains in is isnot like ilike
    value := "text" | number | null | true | false | "[" value ("," value)* "]"

`&` and `|` bind alike and group to the right, and `!` negates all to its right up to the closing parenthesis: so published clients
understand them (`a & b | c` is `a & (b | c)`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ai.backend.common.errors import InvalidInput

TEXT_MAX = 4096
DEPTH_MAX = 32
COMPARISONS = frozenset({"==", "!=", ">", ">=", "<", "<=", "contains", "in", "is", "isnot", "like", "ilike"})

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Comparison:
    name: str
    operator: str
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Not:
    inner: "Expression"


@dataclass(frozen=True, slots=True)
class Both:
    left: "Expression"
    right: "Expression"


@dataclass(frozen=True, slots=True)
class Either:
    left: "Expression"
    right: "Expression"


Expression = Comparison | Not | Both | Either


class Order(NamedTuple):
    name: str
    descending: bool


_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)"""
    r"""|(?P<sign>==|!=|>=|<=|[><!&|(),\[\]]))""",
    re.ASCII,
)
_WORDS: dict[str, Scalar] = {"null": None, "true": True, "false": False}


def _refuse(message: str) -> InvalidInput:
    return InvalidInput(
        f"the filter is not understood: {message}",
        hint='For example: name == "x" & status != "ERROR"',
        field="filter",
    )


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise _refuse(f"unexpected {text[position : position + 10]!r} at character {position + 1}")
        assert match.lastgroup is not None, "each alternative has a name"
        yield match.lastgroup, match[match.lastgroup]
        position = match.end()


def parse_filter(text: str) -> Expression:
    """Raises InvalidInput."""
    if len(text) > TEXT_MAX:
        raise _refuse(f"it is longer than {TEXT_MAX} characters")
    if "\0" in text:
        raise _refuse("it has a NUL, which no text of a database has")
    reader = _Reader(list(_tokens(text)))
    expression = reader.expression(0)
    if reader.peek() is not None:
        raise _refuse(f"nothing should follow before {reader.peek()!r}")
    return expression


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._position = 0

    def peek(self) -> str | None:
        return self._tokens[self._position][1] if self._position < len(self._tokens) else None

    def _next(self) -> tuple[str, str]:
        if self._position >= len(self._tokens):
            raise _refuse("it ends too early")
        self._position += 1
        return self._tokens[self._position - 1]

    def _expect(self, wanted: str) -> None:
        _, text = self._next()
        if text != wanted:
            raise _refuse(f"{wanted!r} is missing before {text!r}")

    def expression(self, depth: int) -> Expression:
        if depth > DEPTH_MAX:
            raise _refuse(f"it is nested deeper than {DEPTH_MAX}")
        if self.peek() == "!":
            self._next()
            return Not(self.expression(depth + 1))
        left: Expression
        if self.peek() == "(":
            self._next()
            left = self.expression(depth + 1)
            self._expect(")")
        else:
            left = self._comparison()
        if self.peek() in ("&", "|"):
            _, sign = self._next()
            right = self.expression(depth + 1)
            return Both(left, right) if sign == "&" else Either(left, right)
        return left

    def _comparison(self) -> Comparison:
        kind, name = self._next()
        if kind != "name":
            raise _refuse(f"a field's name is missing before {name!r}")
        _, operator = self._next()
        if operator not in COMPARISONS:
            raise _refuse(f"{operator!r} is no comparison")
        value = self._value()
        if isinstance(value, tuple) != (operator == "in"):
            raise _refuse("'in' takes a list in brackets, and nothing else does")
        return Comparison(name, operator, value)

    def _value(self) -> Scalar | tuple[Scalar, ...]:
        kind, text = self._next()
        if text == "[":
            items = [self._scalar(*self._next())]
            while True:
                _, sign = self._next()
                if sign == "]":
                    return tuple(items)
                if sign != ",":
                    raise _refuse(f"',' or ']' is missing before {sign!r}")
                items.append(self._scalar(*self._next()))
        return self._scalar(kind, text)

    def _scalar(self, kind: str, text: str) -> Scalar:
        match kind:
            case "text":
                return re.sub(r"\\(.)", r"\1", text[1:-1])
            case "number":
                return float(text) if set(text) & set(".eE") else int(text)
            case "name" if text.lower() in _WORDS:
                return _WORDS[text.lower()]
        raise _refuse(f"{text!r} is no value; texts are in double quotes")


def parse_order(text: str) -> tuple[Order, ...]:
    """`[+|-]NAME, ...`; ascending unless it begins with "-". Raises InvalidInput."""
    orders = []
    for word in text[:TEXT_MAX].split(","):
        match = re.fullmatch(r"\s*([+-]?)\s*([A-Za-z_]\w*)\s*", word, re.ASCII)
        if match is None:
            raise InvalidInput(
                f"the order is not understood: {word.strip()[:40]!r}",
                hint="For example: -created_at,name",
                field="order",
            )
        orders.append(Order(match[2], match[1] == "-"))
    return tuple(orders)
