"""The OpenAPI 3.1 description, generated from the routes: each carries an `Operation`, which also says whether it is anonymous.

`python -m ai.backend.gateway.openapi` prints it.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from litestar.handlers import HTTPRouteHandler, WebsocketRouteHandler

from ai.backend.common.wire.problem import CONTENT_TYPE
from ai.backend.common.wire.rest.form import Form
from ai.backend.common.wire.rest.root import Problem
from ai.backend.common.wire.version import CURRENT, MANAGER_VERSION

REF = "#/components/schemas/{name}"
MEANINGS = {
    101: "The stream is open.",
    200: "Done.",
    201: "Done.",
    204: "Done; nothing to say.",
    302: "Go on there.",
    400: "A parameter, a header or the request's date is missing or wrong.",
    401: "The signature is missing or does not match.",
    403: "You may not do this, or not for that owner.",
    404: "No such thing, or none that you may see.",
    409: "Something changed meanwhile.",
    412: "A resource policy says no.",
    413: "The body is too large.",
    429: "Too many requests.",
    500: "The session could not do it.",
    503: "Nothing is there to do it at the moment.",
}
INTRODUCTION = """\
Run code in containers. Requests are signed with a keypair: `Authorization: BackendAI signMethod=HMAC-SHA256,
credential=ACCESS_KEY:SIGNATURE` with a `Date` header in ISO 8601 form. Parameters may be in the query or in a JSON body, whatever the
method; names may be snake_case or camelCase; unknown ones are ignored. Refusals are `application/problem+json` with a stable
`error_code`, and say what happened (`msg`), who has to act (`fault`) and what to do (`hint`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a route is. `refusals` are the statuses beyond those that every route has (400, and 401, 429 unless anonymous)."""

    summary: str
    description: str = ""
    tag: str
    form: type[Form] | None = None
    form_in: Literal["query", "body", "multipart"] = "query"
    """Where to document the form; both are read."""
    reply: Any = None
    status: int = 200
    media_type: str = "application/json"
    refusals: tuple[int, ...] = ()
    anonymous: bool = False
    while_frozen: bool | None = None
    """Whether a frozen manager serves it; None: if it only reads (GET and WebSockets)."""

    @property
    def statuses(self) -> tuple[int, ...]:
        """All that can come, success first."""
        usual = (400,) if self.anonymous else (400, 401, 429)
        bodies = (413,) if self.form_in != "query" else ()
        return (self.status, *sorted({*usual, *bodies, *self.refusals}))


Route = HTTPRouteHandler | WebsocketRouteHandler


def operation_of(route: Any) -> Operation:
    operation: Operation = route.opt["operation"]
    return operation


def _parameters(form: type[Form]) -> list[dict[str, Any]]:
    _, components = msgspec.json.schema_components([form], ref_template=REF)
    schema = components[form.__name__]
    found = []
    for name, described in schema["properties"].items():
        inner = {key: value for key, value in described.items() if key != "description"}
        parameter = {"name": name, "in": "query", "required": name in schema["required"], "schema": inner}
        if text := described.get("description"):
            parameter["description"] = text
        found.append(parameter)
    return found


def _responses(operation: Operation, schemas: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in operation.statuses:
        if status >= 400:
            responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
            continue
        answer: dict[str, Any] = {"description": MEANINGS[status]}
        if operation.reply is not None:
            answer["content"] = {operation.media_type: {"schema": schemas[operation.reply]}}
        elif status == 200:
            answer["content"] = {operation.media_type: {"schema": {"type": "string"}}}
        responses[str(status)] = answer
    return responses


def _request_body(operation: Operation, schemas: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    if operation.form_in == "multipart":
        files = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": 20}
        schema: dict[str, Any] = {"type": "object", "properties": {"src": files}, "required": ["src"]}
        return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return {"required": True, "content": {"application/json": {"schema": schemas[operation.form]}}}


def _operation_id(route: Route, path: str) -> str:
    """The handler's name; a second path of the same handler adds its last word."""
    first, *rest = route.fn.__name__.split("_")
    words = [word for word in path.split("/") if "{" not in word]
    more = words[-1:] if path != min(route.paths) and len(route.paths) > 1 else []
    return first + "".join(word.capitalize() for word in (*rest, *more))


def _operation(route: Route, path: str, schemas: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    operation = operation_of(route)
    described: dict[str, Any] = {
        "operationId": _operation_id(route, path),
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": [] if operation.anonymous else [{"signature": []}],
        "responses": _responses(operation, schemas),
    }
    if operation.description:
        described["description"] = operation.description
    parameters: list[dict[str, Any]] = [
        {
            "name": parameter,
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
            "description": "The session's name or id.",
        }
        for parameter in re.findall(r"\{(\w+)\}", path)
    ]
    if operation.form is not None and operation.form_in != "body":
        parameters.extend(_parameters(operation.form))
    if parameters:
        described["parameters"] = parameters
    if operation.form_in != "query":
        described["requestBody"] = _request_body(operation, schemas)
    return described


def document(routes: Iterable[Any]) -> dict[str, Any]:
    """The description as plain JSON values, in a stable order."""
    described: list[Route] = [route for route in routes if "operation" in route.opt]
    types: list[Any] = [Problem]
    for operation in map(operation_of, described):
        bodies = [operation.form] if operation.form is not None and operation.form_in == "body" else []
        types.extend(kind for kind in (*bodies, operation.reply) if kind is not None and kind not in types)
    refs, components = msgspec.json.schema_components(types, ref_template=REF)
    schemas: dict[Any, dict[str, Any]] = dict(zip(types, refs, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in described:
        methods = sorted(route.http_methods) if isinstance(route, HTTPRouteHandler) else ["GET"]
        for raw in sorted(route.paths):
            path = re.sub(r":\w+\}", "}", raw)
            for method in methods:
                paths.setdefault(path, {})[method.lower()] = _operation(route, path, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Backend.AI",
            "version": str(CURRENT),
            "summary": f"The manager's REST API, shaped like that of release {MANAGER_VERSION}.",
            "description": INTRODUCTION,
            "license": {"name": "LGPL-3.0-only", "identifier": "LGPL-3.0-only"},
        },
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(components.items())),
            "responses": {
                str(status): {
                    "description": meaning,
                    "content": {CONTENT_TYPE: {"schema": schemas[Problem]}},
                }
                for status, meaning in MEANINGS.items()
                if status >= 400
            },
            "securitySchemes": {
                "signature": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "BackendAI signMethod=HMAC-SHA256, credential=ACCESS_KEY:SIGNATURE",
                }
            },
        },
    }


def main() -> None:
    from .app import ROUTES

    text = msgspec.json.format(msgspec.json.encode(document(ROUTES)), indent=2)
    sys.stdout.write(text.decode() + "\n")


if __name__ == "__main__":
    main()
