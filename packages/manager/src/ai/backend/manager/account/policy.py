"""Decisions about accounts. Pure."""

import re

from ai.backend.common.ids import ProjectId

from ..access.model import Principal, Role
from .model import Roles

USERNAME_CHARACTERS_MAX = 64
SUFFIX_CHARACTERS = 6
HOST_PERMISSIONS = (
    "create-vfolder",
    "modify-vfolder",
    "delete-vfolder",
    "mount-in-session",
    "upload-file",
    "download-file",
    "invite-others",
    "set-user-specific-permission",
)
"""What may be allowed on a folder host, in the published words."""


def username_from(email: str, number: int = 0) -> str:
    """A user name like the address's first part; `number` (random) makes it another one when that is taken."""
    local = re.sub(r"[^A-Za-z0-9_.-]", "_", email.partition("@")[0])
    name = re.sub(r"^[^A-Za-z0-9_]+", "", local) or "user"
    if not number:
        return name[:USERNAME_CHARACTERS_MAX]
    suffix = f"-{number:0{SUFFIX_CHARACTERS}x}"[: SUFFIX_CHARACTERS + 1]
    return name[: USERNAME_CHARACTERS_MAX - len(suffix)] + suffix


def roles_of(principal: Principal, project_id: ProjectId | None) -> Roles:
    """Roles in the published words, which know fewer than we do."""
    superadmin = principal.role is Role.SUPERADMIN
    return Roles(
        global_role="superadmin" if superadmin else "user",
        domain_role="admin" if superadmin or principal.role is Role.ADMIN else "user",
        group_role=None if project_id is None else "admin" if project_id in principal.administers else "user",
    )
