"""Reading the audit log. Services that change things write it themselves, by `audit.store.write`."""

from ..access.model import Principal
from ..access.policy import Action, demand
from ..db.database import Database
from . import store
from .model import RecordPage


class AuditService:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self, principal: Principal, *, action: str | None, target: str | None, limit: int, offset: int
    ) -> RecordPage:
        """Raises NotPrivileged for all but superadministrators."""
        demand(principal, Action.AUDIT_READ)
        return await self._database.read(
            lambda conn: store.page(conn, action=action, target=target, limit=limit, offset=offset)
        )
