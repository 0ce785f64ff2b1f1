"""What an image of a session, or its archive, may be called, and who may make one. Pure."""

import re
from collections.abc import Iterable
from datetime import datetime

from ai.backend.common.errors import ImageExists, InvalidInput, QuotaExceeded
from ai.backend.common.ids import UserId

from ..access.model import Principal
from ..image.model import Image
from ..image.policy import OWNER_LABEL, owned_by, owner_of

SUFFIX = ".tar.gz"
FOLDER = "customized"
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_IMAGE = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]{0,63})(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,63}))?")


def archive_name(given: str | None, session_name: str, now: datetime) -> str:
    """The file's name. Raises InvalidInput."""
    if not given:
        given = (
            f"{re.sub(r'[^A-Za-z0-9._-]', '-', session_name).strip('.-_') or 'session'}-{now:%Y%m%d-%H%M%S}"
        )
    stem = given.removesuffix(SUFFIX)
    if not _FILE.fullmatch(stem) or ".." in stem:
        raise InvalidInput(
            f"{given[:160]!r} is no name for an archive",
            hint="Use 1 to 121 letters, digits, '.', '_' and '-', beginning with a letter or a digit; no folder.",
            field="filename",
        )
    return stem + SUFFIX


def image_name(given: str, user_id: UserId) -> str:
    """The canonical name of a user's own image: each user has a place for them, so that nobody's hides another's. Raises InvalidInput."""
    match = _IMAGE.fullmatch(given)
    if match is None or ".." in given:
        raise InvalidInput(
            f"{given[:80]!r} is no name for an image",
            hint="Use 1 to 64 small letters, digits, '.', '_' and '-', beginning with a letter or a digit, and a tag if you like: "
            "mine or mine:v2.",
            field="image_name",
        )
    return f"{FOLDER}/{user_id.hex}/{match['name']}:{match['tag'] or 'latest'}"


def check_visibility(visibility: str | None, owner_id: str | None, user_id: UserId) -> None:
    """Raises InvalidInput for what this server has no place for: images that belong to a project."""
    if (visibility or "user").lower() != "user":
        raise InvalidInput(
            f"no image visibility {str(visibility)[:40]!r} here",
            hint="Only `user`: whoever makes an image is who can use it.",
            field="image_visibility",
        )
    if owner_id and owner_id.lower() not in (str(user_id), user_id.hex):
        raise InvalidInput(
            "an image belongs to whoever makes it", hint="Leave image_owner_id out.", field="image_owner_id"
        )


def check_new_image(name: str, images: Iterable[Image], user_id: UserId, *, limit: int) -> None:
    """Raises ImageExists or QuotaExceeded."""
    known = list(images)
    if any(image.name == name for image in known):
        raise ImageExists(
            f"you have an image {name.rpartition('/')[2]} already", hint="Choose another name or tag."
        )
    mine = sum(owned_by(image, user_id) for image in known if owner_of(image) is not None)
    if mine >= limit:
        raise QuotaExceeded(
            f"you have {mine} images of sessions, and may have {limit}",
            hint="Ask an administrator to remove some, or to raise customized-images-max of the manager.",
            limit=limit,
            used=mine,
        )


def image_labels(name: str, task_mark: str, principal: Principal) -> dict[str, str]:
    """The published labels of an image that a user has made."""
    prefix = OWNER_LABEL.rpartition(".")[0]
    return {
        OWNER_LABEL: f"user:{principal.user_id}",
        f"{prefix}.name": name.rpartition("/")[2].partition(":")[0],
        f"{prefix}.id": task_mark,
        f"{prefix}.user.email": principal.email,
    }
