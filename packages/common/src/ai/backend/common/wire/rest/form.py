"""The root of all request forms: what a call may be given, whether it comes in the query or in a JSON body.

Forms describe; they do not judge. Decoding them is tolerant (see the gateway's `decode`): unknown keys are ignored, `snake_case` and
`camelCase` are the same, null means absent, and numbers and booleans may be text.
"""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

OwnerAccessKey = Annotated[
    str | None,
    Meta(
        description="Act as the owner of this access key. Administrators only; your own key changes nothing."
    ),
]


class Form(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`ALIASES` maps further names under which published clients send a field, to the field's name on the wire."""

    ALIASES: ClassVar[dict[str, str]] = {}


class OwnedForm(Form, frozen=True, kw_only=True):
    """A request that may be made for somebody else. The key is taken from the query as well as from the body."""

    owner_access_key: OwnerAccessKey = msgspec.field(default=None, name="owner_access_key")
