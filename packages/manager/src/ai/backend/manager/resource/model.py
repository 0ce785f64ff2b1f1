"""Resource groups, presets, limits, and what was used. Values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ai.backend.common.quantity import ResourceSlots

Amounts = Mapping[str, int | None]
"""Amounts by slot, in the units of `common.quantity`; None is without limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceGroup:
    """A resource group, and by what an asking user may use it."""

    name: str
    is_active: bool
    is_public: bool
    of_domain: bool
    of_project: bool
    of_keypair: bool
    wsproxy_addr: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    id: UUID
    name: str
    slots: ResourceSlots
    shared_memory_bytes: int | None
    resource_group: str
    """Empty: in every one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What an owner may hold: slots that it does not name are unlimited, or none at all."""

    slots: ResourceSlots
    named: frozenset[str]
    rest_is_unlimited: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one session holds of agents."""

    access_key: str
    user_id: UUID
    project_id: UUID
    domain_name: str
    resource_group: str
    slots: ResourceSlots


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Of one owner."""

    limits: Amounts
    using: Amounts
    remaining: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStanding:
    """Of one resource group: what the asking user has there, and what it could still get."""

    using: Amounts
    remaining: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What an agent has left."""

    resource_group: str
    slots: ResourceSlots


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    keypair: Standing
    project: Standing | None
    """None: hidden from this user."""
    groups: dict[str, GroupStanding]
    remaining: Amounts
    """Of all resource groups that may be used together."""
    presets: tuple[tuple[Preset, bool], ...]
    """Each with whether a session of it could run now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelUse:
    """A kernel that runs or ran, as accounting sees it."""

    kernel_id: UUID
    session_id: UUID
    session_name: str
    is_main: bool
    container_id: str
    domain_name: str
    project_id: UUID
    project_name: str
    user_id: UUID
    email: str
    full_name: str
    access_key: str
    agent_id: str | None
    image_name: str
    slots: ResourceSlots
    shm_bytes: int
    stats: Mapping[str, int]
    cluster_mode: str
    status: str
    reason: str
    status_changed_at: datetime
    status_history: Mapping[str, str]
    created_at: datetime
    began_at: datetime
    terminated_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectUse:
    """What the kernels of a project were given and have used."""

    project_id: UUID
    project_name: str
    domain_name: str
    cpu_milli: int
    cpu_used_us: int
    memory_bytes: int
    memory_used_bytes: int
    shm_bytes: int
    devices: tuple[str, ...]
    device_milli: int
    device_memory_bytes: int
    kernels: tuple[KernelUse, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """A quarter of an hour."""

    begins_at: datetime
    sessions: int
    cpu_milli: int
    memory_bytes: int
    device_milli: int
