"""Who may do what: one table, one pure function. Part of every service call; nothing else decides about access.

A role has, for each action, a reach: nothing, its own things, its domain's, or all. Administering a project adds to it, within that
project. Not being allowed to see a thing and its not being there are told alike (NotFound): existence is never leaked.
"""

import enum
from uuid import UUID

from ai.backend.common.errors import NotPrivileged
from ai.backend.common.ids import ProjectId

from .model import Principal, Role


class Action(enum.StrEnum):
    SESSION_CREATE = "session:create"
    SESSION_READ = "session:read"
    SESSION_USE = "session:use"
    """Execute, files, logs, rename."""
    SESSION_INTERRUPT = "session:interrupt"
    SESSION_END = "session:end"
    """Destroy and restart."""
    AGENT_READ = "agent:read"
    AGENT_WRITE = "agent:write"
    IMAGE_READ = "image:read"
    IMAGE_WRITE = "image:write"
    DOMAIN_READ = "domain:read"
    DOMAIN_WRITE = "domain:write"
    PROJECT_READ = "project:read"
    PROJECT_WRITE = "project:write"
    """Make and close it, its name, its limits, who administers it."""
    PROJECT_MANAGE = "project:manage"
    """Its description and its members."""
    USER_READ = "user:read"
    USER_WRITE = "user:write"
    KEYPAIR_READ = "keypair:read"
    KEYPAIR_WRITE = "keypair:write"
    POLICY_READ = "policy:read"
    POLICY_WRITE = "policy:write"
    RESOURCE_GROUP_READ = "resource-group:read"
    RESOURCE_GROUP_WRITE = "resource-group:write"
    PRESET_WRITE = "preset:write"
    SETTING_READ = "setting:read"
    SETTING_WRITE = "setting:write"
    """Also the announcement, freezing, and the scheduler."""
    DOTFILE_READ = "dotfile:read"
    DOTFILE_WRITE = "dotfile:write"
    """Of a keypair."""
    SHARED_DOTFILE_WRITE = "shared-dotfile:write"
    """Of a project or a domain."""
    ERROR_LOG_READ = "error-log:read"
    ERROR_LOG_WRITE = "error-log:write"
    AUDIT_READ = "audit:read"
    USAGE_READ = "usage:read"
    IMAGE_RESCAN = "image:rescan"
    TEMPLATE_READ = "template:read"
    TEMPLATE_WRITE = "template:write"
    SCHEDULER_SIMULATE = "scheduler:simulate"
    """Ask where sessions would start; the answer tells of every agent and of the whole queue."""
    CONSOLE_USE = "console:use"
    """Look at the page for writing GraphQL; what its queries may do is decided for each of them."""


class Reach(enum.IntEnum):
    NOTHING = 0
    OWN = 1
    DOMAIN = 2
    ALL = 3


