"""Executes queries like graphql-core, but reads an object's plain fields at once.

Lists are many objects of a dozen attributes each, and graphql-core spends ten times on an attribute what reading and encoding it takes:
it makes a path, an info object and an argument map for a resolver that needs none of them.
"""

from collections.abc import Callable
from typing import Any, cast

from graphql import GraphQLObjectType, get_nullable_type, is_leaf_type, is_non_null_type
from graphql.execution import Executor

_Read = tuple[str, str, Callable[[Any], Any], bool]
"""Of one field: the name in the answer, the attribute, how its value is encoded, and whether it may be null."""


class PlainFieldExecutor(Executor[Any]):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reads: dict[int, tuple[Any, list[_Read] | None]] = {}

    def execute_fields(
        self, parent_type: GraphQLObjectType, source_value: Any, path: Any, grouped_field_set: Any, *rest: Any
    ) -> Any:
        # The set is the same object for all items of a list; it is kept, so that no other gets its id.
        known = self._reads.get(id(grouped_field_set))
        if known is None:
            known = grouped_field_set, self._plain(parent_type, grouped_field_set)
            self._reads[id(grouped_field_set)] = known
        if known[1] is not None:
            found: dict[str, Any] = {}
            try:
                for name, attribute, encode, nullable in known[1]:
                    value = getattr(source_value, attribute)
                    if value is None and not nullable:
                        break
                    found[name] = None if value is None else encode(value)
                else:
                    return found
            except Exception:  # noqa: S110 -- told properly below, with path and location
                pass
        return super().execute_fields(parent_type, source_value, path, grouped_field_set, *rest)

    def _plain(self, parent_type: GraphQLObjectType, grouped_field_set: Any) -> list[_Read] | None:
        """How to read them all, if every one is a plain attribute of a leaf type."""
        reads: list[_Read] = []
        for name, details in grouped_field_set.items():
            field = self.schema.get_field(parent_type, details[0].node.name.value)
            if field is None:
                return None
            own = field.extensions.get("strawberry-definition")
            if own is None or not own.is_basic_field:
                return None
            kind = get_nullable_type(field.type)
            if not is_leaf_type(kind):
                return None
            nullable = not is_non_null_type(field.type)
            reads.append((name, own.python_name, cast("Any", kind).coerce_output_value, nullable))
        return reads
