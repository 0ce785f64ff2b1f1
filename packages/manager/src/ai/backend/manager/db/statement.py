"""Statements that are built once.

Building a statement costs SQLAlchemy more than SQLite needs to run it, and most of a session's start is such small statements: the ones
on that path are made at import, or here once for each set of columns, and get their values as parameters.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import sqlalchemy as sa

Processor = Callable[[Any], Any]
KEPT = "kept"
"""In the info of a connection that only reads: its `Kept`."""


class Query:
    """A SELECT that is made once and asked often. A call gives its bind parameters the values that they do not have.

    SQLite is asked through its driver, with the text and the conversions that SQLAlchemy made the first time: what SQLAlchemy does in
    each execution takes five times what SQLite does. And where it is known that nothing has changed since, it is not asked again.
    PostgreSQL is asked as always: there the way takes longest.
    """

    def __init__(self, statement: "sa.Select[Any]") -> None:
        self._statement = statement
        self._plan: _Plan | None = None

    def __call__(self, conn: sa.Connection, **parameters: Any) -> Sequence[Sequence[Any]]:
        """The rows, in the order of the statement's columns."""
        if conn.dialect.name != "sqlite":
            return conn.execute(self._statement, parameters).all()
        if self._plan is None:
            self._plan = _Plan(self._statement, conn.dialect)
        pooled = conn.connection
        kept: Kept | None = pooled.info.get(KEPT)
        if kept is None:
            return self._plan.rows(pooled.driver_connection, parameters)
        asked = (self, *parameters.items())
        found = kept.answers.get(asked)
        if found is None:
            found = self._plan.rows(pooled.driver_connection, parameters)
            kept.add(asked, found)
        return found


class Kept:
    """What a connection was answered, as long as the database does not change."""

    ROWS_MAX = 20_000

    def __init__(self) -> None:
        self.answers: dict[tuple[Any, ...], Sequence[Sequence[Any]]] = {}
        self._version = -1
        self._rows = 0

    def begin(self, version: int) -> None:
        """A transaction sees the database in this version."""
        if version != self._version:
            self.answers.clear()
            self._version, self._rows = version, 0

    def add(self, asked: tuple[Any, ...], found: Sequence[Sequence[Any]]) -> None:
        if self._rows + len(found) < self.ROWS_MAX:
            self._rows += len(found) + 1
            self.answers[asked] = found


class Many:
    """An INSERT or UPDATE that is made once and run for many rows, each a mapping of all its parameters. SQLite's driver gets them at once,
    with the conversions that SQLAlchemy made the first time; PostgreSQL is told as always."""

    def __init__(self, statement: "sa.Insert | sa.Update") -> None:
        self._statement = statement
        self._plan: tuple[str, list[tuple[str, Processor]]] | None = None

    def __call__(self, conn: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        if conn.dialect.name != "sqlite":
            conn.execute(self._statement, [dict(row) for row in rows])
            return
        if self._plan is None:
            compiled: Any = self._statement.compile(dialect=conn.dialect, column_keys=list(rows[0]))
            constants = compiled.construct_params(_check=False)
            values: list[tuple[str, Processor]] = []
            for name in compiled.positiontup:
                convert = compiled.binds[name].type.dialect_impl(conn.dialect).bind_processor(conn.dialect)
                if name in rows[0]:
                    values.append((name, convert or _same))
                else:  # written into the statement
                    values.append((next(iter(rows[0])), partial(_always, constants[name])))
            self._plan = str(compiled), values
        text, names = self._plan
        driver: Any = conn.connection.driver_connection
        driver.executemany(text, [[convert(row[name]) for name, convert in names] for row in rows])


def _same(value: Any) -> Any:
    return value


def _always(constant: Any, _value: Any) -> Any:
    return constant


class _Plan:
    """A statement as a driver with positional parameters takes it."""

    def __init__(self, statement: "sa.Select[Any]", dialect: sa.Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        self._text = str(compiled)
        self._names: Sequence[str] = compiled.positiontup
        self._binds: dict[str, Processor | None] = {}
        self._values: dict[str, Any] = {}
        for name, value in compiled.construct_params(_check=False).items():
            # The members of an IN have no bind of their own.
            bind = compiled.binds[name if name in compiled.binds else name.rpartition("_")[0]]
            convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
            self._binds[name] = convert
            self._values[name] = convert(value) if convert and value is not None else value
        self._results: list[tuple[int, Processor]] = []
        for index, column in enumerate(statement.selected_columns):
            convert = column.type.dialect_impl(dialect).result_processor(dialect, None)
            if convert is not None:
                self._results.append((index, convert))

    def rows(self, driver: Any, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        values = self._values
        if parameters:
            values = dict(values)
            for name, value in parameters.items():
                convert = self._binds[name]
                values[name] = convert(value) if convert else value
        found = driver.execute(self._text, [values[name] for name in self._names]).fetchall()
        if self._results:
            found = [list(row) for row in found]
            for index, convert in self._results:
                for row in found:
                    row[index] = convert(row[index])
        return found  # type: ignore[no-any-return]  # the driver's rows


def one_of(column: sa.ColumnElement[Any], texts: Iterable[str]) -> sa.ColumnElement[bool]:
    """`column IN (...)` of constants of ours, written into the statement; never for what anybody sent."""
    return column.in_([sa.literal_column(f"'{text}'") for text in texts])


def update_row(
    conn: sa.Connection,
    table: sa.Table,
    where: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    counting: str = "",
) -> int:
    """Sets columns of the rows whose columns `where` have these values, and adds one to the column `counting`; returns how many rows
    there were."""
    statement = _update(table, tuple(where), tuple(values), counting)
    parameters = {f"where_{name}": value for name, value in where.items()}
    parameters |= {f"set_{name}": value for name, value in values.items()}
    return conn.execute(statement, parameters).rowcount


def update_rows(
    conn: sa.Connection,
    table: sa.Table,
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    *,
    counting: str = "",
) -> None:
    """`update_row` for many pairs of conditions and values, each with the same columns. Whoever has to know whether a row was there looks
    before, in the same transaction."""
    if not rows:
        return
    where, values = rows[0]
    _update_many(table, tuple(where), tuple(values), counting)(
        conn,
        [
            {f"where_{name}": value for name, value in where.items()}
            | {f"set_{name}": value for name, value in values.items()}
            for where, values in rows
        ],
    )


@lru_cache(maxsize=256)
def _update_many(table: sa.Table, where: tuple[str, ...], columns: tuple[str, ...], counting: str) -> Many:
    return Many(_update(table, where, columns, counting))


@lru_cache(maxsize=256)
def _update(table: sa.Table, where: tuple[str, ...], columns: tuple[str, ...], counting: str) -> sa.Update:
    counted: dict[str, Any] = {counting: table.c[counting] + 1} if counting else {}
    return (
        sa.update(table)
        .where(*(table.c[name] == sa.bindparam(f"where_{name}", type_=table.c[name].type) for name in where))
        .values({name: sa.bindparam(f"set_{name}", type_=table.c[name].type) for name in columns} | counted)
    )