_TABLE: dict[Role, dict[Action, Reach]] = {
    Role.SUPERADMIN: dict.fromkeys(Action, Reach.ALL),
    Role.ADMIN: {
        Action.SESSION_CREATE: Reach.DOMAIN,
        Action.SESSION_READ: Reach.DOMAIN,
        Action.SESSION_USE: Reach.DOMAIN,
        Action.SESSION_INTERRUPT: Reach.DOMAIN,
        Action.SESSION_END: Reach.DOMAIN,
        Action.AGENT_READ: Reach.NOTHING,
        Action.IMAGE_READ: Reach.ALL,
        Action.AGENT_WRITE: Reach.NOTHING,
        Action.IMAGE_WRITE: Reach.NOTHING,
        Action.DOMAIN_READ: Reach.DOMAIN,
        Action.DOMAIN_WRITE: Reach.NOTHING,
        Action.PROJECT_READ: Reach.DOMAIN,
        Action.PROJECT_WRITE: Reach.DOMAIN,
        Action.PROJECT_MANAGE: Reach.DOMAIN,
        Action.USER_READ: Reach.DOMAIN,
        Action.USER_WRITE: Reach.NOTHING,
        Action.KEYPAIR_READ: Reach.DOMAIN,
        Action.KEYPAIR_WRITE: Reach.NOTHING,
        Action.POLICY_READ: Reach.OWN,
        Action.POLICY_WRITE: Reach.NOTHING,
        Action.RESOURCE_GROUP_READ: Reach.NOTHING,
        Action.RESOURCE_GROUP_WRITE: Reach.NOTHING,
        Action.PRESET_WRITE: Reach.NOTHING,
        Action.SETTING_READ: Reach.NOTHING,
        Action.SETTING_WRITE: Reach.NOTHING,
        Action.DOTFILE_READ: Reach.DOMAIN,
        Action.DOTFILE_WRITE: Reach.DOMAIN,
        Action.SHARED_DOTFILE_WRITE: Reach.DOMAIN,
        Action.ERROR_LOG_READ: Reach.DOMAIN,
        Action.ERROR_LOG_WRITE: Reach.DOMAIN,
        Action.AUDIT_READ: Reach.NOTHING,
        Action.USAGE_READ: Reach.NOTHING,
        Action.IMAGE_RESCAN: Reach.ALL,
        Action.TEMPLATE_READ: Reach.DOMAIN,
        Action.TEMPLATE_WRITE: Reach.DOMAIN,
        Action.SCHEDULER_SIMULATE: Reach.NOTHING,
        Action.CONSOLE_USE: Reach.ALL,
    },
    Role.USER: {
        Action.SESSION_CREATE: Reach.OWN,
        Action.SESSION_READ: Reach.OWN,
        Action.SESSION_USE: Reach.OWN,
        Action.SESSION_INTERRUPT: Reach.OWN,
        Action.SESSION_END: Reach.OWN,
        Action.AGENT_READ: Reach.NOTHING,
        Action.IMAGE_READ: Reach.ALL,
        Action.AGENT_WRITE: Reach.NOTHING,
        Action.IMAGE_WRITE: Reach.NOTHING,
        Action.DOMAIN_READ: Reach.DOMAIN,
        Action.DOMAIN_WRITE: Reach.NOTHING,
        Action.PROJECT_READ: Reach.OWN,
        Action.PROJECT_WRITE: Reach.NOTHING,
        Action.PROJECT_MANAGE: Reach.NOTHING,
        Action.USER_READ: Reach.OWN,
        Action.USER_WRITE: Reach.NOTHING,
        Action.KEYPAIR_READ: Reach.OWN,
        Action.KEYPAIR_WRITE: Reach.NOTHING,
        Action.POLICY_READ: Reach.OWN,
        Action.POLICY_WRITE: Reach.NOTHING,
        Action.RESOURCE_GROUP_READ: Reach.NOTHING,
        Action.RESOURCE_GROUP_WRITE: Reach.NOTHING,
        Action.PRESET_WRITE: Reach.NOTHING,
        Action.SETTING_READ: Reach.NOTHING,
        Action.SETTING_WRITE: Reach.NOTHING,
        Action.DOTFILE_READ: Reach.OWN,
        Action.DOTFILE_WRITE: Reach.OWN,
        Action.SHARED_DOTFILE_WRITE: Reach.NOTHING,
        Action.ERROR_LOG_READ: Reach.OWN,
        Action.ERROR_LOG_WRITE: Reach.OWN,
        Action.AUDIT_READ: Reach.NOTHING,
        Action.USAGE_READ: Reach.NOTHING,
        Action.IMAGE_RESCAN: Reach.NOTHING,
        Action.TEMPLATE_READ: Reach.OWN,
        Action.TEMPLATE_WRITE: Reach.OWN,
        Action.SCHEDULER_SIMULATE: Reach.NOTHING,
        Action.CONSOLE_USE: Reach.NOTHING,
    },
    Role.MONITOR: {
        Action.SESSION_CREATE: Reach.NOTHING,
        Action.SESSION_READ: Reach.ALL,
        Action.SESSION_USE: Reach.NOTHING,
        Action.SESSION_INTERRUPT: Reach.NOTHING,
        Action.SESSION_END: Reach.NOTHING,
        Action.AGENT_READ: Reach.ALL,
        Action.IMAGE_READ: Reach.ALL,
        Action.AGENT_WRITE: Reach.NOTHING,
        Action.IMAGE_WRITE: Reach.NOTHING,
        Action.DOMAIN_READ: Reach.ALL,
        Action.DOMAIN_WRITE: Reach.NOTHING,
        Action.PROJECT_READ: Reach.ALL,
        Action.PROJECT_WRITE: Reach.NOTHING,
        Action.PROJECT_MANAGE: Reach.NOTHING,
        Action.USER_READ: Reach.ALL,
        Action.USER_WRITE: Reach.NOTHING,
        Action.KEYPAIR_READ: Reach.ALL,
        Action.KEYPAIR_WRITE: Reach.NOTHING,
        Action.POLICY_READ: Reach.ALL,
        Action.POLICY_WRITE: Reach.NOTHING,
        Action.RESOURCE_GROUP_READ: Reach.ALL,
        Action.RESOURCE_GROUP_WRITE: Reach.NOTHING,
        Action.PRESET_WRITE: Reach.NOTHING,
        Action.SETTING_READ: Reach.NOTHING,
        Action.SETTING_WRITE: Reach.NOTHING,
        Action.DOTFILE_READ: Reach.OWN,
        Action.DOTFILE_WRITE: Reach.OWN,
        Action.SHARED_DOTFILE_WRITE: Reach.NOTHING,
        Action.ERROR_LOG_READ: Reach.ALL,
        Action.ERROR_LOG_WRITE: Reach.OWN,
        Action.AUDIT_READ: Reach.NOTHING,
        Action.USAGE_READ: Reach.ALL,
        Action.IMAGE_RESCAN: Reach.NOTHING,
        Action.TEMPLATE_READ: Reach.ALL,
        Action.TEMPLATE_WRITE: Reach.NOTHING,
        Action.SCHEDULER_SIMULATE: Reach.NOTHING,
        Action.CONSOLE_USE: Reach.NOTHING,
    },
}

