"""API versions of the published protocol: `v<major>.<date>`, compared as (major, date)."""

import re
from typing import NamedTuple

from ..errors import InvalidInput

_FORM = re.compile(r"v([0-9]{1,3})\.([0-9]{8})")


class ApiVersion(NamedTuple):
    major: int
    date: str

    def __str__(self) -> str:
        return f"v{self.major}.{self.date}"


CURRENT = ApiVersion(8, "20240915")
"""What `GET /` reports. Clients negotiate down to min(server, client)."""
ASSUMED = ApiVersion(5, "20191215")
"""For requests that state no version."""
MANAGER_VERSION = "25.5.2"
"""Kept numeric: published clients compare it as a.b.c. It names the release whose answers ours are shaped like."""


def parse(text: str) -> ApiVersion:
    """Raises InvalidInput ("Unsupported API version.") for what is no version."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise InvalidInput("Unsupported API version.", hint=f"This server speaks up to {CURRENT}.")
    return ApiVersion(int(match[1]), match[2])
