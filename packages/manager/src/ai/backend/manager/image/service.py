"""What users ask about images."""

from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.errors import Conflict, Forbidden, ImageNotFound, InvalidInput, NotFound
from ai.backend.common.wire.rpc import AgentReport

from ..access.model import Principal
from ..access.policy import Action, Reach, demand, reach
from ..db.database import Database
from ..directory.model import Listing, Page
from ..task.model import Reporter
from ..task.service import TaskService
from . import store
from .model import Image
from .policy import owned_by

Found = tuple[Image, Sequence[str], Sequence[str]]
"""An image, its aliases, and the agents that hold it."""
Names = dict[tuple[str, str], list[str]]
Holders = dict[str, list[str]]


class ImageService:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        tasks: TaskService,
        *,
        reports: Callable[[], Sequence[AgentReport]],
        wake: Callable[[], None],
    ) -> None:
        """`reports`: the newest of each agent; `wake`: there may be other images now."""
        self._database = database
        self._clock = clock
        self._tasks = tasks
        self._reports = reports
        self._wake = wake

    async def list(self, principal: Principal) -> list[Image]:
        if reach(principal, Action.IMAGE_READ) is Reach.NOTHING:
            raise Forbidden("you may not list images")
        found = await self._database.read(store.all_images)
        if reach(principal, Action.IMAGE_WRITE) is Reach.ALL:
            return found
        return [image for image in found if owned_by(image, principal.user_id)]

    async def catalogue(self, principal: Principal) -> Sequence[Found]:
        """Each image with its aliases and the agents that hold it; administrators see which agents."""
        found = await self.list(principal)
        sees_agents = reach(principal, Action.AGENT_READ) is Reach.ALL

        def op(conn: sa.Connection) -> tuple[Names, Holders]:
            names: Names = {}
            for (alias, architecture), name in store.aliases(conn).items():
                names.setdefault((name, architecture), []).append(alias)
            holders: Holders = {}
            for agent_id, held in store.on_agents(conn).items():
                for name in held:
                    holders.setdefault(name, []).append(agent_id)
            return names, holders

        names, holders = await self._database.read(op)
        return [
            (
                image,
                sorted(names.get((image.name, image.architecture), [])),
                sorted(holders.get(image.name, [])) if sees_agents else [],
            )
            for image in found
        ]

    async def page(self, principal: Principal, asked: Listing) -> Page[Found]:
        """Of the catalogue. Raises InvalidInput."""
        known = {(found[0].name, found[0].architecture): found for found in await self.catalogue(principal)}
        wanted = await self._database.read(lambda conn: store.matching(conn, asked))
        chosen = [known[key] for key in wanted if key in known]
        return Page(items=chosen[asked.offset : asked.offset + asked.limit], total_count=len(chosen))

    async def alias(self, principal: Principal, alias: str, target: str, architecture: str) -> None:
        """Raises Forbidden, InvalidInput, ImageNotFound, or Conflict for a taken alias."""
        self._only_writers(principal)
        if not 1 <= len(alias) <= 128 or any(character.isspace() for character in alias):
            raise InvalidInput("an alias has 1 to 128 characters and no space", field="alias")

        def op(conn: sa.Connection) -> None:
            known = {(image.name, image.architecture) for image in store.all_images(conn)}
            if (target, architecture) not in known:
                raise ImageNotFound(f"no image {target[:120]!r} for {architecture}")
            if (alias, architecture) in store.aliases(conn):
                raise Conflict(f"the alias {alias!r} is taken")
            store.add_alias(conn, alias, target, architecture)

        await self._database.run(op)

    async def dealias(self, principal: Principal, alias: str) -> None:
        self._only_writers(principal)
        if not await self._database.run(lambda conn: store.remove_alias(conn, alias)):
            raise NotFound(f"no alias {alias[:128]!r}")

    async def rescan(self, principal: Principal) -> UUID:
        """Begins to read anew what agents hold, and returns the background task's id. Raises NotPrivileged."""
        demand(principal, Action.IMAGE_RESCAN)

        async def work(reporter: Reporter) -> str:
            reports = self._reports()
            for number, report in enumerate(reports):
                reporter.update(number, len(reports), f"reading the images of {report.agent_id}")
                await self._database.run(partial(self._take, report=report))
            reporter.update(len(reports), len(reports), "done")
            self._wake()
            names = {image.name for report in reports for image in report.images}
            return f"{len(names)} images on {len(reports)} agents"

        return await self._tasks.start(principal, "rescan-images", work)

    def _take(self, conn: sa.Connection, report: AgentReport) -> None:
        store.report(conn, report.agent_id, store.of_report(report), self._clock.now())

    @staticmethod
    def _only_writers(principal: Principal) -> None:
        if reach(principal, Action.IMAGE_WRITE) is not Reach.ALL:
            raise Forbidden("only superadministrators may change images")
