"""The quick way through plain fields gives the answers, errors, paths and locations of graphql-core's own."""

from typing import Any

import pytest
import strawberry
from graphql import ExecutionResult, execute, parse

from ai.backend.gateway.graphql.executor import PlainFieldExecutor


@strawberry.type
class Item:
    number: int
    word: str | None
    words: list[str] | None = None

    @strawberry.field
    def twice(self) -> int:
        return self.number * 2


@strawberry.type
class Query:
    @strawberry.field
    async def items(self, numbers: list[int]) -> list[Item | None]:
        return [
            None if number == 0 else Item(number=_NUMBERS.get(number, number), word=_WORDS.get(number, "w"))
            for number in numbers
        ]


class Broken:
    def __str__(self) -> str:
        raise ValueError("no text")


_NUMBERS: dict[int, Any] = {5: None, 6: "six"}
_WORDS: dict[int, Any] = {2: None, 3: Broken(), 4: ["a"]}
_SCHEMA = strawberry.Schema(Query)._schema


async def ask(query: str, executor: Any = PlainFieldExecutor, **variables: Any) -> tuple[Any, Any]:
    result = execute(_SCHEMA, parse(query), variable_values=variables, executor_class=executor)
    outcome = result if isinstance(result, ExecutionResult) else await result
    return outcome.data, [error.formatted for error in outcome.errors or ()]


@pytest.mark.parametrize(
    "fields",
    [
        "number word",
        "w: word number n: number",
        "word @include(if: $yes) number @skip(if: $yes)",
        "...Both number",
        "number twice",
        "number words",
        "__typename word",
        "word ... on Item { number }",
    ],
)
@pytest.mark.parametrize("numbers", [[], [1], [1, 2, 0], [1, 3, 1], [4, 1], [5, 1], [6]])
async def test_it_answers_as_the_ordinary_one(fields: str, numbers: list[int]) -> None:
    query = (
        f"query($numbers: [Int!]!, $yes: Boolean = true) {{ items(numbers: $numbers) {{ {fields} }} }} "
        "fragment Both on Item { number word }"
    )
    assert await ask(query, numbers=numbers) == await ask(query, None, numbers=numbers)


async def test_a_broken_value_is_told_with_its_place() -> None:
    data, errors = await ask("{ items(numbers: [1, 3]) { number word } }")
    assert data == {"items": [{"number": 1, "word": "w"}, {"number": 3, "word": None}]}
    assert [error["path"] for error in errors] == [["items", 1, "word"]]


async def test_only_plain_fields_take_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    plain = PlainFieldExecutor._plain

    def noted(*args: Any) -> Any:
        taken.append(plain(*args))
        return taken[-1]

    monkeypatch.setattr(PlainFieldExecutor, "_plain", noted)
    await ask("{ items(numbers: [1, 1, 1]) { number word } }")
    assert [bool(one) for one in taken] == [False, True]  # once for the whole list
    taken.clear()
    await ask("{ items(numbers: [1]) { number twice } }")
    assert not any(taken)
