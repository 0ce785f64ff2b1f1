"""What administrators keep: domains, projects, users, keypairs, policies, resource groups, presets. Values, as lists show them.

In a limit (`SlotLimits`), slots that are not named are unlimited. Names of fields are this system's; the published ones
are the gateway's business.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from ai.backend.common.quantity import SlotLimits

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which part of a list is asked for. `filter` and `order` are in the published mini-languages (`listing.language`)."""

    limit: int = 100
    offset: int = 0
    filter: str | None = None
    order: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[R]):
    items: Sequence[R]
    total_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    name: str
    description: str
    is_active: bool
    created_at: datetime
    modified_at: datetime | None
    total_resource_slots: SlotLimits
    allowed_vfolder_hosts: dict[str, Any]
    allowed_docker_registries: list[str]
    integration_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    id: UUID
    name: str
    description: str
    is_active: bool
    created_at: datetime
    modified_at: datetime | None
    domain_name: str
    total_resource_slots: SlotLimits
    allowed_vfolder_hosts: dict[str, Any]
    integration_id: str | None
    policy_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user, without secrets."""

    id: UUID
    username: str
    email: str
    full_name: str
    description: str
    role: str
    status: str
    status_info: str
    domain_name: str
    created_at: datetime
    modified_at: datetime | None
    need_password_change: bool
    policy_name: str
    allowed_client_ip: list[str] | None
    main_access_key: str | None
    totp_activated_at: datetime | None
    sudo_session_enabled: bool
    container_uid: int | None
    container_main_gid: int | None
    container_gids: list[int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A user as administrators of its projects see it: who it is, and whether it can log in."""

    id: UUID
    username: str
    email: str
    full_name: str
    status: str
    domain_name: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Keypair:
    access_key: str
    user_id: UUID
    email: str
    full_name: str
    domain_name: str
    is_active: bool
    is_admin: bool
    policy_name: str
    rate_limit: int
    num_queries: int
    created_at: datetime
    modified_at: datetime | None
    last_used_at: datetime | None
    ssh_public_key: str | None
    bootstrap_script: str
    live_sessions: int
    secret_key_sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeypairPolicy:
    name: str
    created_at: datetime
    default_for_unspecified: str
    total_resource_slots: SlotLimits
    max_session_lifetime_s: int
    max_concurrent_sessions: int
    max_concurrent_sftp_sessions: int
    max_pending_session_count: int | None
    max_pending_session_resource_slots: SlotLimits | None
    max_containers_per_session: int
    idle_timeout_s: int
    allowed_vfolder_hosts: dict[str, Any]
    max_vfolder_count: int
    max_quota_scope_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPolicy:
    name: str
    created_at: datetime
    max_vfolder_count: int
    max_quota_scope_bytes: int
    max_session_count_per_model_session: int
    max_customized_image_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectPolicy:
    name: str
    created_at: datetime
    max_vfolder_count: int
    max_quota_scope_bytes: int
    max_network_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceGroup:
    name: str
    description: str
    is_active: bool
    is_public: bool
    created_at: datetime
    wsproxy_addr: str | None
    wsproxy_api_token: str | None
    driver: str
    driver_opts: dict[str, Any]
    scheduler: str
    scheduler_opts: dict[str, Any]
    use_host_network: bool
