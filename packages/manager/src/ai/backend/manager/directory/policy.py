"""What may be written into the directory: one rule for each field that administrators set. Pure.

A rule takes what was sent and gives what is stored, or raises InvalidInput. In a change, what is absent or null stays as it is: published
clients send nulls for all that they do not mean to change.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ai.backend.common.errors import InvalidInput
from ai.backend.common.quantity import parse_size, parse_slot_limits, parse_slots
from ai.backend.scheduler.model import PreemptionMode, PreemptionOrder, Scope, Selection

from ..access.model import Role
from ..identity.policy import check_username

Rule = tuple[str, Callable[[str, Any], Any]]
"""The column, and what checks and converts a value of that field."""

NAME_CHARACTERS = re.compile(r"[\w][\w.@/-]{0,63}")
USER_STATUSES = ("active", "inactive", "deleted", "before-verification")
RATE_LIMIT_MAX = 10_000_000
SELECTIONS = (*Selection, "legacy")
PREEMPTION_SCOPES = (Scope.USER, Scope.PROJECT, Scope.DOMAIN, "resource-group")
COUNT_MAX = 2**31 - 1
DOCUMENT_CHARACTERS_MAX = 65_536


def check_name(name: str) -> str:
    if not NAME_CHARACTERS.fullmatch(name):
        raise InvalidInput(
            f"{name[:70]!r} is no name",
            hint="1 to 64 letters, digits and '_', '.', '-', '@', '/'.",
            field="name",
        )
    return name


def _bad(field: str, what: str) -> InvalidInput:
    return InvalidInput(f"{field} is {what}", field=field)


def _text(limit: int) -> Callable[[str, Any], str]:
    def check(field: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > limit or "\0" in value:
            raise _bad(field, f"a text of at most {limit} characters")
        return value

    return check


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _bad(field, "true or false")
    return value


def _count(low: int = 0, high: int = COUNT_MAX) -> Callable[[str, Any], int]:
    def check(field: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _bad(field, f"a whole number of {low} to {high}")
        return value

    return check


def document(field: str, value: Any) -> Any:
    """A JSON document, also as its text."""
    if isinstance(value, str):
        if len(value) > DOCUMENT_CHARACTERS_MAX:
            raise _bad(field, f"a document of at most {DOCUMENT_CHARACTERS_MAX} characters")
        try:
            return json.loads(value) if value.strip() else {}
        except (ValueError, RecursionError):
            raise _bad(field, "a JSON document") from None
    return value


def _object(field: str, value: Any) -> dict[str, Any]:
    found = document(field, value)
    if not isinstance(found, dict):
        raise _bad(field, "a JSON object")
    return found


def _scheduler_opts(field: str, value: Any) -> dict[str, Any]:
    found = _object(field, value)
    wanted = found.get("agent_selection_strategy")
    if wanted is not None:
        _one_of(*SELECTIONS)(f"{field}.agent_selection_strategy", wanted)
    if "reserve_after" in found:
        _count(0, 30 * 86400)(f"{field}.reserve_after", found["reserve_after"])
    if "config" in found and not isinstance(found["config"], dict):
        raise _bad(f"{field}.config", "a JSON object")
    if found.get("preemption") is not None:
        _preemption(f"{field}.preemption", found["preemption"])
    return found


def _preemption(field: str, value: Any) -> None:
    found = _object(field, value)
    rules: dict[str, Callable[[str, Any], Any]] = {
        "enabled": _flag,
        "mode": _one_of(*PreemptionMode),
        "order": _one_of(*PreemptionOrder),
        "scope": _one_of(*PREEMPTION_SCOPES),
        "min_runtime": _count(0, 366 * 86400),
    }
    for key, one in found.items():
        if key not in rules:
            raise _bad(f"{field}.{key[:40]}", f"not known here; known are {', '.join(rules)}")
        rules[key](f"{field}.{key}", one)


def _slots(field: str, value: Any) -> dict[str, int]:
    return parse_slots(_object(field, value)).amounts()


def _slot_limits(field: str, value: Any) -> dict[str, int]:
    return dict(parse_slot_limits(_object(field, value)))


def _texts(limit: int = 64) -> Callable[[str, Any], list[str]]:
    one = _text(256)

    def check(field: str, value: Any) -> list[str]:
        if not isinstance(value, list) or len(value) > limit:
            raise _bad(field, f"a list of at most {limit} texts")
        return [one(field, item) for item in value]

    return check


def _networks(field: str, value: Any) -> list[str] | None:
    """Addresses and networks that a user may come from; none: from anywhere."""
    found = _texts()(field, value)
    try:
        return [str(ipaddress.ip_network(item, strict=False)) for item in found] or None
    except ValueError as exc:
        raise _bad(field, f"a list of addresses or networks ({exc})") from None


def _one_of(*words: str) -> Callable[[str, Any], str]:
    def check(field: str, value: Any) -> str:
        word = str(value).lower()
        if word not in words:
            raise _bad(field, f"one of {', '.join(words)}")
        return word

    return check


def _upper(*words: str) -> Callable[[str, Any], str]:
    lower = _one_of(*(word.lower() for word in words))
    return lambda field, value: lower(field, value).upper()


def _numbers(field: str, value: Any) -> list[int]:
    if not isinstance(value, list) or len(value) > 64:
        raise _bad(field, "a list of numbers")
    return [_count()(field, item) for item in value]


def _username(field: str, value: Any) -> str:
    name = _text(64)(field, value)
    refusal = check_username(name)
    if refusal is not None:
        raise refusal
    return name


def _reference(field: str, value: Any) -> str:
    return _text(64)(field, value)


def _size(field: str, value: Any) -> int:
    return parse_size(value)


DOMAIN: Mapping[str, Rule] = {
    "description": ("description", _text(512)),
    "is_active": ("is_active", _flag),
    "total_resource_slots": ("total_resource_slots", _slot_limits),
    "allowed_vfolder_hosts": ("allowed_vfolder_hosts", _object),
    "allowed_docker_registries": ("allowed_docker_registries", _texts()),
    "integration_id": ("integration_id", _text(512)),
}
PROJECT: Mapping[str, Rule] = {
    "name": ("name", lambda _field, value: check_name(str(value))),
    "description": ("description", _text(512)),
    "is_active": ("is_active", _flag),
    "total_resource_slots": ("total_resource_slots", _slot_limits),
    "allowed_vfolder_hosts": ("allowed_vfolder_hosts", _object),
    "integration_id": ("integration_id", _text(512)),
    "resource_policy": ("policy_name", _reference),
}
USER: Mapping[str, Rule] = {
    "username": ("username", _username),
    "full_name": ("full_name", _text(128)),
    "description": ("description", _text(500)),
    "status": ("status", _one_of(*USER_STATUSES)),
    "role": ("role", _one_of(*Role)),
    "need_password_change": ("need_password_change", _flag),
    "allowed_client_ip": ("allowed_client_ip", _networks),
    "resource_policy": ("policy_name", _reference),
    "sudo_session_enabled": ("sudo_session_enabled", _flag),
    "main_access_key": ("main_access_key", _text(20)),
    "container_uid": ("container_uid", _count()),
    "container_main_gid": ("container_main_gid", _count()),
    "container_gids": ("container_gids", _numbers),
}
KEYPAIR: Mapping[str, Rule] = {
    "is_active": ("is_active", _flag),
    "is_admin": ("is_admin", _flag),
    "resource_policy": ("policy_name", _reference),
    "rate_limit": ("rate_limit", _count(1, RATE_LIMIT_MAX)),
}
KEYPAIR_POLICY: Mapping[str, Rule] = {
    "default_for_unspecified": ("default_for_unspecified", _upper("LIMITED", "UNLIMITED")),
    "total_resource_slots": ("total_resource_slots", _slot_limits),
    "max_session_lifetime": ("max_session_lifetime_s", _count()),
    "max_concurrent_sessions": ("max_concurrent_sessions", _count()),
    "max_concurrent_sftp_sessions": ("max_concurrent_sftp_sessions", _count()),
    "max_pending_session_count": ("max_pending_session_count", _count()),
    "max_pending_session_resource_slots": ("max_pending_session_resource_slots", _slot_limits),
    "max_containers_per_session": ("max_containers_per_session", _count(1, 256)),
    "idle_timeout": ("idle_timeout_s", _count(0, 2**53)),
    "allowed_vfolder_hosts": ("allowed_vfolder_hosts", _object),
    "max_vfolder_count": ("max_vfolder_count", _count()),
    "max_vfolder_size": ("max_quota_scope_bytes", _count(0, 2**62)),
    "max_quota_scope_size": ("max_quota_scope_bytes", _count(0, 2**62)),
}
USER_POLICY: Mapping[str, Rule] = {
    "max_vfolder_count": ("max_vfolder_count", _count()),
    "max_vfolder_size": ("max_quota_scope_bytes", _count(0, 2**62)),
    "max_quota_scope_size": ("max_quota_scope_bytes", _count(0, 2**62)),
    "max_session_count_per_model_session": ("max_session_count_per_model_session", _count()),
    "max_customized_image_count": ("max_customized_image_count", _count()),
}
PROJECT_POLICY: Mapping[str, Rule] = {
    "max_vfolder_count": ("max_vfolder_count", _count()),
    "max_vfolder_size": ("max_quota_scope_bytes", _count(0, 2**62)),
    "max_quota_scope_size": ("max_quota_scope_bytes", _count(0, 2**62)),
    "max_network_count": ("max_network_count", _count()),
}
RESOURCE_GROUP: Mapping[str, Rule] = {
    "description": ("description", _text(512)),
    "is_active": ("is_active", _flag),
    "is_public": ("is_public", _flag),
    "driver": ("driver", _text(64)),
    "driver_opts": ("driver_opts", _object),
    "scheduler": ("scheduler", _text(64)),
    "scheduler_opts": ("scheduler_opts", _scheduler_opts),
    "use_host_network": ("use_host_network", _flag),
    "wsproxy_addr": ("wsproxy_addr", _text(1024)),
    "wsproxy_api_token": ("wsproxy_api_token", _text(128)),
}
PRESET: Mapping[str, Rule] = {
    "resource_slots": ("resource_slots", _slots),
    "shared_memory": ("shared_memory_bytes", _size),
}
AGENT: Mapping[str, Rule] = {
    "schedulable": ("schedulable", _flag),
    "scaling_group": ("resource_group", _reference),
}

MANAGED = frozenset({"description", "user_update_mode", "user_uuids"})
"""What a project's own administrators may change of it."""


def is_managing(given: Mapping[str, Any]) -> bool:
    """Whether a change of a project is one that its own administrators may make."""
    return all(field in MANAGED for field, value in given.items() if value is not None)


def changes(rules: Mapping[str, Rule], given: Mapping[str, Any]) -> dict[str, Any]:
    """Columns and their new values. What has no rule is left to its caller. Raises InvalidInput."""
    found = {}
    for field, (column, check) in rules.items():
        value = given.get(field)
        if value is not None:
            found[column] = check(field, value)
    return found
