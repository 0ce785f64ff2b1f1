"""The published inputs and payloads of mutations. An input's field that was not sent is UNSET: it changes nothing."""

import strawberry

from .account import (
    Domain,
    Group,
    KeyPair,
    KeyPairResourcePolicy,
    ProjectResourcePolicy,
    User,
    UserResourcePolicy,
)
from .scalar import JSON, Big
from .workload import ComputeSession, ResourcePreset, ScalingGroup


@strawberry.input
class DomainInput:
    description: str | None = strawberry.UNSET
    is_active: bool | None = strawberry.UNSET
    total_resource_slots: JSON | None = strawberry.UNSET
    allowed_vfolder_hosts: JSON | None = strawberry.UNSET
    allowed_docker_registries: list[str | None] | None = strawberry.UNSET
    integration_id: str | None = strawberry.UNSET


@strawberry.input
class ModifyDomainInput:
    name: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    is_active: bool | None = strawberry.UNSET
    total_resource_slots: JSON | None = strawberry.UNSET
    allowed_vfolder_hosts: JSON | None = strawberry.UNSET
    allowed_docker_registries: list[str | None] | None = strawberry.UNSET
    integration_id: str | None = strawberry.UNSET


@strawberry.input
class GroupInput:
    domain_name: str
    type: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    is_active: bool | None = strawberry.UNSET
    total_resource_slots: JSON | None = strawberry.UNSET
    allowed_vfolder_hosts: JSON | None = strawberry.UNSET
    integration_id: str | None = strawberry.UNSET
    resource_policy: str | None = strawberry.UNSET
    container_registry: JSON | None = strawberry.UNSET


@strawberry.input
class ModifyGroupInput:
    name: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    is_active: bool | None = strawberry.UNSET
    domain_name: str | None = strawberry.UNSET
    total_resource_slots: JSON | None = strawberry.UNSET
    user_update_mode: str | None = strawberry.UNSET
    user_uuids: list[str | None] | None = strawberry.UNSET
    as_admin: bool | None = strawberry.field(
        default=strawberry.UNSET,
        description="With `user_update_mode`: who administers the group, not who is in it. This system's own.",
    )
    allowed_vfolder_hosts: JSON | None = strawberry.UNSET
    integration_id: str | None = strawberry.UNSET
    resource_policy: str | None = strawberry.UNSET
    container_registry: JSON | None = strawberry.UNSET


@strawberry.input
class UserInput:
    password: str
    username: str | None = strawberry.UNSET
    need_password_change: bool | None = strawberry.UNSET
    full_name: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    is_active: bool | None = strawberry.UNSET
    status: str | None = strawberry.UNSET
    domain_name: str | None = strawberry.UNSET
    role: str | None = strawberry.UNSET
    group_ids: list[str | None] | None = strawberry.UNSET
    allowed_client_ip: list[str | None] | None = strawberry.UNSET
    totp_activated: bool | None = strawberry.UNSET
    resource_policy: str | None = strawberry.UNSET
    sudo_session_enabled: bool | None = strawberry.UNSET
    container_uid: int | None = strawberry.UNSET
    container_main_gid: int | None = strawberry.UNSET
    container_gids: list[int | None] | None = strawberry.UNSET


@strawberry.input
class ModifyUserInput:
    username: str | None = strawberry.UNSET
    password: str | None = strawberry.UNSET
    need_password_change: bool | None = strawberry.UNSET
    full_name: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    is_active: bool | None = strawberry.UNSET
    status: str | None = strawberry.UNSET
    domain_name: str | None = strawberry.UNSET
    role: str | None = strawberry.UNSET
    group_ids: list[str | None] | None = strawberry.UNSET
    allowed_client_ip: list[str | None] | None = strawberry.UNSET
    totp_activated: bool | None = strawberry.UNSET
    resource_policy: str | None = strawberry.UNSET
    sudo_session_enabled: bool | None = strawberry.UNSET
    main_access_key: str | None = strawberry.UNSET
    container_uid: int | None = strawberry.UNSET
    container_main_gid: int | None = strawberry.UNSET
    container_gids: list[int | None] | None = strawberry.UNSET


@strawberry.input
class PurgeUserInput:
    purge_shared_vfolders: bool | None = strawberry.UNSET
    delegate_endpoint_ownership: bool | None = strawberry.UNSET


@strawberry.input
class KeyPairInput:
    resource_policy: str
    rate_limit: int
    is_active: bool | None = strawberry.UNSET
    is_admin: bool | None = strawberry.UNSET
    concurrency_limit: int | None = strawberry.UNSET


@strawberry.input
class ModifyKeyPairInput:
    is_active: bool | None = strawberry.UNSET
    is_admin: bool | None = strawberry.UNSET
    resource_policy: str | None = strawberry.UNSET
    concurrency_limit: int | None = strawberry.UNSET
    rate_limit: int | None = strawberry.UNSET


