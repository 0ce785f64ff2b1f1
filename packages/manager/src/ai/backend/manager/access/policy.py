"""Who may do what: one table, one pure function. Part of every service call; nothing else decides about access.

A role has, for each action, a reach: nothing, its own things, its domain's, or all. Not being allowed to see a thing and its not being
there are told alike (NotFound): existence is never leaked.
"""

import enum
from uuid import UUID

from .model import Principal, Role


class Action(enum.StrEnum):
    SESSION_CREATE = "session:create"
    SESSION_READ = "session:read"
    SESSION_USE = "session:use"
    """Execute, files, logs, interrupt, rename."""
    SESSION_END = "session:end"
    """Destroy and restart."""
    AGENT_READ = "agent:read"
    IMAGE_READ = "image:read"


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
        Action.SESSION_END: Reach.DOMAIN,
        Action.AGENT_READ: Reach.NOTHING,
        Action.IMAGE_READ: Reach.ALL,
    },
    Role.USER: {
        Action.SESSION_CREATE: Reach.OWN,
        Action.SESSION_READ: Reach.OWN,
        Action.SESSION_USE: Reach.OWN,
        Action.SESSION_END: Reach.OWN,
        Action.AGENT_READ: Reach.NOTHING,
        Action.IMAGE_READ: Reach.ALL,
    },
    Role.MONITOR: {
        Action.SESSION_CREATE: Reach.NOTHING,
        Action.SESSION_READ: Reach.ALL,
        Action.SESSION_USE: Reach.NOTHING,
        Action.SESSION_END: Reach.NOTHING,
        Action.AGENT_READ: Reach.ALL,
        Action.IMAGE_READ: Reach.ALL,
    },
}


def reach(principal: Principal, action: Action) -> Reach:
    return _TABLE[principal.role][action]


def may(principal: Principal, action: Action, *, user_id: UUID | str = "", domain_name: str = "") -> bool:
    """Whether the principal may do this to a thing of that user in that domain."""
    match reach(principal, action):
        case Reach.ALL:
            return True
        case Reach.DOMAIN:
            return domain_name == principal.domain_name
        case Reach.OWN:
            return str(user_id) == str(principal.user_id)
        case Reach.NOTHING:
            return False
