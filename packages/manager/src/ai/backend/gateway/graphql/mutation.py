"""The roots of mutations, with the published names. A refusal is an ordinary answer, `ok: false` with its reason: only what can't be
understood, and a frozen manager, are errors of GraphQL."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

import strawberry

from ai.backend.common.errors import BackendError, Forbidden, Frozen, InvalidInput
from ai.backend.manager.directory.service import Directory

from . import change as c
from .account import (
    domain_of,
    group_of,
    keypair_of,
    keypair_policy_of,
    project_policy_of,
    user_of,
    user_policy_of,
)
from .context import Info, uuid_of
from .workload import preset_of, scaling_group_of, session_of

P = TypeVar("P")
Extra = dict[str, Any]


def given(props: object) -> dict[str, Any]:
    """What was sent, by name."""
    return {name: value for name, value in vars(props).items() if value is not strawberry.UNSET}


async def attempt(
    info: Info, payload: Callable[..., P], name: str, work: Callable[[Directory], Awaitable[Extra | None]]
) -> P:
    """Does it and says how it went. `work` returns the payload's further fields."""
    try:
        await info.context.manager.settings.refuse_when_frozen()
        extra = await work(info.context.manager.directory) or {}
    except Frozen:
        raise
    except Forbidden:
        return payload(ok=False, msg=f"no permission to execute {name}")
    except BackendError as exc:
        return payload(ok=False, msg=" ".join(filter(None, (exc.message, exc.hint))))
    return payload(ok=True, msg="success", **extra)


def identifier(value: UUID | str, field: str) -> UUID:
    found = uuid_of(value, field)
    if found is None:
        raise InvalidInput(f"{field} is missing", field=field)
    return found


