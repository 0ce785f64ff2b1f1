"""Which hosts a user's folders may be on, and whom folders may belong to. Pure.

A grant is what a domain, a project or a keypair's policy says of hosts: permissions by the host's name.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .model import Hosts

DEFAULT_HOST_KEY = "volumes/default_host"
TYPES_KEY = "volumes/_types"
"""Below it one setting for each kind of owner whose folders are on."""
TYPES = ("user", "group")


def hosts(grants: Iterable[Mapping[str, Any]], default: str | None) -> Hosts:
    """A host is allowed when some grant gives any permission on it."""
    allowed = {name for grant in grants for name, permissions in grant.items() if permissions}
    return Hosts(default=default if default in allowed else None, allowed=tuple(sorted(allowed)))


def types(settings: Mapping[str, str]) -> list[str]:
    """From the settings below TYPES_KEY; all of TYPES when there are none."""
    chosen = {key[len(TYPES_KEY) + 1 :].partition("/")[0] for key in settings}
    return [kind for kind in TYPES if kind in chosen] or list(TYPES)