@strawberry.input
class CreateKeyPairResourcePolicyInput:
    default_for_unspecified: str | None = strawberry.UNSET
    total_resource_slots: JSON | None = strawberry.UNSET
    max_session_lifetime: int | None = strawberry.UNSET
    max_concurrent_sessions: int | None = strawberry.UNSET
    max_concurrent_sftp_sessions: int | None = strawberry.UNSET
    max_containers_per_session: int | None = strawberry.UNSET
    idle_timeout: Big | None = strawberry.UNSET
    allowed_vfolder_hosts: JSON | None = strawberry.UNSET
    max_vfolder_count: int | None = strawberry.UNSET
    max_vfolder_size: Big | None = strawberry.UNSET
    max_quota_scope_size: Big | None = strawberry.UNSET
    max_pending_session_count: int | None = strawberry.UNSET
    max_pending_session_resource_slots: JSON | None = strawberry.UNSET


@strawberry.input
class ModifyKeyPairResourcePolicyInput:
    default_for_unspecified: str | None = strawberry.UNSET
    total_resource_slots: JSON | None = strawberry.UNSET
    max_session_lifetime: int | None = strawberry.UNSET
    max_concurrent_sessions: int | None = strawberry.UNSET
    max_concurrent_sftp_sessions: int | None = strawberry.UNSET
    max_containers_per_session: int | None = strawberry.UNSET
    idle_timeout: Big | None = strawberry.UNSET
    allowed_vfolder_hosts: JSON | None = strawberry.UNSET
    max_vfolder_count: int | None = strawberry.UNSET
    max_vfolder_size: Big | None = strawberry.UNSET
    max_quota_scope_size: Big | None = strawberry.UNSET
    max_pending_session_count: int | None = strawberry.UNSET
    max_pending_session_resource_slots: JSON | None = strawberry.UNSET


@strawberry.input
class CreateUserResourcePolicyInput:
    max_vfolder_count: int | None = strawberry.UNSET
    max_vfolder_size: Big | None = strawberry.UNSET
    max_quota_scope_size: Big | None = strawberry.UNSET
    max_session_count_per_model_session: int | None = strawberry.UNSET
    max_customized_image_count: int | None = strawberry.UNSET


@strawberry.input
class ModifyUserResourcePolicyInput:
    max_vfolder_count: int | None = strawberry.UNSET
    max_vfolder_size: Big | None = strawberry.UNSET
    max_quota_scope_size: Big | None = strawberry.UNSET
    max_session_count_per_model_session: int | None = strawberry.UNSET
    max_customized_image_count: int | None = strawberry.UNSET


@strawberry.input
class CreateProjectResourcePolicyInput:
    max_vfolder_count: int | None = strawberry.UNSET
    max_vfolder_size: Big | None = strawberry.UNSET
    max_quota_scope_size: Big | None = strawberry.UNSET
    max_network_count: int | None = strawberry.UNSET


@strawberry.input
class ModifyProjectResourcePolicyInput:
    max_vfolder_count: int | None = strawberry.UNSET
    max_vfolder_size: Big | None = strawberry.UNSET
    max_quota_scope_size: Big | None = strawberry.UNSET
    max_network_count: int | None = strawberry.UNSET


@strawberry.input
class CreateScalingGroupInput:
    description: str | None = strawberry.UNSET
    is_active: bool | None = strawberry.UNSET
    is_public: bool | None = strawberry.UNSET
    wsproxy_addr: str | None = strawberry.UNSET
    wsproxy_api_token: str | None = strawberry.UNSET
    driver: str | None = strawberry.UNSET
    driver_opts: JSON | None = strawberry.UNSET
    scheduler: str | None = strawberry.UNSET
    scheduler_opts: JSON | None = strawberry.UNSET
    use_host_network: bool | None = strawberry.UNSET


@strawberry.input
class ModifyScalingGroupInput:
    description: str | None = strawberry.UNSET
    is_active: bool | None = strawberry.UNSET
    is_public: bool | None = strawberry.UNSET
    wsproxy_addr: str | None = strawberry.UNSET
    wsproxy_api_token: str | None = strawberry.UNSET
    driver: str | None = strawberry.UNSET
    driver_opts: JSON | None = strawberry.UNSET
    scheduler: str | None = strawberry.UNSET
    scheduler_opts: JSON | None = strawberry.UNSET
    use_host_network: bool | None = strawberry.UNSET


@strawberry.input
class CreateResourcePresetInput:
    resource_slots: JSON
    shared_memory: str | None = strawberry.UNSET
    scaling_group_name: str | None = strawberry.UNSET


@strawberry.input
class ModifyResourcePresetInput:
    resource_slots: JSON | None = strawberry.UNSET
    shared_memory: str | None = strawberry.UNSET
    name: str | None = strawberry.UNSET
    scaling_group_name: str | None = strawberry.UNSET


@strawberry.input
class ModifyAgentInput:
    schedulable: bool | None = strawberry.UNSET
    scaling_group: str | None = strawberry.UNSET


