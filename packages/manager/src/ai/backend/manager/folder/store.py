"""What domains, projects and policies say of hosts."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ..access.model import Principal
from ..db.schema import domains, keypair_policies, project_members, projects

Grant = Mapping[str, Any]
_SOURCES = (domains, projects, keypair_policies)


def grants(conn: sa.Connection, principal: Principal, project_id: UUID | None) -> list[Grant]:
    """Of the principal's domain, of its keypair's policy, and of one project, or of all that it is a member of."""
    mine = sa.select(project_members.c.project_id).where(project_members.c.user_id == principal.user_id)
    of_projects = projects.c.id.in_(mine) if project_id is None else projects.c.id == project_id
    wanted = (
        (domains, domains.c.name == principal.domain_name),
        (projects, sa.and_(of_projects, projects.c.is_active)),
        (keypair_policies, keypair_policies.c.name == principal.policy_name),
    )
    return [
        grant
        for table, where in wanted
        for grant in conn.execute(sa.select(table.c.allowed_vfolder_hosts).where(where)).scalars()
    ]


def all_grants(conn: sa.Connection) -> list[Grant]:
    return [
        grant
        for table in _SOURCES
        for grant in conn.execute(sa.select(table.c.allowed_vfolder_hosts)).scalars()
    ]
