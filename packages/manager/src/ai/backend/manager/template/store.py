"""Rows of templates, with the names of their people and projects."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.ids import ProjectId, UserId

from ..access.model import Principal
from ..access.policy import Action, Reach, reach
from ..db.schema import projects, templates, users
from .model import Template, TemplateType

_ALL = (
    sa.select(templates, users.c.email.label("user_email"), projects.c.name.label("project_name"))
    .join(users, users.c.id == templates.c.user_id)
    .join(projects, projects.c.id == templates.c.project_id)
    .order_by(templates.c.created_at, templates.c.id)
)


def _template(row: Any) -> Template:
    return Template(
        id=row.id,
        template_type=TemplateType(row.template_type),
        name=row.name,
        body=row.body,
        domain_name=row.domain_name,
        project_id=ProjectId(row.project_id),
        user_id=UserId(row.user_id),
        created_at=row.created_at,
        user_email=row.user_email,
        project_name=row.project_name,
    )


def insert(conn: sa.Connection, made: Sequence[Template]) -> None:
    conn.execute(
        sa.insert(templates),
        [
            {
                "id": one.id,
                "template_type": one.template_type.value,
                "name": one.name,
                "body": one.body,
                "domain_name": one.domain_name,
                "project_id": one.project_id,
                "user_id": one.user_id,
                "created_at": one.created_at,
            }
            for one in made
        ],
    )


def count_of(conn: sa.Connection, user_id: UserId) -> int:
    query = sa.select(sa.func.count()).select_from(templates).where(templates.c.user_id == user_id)
    count: int = conn.execute(query).scalar_one()
    return count


def get(conn: sa.Connection, kind: TemplateType, template_id: UUID) -> Template | None:
    row = conn.execute(
        _ALL.where(templates.c.id == template_id, templates.c.template_type == kind.value)
    ).first()
    return _template(row) if row else None


def visible(
    conn: sa.Connection, principal: Principal, kind: TemplateType, *, everyones: bool
) -> list[Template]:
    """The principal's own, or everyone's as far as the principal's reach goes."""
    query = _ALL.where(templates.c.template_type == kind.value)
    match reach(principal, Action.TEMPLATE_READ):
        case Reach.ALL if everyones:
            pass
        case Reach.DOMAIN if everyones:
            query = query.where(templates.c.domain_name == principal.domain_name)
        case Reach.NOTHING:
            return []
        case _:
            query = query.where(templates.c.user_id == principal.user_id)
    return [_template(row) for row in conn.execute(query)]


def replace(conn: sa.Connection, template_id: UUID, name: str, body: dict[str, Any]) -> bool:
    change = sa.update(templates).where(templates.c.id == template_id).values(name=name, body=body)
    return conn.execute(change).rowcount == 1


def delete(conn: sa.Connection, template_id: UUID) -> bool:
    return conn.execute(sa.delete(templates).where(templates.c.id == template_id)).rowcount == 1
