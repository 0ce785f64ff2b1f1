"""Small files that are written into the home folders of new sessions."""

import enum
from dataclasses import dataclass

from ai.backend.common.errors import InvalidInput, NotFound


class Scope(enum.StrEnum):
    """Whose they are. Later ones win when a session starts."""

    DOMAIN = "domain"
    PROJECT = "project"
    USER = "user"
    """Of a keypair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dotfile:
    path: str
    """Relative to the home folder, normal: no empty, "." or ".." parts."""
    permission: str
    """Three octal digits."""
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """`key` is an access key, a project's id or a domain's name."""

    scope: Scope
    key: str


class DotfileNotFound(NotFound):
    code = "dotfile.not-found"
    what = "dotfile"


class DotfileExists(InvalidInput):
    code = "dotfile.exists"


class DotfileRefused(InvalidInput):
    """Too many, too large, or a path that is none or is reserved."""

    code = "dotfile.refused"
