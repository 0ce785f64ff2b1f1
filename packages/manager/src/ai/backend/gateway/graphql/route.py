"""GraphQL over HTTP: `/admin/gql`, the older `/admin/graphql`, and the schema as text.

Parsing and validating a query costs more than running it, and clients send the same few texts: what passed is remembered.
"""

import re
from collections import OrderedDict
from typing import Any

import msgspec
import strawberry
from litestar import Response, get, post
from litestar.types import ControllerRouterHandler
from strawberry.schema.config import StrawberryConfig
from strawberry.tools import merge_types

from ai.backend.common.errors import BackendError
from ai.backend.common.log import get_logger, request_id
from ai.backend.common.wire import problem
from ai.backend.common.wire.rest.form import Form
from graphql import DocumentNode, GraphQLError, parse, specified_rules, validate
from graphql.execution import ExecutionResult
from graphql.execution import execute as graphql_execute
from graphql.validation import VariablesInAllowedPositionRule

from ..auth import principal_of
from ..call import AnyRequest, form_of, gateway_of, reply
from ..openapi import Operation
from .context import Context
from .executor import PlainFieldExecutor
from .legacy import LegacyQueries
from .limit import TEXT_CHARACTERS_MAX, TOKENS_MAX, QueryTooLarge, check
from .mutation import Mutations
from .node import AgentNode, ImageNode, KernelNode, ScalingGroupNode
from .node_query import NodeQueries
from .query import Queries
from .relay import SCALARS as RELAY_SCALARS
from .scalar import SCALARS

log = get_logger(__name__)

REMEMBERED = 256
_GRAPHQL_ERROR = problem.Published(400, "graphql-error", "GraphQL-generated error.")

schema = strawberry.Schema(
    query=merge_types("Queries", (Queries, LegacyQueries, NodeQueries)),
    mutation=Mutations,
    types=[KernelNode, ScalingGroupNode, ImageNode, AgentNode],
    config=StrawberryConfig(auto_camel_case=False, scalar_map={**SCALARS, **RELAY_SCALARS}),
)
_core = schema._schema


class GraphQLRequest(Form, frozen=True, kw_only=True):
    query: str
    variables: dict[str, Any] = msgspec.field(default_factory=dict)
    operation_name: str | None = None


class LenientPositions(VariablesInAllowedPositionRule):
    """Published clients declare some variables as String whose arguments are UUID, and the other way: both are let pass, and resolvers
    take either."""

    # Releases of graphql-core quote either way.
    _ALIKE = re.compile(
        r"of type (['\"])(?:String|ID|UUID)!?\1 used in position expecting type \1(?:String|ID|UUID)!?\1"
    )

    def report_error(self, error: GraphQLError) -> None:
        if not self._ALIKE.search(error.message):
            super().report_error(error)


_RULES = [LenientPositions if rule is VariablesInAllowedPositionRule else rule for rule in specified_rules]


class _Documents:
    """Queries that were parsed and found valid, newest last."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, DocumentNode] = OrderedDict()

    def get(self, text: str) -> DocumentNode | list[GraphQLError]:
        known = self._known.get(text)
        if known is not None:
            self._known.move_to_end(text)
            return known
        if len(text) > TEXT_CHARACTERS_MAX:
            raise QueryTooLarge(f"the query is longer than {TEXT_CHARACTERS_MAX} characters", field="query")
        try:
            document = parse(text, max_tokens=TOKENS_MAX)
        except GraphQLError as exc:
            return [exc]
        except RecursionError:
            raise QueryTooLarge("the query is nested too deeply", field="query") from None
        # Before validation, whose cost can grow faster than the query.
        check(document, {})
        errors = validate(_core, document, _RULES, max_errors=10)
        if errors:
            return errors
        self._known[text] = document
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return document


_documents = _Documents()


def _told(error: GraphQLError) -> dict[str, Any]:
    """An error as its caller may see it: ours with message and code, unexpected ones without detail."""
    told: dict[str, Any] = dict(error.formatted)
    original = error.original_error
    if isinstance(original, BackendError):
        return {
            **told,
            "message": original.message,
            "extensions": {"code": original.code, "hint": original.hint},
        }
    if original is not None and not isinstance(original, GraphQLError):
        log.error("graphql-failed", error=repr(original), exc_info=original)
        return {**told, "message": f"Internal server error (request {request_id.get()})."}
    return {**told}


async def answer(request: AnyRequest) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Data and errors. Raises BackendError for what is no query at all."""
    form = await form_of(request, GraphQLRequest)
    variables = form.variables
    found = _documents.get(form.query)
    if isinstance(found, list):
        return None, [_told(error) for error in found]
    check(found, variables)
    context = Context(gateway_of(request).manager, principal_of(request))
    result = graphql_execute(
        _core,
        found,
        context_value=context,
        variable_values=variables,
        operation_name=form.operation_name or None,
        middleware=None,
        executor_class=PlainFieldExecutor,
    )
    outcome = result if isinstance(result, ExecutionResult) else await result
    return outcome.data, [_told(error) for error in outcome.errors or ()]


def _opt(**fields: Any) -> dict[str, Any]:
    return {
        "operation": Operation(tag="admin", form=GraphQLRequest, form_in="body", while_frozen=True, **fields)
    }


@post(
    "/admin/gql",
    status_code=200,
    opt=_opt(
        summary="GraphQL",
        description="Answers `{data, errors}`. The schema is at `/admin/schema.graphql`. Deep, costly and long queries are refused.",
        reply=dict[str, Any],
    ),
)
async def post_gql(request: AnyRequest) -> Response[bytes]:
    data, errors = await answer(request)
    return reply({"data": data, **({"errors": errors} if errors else {})})


@post(
    "/admin/graphql",
    status_code=200,
    opt=_opt(
        summary="GraphQL, as older clients speak it",
        description="Answers the data itself; any error is a problem document with the errors in `data`.",
        reply=dict[str, Any],
    ),
)
async def post_graphql(request: AnyRequest) -> Response[bytes]:
    data, errors = await answer(request)
    if errors:
        body = problem.plain(_GRAPHQL_ERROR, errors) | {"request_id": request_id.get()}
        return Response(msgspec.json.encode(body), status_code=400, media_type=problem.CONTENT_TYPE)
    return reply(data)


@get(
    "/admin/schema.graphql",
    opt={
        "operation": Operation(summary="The GraphQL schema", tag="admin", media_type="text/plain", reply=str)
    },
)
async def get_schema() -> Response[bytes]:
    return Response(schema.as_str().encode(), media_type="text/plain")


ROUTES: tuple[ControllerRouterHandler, ...] = (post_gql, post_graphql, get_schema)
