"""Which image a reference means. Pure.

A reference is, in this order: an alias; a canonical name; a short name, which is the last part of an image's path, with or without a tag.
A short name's tag matches a version's leading parts ("python:3" and "python:3.11" match tag "3.11-debian12"), "latest" and no tag match
any. Of several matches the highest version wins, then the shortest tag. Images that a user made of sessions are found by a short name
only where nothing else is: they hide nothing.
"""

import re
from collections.abc import Iterable, Mapping

from ai.backend.common.ids import UserId

from .model import Image

ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def architecture_of(text: str) -> str:
    """The canonical word ("amd64" -> "x86_64")."""
    return ARCHITECTURES.get(text.lower(), text.lower())


OWNER_LABEL = "ai.backend.customized-image.owner"
"""`user:<id>` on an image that was made of a user's session."""


def owner_of(image: Image) -> str | None:
    """Whose image it is; None: everybody's."""
    return image.labels.get(OWNER_LABEL)


def owned_by(image: Image, user_id: UserId) -> bool:
    """Whether the user may start sessions from it: it may hold the files of whose session it was."""
    return owner_of(image) in (None, f"user:{user_id}")


def resolve(
    reference: str, architecture: str, images: Iterable[Image], aliases: Mapping[tuple[str, str], str]
) -> Image | None:
    """The image that `reference` means, or None."""
    mine = [image for image in images if image.architecture == architecture]
    wanted = aliases.get((reference, architecture), reference)
    full = wanted if ":" in wanted.rpartition("/")[2] else f"{wanted}:latest"
    for image in mine:
        if image.name in (wanted, full):
            return image
    path, tag = full.rsplit(":", 1)
    matches = [image for image in mine if _path_matches(image.path, path) and _tag_matches(image.tag, tag)]
    return max(
        matches,
        key=lambda image: (owner_of(image) is None, _version(image.tag), -len(image.tag), image.name),
        default=None,
    )


def _path_matches(path: str, wanted: str) -> bool:
    return path == wanted or path.endswith("/" + wanted)


def _tag_matches(tag: str, wanted: str) -> bool:
    if wanted in ("latest", tag):
        return True
    return re.match(rf"{re.escape(wanted)}(?=[.-])", tag) is not None


def _version(tag: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", tag.partition("-")[0]))
