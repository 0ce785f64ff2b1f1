"""A service of commits that says what it would do, and does nothing."""

from dataclasses import dataclass
from uuid import UUID

from ai.backend.common.errors import CommitOngoing, ImageExists, QuotaExceeded
from ai.backend.common.ids import SessionId
from ai.backend.gateway.port import Sessions
from ai.backend.manager.access.model import Principal
from ai.backend.manager.commit.model import Begun
from ai.backend.manager.commit.policy import archive_name, check_visibility, image_name
from ai.backend.manager.session.model import Session


@dataclass
class FakeCommits:
    """One of `changed` is ongoing."""

    sessions: Sessions

    async def status(self, principal: Principal, ref: str, /) -> tuple[Session, bool]:
        row = await self.sessions.get(principal, ref)
        return row, row.name == "changed"

    def is_ongoing(self, session_id: SessionId, /) -> bool:
        return False

    async def commit(self, principal: Principal, ref: str, filename: str | None, /) -> Begun:
        row, ongoing = await self.status(principal, ref)
        if ongoing:
            raise CommitOngoing("not twice")
        path = f"{principal.user_id}/{archive_name(filename, row.name, row.created_at)}"
        return Begun(task_id=UUID(int=7), kernel_id=row.main.id, result=path)

    async def imagify(
        self, principal: Principal, ref: str, name: str, visibility: str | None, owner_id: str | None, /
    ) -> Begun:
        row, _ = await self.status(principal, ref)
        check_visibility(visibility, owner_id, principal.user_id)
        full = image_name(name, principal.user_id)
        if name == "theirs" or ref == "changed":
            raise ImageExists("it is there")
        if name == "more":
            raise QuotaExceeded("no more")
        return Begun(task_id=UUID(int=8), kernel_id=row.main.id, result=full)
