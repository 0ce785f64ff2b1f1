"""Dotfiles: small files that are written into the home folders of new sessions; and bootstrap scripts."""

from typing import Any

import msgspec

from ai.backend.common.wire.rest.dotfile import Dotfile

from .error import InvalidCall
from .request import Requester


class AsyncDotfiles:
    """Those of your keypair (or of `owner`, an access key, for administrators); with `project` (and `domain`, when it is a name) a
    project's; with `domain` alone a domain's. The latter two are written by administrators."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    @staticmethod
    def _place(owner: str, project: str, domain: str) -> tuple[str, dict[str, Any]]:
        if owner and (project or domain):
            raise InvalidCall("an owner, a project and a domain are three things", hint="Name one of them.")
        if project:
            return "/group-config/dotfiles", {"group": project} | ({"domain": domain} if domain else {})
        if domain:
            return "/domain-config/dotfiles", {"domain": domain}
        return "/user-config/dotfiles", {"owner_access_key": owner} if owner else {}

    async def list(self, *, owner: str = "", project: str = "", domain: str = "") -> list[Dotfile]:
        path, query = self._place(owner, project, domain)
        return (await self._requester.call("GET", path, query=query)).decode(list[Dotfile])

    async def get(self, path: str, *, owner: str = "", project: str = "", domain: str = "") -> Dotfile:
        """Raises ApiError (404)."""
        base, query = self._place(owner, project, domain)
        return (await self._requester.call("GET", base, query=query | {"path": path})).decode(Dotfile)

    async def create(
        self,
        path: str,
        data: str,
        *,
        permission: str = "644",
        owner: str = "",
        project: str = "",
        domain: str = "",
    ) -> None:
        base, where = self._place(owner, project, domain)
        body = {"path": path, "data": data, "permission": permission}
        await self._requester.call("POST", base, json=where | body)

    async def update(
        self,
        path: str,
        data: str,
        *,
        permission: str = "644",
        owner: str = "",
        project: str = "",
        domain: str = "",
    ) -> None:
        base, where = self._place(owner, project, domain)
        body = {"path": path, "data": data, "permission": permission}
        await self._requester.call("PATCH", base, json=where | body)

    async def delete(self, path: str, *, owner: str = "", project: str = "", domain: str = "") -> None:
        base, query = self._place(owner, project, domain)
        await self._requester.call("DELETE", base, query=query | {"path": path})

    async def bootstrap_script(self) -> str:
        """What runs at the start of your sessions that bring no script of their own; empty when there is none."""
        answer = await self._requester.call("GET", "/user-config/bootstrap-script")
        return msgspec.json.decode(answer.body, type=str)

    async def set_bootstrap_script(self, script: str) -> None:
        await self._requester.call("POST", "/user-config/bootstrap-script", json={"script": script})
