"""Virtual folders, storage volumes and model services, in their published form."""

from datetime import datetime
from uuid import UUID

import strawberry

from .scalar import JSON, Big

HOST_PERMISSIONS = (
    "create-vfolder",
    "modify-vfolder",
    "delete-vfolder",
    "mount-in-session",
    "upload-file",
    "download-file",
    "invite-others",
    "set-user-specific-permission",
)


@strawberry.type
class PredefinedAtomicPermission:
    vfolder_host_permission_list: list[str | None] | None


@strawberry.type
class VirtualFolder:
    id: strawberry.ID | None
    host: str | None
    quota_scope_id: str | None
    name: str | None
    user: UUID | None
    user_email: str | None
    group: UUID | None
    group_name: str | None
    creator: str | None
    unmanaged_path: str | None
    usage_mode: str | None
    permission: str | None
    ownership_type: str | None
    max_files: int | None
    max_size: Big | None
    created_at: datetime | None
    last_used: datetime | None
    num_files: int | None
    cur_size: Big | None
    cloneable: bool | None
    status: str | None


@strawberry.type
class StorageVolume:
    id: strawberry.ID | None
    backend: str | None
    fsprefix: str | None
    path: str | None
    capabilities: list[str | None] | None
    hardware_metadata: JSON | None
    performance_metric: JSON | None
    usage: JSON | None


@strawberry.type
class Routing:
    routing_id: UUID | None
    endpoint: str | None
    session: UUID | None
    status: str | None
    traffic_ratio: float | None
    created_at: datetime | None
    error_data: JSON | None


@strawberry.type
class Endpoint:
    id: strawberry.ID | None
    endpoint_id: UUID | None
    image: str | None
    domain: str | None
    project: str | None
    resource_group: str | None
    resource_slots: JSON | None
    url: str | None
    model: UUID | None
    model_mount_destination: str | None
    model_mount_destiation: str | None
    created_user: UUID | None
    session_owner: UUID | None
    tag: str | None
    startup_command: str | None
    bootstrap_script: str | None
    callback_url: str | None
    environ: JSON | None
    name: str | None
    resource_opts: JSON | None
    replicas: int | None
    desired_session_count: int | None
    cluster_mode: str | None
    cluster_size: int | None
    open_to_public: bool | None
    created_at: datetime | None
    destroyed_at: datetime | None
    routings: list[Routing | None] | None
    retries: int | None
    status: str | None
    lifecycle_stage: str | None
