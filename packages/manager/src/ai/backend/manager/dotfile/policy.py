"""What a dotfile may be, who may change whose, and which ones a session gets. Pure."""

import re
from collections.abc import Iterable

import msgspec

from ai.backend.common.errors import BackendError, InvalidInput
from ai.backend.common.ids import parse_uuid

from ..access.model import Principal
from ..access.policy import Action, Reach, may, reach
from .model import Dotfile, DotfileExists, DotfileNotFound, DotfileRefused, Owner, Scope

FILES_MAX = 100
PACKED_BYTES_MAX = 64 << 10
PATH_MAX = 255
HOME = "/home/work/"
RESERVED = frozenset(
    {
        ".ssh",
        ".ssh/authorized_keys",
        ".jupyter",
        ".terminfo",
        ".local",
        ".config",
        # Made by this platform itself.
        ".bootstrap.sh",
        "id_container",
    }
)
_PERMISSION = re.compile(r"[0-7]{3}")


def path_of(text: str) -> str:
    """The path below the home folder, however it is spelled. Raises InvalidInput for what is none."""
    inner = text[len(HOME) :] if text.startswith(HOME) else text
    parts = [part for part in inner.split("/") if part not in ("", ".")]
    if (
        not parts
        or inner.startswith("/")
        or inner.endswith("/")
        or ".." in parts
        or any(ord(char) < 32 or ord(char) == 127 for char in inner)
        or len(inner) > PATH_MAX
        or any(len(part.encode()) > PATH_MAX for part in parts)
    ):
        raise InvalidInput(
            f"{text[:80]!r} is no path of a dotfile",
            hint=f"Use a path below {HOME[:-1]} of at most {PATH_MAX} characters, such as .bashrc.",
            field="path",
        )
    return "/".join(parts)


def packed_bytes(files: Iterable[Dotfile]) -> int:
    """The published measure of a set of dotfiles: its MessagePack form."""
    return len(
        msgspec.msgpack.encode([{"path": f.path, "perm": f.permission, "data": f.data} for f in files])
    )


def check(file: Dotfile) -> BackendError | None:
    """What is wrong with a dotfile by itself, or None."""
    if not _PERMISSION.fullmatch(file.permission):
        return InvalidInput(
            f"{file.permission[:20]!r} is no permission",
            hint="Three octal digits, such as 644.",
            field="permission",
        )
    if not file.data:
        return InvalidInput("a dotfile may not be empty", field="data")
    if "\0" in file.data:
        return InvalidInput("a dotfile is text, without NUL characters", field="data")
    if file.path in RESERVED:
        return DotfileRefused(
            f"the path {file.path!r} is reserved", hint="Choose another, or one below it.", path=file.path
        )
    return None


def refuse_new(file: Dotfile, present: Iterable[Dotfile]) -> BackendError | None:
    """Why it may not be added to those that are there, or None."""
    refusal = check(file)
    if refusal is not None:
        return refusal
    others = list(present)
    for other in others:
        if other.path == file.path:
            return DotfileExists(f"{file.path!r} is there already", hint="Change it instead.", path=file.path)
        if within(other.path, file.path) or within(file.path, other.path):
            return DotfileRefused(
                f"{file.path!r} and {other.path!r} can't both be: one would be the other's folder",
                path=file.path,
            )
    if len(others) >= FILES_MAX:
        return DotfileRefused(f"there are {len(others)} dotfiles, of at most {FILES_MAX}", limit=FILES_MAX)
    return _too_large([*others, file])


def refuse_change(file: Dotfile, present: Iterable[Dotfile]) -> BackendError | None:
    """Why it may not take the place of the one of its path, or None."""
    refusal = check(file)
    if refusal is not None:
        return refusal
    others = list(present)
    if all(other.path != file.path for other in others):
        return DotfileNotFound(f"no dotfile {file.path!r}")
    return _too_large([*(other for other in others if other.path != file.path), file])


def _too_large(files: list[Dotfile]) -> BackendError | None:
    packed = packed_bytes(files)
    if packed <= PACKED_BYTES_MAX:
        return None
    return DotfileRefused(
        f"all dotfiles together would be {packed} bytes, of at most {PACKED_BYTES_MAX}",
        hint="Keep large files in a folder of storage.",
        limit_bytes=PACKED_BYTES_MAX,
        asked_bytes=packed,
    )


def check_script(script: str) -> BackendError | None:
    """What is wrong with a bootstrap script, or None; an empty one means none."""
    if len(script.encode()) > PACKED_BYTES_MAX:
        return InvalidInput(f"a bootstrap script has at most {PACKED_BYTES_MAX >> 10} KiB", field="script")
    return InvalidInput("a script has no NUL characters", field="script") if "\0" in script else None


def within(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


def may_read(principal: Principal, owner: Owner, domain_name: str, *, member: bool) -> bool:
    """Those of a project or a domain are everybody's in it, for they are written into their sessions."""
    match owner.scope:
        case Scope.USER:
            return reach(principal, Action.DOTFILE_READ) is not Reach.NOTHING
        case Scope.PROJECT:
            return member or may_write(principal, owner, domain_name)
        case Scope.DOMAIN:
            return domain_name == principal.domain_name or may(
                principal, Action.SHARED_DOTFILE_WRITE, domain_name=domain_name
            )


def may_write(principal: Principal, owner: Owner, domain_name: str) -> bool:
    """A keypair's: whoever acts as its owner. A project's or a domain's: its administrators."""
    if owner.scope is Scope.USER:
        return reach(principal, Action.DOTFILE_WRITE) is not Reach.NOTHING
    project_id = parse_uuid(owner.key) if owner.scope is Scope.PROJECT else None
    return may(principal, Action.SHARED_DOTFILE_WRITE, domain_name=domain_name, project_id=project_id)


_ORDER = (Scope.USER, Scope.PROJECT, Scope.DOMAIN)


def merged(files: Iterable[tuple[Scope, Dotfile]]) -> tuple[Dotfile, ...]:
    """What a session gets: the keypair's over the project's over the domain's. Where a file of one would be a folder of another, the
    nearer owner's stays, so that nobody's dotfiles keep a session from starting."""
    chosen: list[Dotfile] = []
    for _, file in sorted(files, key=lambda pair: (_ORDER.index(pair[0]), pair[1].path)):
        clash = any(
            file.path == other.path or within(file.path, other.path) or within(other.path, file.path)
            for other in chosen
        )
        if not clash:
            chosen.append(file)
    return tuple(sorted(chosen, key=lambda file: file.path))
