"""The filter and order languages: what is printed is read back as it was, garbage is refused in words, and SQL means the same."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ai.backend.common.errors import InvalidInput
from ai.backend.manager.db.column import UtcDateTime
from ai.backend.manager.db.database import Database
from ai.backend.manager.db.sqlite import read, sqlite_engine, write
from ai.backend.manager.listing.language import (
    COMPARISONS,
    DEPTH_MAX,
    TEXT_MAX,
    Both,
    Comparison,
    Either,
    Expression,
    Not,
    Order,
    Scalar,
    parse_filter,
    parse_order,
)
from ai.backend.manager.listing.statement import Field, Fields, condition, ordering

# -- printing, the way back of parsing ----------------------------------------------------------------------------------------


def scalar_text(value: Scalar) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def printed(expression: Expression) -> str:
    """The shortest text of a tree: whatever stands on the left of `&` or `|` and is no comparison needs parentheses, what stands on the
    right does not, for these group to the right and `!` reaches as far as it can."""
    match expression:
        case Comparison(name, operator, value):
            shown = (
                f"[{', '.join(map(scalar_text, value))}]" if isinstance(value, tuple) else scalar_text(value)
            )
            return f"{name} {operator} {shown}"
        case Not(inner):
            return f"!{printed(inner)}"
        case Both(left, right) | Either(left, right):
            sign = "&" if isinstance(expression, Both) else "|"
            first = printed(left) if isinstance(left, Comparison) else f"({printed(left)})"
            return f"{first} {sign} {printed(right)}"


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_characters="\0"), max_size=12)
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS: st.SearchStrategy[Scalar] = TEXTS | NUMBERS | st.booleans() | st.none()
PLAIN = st.builds(Comparison, NAMES, st.sampled_from(sorted(COMPARISONS - {"in"})), SCALARS)
LISTED = st.builds(
    Comparison,
    NAMES,
    st.just("in"),
    st.lists(SCALARS, min_size=1, max_size=4).map(tuple),
)


def trees(leaves: st.SearchStrategy[Any], max_leaves: int = 12) -> st.SearchStrategy[Expression]:
    return st.recursive(
        leaves,
        lambda inner: st.builds(Not, inner) | st.builds(Both, inner, inner) | st.builds(Either, inner, inner),
        max_leaves=max_leaves,
    )


def depth(expression: Expression) -> int:
    """As the parser counts: one for each expression inside another."""
    match expression:
        case Comparison():
            return 0
        case Not(inner):
            return 1 + depth(inner)
        case Both(left, right) | Either(left, right):
            before = 0 if isinstance(left, Comparison) else 1 + depth(left)
            return max(before, 1 + depth(right))


@given(trees(PLAIN | LISTED))
@settings(deadline=None)
def test_what_is_printed_is_read_back(expression: Expression) -> None:
    text = printed(expression)
    if len(text) > TEXT_MAX or depth(expression) > DEPTH_MAX:
        with pytest.raises(InvalidInput):
            parse_filter(text)
    else:
        assert parse_filter(text) == expression


@given(trees(PLAIN | LISTED, max_leaves=4), st.data())
@settings(deadline=None)
def test_space_between_words_means_nothing(expression: Expression, data: st.DataObject) -> None:
    """Between words that would not become one; texts keep theirs."""
    pieces = re.split(r'("(?:[^"\\]|\\.)*")', printed(expression), flags=re.DOTALL)
    space = st.sampled_from([" ", "  ", "\t", "\n"])
    spread = "".join(
        piece if at % 2 else re.sub(" ", lambda _: data.draw(space), piece) for at, piece in enumerate(pieces)
    )
    assert parse_filter(f" {spread} ") == expression


A, B, C = (Comparison(name, "==", 1) for name in "abc")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a == 1 & b == 1 | c == 1", Both(A, Either(B, C))),
        ("a == 1 | b == 1 & c == 1", Either(A, Both(B, C))),
        ("(a == 1 & b == 1) | c == 1", Either(Both(A, B), C)),
        ("!a == 1 & b == 1", Not(Both(A, B))),
        ("!(a == 1) & b == 1", Not(Both(A, B))),
        ("(!a == 1) & b == 1", Both(Not(A), B)),
        ("!!a == 1", Not(Not(A))),
        ("((a == 1))", A),
        ("a==1&b==1", Both(A, B)),
        ('a in ["x","y"]', Comparison("a", "in", ("x", "y"))),
        ("a in [1]", Comparison("a", "in", (1,))),
        ("a isnot NULL", Comparison("a", "isnot", None)),
        ("a is True", Comparison("a", "is", True)),
        (r'a == "say \"x\" \\"', Comparison("a", "==", 'say "x" \\')),
        ("a == -1.5e3", Comparison("a", "==", -1500.0)),
        ("a == 12345678901234567890", Comparison("a", "==", 12345678901234567890)),
    ],
)
def test_grammar(text: str, tree: Expression) -> None:
    assert parse_filter(text) == tree


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "a", "a ==", "== 1", "a = 1", "a == b", "a == 'x'", 'a == "x', "a in 1", "a == [1]", "a in []", "a in [1,]",
        "a in [1 2]", "(a == 1", "a == 1)", "a == 1 &", "& a == 1", "a == 1 b == 1", "!", "a == 1 && b == 1", "a == 1; --",
        "a == .5", "a == 1e", "a == +1", "a == 0x10", "a == ١", "á == 1", "a in [[1]]", "1 == 1", '"a" == 1', "a == 1 and b == 1",
    ],
)  # fmt: skip
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(InvalidInput) as told:
        parse_filter(text)
    assert told.value.detail["field"] == "filter"
    assert told.value.hint


@pytest.mark.parametrize(
    "nested", ["(" * 33 + "a == 1" + ")" * 33, "!" * 33 + "a == 1", "a == 1 & " * 33 + "a == 1"]
)
def test_depth_is_bounded(nested: str) -> None:
    with pytest.raises(InvalidInput, match="nested deeper"):
        parse_filter(nested)


def test_bounds_are_where_they_are_said_to_be() -> None:
    parse_filter("(" * DEPTH_MAX + "a == 1" + ")" * DEPTH_MAX)
    longest = f'a == "{"x" * (TEXT_MAX - 7)}"'
    assert len(longest) == TEXT_MAX
    parse_filter(longest)
    with pytest.raises(InvalidInput, match="longer"):
        parse_filter(longest + " ")
    for text in (
        "(" * TEXT_MAX,
        "!" * TEXT_MAX,
        "[" * TEXT_MAX,
        '"' + "\\" * (TEXT_MAX - 1),
        "a in [" + "1," * 2000,
    ):
        with pytest.raises(InvalidInput):
            parse_filter(text)


GARBAGE = (
    st.text()
    | st.text(alphabet=' ab"\\=!<>&|()[],.-+1e_\n\x00', max_size=60)
    | trees(PLAIN | LISTED, max_leaves=4)
    .map(printed)
    .flatmap(lambda text: st.integers(0, len(text)).map(lambda cut: text[:cut] + text[cut + 1 :]))
)


@given(GARBAGE)
@example("a == " + "9" * 5000)
@example("a == 1e999")
@example("a == -" + "9" * 4000)
@settings(max_examples=400, deadline=None)
def test_garbage_is_refused_in_words(text: str) -> None:
    """And never by another exception; what is taken can be printed and read again."""
    for parse in (parse_filter, parse_order):
        try:
            parse(text)
        except InvalidInput as told:
            assert told.message
    fields: Fields = {name: sa.column(name, sa.String) for name in "ab"}
    for build in (condition, ordering):
        try:
            made: Any = build(text, fields)
        except InvalidInput as told:
            assert told.message
        else:
            str(made)


# -- orders -------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.builds(Order, NAMES, st.booleans()), min_size=1, max_size=8), st.sampled_from(["", "+"]))
def test_orders_are_read_back(orders: list[Order], up: str) -> None:
    text = ", ".join(f"{'-' if order.descending else up}{order.name}" for order in orders)
    assert parse_order(text) == tuple(orders)


@pytest.mark.parametrize("text", ["", ",", "a,", "-", "--a", "a desc", "a;b", "1", "á", "a,,b", '"a"'])
def test_what_is_no_order(text: str) -> None:
    with pytest.raises(InvalidInput) as told:
        parse_order(text)
    assert told.value.detail["field"] == "order"


# -- SQL, against an evaluation in Python -------------------------------------------------------------------------------------

META = sa.MetaData()
ROWS = sa.Table(
    "listing_rows",
    META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=True),
    sa.Column("code", sa.String(16), nullable=True),  # upper case
    sa.Column("count", sa.BigInteger, nullable=True),
    sa.Column("flag", sa.Boolean, nullable=True),
    sa.Column("at", UtcDateTime, nullable=True),
    sa.Column("ref", sa.Uuid, nullable=True),
)
PARTS = sa.Table("listing_parts", META, sa.Column("row_id", sa.Integer), sa.Column("label", sa.String(16)))


def _of_parts(made: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists().where(PARTS.c.row_id == ROWS.c.id, made).correlate(ROWS)


FIELDS: Fields = {
    "name": ROWS.c.name,
    "code": Field(ROWS.c.code, upper=True),
    "count": ROWS.c.count,
    "flag": ROWS.c.flag,
    "at": ROWS.c.at,
    "ref": ROWS.c.ref,
    "part": Field(PARTS.c.label, any_of=_of_parts),
}
START = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = ["", "a", "A", "ab", "aB", "b%", "b_", "bx", "a\\b", "é", "10"]
REFS = [UUID(int=n) for n in (1, 2, 3)]
TIMES = [START + timedelta(days=n) for n in range(3)]
Row = dict[str, Any]
ROW = st.fixed_dictionaries(
    {
        "name": st.none() | st.sampled_from(WORDS),
        "code": st.none() | st.sampled_from(["RUNNING", "PENDING", "ERROR"]),
        "count": st.none() | st.integers(-2, 3) | st.just(2**40),
        "flag": st.none() | st.booleans(),
        "at": st.none() | st.sampled_from(TIMES),
        "ref": st.none() | st.sampled_from(REFS),
        "part": st.lists(st.sampled_from(["x", "y", "xy"]), max_size=2, unique=True),
    }
)
VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(WORDS),
    "code": st.sampled_from(["running", "Pending", "ERROR", "none"]),
    "count": st.integers(-2, 3) | st.just(2**40),
    "flag": st.booleans(),
    "at": st.sampled_from([*(when.isoformat() for when in TIMES), "2026-01-02", "2026-01-02T01:00:00+01:00"]),
    "ref": st.sampled_from([str(REFS[0]), REFS[1].hex, str(UUID(int=9))]),
    "part": st.sampled_from(["x", "y", "z"]),
}
ORDERED = ("==", "!=", "<", "<=", ">", ">=")
TEXTUAL = ("contains", "like")


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    """Each operator on each kind of column where it means something."""
    name = draw(st.sampled_from(sorted(VALUES)))
    operators = ["in", *(ORDERED if name in ("count", "at") else ("==", "!="))]
    if name in ("name", "code", "part"):
        operators += TEXTUAL
    if name == "flag":
        operators = ["==", "!=", "is", "isnot"]
    elif name != "part":
        operators += ["is", "isnot"]
    operator = draw(st.sampled_from(operators))
    if operator == "in":
        return Comparison(name, operator, tuple(draw(st.lists(VALUES[name], min_size=1, max_size=3))))
    if operator in ("is", "isnot"):
        return Comparison(name, operator, None if name != "flag" else draw(st.none() | st.booleans()))
    if operator == "like":
        return Comparison(name, operator, draw(st.sampled_from(["%", "a%", "_", "%b", "b_", "x%"])))
    return Comparison(name, operator, draw(VALUES[name]))


def typed(name: str, value: Any) -> Any:
    match name:
        case "at":
            when = datetime.fromisoformat(value)
            return when if when.tzinfo else when.replace(tzinfo=UTC)
        case "ref":
            return UUID(value)
        case "code":
            return value.upper()
    return value


def like(pattern: str, text: str, *, fold: bool) -> bool:
    wild = "".join({"%": ".*", "_": "."}.get(char, re.escape(char)) for char in pattern)
    flags = re.DOTALL | (re.IGNORECASE if fold else 0)
    return re.fullmatch(wild, text, flags) is not None


PLAINLY: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": lambda own, value: own == value,
    "!=": lambda own, value: own != value,
    "<": lambda own, value: own < value,
    "<=": lambda own, value: own <= value,
    ">": lambda own, value: own > value,
    ">=": lambda own, value: own >= value,
}


def holds_for(own: Any, one: Comparison, *, fold: bool) -> bool | None:
    """Whether a comparison holds of a value; None where SQL knows no answer, because there is no value. `fold`: LIKE takes "a" for "A"."""
    if one.operator in ("is", "isnot"):
        return bool((own is one.value) == (one.operator == "is"))
    if own is None:
        return None
    if one.operator == "in":
        assert isinstance(one.value, tuple)
        return any(own == typed(one.name, item) for item in one.value)
    value = typed(one.name, one.value)
    if one.operator == "contains":
        return value.lower() in own.lower() if fold else value in own
    if one.operator == "like":
        return like(value, own, fold=fold)
    return PLAINLY[one.operator](own, value)


def holds(row: Row, expression: Expression, *, fold: bool) -> bool | None:
    """Three-valued, as SQL is."""
    match expression:
        case Comparison("part"):
            return any(holds_for(label, expression, fold=fold) for label in row["part"])
        case Comparison():
            return holds_for(row[expression.name], expression, fold=fold)
        case Not(inner):
            found = holds(row, inner, fold=fold)
            return None if found is None else not found
        case Both(left, right):
            both = holds(row, left, fold=fold), holds(row, right, fold=fold)
            return False if False in both else None if None in both else True
        case Either(left, right):
            either = holds(row, left, fold=fold), holds(row, right, fold=fold)
            return True if True in either else None if None in either else False


def fill(conn: sa.Connection, rows: list[Row]) -> None:
    conn.execute(sa.delete(PARTS))
    conn.execute(sa.delete(ROWS))
    for number, row in enumerate(rows):
        columns = {name: value for name, value in row.items() if name != "part"}
        conn.execute(sa.insert(ROWS).values(id=number, **columns))
        for label in row["part"]:
            conn.execute(sa.insert(PARTS).values(row_id=number, label=label))


def chosen(conn: sa.Connection, text: str, order: str | None = None) -> list[int]:
    made = condition(text, FIELDS)
    assert made is not None
    return list(
        conn.execute(sa.select(ROWS.c.id).where(made).order_by(*ordering(order, FIELDS), ROWS.c.id)).scalars()
    )


def expected(rows: list[Row], expression: Expression, *, fold: bool) -> list[int]:
    return [number for number, row in enumerate(rows) if holds(row, expression, fold=fold) is True]


EXPRESSIONS = trees(comparisons(), max_leaves=5)
TABLES = st.lists(ROW, min_size=1, max_size=6)
memory = sqlite_engine("sqlite://", poolclass=sa.pool.StaticPool)


@given(TABLES, EXPRESSIONS)
@settings(max_examples=200, deadline=None)
def test_filters_mean_the_same_in_sql(rows: list[Row], expression: Expression) -> None:
    with memory.connect() as conn:
        write(conn, META.create_all)
        write(conn, lambda inner: fill(inner, rows))
        found = read(conn, lambda inner: chosen(inner, printed(expression)))
    assert found == expected(rows, expression, fold=True)


@given(
    TABLES,
    st.lists(st.tuples(st.sampled_from(["count", "at", "code"]), st.booleans()), min_size=1, max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_orders_mean_the_same_in_sql(rows: list[Row], keys: list[tuple[str, bool]]) -> None:
    """Rows without a value are left out: where these go is each database's own business."""
    with memory.connect() as conn:
        write(conn, META.create_all)
        write(conn, lambda inner: fill(inner, rows))
        order = ",".join(("-" if descending else "") + name for name, descending in keys)
        text = " & ".join(f"{name} isnot null" for name, _ in keys)
        found = read(conn, lambda inner: chosen(inner, text, order))
    sorted_rows = [n for n, row in enumerate(rows) if all(row[name] is not None for name, _ in keys)]
    for name, descending in reversed(keys):
        sorted_rows.sort(key=lambda number: rows[number][name], reverse=descending)
    assert found == sorted_rows


