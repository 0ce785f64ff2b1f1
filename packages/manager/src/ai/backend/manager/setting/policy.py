"""The tree of settings, and what may be put into it. Pure.

Keys are paths, "config/docker/registry/cr.example.com". A part of a path that itself contains a slash is written with %2F.
"""

import re
from collections.abc import Mapping
from urllib.parse import unquote

from ai.backend.common.errors import BackendError, InvalidInput
from ai.backend.common.quantity import CPU, MEM, slot_type

from .model import ManagerState, SlotDetail, Tree

STATE_KEY = "manager/status"
ANNOUNCEMENT_KEY = "manager/announcement"
REGISTRY_PREFIX = "config/docker/registry"
KEY_MAX = 512
VALUE_MAX = 64 << 10
LEAVES_MAX = 16
DEPTH_MAX = 16
ANNOUNCEMENT_MAX = 16 << 10
_KEY = re.compile(r"[^\x00-\x1f\x7f/]+(?:/[^\x00-\x1f\x7f/]+)*")
SCHEDULER_EVENTS = frozenset({"schedule", "precond", "start", "check-precond", "scale-services", ""})
"""Words that published tools send; each means: look now."""


def key_of(text: str, *, whole: bool = False) -> str:
    """The key that is meant: outer slashes mean nothing. With `whole`, "" is the root. Raises InvalidInput."""
    key = text.strip("/")
    if key == "" and whole:
        return ""
    if len(key) > KEY_MAX or not _KEY.fullmatch(key):
        raise InvalidInput(
            f"{text[:80]!r} is no key",
            hint=f"Use names separated by '/', at most {KEY_MAX} characters, such as config/docker/registry/HOST.",
            field="key",
        )
    return key


def leaves(key: str, value: Tree) -> dict[str, str]:
    """Key and text of each leaf; the name "" in a mapping means the mapping's own key. Raises InvalidInput."""
    found: dict[str, str] = {}

    def walk(at: str, node: Tree, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise InvalidInput(f"settings nest at most {DEPTH_MAX} deep", field="value")
        if isinstance(node, Mapping):
            for name, inner in node.items():
                walk(key_of(f"{at}/{name}") if name else at, inner, depth + 1)
            return
        if len(node) > VALUE_MAX or "\0" in node:
            raise InvalidInput(f"the value of {at!r} is over {VALUE_MAX >> 10} KiB or no text", field="value")
        refusal = check_value(at, node)
        if refusal is not None:
            raise refusal
        found[at] = node

    walk(key, value, 0)
    if len(found) > LEAVES_MAX:
        raise InvalidInput(
            f"{len(found)} values at once, of at most {LEAVES_MAX}",
            hint="Set them in several calls.",
            field="value",
        )
    return found


def check_value(key: str, value: str) -> BackendError | None:
    """What is wrong with the value of a setting that this program itself reads, or None."""
    if key == STATE_KEY and value not in set(ManagerState):
        known = ", ".join(ManagerState)
        return InvalidInput(f"{value[:40]!r} is no status", hint=f"One of {known}.", field="status")
    if key == ANNOUNCEMENT_KEY and len(value) > ANNOUNCEMENT_MAX:
        return InvalidInput(f"an announcement has at most {ANNOUNCEMENT_MAX} characters", field="message")
    return None


def tree(prefix: str, values: Mapping[str, str]) -> Tree:
    """The nested form of what is below `prefix`. A value of a key that has keys below it is found under ""."""
    root: dict[str, Tree] = {}
    for key, value in sorted(values.items()):
        parts = [part for part in key[len(prefix) :].split("/") if part]
        node = root
        for part in parts[:-1]:
            inner = node.get(part)
            if not isinstance(inner, dict):
                inner = {} if inner is None else {"": inner}
                node[part] = inner
            node = inner
        last = parts[-1] if parts else ""
        below = node.get(last)
        if isinstance(below, dict):
            below[""] = value
        else:
            node[last] = value
    return root


def registries(values: Mapping[str, str]) -> dict[str, str]:
    """Host to address of the registries in the settings below REGISTRY_PREFIX; their further settings (credentials) are not told."""
    found: dict[str, str] = {}
    for key, value in values.items():
        host, _, rest = key[len(REGISTRY_PREFIX) + 1 :].partition("/")
        if host and not rest:
            found[unquote(host)] = value
    return found


def announcement_of(enabled: bool, message: str | None) -> str:
    """The text to keep; empty takes it down. Raises InvalidInput."""
    if not enabled:
        return ""
    text = (message or "").strip()
    if not text:
        raise InvalidInput("an announcement needs a message", field="message")
    refusal = check_value(ANNOUNCEMENT_KEY, text)
    if refusal is not None:
        raise refusal
    return text


_DETAILS: dict[str, SlotDetail] = {
    CPU: SlotDetail(
        slot_name=CPU,
        description="CPU",
        human_readable_name="CPU",
        display_unit="Core",
        binary=False,
        round_length=0,
        display_icon="cpu",
    ),
    MEM: SlotDetail(
        slot_name=MEM,
        description="Memory",
        human_readable_name="RAM",
        display_unit="GiB",
        binary=True,
        round_length=0,
        display_icon="ram",
    ),
}


def slot_detail(name: str) -> SlotDetail:
    """For a kind that we know nothing of, what its name and its way of counting tell."""
    known = _DETAILS.get(name)
    if known is not None:
        return known
    device = name.partition(".")[0]
    binary = slot_type(name) == "bytes"
    return SlotDetail(
        slot_name=name,
        description=f"{device.upper()} ({name})",
        human_readable_name=device.upper(),
        display_unit="GiB" if binary else device.upper(),
        binary=binary,
        round_length=2 if name.endswith(".shares") else 0,
        display_icon=device,
    )
