"""What users ask of templates. `principal` is whom to act as (already delegated)."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.errors import Forbidden, InvalidInput, QuotaExceeded
from ai.backend.common.ids import Random, new_uuid, parse_uuid

from ..access.model import Principal
from ..access.policy import Action, Reach, may, reach
from ..db.database import Database
from ..identity.service import IdentityService
from ..session.model import SessionDraft
from ..yamltext import documents_of
from . import store
from .model import Document, Overlay, Template, TemplateNotFound, TemplateType
from .policy import BODY_BYTES_MAX, cluster_draft, documents, draft_of

TEMPLATES_MAX = 1000
"""Of one user."""


class TemplateService:
    def __init__(self, database: Database, identity: IdentityService, *, clock: Clock, rng: Random) -> None:
        self._database = database
        self._identity = identity
        self._clock = clock
        self._rng = rng

    async def create(
        self, principal: Principal, kind: TemplateType, payload: str, *, domain_name: str, project: str
    ) -> Sequence[Template]:
        """Keeps all templates of the payload (YAML or JSON), or none. Raises InvalidInput, ProjectNotFound or QuotaExceeded."""
        if reach(principal, Action.TEMPLATE_WRITE) is Reach.NOTHING:
            raise Forbidden("your role may not keep templates")
        found = self._parsed(principal, kind, payload)
        now = self._clock.now()
        made = [
            Template(
                id=new_uuid(self._rng),
                template_type=kind,
                name=one.name,
                body=one.body,
                domain_name=domain_name,
                project_id=await self._identity.project(domain_name, one.project or project, principal),
                user_id=principal.user_id,
                created_at=now,
            )
            for one in found
        ]

        def op(conn: sa.Connection) -> None:
            if store.count_of(conn, principal.user_id) + len(made) > TEMPLATES_MAX:
                raise QuotaExceeded(
                    f"at most {TEMPLATES_MAX} templates for each user", hint="Delete some.", limit="templates"
                )
            for one in made:
                self._check_nodes(conn, principal, one.body)
            store.insert(conn, made)

        await self._database.run(op)
        return made

    async def list(self, principal: Principal, kind: TemplateType, *, everyones: bool) -> Sequence[Template]:
        return await self._database.read(
            lambda conn: store.visible(conn, principal, kind, everyones=everyones)
        )

    async def get(self, principal: Principal, kind: TemplateType, template_id: str) -> Template:
        """Raises TemplateNotFound, also when the principal may not see it."""
        known = parse_uuid(template_id)
        found = (
            await self._database.read(lambda conn: store.get(conn, kind, known))
            if known is not None
            else None
        )
        if found is None or not _may(principal, Action.TEMPLATE_READ, found):
            raise TemplateNotFound(f"no template {template_id[:64]!r}", hint="List yours.")
        return found

    async def put(self, principal: Principal, kind: TemplateType, template_id: str, payload: str) -> None:
        """Replaces name and body. Raises TemplateNotFound, Forbidden or InvalidInput."""
        found = await self._writable(principal, kind, template_id)
        given = self._parsed(principal, kind, payload)
        if len(given) != 1:
            raise InvalidInput("one template replaces one", field="payload")
        (new,) = given

        def op(conn: sa.Connection) -> bool:
            self._check_nodes(conn, principal, new.body)
            return store.replace(conn, found.id, new.name, new.body)

        if not await self._database.run(op):
            raise TemplateNotFound(f"no template {template_id[:64]!r}")

    async def delete(self, principal: Principal, kind: TemplateType, template_id: str) -> None:
        """Raises TemplateNotFound or Forbidden."""
        found = await self._writable(principal, kind, template_id)
        if not await self._database.run(lambda conn: store.delete(conn, found.id)):
            raise TemplateNotFound(f"no template {template_id[:64]!r}")

    async def draft(self, principal: Principal, template_id: str, over: Overlay) -> SessionDraft:
        """What to create from a session template. Raises TemplateNotFound or InvalidInput."""
        return draft_of(await self.get(principal, TemplateType.TASK, template_id), over)

    async def cluster_draft(self, principal: Principal, template_id: str, over: Overlay) -> SessionDraft:
        """What to create from a cluster template. Raises TemplateNotFound, also for a node's, or InvalidInput."""
        cluster = await self.get(principal, TemplateType.CLUSTER, template_id)
        wanted = {node["session_template"] for node in cluster.body["spec"]["nodes"]}
        nodes = {one: await self.get(principal, TemplateType.TASK, one) for one in sorted(wanted)}
        return cluster_draft(cluster, nodes, over)

    async def _writable(self, principal: Principal, kind: TemplateType, template_id: str) -> Template:
        found = await self.get(principal, kind, template_id)
        if not _may(principal, Action.TEMPLATE_WRITE, found):
            raise Forbidden(f"your role may look at the template {found.name!r}, but no more")
        return found

    @staticmethod
    def _parsed(principal: Principal, kind: TemplateType, payload: str) -> Sequence[Document]:
        if len(payload.encode()) > BODY_BYTES_MAX:
            raise InvalidInput(f"payload is over {BODY_BYTES_MAX >> 10} KiB", field="payload")
        try:
            found = documents_of(payload)
        except ValueError as exc:
            raise InvalidInput(
                f"payload is neither YAML nor JSON: {str(exc)[:300]}", field="payload"
            ) from exc
        return documents(kind, found, principal.user_id)

    @staticmethod
    def _check_nodes(conn: sa.Connection, principal: Principal, body: dict[str, object]) -> None:
        """A cluster's nodes name session templates that its owner may see."""
        spec = body["spec"]
        assert isinstance(spec, dict), "it was checked"
        for node in spec.get("nodes", ()):
            wanted = store.get(conn, TemplateType.TASK, UUID(node["session_template"]))
            if wanted is None or not _may(principal, Action.TEMPLATE_READ, wanted):
                raise TemplateNotFound(f"no template {node['session_template']!r}", hint="Create it first.")


def _may(principal: Principal, action: Action, template: Template) -> bool:
    return may(principal, action, user_id=template.user_id, domain_name=template.domain_name)