@pytest.mark.parametrize(
    "text",
    [
        "ghost == 1", 'at == "soon"', 'ref == "x"', "flag == 1", 'count == "many"', "count == 1.5", "count == true",
        "name is 1", 'name is "x"', "count like 1", "name contains null", 'at in ["2026-01-01", "never"]', "flag in [true, 2]",
    ],
)  # fmt: skip
def test_values_that_are_none_of_their_columns(text: str) -> None:
    with pytest.raises(InvalidInput) as told:
        condition(text, FIELDS)
    assert told.value.detail["field"] == "filter"


def test_words_that_a_column_never_holds() -> None:
    """Otherwise a misspelt status finds nothing, in silence; in whatever case, and null is no word."""
    worded: Fields = {"status": Field(ROWS.c.code, upper=True, words={"RUNNING", "ERROR"})}
    for right in (
        'status == "running"',
        'status in ["ERROR", "running"]',
        "status != null",
        'status like "X%"',
    ):
        assert condition(right, worded) is not None
    for wrong in ('status == "RUNING"', '!status != "RUNING"', 'status in ["ERROR", "x"]', "status == 1"):
        with pytest.raises(InvalidInput) as told:
            condition(wrong, worded)
        assert told.value.detail["field"] == "filter" and told.value.hint == "One of ERROR, RUNNING."


