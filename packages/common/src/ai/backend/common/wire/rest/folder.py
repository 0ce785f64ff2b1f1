"""Requests and replies of the calls about virtual folders. Their fields are snake_case on the wire."""

from typing import Annotated

import msgspec
from msgspec import Meta

from .form import Form


class ListHosts(Form, frozen=True, kw_only=True):
    group_id: Annotated[
        str, Meta(description="Id or name of a project: of projects, only what this one gives.")
    ] = msgspec.field(default="", name="group_id")


class HostList(msgspec.Struct, frozen=True, kw_only=True):
    default: Annotated[str | None, Meta(description="Where a folder is made when no host is named.")]
    allowed: list[str]
