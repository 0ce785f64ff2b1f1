"""What users ask about hosts of virtual folders. What is in folders is not known here."""

from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.errors import ProjectNotFound

from ..access.model import Principal
from ..access.policy import Action, demand, may
from ..db.database import Database
from ..identity import store as identity_store
from ..setting import store as setting_store
from . import store
from .model import Hosts
from .policy import DEFAULT_HOST_KEY, TYPES_KEY, hosts, types


class FolderService:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def hosts(self, principal: Principal, project: str) -> Hosts:
        """Where the principal's folders may be; of one project (name or id) only, when it is named. Raises ProjectNotFound."""

        def op(conn: sa.Connection) -> Hosts:
            project_id = _project(conn, principal, project) if project else None
            found = store.grants(conn, principal, project_id)
            return hosts(found, setting_store.get(conn, DEFAULT_HOST_KEY))

        return await self._database.read(op)

    async def all_hosts(self, principal: Principal) -> Hosts:
        """Every host that anybody may use. Raises NotPrivileged."""
        demand(principal, Action.SETTING_READ)
        return await self._database.read(
            lambda conn: hosts(store.all_grants(conn), setting_store.get(conn, DEFAULT_HOST_KEY))
        )

    async def types(self) -> list[str]:
        """Whom folders may belong to."""
        return types(await self._database.read(lambda conn: setting_store.below(conn, TYPES_KEY)))


def _project(conn: sa.Connection, principal: Principal, project: str) -> UUID:
    found = identity_store.find_project(conn, project, principal.domain_name, principal.user_id)
    if found is not None:
        project_id, domain_name, member = found
        if member or may(principal, Action.PROJECT_READ, domain_name=domain_name):
            return project_id
    raise ProjectNotFound(f"no project {project[:64]!r} of yours")
