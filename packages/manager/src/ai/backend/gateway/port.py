"""What the gateway needs of a manager, and nothing more. The real ones are `ai.backend.manager.assembly.Manager` and its services; the
gateway translates between these and the wire, and must never know stores, SQL or agents' messages beyond the reply values.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from ai.backend.common.clock import Clock
from ai.backend.common.wire import rpc
from ai.backend.manager.access.model import Principal
from ai.backend.manager.agents.model import Agent
from ai.backend.manager.event.model import Event
from ai.backend.manager.image.model import Image
from ai.backend.manager.session.model import Created, Session, SessionDraft, SessionPage, SessionStatus


class Identity(Protocol):
    async def authenticate(self, access_key: str, /) -> tuple[Principal, str]:
        """The caller and its plain secret key. Raises Unauthenticated."""

    async def verify_password(self, domain: str, email: str, password: str, /) -> Principal:
        """Raises Unauthenticated."""

    async def delegate(self, principal: Principal, owner_access_key: str | None, /) -> Principal:
        """Whom to act as. Raises Forbidden or InvalidInput."""


class Sessions(Protocol):
    async def create(self, principal: Principal, draft: SessionDraft, /) -> Created: ...
    async def get(self, principal: Principal, ref: str, /, *, live_only: bool = True) -> Session: ...
    async def list(
        self, principal: Principal, /, *, statuses: frozenset[SessionStatus] | None, limit: int, offset: int
    ) -> SessionPage: ...
    async def match(self, principal: Principal, prefix: str, /) -> Sequence[Session]: ...
    async def destroy(self, principal: Principal, ref: str, /, *, forced: bool = False) -> dict[str, Any]: ...
    async def restart(self, principal: Principal, ref: str, /) -> None: ...
    async def rename(self, principal: Principal, ref: str, name: str, /) -> None: ...
    async def logs(self, principal: Principal, ref: str, /) -> str: ...
    async def execute(
        self,
        principal: Principal,
        ref: str,
        /,
        *,
        mode: str,
        code: str,
        run_id: str | None,
        options: Mapping[str, Any],
        flush_s: float = 2.0,
    ) -> rpc.ExecuteReply: ...
    async def interrupt(self, principal: Principal, ref: str, run_id: str = "", /) -> None: ...
    async def complete(
        self, principal: Principal, ref: str, code: str, options: Mapping[str, Any], /
    ) -> Sequence[str]: ...
    async def upload(self, principal: Principal, ref: str, files: Sequence[rpc.UploadFile], /) -> None: ...
    async def download(self, principal: Principal, ref: str, paths: Sequence[str], /) -> Sequence[bytes]: ...
    async def read_file(self, principal: Principal, ref: str, path: str, /) -> bytes: ...
    async def list_files(self, principal: Principal, ref: str, path: str, /) -> rpc.ListFilesReply: ...


class Events(Protocol):
    def watch(
        self,
        principal: Principal,
        /,
        *,
        session_id: UUID | None = None,
        session_name: str | None = None,
        access_key: str | None = None,
        scope: frozenset[str] = frozenset({"*"}),
        after: int | None = None,
    ) -> AsyncIterator[Event]: ...


class Agents(Protocol):
    async def list(self, principal: Principal, /) -> Sequence[Agent]: ...
    async def count_alive(self) -> int: ...


class Images(Protocol):
    async def list(self, principal: Principal, /) -> Sequence[Image]: ...


class Manager(Protocol):
    @property
    def clock(self) -> Clock: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def events(self) -> Events: ...
    @property
    def agents(self) -> Agents: ...
    @property
    def images(self) -> Images: ...