@strawberry.type
class Mutations:
    # Domains.

    @strawberry.mutation
    async def create_domain(self, info: Info, name: str, props: c.DomainInput) -> c.CreateDomain | None:
        async def work(directory: Directory) -> Extra:
            await directory.create_domain(info.context.principal, name, given(props))
            made = await directory.domain(info.context.principal, name)
            return {"domain": domain_of(made) if made else None}

        return await attempt(info, c.CreateDomain, "create_domain", work)

    @strawberry.mutation
    async def modify_domain(self, info: Info, name: str, props: c.ModifyDomainInput) -> c.ModifyDomain | None:
        async def work(directory: Directory) -> Extra:
            await directory.modify_domain(info.context.principal, name, given(props))
            made = await directory.domain(info.context.principal, name)
            return {"domain": domain_of(made) if made else None}

        return await attempt(info, c.ModifyDomain, "modify_domain", work)

    @strawberry.mutation
    async def delete_domain(self, info: Info, name: str) -> c.DeleteDomain | None:
        return await attempt(
            info, c.DeleteDomain, "delete_domain", lambda d: d.delete_domain(info.context.principal, name)
        )

    @strawberry.mutation
    async def purge_domain(self, info: Info, name: str) -> c.PurgeDomain | None:
        return await attempt(
            info, c.PurgeDomain, "purge_domain", lambda d: d.purge_domain(info.context.principal, name)
        )

    # Groups.

    @strawberry.mutation
    async def create_group(self, info: Info, name: str, props: c.GroupInput) -> c.CreateGroup | None:
        async def work(directory: Directory) -> Extra:
            project_id = await directory.create_project(info.context.principal, name, given(props))
            return await _group(info, directory, project_id)

        return await attempt(info, c.CreateGroup, "create_group", work)

    @strawberry.mutation
    async def modify_group(self, info: Info, gid: UUID, props: c.ModifyGroupInput) -> c.ModifyGroup | None:
        async def work(directory: Directory) -> Extra:
            await directory.modify_project(info.context.principal, identifier(gid, "gid"), given(props))
            return await _group(info, directory, identifier(gid, "gid"))

        return await attempt(info, c.ModifyGroup, "modify_group", work)

    @strawberry.mutation
    async def delete_group(self, info: Info, gid: UUID) -> c.DeleteGroup | None:
        return await attempt(
            info,
            c.DeleteGroup,
            "delete_group",
            lambda d: d.delete_project(info.context.principal, identifier(gid, "gid")),
        )

    @strawberry.mutation
    async def purge_group(self, info: Info, gid: UUID) -> c.PurgeGroup | None:
        return await attempt(
            info,
            c.PurgeGroup,
            "purge_group",
            lambda d: d.purge_project(info.context.principal, identifier(gid, "gid")),
        )

    # Users.

    @strawberry.mutation
    async def create_user(self, info: Info, email: str, props: c.UserInput) -> c.CreateUser | None:
        async def work(directory: Directory) -> Extra:
            return {"user": user_of(await directory.create_user(info.context.principal, email, given(props)))}

        return await attempt(info, c.CreateUser, "create_user", work)

    @strawberry.mutation
    async def modify_user(self, info: Info, email: str, props: c.ModifyUserInput) -> c.ModifyUser | None:
        async def work(directory: Directory) -> Extra:
            return {"user": user_of(await directory.modify_user(info.context.principal, email, given(props)))}

        return await attempt(info, c.ModifyUser, "modify_user", work)

    @strawberry.mutation
    async def delete_user(self, info: Info, email: str) -> c.DeleteUser | None:
        return await attempt(
            info, c.DeleteUser, "delete_user", lambda d: d.delete_user(info.context.principal, email)
        )

    @strawberry.mutation
    async def purge_user(self, info: Info, email: str, props: c.PurgeUserInput) -> c.PurgeUser | None:
        return await attempt(
            info, c.PurgeUser, "purge_user", lambda d: d.purge_user(info.context.principal, email)
        )

    # Keypairs.

    @strawberry.mutation
    async def create_keypair(self, info: Info, user_id: str, props: c.KeyPairInput) -> c.CreateKeyPair | None:
        async def work(directory: Directory) -> Extra:
            access_key, _ = await directory.create_keypair(info.context.principal, user_id, given(props))
            made = await directory.keypair(info.context.principal, access_key)
            return {"keypair": keypair_of(made) if made else None}

        return await attempt(info, c.CreateKeyPair, "create_keypair", work)

    @strawberry.mutation
    async def modify_keypair(
        self, info: Info, access_key: str, props: c.ModifyKeyPairInput
    ) -> c.ModifyKeyPair | None:
        async def work(directory: Directory) -> None:
            await directory.modify_keypair(info.context.principal, access_key, given(props))

        return await attempt(info, c.ModifyKeyPair, "modify_keypair", work)

    @strawberry.mutation
    async def delete_keypair(self, info: Info, access_key: str) -> c.DeleteKeyPair | None:
        return await attempt(
            info,
            c.DeleteKeyPair,
            "delete_keypair",
            lambda d: d.delete_keypair(info.context.principal, access_key),
        )

    # Policies.

    @strawberry.mutation
    async def create_keypair_resource_policy(
        self, info: Info, name: str, props: c.CreateKeyPairResourcePolicyInput
    ) -> c.CreateKeyPairResourcePolicy | None:
        async def work(directory: Directory) -> Extra:
            await directory.create_policy(info.context.principal, "keypair", name, given(props))
            found = await directory.keypair_policies(info.context.principal, name)
            return {"resource_policy": keypair_policy_of(found[0]) if found else None}

        return await attempt(info, c.CreateKeyPairResourcePolicy, "create_keypair_resource_policy", work)

    @strawberry.mutation
    async def modify_keypair_resource_policy(
        self, info: Info, name: str, props: c.ModifyKeyPairResourcePolicyInput
    ) -> c.ModifyKeyPairResourcePolicy | None:
        async def work(directory: Directory) -> None:
            await directory.modify_policy(info.context.principal, "keypair", name, given(props))

        return await attempt(info, c.ModifyKeyPairResourcePolicy, "modify_keypair_resource_policy", work)

    @strawberry.mutation
    async def delete_keypair_resource_policy(
        self, info: Info, name: str
    ) -> c.DeleteKeyPairResourcePolicy | None:
        async def work(directory: Directory) -> None:
            await directory.delete_policy(info.context.principal, "keypair", name)

        return await attempt(info, c.DeleteKeyPairResourcePolicy, "delete_keypair_resource_policy", work)

    @strawberry.mutation
    async def create_user_resource_policy(
        self, info: Info, name: str, props: c.CreateUserResourcePolicyInput
    ) -> c.CreateUserResourcePolicy | None:
        async def work(directory: Directory) -> Extra:
            await directory.create_policy(info.context.principal, "user", name, given(props))
            found = await directory.user_policies(info.context.principal, name)
            return {"resource_policy": user_policy_of(found[0]) if found else None}

        return await attempt(info, c.CreateUserResourcePolicy, "create_user_resource_policy", work)

    @strawberry.mutation
    async def modify_user_resource_policy(
        self, info: Info, name: str, props: c.ModifyUserResourcePolicyInput
    ) -> c.ModifyUserResourcePolicy | None:
        async def work(directory: Directory) -> None:
            await directory.modify_policy(info.context.principal, "user", name, given(props))

        return await attempt(info, c.ModifyUserResourcePolicy, "modify_user_resource_policy", work)

    @strawberry.mutation
    async def delete_user_resource_policy(self, info: Info, name: str) -> c.DeleteUserResourcePolicy | None:
        async def work(directory: Directory) -> None:
            await directory.delete_policy(info.context.principal, "user", name)

        return await attempt(info, c.DeleteUserResourcePolicy, "delete_user_resource_policy", work)

    @strawberry.mutation
    async def create_project_resource_policy(
        self, info: Info, name: str, props: c.CreateProjectResourcePolicyInput
    ) -> c.CreateProjectResourcePolicy | None:
        async def work(directory: Directory) -> Extra:
            await directory.create_policy(info.context.principal, "project", name, given(props))
            found = await directory.project_policies(info.context.principal, name)
            return {"resource_policy": project_policy_of(found[0]) if found else None}

        return await attempt(info, c.CreateProjectResourcePolicy, "create_project_resource_policy", work)

    @strawberry.mutation
    async def modify_project_resource_policy(
        self, info: Info, name: str, props: c.ModifyProjectResourcePolicyInput
    ) -> c.ModifyProjectResourcePolicy | None:
        async def work(directory: Directory) -> None:
            await directory.modify_policy(info.context.principal, "project", name, given(props))

        return await attempt(info, c.ModifyProjectResourcePolicy, "modify_project_resource_policy", work)

    @strawberry.mutation
    async def delete_project_resource_policy(
        self, info: Info, name: str
    ) -> c.DeleteProjectResourcePolicy | None:
        async def work(directory: Directory) -> None:
            await directory.delete_policy(info.context.principal, "project", name)

        return await attempt(info, c.DeleteProjectResourcePolicy, "delete_project_resource_policy", work)

    # Scaling groups.

    @strawberry.mutation
    async def create_scaling_group(
        self, info: Info, name: str, props: c.CreateScalingGroupInput
    ) -> c.CreateScalingGroup | None:
        async def work(directory: Directory) -> Extra:
            await directory.create_resource_group(info.context.principal, name, given(props))
            found = await directory.resource_groups(info.context.principal, name=name)
            return {"scaling_group": scaling_group_of(found[0], secrets=True) if found else None}

        return await attempt(info, c.CreateScalingGroup, "create_scaling_group", work)

    @strawberry.mutation
    async def modify_scaling_group(
        self, info: Info, name: str, props: c.ModifyScalingGroupInput
    ) -> c.ModifyScalingGroup | None:
        async def work(directory: Directory) -> None:
            await directory.modify_resource_group(info.context.principal, name, given(props))

        return await attempt(info, c.ModifyScalingGroup, "modify_scaling_group", work)

    @strawberry.mutation
    async def delete_scaling_group(self, info: Info, name: str) -> c.DeleteScalingGroup | None:
        async def work(directory: Directory) -> None:
            await directory.delete_resource_group(info.context.principal, name)

        return await attempt(info, c.DeleteScalingGroup, "delete_scaling_group", work)

    @strawberry.mutation
    async def associate_scaling_group_with_domain(
        self, info: Info, scaling_group: str, domain: str
    ) -> c.AssociateScalingGroupWithDomain | None:
        async def work(directory: Directory) -> None:
            await directory.associate(info.context.principal, scaling_group, add=True, domain_name=domain)

        return await attempt(
            info, c.AssociateScalingGroupWithDomain, "associate_scaling_group_with_domain", work
        )

    @strawberry.mutation
    async def disassociate_scaling_group_with_domain(
        self, info: Info, scaling_group: str, domain: str
    ) -> c.DisassociateScalingGroupWithDomain | None:
        async def work(directory: Directory) -> None:
            await directory.associate(info.context.principal, scaling_group, add=False, domain_name=domain)

        name = "disassociate_scaling_group_with_domain"
        return await attempt(info, c.DisassociateScalingGroupWithDomain, name, work)

    @strawberry.mutation
    async def disassociate_all_scaling_groups_with_domain(
        self, info: Info, domain: str
    ) -> c.DisassociateAllScalingGroupsWithDomain | None:
        async def work(directory: Directory) -> None:
            await directory.disassociate_all(info.context.principal, domain_name=domain)

        name = "disassociate_all_scaling_groups_with_domain"
        return await attempt(info, c.DisassociateAllScalingGroupsWithDomain, name, work)

    @strawberry.mutation
    async def associate_scaling_group_with_user_group(
        self, info: Info, scaling_group: str, user_group: str
    ) -> c.AssociateScalingGroupWithUserGroup | None:
        async def work(directory: Directory) -> None:
            project_id = identifier(user_group, "user_group")
            await directory.associate(info.context.principal, scaling_group, add=True, project_id=project_id)

        name = "associate_scaling_group_with_user_group"
        return await attempt(info, c.AssociateScalingGroupWithUserGroup, name, work)

    @strawberry.mutation
    async def disassociate_scaling_group_with_user_group(
        self, info: Info, scaling_group: str, user_group: str
    ) -> c.DisassociateScalingGroupWithUserGroup | None:
        async def work(directory: Directory) -> None:
            project_id = identifier(user_group, "user_group")
            await directory.associate(info.context.principal, scaling_group, add=False, project_id=project_id)

        name = "disassociate_scaling_group_with_user_group"
        return await attempt(info, c.DisassociateScalingGroupWithUserGroup, name, work)

    @strawberry.mutation
    async def disassociate_all_scaling_groups_with_group(
        self, info: Info, user_group: str
    ) -> c.DisassociateAllScalingGroupsWithGroup | None:
        async def work(directory: Directory) -> None:
            project_id = identifier(user_group, "user_group")
            await directory.disassociate_all(info.context.principal, project_id=project_id)

        name = "disassociate_all_scaling_groups_with_group"
        return await attempt(info, c.DisassociateAllScalingGroupsWithGroup, name, work)

    @strawberry.mutation
    async def associate_scaling_group_with_keypair(
        self, info: Info, scaling_group: str, access_key: str
    ) -> c.AssociateScalingGroupWithKeyPair | None:
        async def work(directory: Directory) -> None:
            await directory.associate(info.context.principal, scaling_group, add=True, access_key=access_key)

        name = "associate_scaling_group_with_keypair"
        return await attempt(info, c.AssociateScalingGroupWithKeyPair, name, work)

    @strawberry.mutation
    async def disassociate_scaling_group_with_keypair(
        self, info: Info, scaling_group: str, access_key: str
    ) -> c.DisassociateScalingGroupWithKeyPair | None:
        async def work(directory: Directory) -> None:
            await directory.associate(info.context.principal, scaling_group, add=False, access_key=access_key)

        name = "disassociate_scaling_group_with_keypair"
        return await attempt(info, c.DisassociateScalingGroupWithKeyPair, name, work)

    # Presets, images and agents.

    @strawberry.mutation
    async def create_resource_preset(
        self, info: Info, name: str, props: c.CreateResourcePresetInput
    ) -> c.CreateResourcePreset | None:
        async def work(directory: Directory) -> Extra:
            await directory.create_preset(info.context.principal, name, given(props))
            found = await info.context.manager.resources.presets(name=name)
            return {"resource_preset": preset_of(found[0]) if found else None}

        return await attempt(info, c.CreateResourcePreset, "create_resource_preset", work)

    @strawberry.mutation
    async def modify_resource_preset(
        self, info: Info, name: str, props: c.ModifyResourcePresetInput
    ) -> c.ModifyResourcePreset | None:
        async def work(directory: Directory) -> None:
            await directory.modify_preset(info.context.principal, name, given(props))

        return await attempt(info, c.ModifyResourcePreset, "modify_resource_preset", work)

    @strawberry.mutation
    async def delete_resource_preset(self, info: Info, name: str) -> c.DeleteResourcePreset | None:
        async def work(directory: Directory) -> None:
            await directory.delete_preset(info.context.principal, name)

        return await attempt(info, c.DeleteResourcePreset, "delete_resource_preset", work)

    @strawberry.mutation
    async def alias_image(
        self, info: Info, alias: str, target: str, architecture: str = "x86_64"
    ) -> c.AliasImage | None:
        async def work(_directory: Directory) -> None:
            await info.context.manager.images.alias(info.context.principal, alias, target, architecture)

        return await attempt(info, c.AliasImage, "alias_image", work)

    @strawberry.mutation
    async def dealias_image(self, info: Info, alias: str) -> c.DealiasImage | None:
        async def work(_directory: Directory) -> None:
            await info.context.manager.images.dealias(info.context.principal, alias)

        return await attempt(info, c.DealiasImage, "dealias_image", work)

    @strawberry.mutation
    async def rescan_images(
        self, info: Info, registry: str | None = None, project: str | None = None
    ) -> c.RescanImages | None:
        async def work(_directory: Directory) -> Extra:
            task_id = await info.context.manager.images.rescan(info.context.principal)
            return {"task_id": str(task_id)}

        return await attempt(info, c.RescanImages, "rescan_images", work)

    @strawberry.mutation
    async def modify_compute_session(
        self, info: Info, input: c.ModifyComputeSessionInput
    ) -> c.ModifyComputeSessionPayload | None:
        principal, manager = info.context.principal, info.context.manager
        await manager.settings.refuse_when_frozen()
        session_id = identifier(str(input.id), "id")
        changes = given(input)
        await manager.sessions.modify(
            principal, str(session_id), name=changes.get("name"), priority=changes.get("priority")
        )
        found = await manager.catalogue.one(principal, session_id)
        return c.ModifyComputeSessionPayload(
            item=session_of(found) if found else None, client_mutation_id=changes.get("client_mutation_id")
        )

    @strawberry.mutation
    async def modify_agent(self, info: Info, id: str, props: c.ModifyAgentInput) -> c.ModifyAgent | None:
        async def work(directory: Directory) -> None:
            await directory.modify_agent(info.context.principal, id, given(props))

        return await attempt(info, c.ModifyAgent, "modify_agent", work)


async def _group(info: Info, directory: Directory, project_id: UUID) -> Extra:
    found = await directory.projects(info.context.principal, project_id=project_id)
    return {"group": group_of(found[0]) if found else None}
