"""What every handler does: find the gateway's context, read the form, find whom to act as, and encode the reply."""

from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar import Request, Response
from litestar.connection import ASGIConnection

from ai.backend.common.errors import InvalidInput
from ai.backend.common.wire.rest.form import Form, OwnedForm
from ai.backend.manager.access.model import Principal

from . import peer
from .auth import principal_of
from .decode import parameters
from .limits import GatewayConfig
from .port import Manager
from .rate import RateLimiter

F = TypeVar("F", bound=Form)
O = TypeVar("O", bound=OwnedForm)  # noqa: E741
AnyRequest = Request[Any, Any, Any]
AnyConnection = ASGIConnection[Any, Any, Any, Any]

QUERY_FIELDS_MAX = 256
YAML_TYPES = frozenset({"text/yaml", "application/yaml", "application/x-yaml"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """What handlers need, kept in the application's state."""

    manager: Manager
    rate: RateLimiter
    config: GatewayConfig
    openapi: bytes
    """The generated description, as JSON."""


def gateway_of(connection: AnyConnection) -> Gateway:
    gateway: Gateway = connection.app.state["gateway"]
    return gateway


def query_form(connection: AnyConnection, form: type[F], body: bytes = b"") -> F:
    """The form from the query, and from a body if one is given. Raises InvalidInput or MalformedBody."""
    try:
        pairs = parse_qsl(
            connection.scope["query_string"].decode("latin-1"),
            keep_blank_values=True,
            max_num_fields=QUERY_FIELDS_MAX,
        )
    except ValueError as exc:
        raise InvalidInput("too many parameters in the query", limit=QUERY_FIELDS_MAX) from exc
    kind = connection.headers.get("content-type", "").partition(";")[0].strip().lower() if body else ""
    return parameters(form, pairs, body, is_yaml=kind in YAML_TYPES)


async def form_of(request: AnyRequest, form: type[F]) -> F:
    """The form from query and body, whatever the method is."""
    return query_form(request, form, await request.body())


async def acting(connection: AnyConnection, form: OwnedForm) -> Principal:
    """Whom to act as. Raises Forbidden or InvalidInput."""
    owner = form.owner_access_key or None
    return await gateway_of(connection).manager.identity.delegate(principal_of(connection), owner)


async def begin(request: AnyRequest, form: type[O]) -> tuple[Manager, Principal, O]:
    """The start of most handlers."""
    filled = await form_of(request, form)
    return gateway_of(request).manager, await acting(request, filled), filled


def address_of(connection: AnyConnection) -> str:
    """Where the request comes from."""
    return peer.address_of(connection.scope, gateway_of(connection).config.trusted_proxies)


def reply(value: Any, status: int = 200) -> Response[bytes]:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def empty() -> Response[None]:
    return Response(None, status_code=204)
