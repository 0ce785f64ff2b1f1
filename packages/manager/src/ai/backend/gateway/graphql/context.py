"""What resolvers share during one request."""

from typing import TypeVar
from uuid import UUID

import strawberry

from ai.backend.common.errors import Forbidden, InvalidInput
from ai.backend.common.ids import parse_uuid
from ai.backend.manager.access.model import Principal
from ai.backend.manager.access.policy import Action, Reach, reach
from ai.backend.manager.directory.model import Listing

from ..port import Manager
from .limit import PAGE_MAX

T = TypeVar("T")


class Context:
    """`principal` is who signed the request."""

    def __init__(self, manager: Manager, principal: Principal) -> None:
        self.manager = manager
        self.principal = principal

    @property
    def sees_secrets(self) -> bool:
        """Of resource groups: the token of the app proxy."""
        return reach(self.principal, Action.RESOURCE_GROUP_WRITE) is Reach.ALL


Info = strawberry.Info[Context, None]


def listing(limit: int, offset: int, filter: str | None = None, order: str | None = None) -> Listing:
    """Raises InvalidInput."""
    if not 1 <= limit <= PAGE_MAX:
        raise InvalidInput(f"limit is 1 to {PAGE_MAX}, not {limit}", field="limit")
    if not 0 <= offset < 2**53:
        raise InvalidInput(f"offset is 0 or more, not {offset}", field="offset")
    return Listing(limit=limit, offset=offset, filter=filter, order=order)


def uuid_of(value: UUID | str | None, field: str) -> UUID | None:
    """An id, also as text (see `route.LenientPositions`). Raises InvalidInput."""
    if value is None or isinstance(value, UUID):
        return value
    found = parse_uuid(value)
    if found is None:
        raise InvalidInput(f"{value[:64]!r} is no id", field=field)
    return found


def privileged(what: str) -> Forbidden:
    return Forbidden(f"Forbidden operation. ({what} privilege required)")