_OF_PROJECT_ADMINISTRATORS = frozenset(
    {
        Action.SESSION_READ,
        Action.SESSION_INTERRUPT,
        Action.SESSION_END,
        Action.PROJECT_MANAGE,
        Action.USER_READ,
        Action.SHARED_DOTFILE_WRITE,
        Action.USAGE_READ,
    }
)
"""What they may do, besides what their role lets them, to the things of their projects. Of USER_READ: who the members are, no more."""


def administered(principal: Principal, action: Action) -> frozenset[ProjectId]:
    """The projects to whose things the principal may do this as their administrator."""
    return principal.administers if action in _OF_PROJECT_ADMINISTRATORS else frozenset()


def reach(principal: Principal, action: Action) -> Reach:
    return _TABLE[principal.role][action]


def demand(principal: Principal, action: Action) -> None:
    """For administrators' calls: raises NotPrivileged unless the role reaches everything."""
    if reach(principal, action) is not Reach.ALL:
        raise NotPrivileged("Unauthorized access", hint="This is for administrators of the whole cluster.")


def may(
    principal: Principal,
    action: Action,
    *,
    user_id: UUID | str = "",
    domain_name: str = "",
    project_id: UUID | None = None,
) -> bool:
    """Whether the principal may do this to a thing of that user in that domain and project."""
    if project_id is not None and project_id in administered(principal, action):
        return True
    match reach(principal, action):
        case Reach.ALL:
            return True
        case Reach.DOMAIN:
            return domain_name == principal.domain_name
        case Reach.OWN:
            return str(user_id) == str(principal.user_id)
        case Reach.NOTHING:
            return False
