"""Projects (groups on the wire) and who is in them: for administrators of the cluster, of a domain, or of a project."""

from collections.abc import Sequence
from typing import Any

import msgspec

from .error import ApiError
from .event import is_uuid
from .request import Requester

_PAGE = 100
_MEMBERS = """query($group: UUID!, $offset: Int!) { group(id: $group) { admins }
    user_list(limit: 100, offset: $offset, group_id: $group, order: "email") {
        total_count items { uuid email full_name status } } }"""
_NAMED = "query($name: String!, $domain: String) { groups_by_name(name: $name, domain_name: $domain) { id } }"
_USER = "query($email: String!) { user(email: $email) { uuid } }"
_MODIFY = """mutation($group: UUID!, $props: ModifyGroupInput!) {
    modify_group(gid: $group, props: $props) { ok msg } }"""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """`is_admin`: of the project."""

    uuid: str
    email: str
    full_name: str
    status: str
    is_admin: bool


class AsyncProjects:
    """A project is named by its id, or by its name (with `domain` where yours has another one of that name); a user by its id or e-mail
    address. Whoever administers only a project sees no other users: these it names by their ids."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def members(self, project: str, *, domain: str = "") -> list[Member]:
        """By e-mail address. Raises ApiError (404)."""
        group = await self._project(project, domain)
        found: list[Member] = []
        while True:
            data = await self._requester.graphql(_MEMBERS, {"group": group, "offset": len(found)})
            admins = (data["group"] or {}).get("admins") or ()
            page = data["user_list"]
            found += [Member(**one, is_admin=one["uuid"] in admins) for one in page["items"]]
            if len(page["items"]) < _PAGE:
                return found

    async def add_users(
        self, project: str, users: Sequence[str], *, as_admin: bool = False, domain: str = ""
    ) -> None:
        """Makes them members, or administrators of the project. All of them, or raises ApiError."""
        await self._update(project, domain, "add", users, as_admin=as_admin)

    async def remove_users(
        self, project: str, users: Sequence[str], *, as_admin: bool = False, domain: str = ""
    ) -> None:
        """They are no members any more; with `as_admin`, members that no longer administer the project. All, or raises ApiError."""
        await self._update(project, domain, "remove", users, as_admin=as_admin)

    async def describe(self, project: str, description: str, *, domain: str = "") -> None:
        """Says what the project is for."""
        await self._modify(await self._project(project, domain), {"description": description})

    async def _update(
        self, project: str, domain: str, mode: str, users: Sequence[str], *, as_admin: bool
    ) -> None:
        group = await self._project(project, domain)
        ids = [await self._user(one) for one in users]
        # Not sent unless it is meant: older servers know no such field.
        role = {"as_admin": True} if as_admin else {}
        await self._modify(group, {"user_update_mode": mode, "user_uuids": ids, **role})

    async def _modify(self, group: str, props: dict[str, Any]) -> None:
        told = (await self._requester.graphql(_MODIFY, {"group": group, "props": props}))["modify_group"]
        if not told["ok"]:
            raise ApiError(told["msg"], code="graphql.refused", hint="See 'backend.ai admin group --help'.")

    async def _project(self, project: str, domain: str) -> str:
        if is_uuid(project):
            return project
        asked = {"name": project, "domain": domain or None}
        found = (await self._requester.graphql(_NAMED, asked))["groups_by_name"]
        if len(found) == 1:
            return str(found[0]["id"])
        if found:
            raise ApiError(f"{len(found)} groups are called {project!r}", hint="Say which domain's is meant.")
        raise ApiError(f"no group {project!r} of yours", status=404, code="project.not-found")

    async def _user(self, user: str) -> str:
        if is_uuid(user):
            return user
        found = (await self._requester.graphql(_USER, {"email": user}))["user"]
        if found is None:
            raise ApiError(
                f"no user {user!r} that you see",
                status=404,
                code="user.not-found",
                hint="Name it by its id, if you know it.",
            )
        return str(found["uuid"])
