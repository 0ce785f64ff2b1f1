"""Templates: kept descriptions of sessions and clusters."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from ai.backend.common.wire.rest import template as wire

from .request import Requester, segment
from .session import AsyncSession, Created

Kind = Literal["task", "cluster"]
_PATHS: dict[Kind, str] = {"task": "/template/session", "cluster": "/template/cluster"}


class AsyncTemplates:
    """Yours, and those of others that you may see. `payload` is YAML or JSON text: one template, or several."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def create(
        self,
        payload: str,
        *,
        kind: Kind = "task",
        group: str | None = None,
        domain: str | None = None,
        owner_access_key: str | None = None,
    ) -> list[str]:
        """Keeps all templates of the payload or none; returns their ids."""
        config = self._requester.config
        body = {
            "payload": payload,
            "group": group or config.group,
            "domain": domain or config.domain,
            "owner_access_key": owner_access_key,
        }
        made = await self._requester.call("POST", _PATHS[kind], json=body)
        return [one.id for one in made.decode(list[wire.TemplateCreated])]

    async def list(self, *, kind: Kind = "task", everyones: bool = False) -> list[wire.TemplateItem]:
        """Your own; with `everyones` also those of others that you may see."""
        answer = await self._requester.call("GET", _PATHS[kind], query={"all": everyones})
        return answer.decode(list[wire.TemplateItem])

    async def get(self, template_id: str, *, kind: Kind = "task") -> wire.TemplateBody:
        """Raises ApiError (404)."""
        return (await self._requester.call("GET", self._path(kind, template_id))).decode(wire.TemplateBody)

    async def get_yaml(self, template_id: str, *, kind: Kind = "task") -> str:
        """As text that `update` takes. Raises ApiError (404)."""
        query = {"format": "yaml"}
        return (await self._requester.call("GET", self._path(kind, template_id), query=query)).body.decode()

    async def update(self, template_id: str, payload: str, *, kind: Kind = "task") -> None:
        await self._requester.call("PUT", self._path(kind, template_id), json={"payload": payload})

    async def delete(self, template_id: str, *, kind: Kind = "task") -> None:
        await self._requester.call("DELETE", self._path(kind, template_id))

    async def start(
        self,
        template_id: str,
        *,
        name: str | None = None,
        image: str | None = None,
        type: Literal["interactive", "batch", "inference"] | None = None,
        startup_command: str | None = None,
        tag: str | None = None,
        resources: Mapping[str, str | int | float] | None = None,
        environ: Mapping[str, str] | None = None,
        cluster_size: int | None = None,
        dependencies: Sequence[str] = (),
        enqueue_only: bool = False,
        max_wait_s: int = 0,
        reuse: bool = True,
    ) -> AsyncSession:
        """Makes a session from a session template; what is given here replaces what is there."""
        config = self._requester.config
        given = {
            "template_id": template_id,
            "name": name or f"sdk-{secrets.token_hex(5)}",
            "image": image,
            "type": type,
            "startupCommand": startup_command,
            "tag": tag,
            "group": config.group,
            "domain": config.domain,
            "clusterSize": cluster_size,
            "dependencies": list(dependencies),
            "enqueueOnly": enqueue_only,
            "maxWaitSeconds": max_wait_s,
            "reuseIfExists": reuse,
            "config": {"resources": dict(resources or {}), "environ": dict(environ or {})},
        }
        return await self._made("/session/_/create-from-template", given)

    async def start_cluster(
        self,
        template_id: str,
        *,
        name: str | None = None,
        type: Literal["interactive", "batch", "inference"] | None = None,
        tag: str | None = None,
        resource_group: str | None = None,
        enqueue_only: bool = False,
        max_wait_s: int = 0,
        reuse: bool = True,
    ) -> AsyncSession:
        """Makes a session of several containers from a cluster template."""
        config = self._requester.config
        given = {
            "template_id": template_id,
            "name": name or f"sdk-{secrets.token_hex(5)}",
            "type": type,
            "tag": tag,
            "group": config.group,
            "domain": config.domain,
            "scaling_group": resource_group,
            "enqueueOnly": enqueue_only,
            "maxWaitSeconds": max_wait_s,
            "reuseIfExists": reuse,
        }
        return await self._made("/session/_/create-cluster", given)

    async def _made(self, path: str, given: Mapping[str, Any]) -> AsyncSession:
        body = {key: value for key, value in given.items() if value is not None}
        made = (await self._requester.call("POST", path, json=body)).decode(Created)
        if not made.session_name:
            made = msgspec.structs.replace(made, session_name=str(given["name"]))
        return AsyncSession(self._requester, made.session_id, made)

    @staticmethod
    def _path(kind: Kind, template_id: str) -> str:
        return f"{_PATHS[kind]}/{segment(template_id)}"