@strawberry.type
class CreateDomain:
    ok: bool | None
    msg: str | None
    domain: Domain | None = None


@strawberry.type
class ModifyDomain:
    ok: bool | None
    msg: str | None
    domain: Domain | None = None


@strawberry.type
class DeleteDomain:
    ok: bool | None
    msg: str | None


@strawberry.type
class PurgeDomain:
    ok: bool | None
    msg: str | None


@strawberry.type
class CreateGroup:
    ok: bool | None
    msg: str | None
    group: Group | None = None


@strawberry.type
class ModifyGroup:
    ok: bool | None
    msg: str | None
    group: Group | None = None


@strawberry.type
class DeleteGroup:
    ok: bool | None
    msg: str | None


@strawberry.type
class PurgeGroup:
    ok: bool | None
    msg: str | None


@strawberry.type
class CreateUser:
    ok: bool | None
    msg: str | None
    user: User | None = None


@strawberry.type
class ModifyUser:
    ok: bool | None
    msg: str | None
    user: User | None = None


@strawberry.type
class DeleteUser:
    ok: bool | None
    msg: str | None


@strawberry.type
class PurgeUser:
    ok: bool | None
    msg: str | None


@strawberry.type
class CreateKeyPair:
    ok: bool | None
    msg: str | None
    keypair: KeyPair | None = None


@strawberry.type
class ModifyKeyPair:
    ok: bool | None
    msg: str | None


@strawberry.type
class DeleteKeyPair:
    ok: bool | None
    msg: str | None


@strawberry.type
class CreateKeyPairResourcePolicy:
    ok: bool | None
    msg: str | None
    resource_policy: KeyPairResourcePolicy | None = None


@strawberry.type
class ModifyKeyPairResourcePolicy:
    ok: bool | None
    msg: str | None


@strawberry.type
class DeleteKeyPairResourcePolicy:
    ok: bool | None
    msg: str | None


@strawberry.type
class CreateUserResourcePolicy:
    ok: bool | None
    msg: str | None
    resource_policy: UserResourcePolicy | None = None


@strawberry.type
class ModifyUserResourcePolicy:
    ok: bool | None
    msg: str | None


@strawberry.type
class DeleteUserResourcePolicy:
    ok: bool | None
    msg: str | None


@strawberry.type
class CreateProjectResourcePolicy:
    ok: bool | None
    msg: str | None
    resource_policy: ProjectResourcePolicy | None = None


@strawberry.type
class ModifyProjectResourcePolicy:
    ok: bool | None
    msg: str | None


@strawberry.type
class DeleteProjectResourcePolicy:
    ok: bool | None
    msg: str | None


@strawberry.type
class CreateScalingGroup:
    ok: bool | None
    msg: str | None
    scaling_group: ScalingGroup | None = None


@strawberry.type
class ModifyScalingGroup:
    ok: bool | None
    msg: str | None


@strawberry.type
class DeleteScalingGroup:
    ok: bool | None
    msg: str | None


@strawberry.type
class CreateResourcePreset:
    ok: bool | None
    msg: str | None
    resource_preset: ResourcePreset | None = None


@strawberry.type
class ModifyResourcePreset:
    ok: bool | None
    msg: str | None


@strawberry.type
class DeleteResourcePreset:
    ok: bool | None
    msg: str | None


@strawberry.type
class AssociateScalingGroupWithDomain:
    ok: bool | None
    msg: str | None


@strawberry.type
class DisassociateScalingGroupWithDomain:
    ok: bool | None
    msg: str | None


@strawberry.type
class DisassociateAllScalingGroupsWithDomain:
    ok: bool | None
    msg: str | None


@strawberry.type
class AssociateScalingGroupWithUserGroup:
    ok: bool | None
    msg: str | None


@strawberry.type
class DisassociateScalingGroupWithUserGroup:
    ok: bool | None
    msg: str | None


@strawberry.type
class DisassociateAllScalingGroupsWithGroup:
    ok: bool | None
    msg: str | None


@strawberry.type
class AssociateScalingGroupWithKeyPair:
    ok: bool | None
    msg: str | None


@strawberry.type
class DisassociateScalingGroupWithKeyPair:
    ok: bool | None
    msg: str | None


@strawberry.type
class RescanImages:
    ok: bool | None
    msg: str | None
    task_id: str | None = None


@strawberry.type
class AliasImage:
    ok: bool | None
    msg: str | None


@strawberry.type
class DealiasImage:
    ok: bool | None
    msg: str | None


@strawberry.type
class ModifyAgent:
    ok: bool | None
    msg: str | None


@strawberry.input
class ModifyComputeSessionInput:
    id: strawberry.ID
    priority: int | None = strawberry.UNSET
    name: str | None = strawberry.UNSET
    client_mutation_id: str | None = strawberry.field(name="clientMutationId", default=strawberry.UNSET)


@strawberry.type
class ModifyComputeSessionPayload:
    item: ComputeSession | None
    client_mutation_id: str | None = strawberry.field(name="clientMutationId", default=None)
