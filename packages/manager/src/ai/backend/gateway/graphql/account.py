"""Domains, groups (projects), users, keypairs and policies, in their published form."""

from datetime import datetime
from typing import Any
from uuid import UUID

import strawberry

from ai.backend.manager.directory import model
from ai.backend.manager.session.catalogue import statuses_of

from .context import Info, listing
from .limit import PAGE_MAX
from .scalar import JSON, Big
from .workload import ComputeSession, session_of


@strawberry.type
class Domain:
    name: str | None
    description: str | None
    is_active: bool | None
    created_at: datetime | None
    modified_at: datetime | None
    total_resource_slots: JSON | None
    allowed_vfolder_hosts: JSON | None
    allowed_docker_registries: list[str | None] | None
    integration_id: str | None

    @strawberry.field
    async def scaling_groups(self, info: Info) -> list[str | None] | None:
        return [
            *await info.context.manager.directory.resource_group_names(
                info.context.principal, domain_name=self.name
            )
        ]


def domain_of(one: model.Domain) -> Domain:
    return Domain(
        name=one.name,
        description=one.description,
        is_active=one.is_active,
        created_at=one.created_at,
        modified_at=one.modified_at,
        total_resource_slots=JSON(one.total_resource_slots.texts()),
        allowed_vfolder_hosts=JSON(one.allowed_vfolder_hosts),
        allowed_docker_registries=[*one.allowed_docker_registries],
        integration_id=one.integration_id,
    )


@strawberry.type
class Group:
    id: UUID | None
    name: str | None
    description: str | None
    is_active: bool | None
    created_at: datetime | None
    modified_at: datetime | None
    domain_name: str | None
    total_resource_slots: JSON | None
    allowed_vfolder_hosts: JSON | None
    integration_id: str | None
    resource_policy: str | None
    type: str | None = "GENERAL"
    container_registry: JSON | None = None

    @strawberry.field
    async def scaling_groups(self, info: Info) -> list[str | None] | None:
        return [
            *await info.context.manager.directory.resource_group_names(
                info.context.principal, project_id=self.id
            )
        ]

    @strawberry.field
    async def admins(self, info: Info) -> list[UUID | None] | None:
        """Users who administer it; null to whom its members are not told. This system's own."""
        assert self.id is not None, "every project has one"
        assert self.domain_name is not None, "every project has one"
        found = await info.context.manager.directory.administrators(
            info.context.principal, self.domain_name, self.id
        )
        return None if found is None else [*found]


def group_of(one: model.Project) -> Group:
    return Group(
        id=one.id,
        name=one.name,
        description=one.description,
        is_active=one.is_active,
        created_at=one.created_at,
        modified_at=one.modified_at,
        domain_name=one.domain_name,
        total_resource_slots=JSON(one.total_resource_slots.texts()),
        allowed_vfolder_hosts=JSON(one.allowed_vfolder_hosts),
        integration_id=one.integration_id,
        resource_policy=one.policy_name,
    )


@strawberry.type
class UserGroup:
    id: UUID | None
    name: str | None


@strawberry.type
class User:
    id: strawberry.ID | None
    uuid: UUID | None
    username: str | None
    email: str | None
    need_password_change: bool | None
    full_name: str | None
    description: str | None
    is_active: bool | None
    status: str | None
    status_info: str | None
    created_at: datetime | None
    modified_at: datetime | None
    domain_name: str | None
    role: str | None
    resource_policy: str | None
    allowed_client_ip: list[str | None] | None
    totp_activated: bool | None
    totp_activated_at: datetime | None
    sudo_session_enabled: bool | None
    main_access_key: str | None
    container_uid: int | None
    container_main_gid: int | None
    container_gids: list[int | None] | None
    password: str | None = strawberry.field(default=None, description="Never told; old clients ask for it.")

    @strawberry.field
    async def groups(self, info: Info) -> list[UserGroup | None] | None:
        assert self.uuid is not None, "every user has one"
        found = await info.context.manager.directory.projects_of(info.context.principal, [self.uuid])
        return [UserGroup(id=project_id, name=name) for project_id, name in found[self.uuid]]


def user_of(one: model.Account | model.Member) -> User:
    """Of a member only who it is: the rest is null."""
    return User(
        id=strawberry.ID(str(one.id)),
        uuid=one.id,
        username=one.username,
        email=one.email,
        full_name=one.full_name,
        is_active=one.status == "active",
        status=one.status,
        created_at=one.created_at,
        domain_name=one.domain_name,
        **_of_account(one if isinstance(one, model.Account) else None),
    )


def _of_account(one: model.Account | None) -> dict[str, Any]:
    return {
        "need_password_change": one and one.need_password_change,
        "description": one and one.description,
        "status_info": one and one.status_info,
        "modified_at": one and one.modified_at,
        "role": one and one.role,
        "resource_policy": one and one.policy_name,
        "allowed_client_ip": one and ([*one.allowed_client_ip] if one.allowed_client_ip else None),
        "totp_activated": one and one.totp_activated_at is not None,
        "totp_activated_at": one and one.totp_activated_at,
        "sudo_session_enabled": one and one.sudo_session_enabled,
        "main_access_key": one and one.main_access_key,
        "container_uid": one and one.container_uid,
        "container_main_gid": one and one.container_main_gid,
        "container_gids": one and ([*one.container_gids] if one.container_gids else None),
    }


@strawberry.type
class UserInfo:
    email: str | None
    full_name: str | None


