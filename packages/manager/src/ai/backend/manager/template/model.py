"""Templates: kept descriptions from which sessions are made. A body is in one spelling (snake_case), whatever spelling it came in."""

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from ai.backend.common.errors import NotFound
from ai.backend.common.ids import ProjectId, UserId


class TemplateNotFound(NotFound):
    """No such template, or none that the caller may see."""

    code = "template.not-found"
    what = "task template"


class TemplateType(enum.StrEnum):
    """The published words."""

    TASK = "task"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    id: UUID
    template_type: TemplateType
    name: str
    body: dict[str, Any]
    domain_name: str
    project_id: ProjectId
    user_id: UserId
    created_at: datetime
    user_email: str = ""
    project_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One template as it was sent, checked. `project`: as the document names it; empty for the request's."""

    name: str
    body: dict[str, Any]
    project: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """What a request to create a session says on top of a template; absent means that the template decides."""

    name: str
    session_type: str | None = None
    image: str | None = None
    domain_name: str | None = None
    project: str | None = None
    tag: str | None = None
    startup_command: str | None = None
    bootstrap_script: str | None = None
    cluster_size: int | None = None
    cluster_mode: str | None = None
    resource_group: str | None = None
    resources: dict[str, str | int | float] | None = None
    environ: dict[str, str] | None = None
    mounts: dict[str, str] | None = None
    """Replaces the template's; never added to them."""
    agent_list: tuple[str, ...] | None = None
    rest: dict[str, Any] = field(default_factory=dict)
    """Fields of a session's draft that templates do not have."""
