"""What a GraphQL request may cost, decided before anything is executed. Pure.

Depth counts nested selections. Cost counts every field once for each item that its lists may bring: a list with a `limit` (`first`, `last`)
brings that many, another one brings LIST_ITEMS. What asks for the schema itself may be nested deeper: the query that every tool sends has
types of types of types; how often it may come back to where it was, validation bounds. A fragment is counted once and remembered, so that
fragments of fragments can't make the counting itself expensive.
"""

from collections.abc import Mapping
from typing import Any

from ai.backend.common.errors import InvalidInput
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
)

TEXT_CHARACTERS_MAX = 65_536
TOKENS_MAX = 5_000
DEPTH_MAX = 12
INTROSPECTION_DEPTH_MORE = 6
COST_MAX = 50_000
ROOTS_MAX = 30
PAGE_MAX = 100
LIST_ITEMS = 20
"""What a list without a `limit` is counted as."""
_LENGTHS = frozenset({"limit", "first", "last"})
NESTED_LISTS = frozenset(
    {
        "containers",
        "dependencies",
        "dependees",
        "compute_containers",
        "compute_sessions",
        "vfolders",
        "groups",
        "routings",
        "labels",
        "keypairs",
        "users",
        "agents",
        "images",
        "domains",
        "scaling_groups",
    }
)
_INTROSPECTION = frozenset({"__schema", "__type"})
_INTROSPECTION_LISTS = {"types": 40, "fields": 12, "inputFields": 4, "enumValues": 4}
"""Fewer than there are, so that the whole schema may be asked for once in a query, and not ten times."""


class QueryTooLarge(InvalidInput):
    code = "graphql.query-too-large"


def _refuse(what: str) -> QueryTooLarge:
    return QueryTooLarge(f"the query {what}", hint="Ask for less at once.", field="query")


def check(document: DocumentNode, variables: Mapping[str, Any]) -> None:
    """Raises QueryTooLarge."""
    fragments = {
        node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
    }
    counter = _Counter(fragments, variables)
    for node in document.definitions:
        if isinstance(node, OperationDefinitionNode):
            if counter.roots(node.selection_set) > ROOTS_MAX:
                raise _refuse(f"has more than {ROOTS_MAX} fields at its root")
            cost, _ = counter.cost(node.selection_set, 1)
            if cost > COST_MAX:
                raise _refuse(f"costs {cost}, more than {COST_MAX}")


class _Counter:
    def __init__(self, fragments: Mapping[str, FragmentDefinitionNode], variables: Mapping[str, Any]) -> None:
        self._fragments = fragments
        self._variables = variables
        self._known: dict[str, tuple[int, int]] = {}
        self._open: set[str] = set()
        self._roots: dict[str, int] = {}

    def roots(self, selections: SelectionSetNode) -> int:
        """How many fields stand side by side, those of fragments included."""
        total = 0
        for node in selections.selections:
            match node:
                case FieldNode():
                    total += 1
                case InlineFragmentNode():
                    total += self.roots(node.selection_set)
                case FragmentSpreadNode():
                    name = node.name.value
                    if name not in self._roots and name in self._fragments:
                        self._roots[name] = 0  # one that uses itself is told by validation
                        self._roots[name] = self.roots(self._fragments[name].selection_set)
                    total += self._roots.get(name, 0)
        return total

    def cost(
        self, selections: SelectionSetNode | None, depth: int, bound: int = DEPTH_MAX
    ) -> tuple[int, int]:
        """Of one item's selections: (cost, depth below). `bound`: how deep they may be."""
        if selections is None:
            return 0, 0
        if depth > bound:
            raise _refuse(f"is nested deeper than {bound}")
        total = deepest = 0
        for node in selections.selections:
            match node:
                case FieldNode():
                    # Only at the root is there such a field.
                    asks_schema = depth == 1 and node.name.value in _INTROSPECTION
                    inner_bound = DEPTH_MAX + INTROSPECTION_DEPTH_MORE if asks_schema else bound
                    inner, below = self.cost(node.selection_set, depth + 1, inner_bound)
                    cost, below = 1 + self._items(node) * inner, 1 if asks_schema else below + 1
                case InlineFragmentNode():
                    cost, below = self.cost(node.selection_set, depth, bound)
                case FragmentSpreadNode():
                    cost, below = self._fragment(node.name.value, depth, bound)
                case _:
                    cost, below = 0, 0
            if depth + below > bound + 1:
                raise _refuse(f"is nested deeper than {bound}")
            total, deepest = total + cost, max(deepest, below)
            if total > COST_MAX:
                raise _refuse(f"costs more than {COST_MAX}")
        return total, deepest

    def _fragment(self, name: str, depth: int, bound: int) -> tuple[int, int]:
        if name in self._known:
            return self._known[name]
        fragment = self._fragments.get(name)
        if fragment is None or name in self._open:
            return 0, 0  # validation tells what is wrong
        self._open.add(name)
        self._known[name] = found = self.cost(fragment.selection_set, depth, bound)
        self._open.discard(name)
        return found

    def _items(self, node: FieldNode) -> int:
        for argument in node.arguments or ():
            if argument.name.value in _LENGTHS:
                value = argument.value
                if isinstance(value, IntValueNode):
                    return min(PAGE_MAX, max(1, int(value.value[:6])))
                if isinstance(value, VariableNode):
                    given = self._variables.get(value.name.value)
                    if isinstance(given, int):
                        return min(PAGE_MAX, max(1, given))
                return PAGE_MAX
        name = node.name.value
        many = name in NESTED_LISTS or name.endswith("_nodes")
        return _INTROSPECTION_LISTS.get(name) or (LIST_ITEMS if many else 1)