@strawberry.type
class KeyPair:
    id: strawberry.ID | None
    user_id: str | None
    full_name: str | None
    access_key: str | None
    is_active: bool | None
    is_admin: bool | None
    resource_policy: str | None
    created_at: datetime | None
    modified_at: datetime | None
    last_used: datetime | None
    rate_limit: int | None
    num_queries: int | None
    user: UUID | None
    ssh_public_key: str | None
    concurrency_used: int | None
    user_info: UserInfo | None
    bootstrap_script: str | None
    keypair: strawberry.Private[model.Keypair]
    ssh_private_key: str | None = None
    dotfiles: str | None = None

    @strawberry.field
    def secret_key(self, info: Info) -> str | None:
        return info.context.manager.directory.secret_key(info.context.principal, self.keypair)

    @strawberry.field
    async def projects(self, info: Info) -> list[str | None] | None:
        found = await info.context.manager.directory.projects_of(
            info.context.principal, [self.keypair.user_id]
        )
        return [name for _, name in found[self.keypair.user_id]]

    @strawberry.field
    async def compute_sessions(
        self, info: Info, status: str | None = None
    ) -> list[ComputeSession | None] | None:
        """The newest of them."""
        page = await info.context.manager.catalogue.page(
            info.context.principal,
            listing(PAGE_MAX, 0),
            statuses=statuses_of(status),
            access_key=self.access_key,
        )
        return [session_of(one) for one in page.items]

    @strawberry.field
    async def concurrency_limit(self, info: Info) -> int | None:
        found = await info.context.manager.directory.keypair_policies(
            info.context.principal, self.keypair.policy_name
        )
        return found[0].max_concurrent_sessions if found else None


def keypair_of(one: model.Keypair) -> KeyPair:
    return KeyPair(
        id=strawberry.ID(one.access_key),
        user_id=one.email,
        full_name=one.full_name,
        access_key=one.access_key,
        is_active=one.is_active,
        is_admin=one.is_admin,
        resource_policy=one.policy_name,
        created_at=one.created_at,
        modified_at=one.modified_at,
        last_used=one.last_used_at,
        rate_limit=one.rate_limit,
        num_queries=one.num_queries,
        user=one.user_id,
        ssh_public_key=one.ssh_public_key,
        concurrency_used=one.live_sessions,
        user_info=UserInfo(email=one.email, full_name=one.full_name),
        bootstrap_script=one.bootstrap_script,
        keypair=one,
    )


@strawberry.type
class KeyPairResourcePolicy:
    name: str | None
    created_at: datetime | None
    default_for_unspecified: str | None
    total_resource_slots: JSON | None
    max_session_lifetime: int | None
    max_concurrent_sessions: int | None
    max_concurrent_sftp_sessions: int | None
    max_containers_per_session: int | None
    max_pending_session_count: int | None
    max_pending_session_resource_slots: JSON | None
    idle_timeout: Big | None
    allowed_vfolder_hosts: JSON | None
    max_vfolder_count: int | None
    max_vfolder_size: Big | None
    max_quota_scope_size: Big | None


def keypair_policy_of(one: model.KeypairPolicy) -> KeyPairResourcePolicy:
    pending = one.max_pending_session_resource_slots
    return KeyPairResourcePolicy(
        name=one.name,
        created_at=one.created_at,
        default_for_unspecified=one.default_for_unspecified,
        total_resource_slots=JSON(one.total_resource_slots.texts()),
        max_session_lifetime=one.max_session_lifetime_s,
        max_concurrent_sessions=one.max_concurrent_sessions,
        max_concurrent_sftp_sessions=one.max_concurrent_sftp_sessions,
        max_containers_per_session=one.max_containers_per_session,
        max_pending_session_count=one.max_pending_session_count,
        max_pending_session_resource_slots=None if pending is None else JSON(pending.texts()),
        idle_timeout=Big(one.idle_timeout_s),
        allowed_vfolder_hosts=JSON(one.allowed_vfolder_hosts),
        max_vfolder_count=one.max_vfolder_count,
        max_vfolder_size=Big(one.max_quota_scope_bytes),
        max_quota_scope_size=Big(one.max_quota_scope_bytes),
    )


@strawberry.type
class UserResourcePolicy:
    id: strawberry.ID
    name: str
    created_at: datetime
    max_vfolder_count: int | None
    max_vfolder_size: Big | None
    max_quota_scope_size: Big | None
    max_session_count_per_model_session: int | None
    max_customized_image_count: int | None


def user_policy_of(one: model.UserPolicy) -> UserResourcePolicy:
    return UserResourcePolicy(
        id=strawberry.ID(one.name),
        name=one.name,
        created_at=one.created_at,
        max_vfolder_count=one.max_vfolder_count,
        max_vfolder_size=Big(one.max_quota_scope_bytes),
        max_quota_scope_size=Big(one.max_quota_scope_bytes),
        max_session_count_per_model_session=one.max_session_count_per_model_session,
        max_customized_image_count=one.max_customized_image_count,
    )


@strawberry.type
class ProjectResourcePolicy:
    id: strawberry.ID
    name: str
    created_at: datetime
    max_vfolder_count: int | None
    max_vfolder_size: Big | None
    max_quota_scope_size: Big | None
    max_network_count: int | None


def project_policy_of(one: model.ProjectPolicy) -> ProjectResourcePolicy:
    return ProjectResourcePolicy(
        id=strawberry.ID(one.name),
        name=one.name,
        created_at=one.created_at,
        max_vfolder_count=one.max_vfolder_count,
        max_vfolder_size=Big(one.max_quota_scope_bytes),
        max_quota_scope_size=Big(one.max_quota_scope_bytes),
        max_network_count=one.max_network_count,
    )
