"""Requests and replies of the calls about dotfiles and bootstrap scripts."""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from .form import OwnedForm

_Path = Annotated[str, Meta(description="Below the home folder, such as `.bashrc`.")]
_Permission = Annotated[str, Meta(description="Three octal digits, such as `644`.")]
_Data = Annotated[str, Meta(description="The file's text.")]
_MaybePath = Annotated[str | None, Meta(description="One file; without it, all are listed.")]


class _Own(OwnedForm, frozen=True, kw_only=True):
    """Published clients spell the owner in both ways."""

    ALIASES: ClassVar[dict[str, str]] = {"onwer_access_key": "owner_access_key"}


class _OfProject(OwnedForm, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"group_id": "group", "group_name": "group", "project": "group"}

    group: Annotated[str, Meta(description="A project, by name or id.")]
    domain: Annotated[str, Meta(description="Where the name is looked for; by default your own.")] = ""


class _OfDomain(OwnedForm, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"domain_name": "domain"}

    domain: Annotated[str, Meta(description="By default your own.")] = ""


class PutDotfile(_Own, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = _Own.ALIASES | {"perm": "permission"}

    path: _Path
    permission: _Permission = "644"
    data: _Data


class PutProjectDotfile(_OfProject, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = _OfProject.ALIASES | {"perm": "permission"}

    path: _Path
    permission: _Permission = "644"
    data: _Data


class PutDomainDotfile(_OfDomain, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = _OfDomain.ALIASES | {"perm": "permission"}

    path: _Path
    permission: _Permission = "644"
    data: _Data


class GetDotfiles(_Own, frozen=True, kw_only=True):
    path: _MaybePath = None


class GetProjectDotfiles(_OfProject, frozen=True, kw_only=True):
    path: _MaybePath = None


class GetDomainDotfiles(_OfDomain, frozen=True, kw_only=True):
    path: _MaybePath = None


class DeleteDotfile(_Own, frozen=True, kw_only=True):
    path: _Path


class DeleteProjectDotfile(_OfProject, frozen=True, kw_only=True):
    path: _Path


class DeleteDomainDotfile(_OfDomain, frozen=True, kw_only=True):
    path: _Path


class Dotfile(msgspec.Struct, frozen=True, kw_only=True):
    """`perm` and `permission` are the same."""

    path: str
    perm: str
    permission: str
    data: str


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    success: bool = True


class GetBootstrapScript(_Own, frozen=True, kw_only=True):
    """Nothing but whom to act as."""


class SetBootstrapScript(_Own, frozen=True, kw_only=True):
    script: Annotated[str, Meta(description="At most 64 KiB; empty means none.")] = ""


class Nothing(msgspec.Struct, frozen=True, kw_only=True):
    """An empty object."""