def test_orders_that_are_none() -> None:
    for text in ("part", "ghost", "name,ghost"):
        with pytest.raises(InvalidInput) as told:
            ordering(text, FIELDS)
        assert told.value.detail["field"] == "order"
    assert ordering(None, FIELDS) == ordering("  ", FIELDS) == []
    assert condition(None, FIELDS) is condition(" ", FIELDS) is None


STRANGE = (
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1e30", "1e999", "1.5", "0.0", "true", "null", '"a\0"',
    '"\U0001f600"', '"1"', "2147483648",
)  # fmt: skip


def _all(conn: sa.Connection, *, query: sa.Select[Any]) -> None:
    conn.execute(query).all()


async def test_strange_values_are_answered_or_refused(listed: Database) -> None:
    """A database refuses a number that is too large for it, or a NUL, with an error of its own, which would be a crash."""
    refused = set()
    for name in ("id", "count", "name", "code", "at", "ref", "flag", "part"):
        for value in STRANGE:
            for shown in (f"== {value}", f"> {value}", f"in [{value}]"):
                try:
                    made = condition(f"{name} {shown}", {**FIELDS, "id": ROWS.c.id})
                except InvalidInput:
                    refused.add((name, value))
                    continue
                assert made is not None
                query = sa.select(ROWS.c.id).where(made)
                await listed.read(partial(_all, query=query))
    assert {value for name, value in refused if name == "count"} >= {
        "9223372036854775808",
        "1e999",
        "1.5",
        "true",
    }
    assert ("count", "9223372036854775807") not in refused


@pytest.fixture
async def listed(database: Database) -> Database:
    """On every engine that there is."""
    await database.alter(META.create_all)
    return database


SAMPLE: list[Row] = [
    {"name": word, "code": code, "count": number - 2, "flag": flag, "at": TIMES[number % 3], "ref": REFS[number % 3], "part": parts}
    for number, (word, code, flag, parts) in enumerate(
        zip(
            [None, *WORDS],
            ["RUNNING", None, "PENDING", "ERROR"] * 3,
            [None, True, False] * 4,
            [[], ["x"], ["x", "y"]] * 4,
            strict=True,
        )
    )
]  # fmt: skip


async def test_filters_mean_the_same_on_every_engine(
    listed: Database, request: pytest.FixtureRequest
) -> None:
    """The same properties, on rows that are written once, by an engine that is not run inline."""
    await listed.run(lambda conn: fill(conn, SAMPLE))
    fold = "postgres" not in request.node.name
    cases: list[Expression] = [Comparison("name", "contains", word) for word in WORDS]

    @given(EXPRESSIONS)
    @settings(max_examples=150, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def collect(expression: Expression) -> None:
        cases.append(expression)

    collect()
    for expression in cases:
        found = await listed.read(partial(chosen, text=printed(expression)))
        assert found == expected(SAMPLE, expression, fold=fold), printed(expression)


def test_the_evaluator_itself() -> None:
    """Of three truths, the third is neither."""
    row: Row = {
        "name": None,
        "code": "RUNNING",
        "count": 1,
        "flag": None,
        "at": None,
        "ref": None,
        "part": ["x"],
    }
    unknown, true = Comparison("name", "==", "a"), Comparison("count", "==", 1)
    assert holds(row, unknown, fold=True) is None
    assert holds(row, Not(unknown), fold=True) is None
    assert holds(row, Both(unknown, Not(true)), fold=True) is False
    assert holds(row, Either(unknown, true), fold=True) is True
    assert holds(row, Comparison("code", "==", "running"), fold=True) is True
