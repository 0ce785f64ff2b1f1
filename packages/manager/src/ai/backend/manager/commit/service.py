"""Makes archives and images of running sessions: asks the agent, and follows it in a background task.

What goes on is known here and to the agent, which has the last word; the stream between them is the commit's life: when either side
goes away it is broken off, and nothing of it stays. An image is written to the database when the agent holds it.
"""

from collections.abc import Awaitable, Callable

import sqlalchemy as sa

from ai.backend.common.bus import ManagerBus
from ai.backend.common.clock import Clock
from ai.backend.common.errors import CommitOngoing, ImageExists, StreamClosed
from ai.backend.common.ids import AgentId, Random, SessionId, new_uuid
from ai.backend.common.quantity import format_size
from ai.backend.common.stream import Stream
from ai.backend.common.wire import rpc
from ai.backend.common.wire.commit import StepReader

from ..access.model import Principal
from ..access.policy import Action
from ..config import ManagerConfig
from ..db.database import Database
from ..dotfile import store as dotfile_store
from ..dotfile.policy import merged
from ..image import store as image_store
from ..image.model import Image
from ..session.model import Session
from ..session.service import SessionService
from ..task.model import Reporter
from ..task.service import TaskService
from . import policy
from .model import Begun


class CommitService:
    def __init__(
        self,
        database: Database,
        bus: ManagerBus,
        clock: Clock,
        rng: Random,
        config: ManagerConfig,
        sessions: SessionService,
        tasks: TaskService,
    ) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._config = config
        self._sessions = sessions
        self._tasks = tasks
        self._ongoing: dict[SessionId, str] = {}
        """And what each becomes: no two may become the same image."""

    async def status(self, principal: Principal, ref: str) -> tuple[Session, bool]:
        """The session, and whether an image is being made of it."""
        session = await self._sessions.get(principal, ref)
        return session, self.is_ongoing(session.id)

    def is_ongoing(self, session_id: SessionId) -> bool:
        return session_id in self._ongoing

    async def commit(self, principal: Principal, ref: str, filename: str | None) -> Begun:
        """Begins to write an archive where the session runs.

        Raises InvalidInput for the name, InvalidSessionState, CommitOngoing, CommitExists or what opening a stream raises."""
        session = await self._sessions.running(principal, ref, Action.SESSION_USE)
        folder = str(principal.user_id)
        name = policy.archive_name(filename, session.name, self._clock.now())
        path = f"{folder}/{name}"
        request = rpc.Commit(
            kernel_id=session.main.id,
            image=session.main.image_name,
            left_out=await self._dotfiles(session),
            folder=folder,
            filename=name,
        )

        async def done(image: rpc.ImageReport) -> str:
            return f"{path} ({format_size(image.size_bytes)})"

        return await self._begin(principal, session, request, "commit-session", path, done)

    async def imagify(
        self, principal: Principal, ref: str, name: str, visibility: str | None, owner_id: str | None
    ) -> Begun:
        """Begins to make an image of the principal's own, from which sessions can be started.

        Raises what `commit` raises, ImageExists, and QuotaExceeded."""
        policy.check_visibility(visibility, owner_id, principal.user_id)
        full = policy.image_name(name, principal.user_id)
        session = await self._sessions.running(principal, ref, Action.SESSION_USE)
        images = await self._database.read(image_store.all_images)
        policy.check_new_image(full, images, principal.user_id, limit=self._config.customized_images_max)
        if full in self._ongoing.values():
            raise ImageExists(f"an image {name} is being made already", hint="Choose another name.")
        request = rpc.Commit(
            kernel_id=session.main.id,
            image=full,
            labels=policy.image_labels(full, new_uuid(self._rng).hex, principal),
            left_out=await self._dotfiles(session),
        )
        agent_id = session.main.agent_id
        assert agent_id is not None, "it runs"

        async def done(image: rpc.ImageReport) -> str:
            await self._database.run(lambda conn: self._keep(conn, agent_id, image))
            return full

        return await self._begin(principal, session, request, "convert-session-to-image", full, done)

    async def _dotfiles(self, session: Session) -> list[str]:
        def op(conn: sa.Connection) -> list[str]:
            found = dotfile_store.for_session(
                conn, session.access_key, session.project_id, session.domain_name
            )
            return [file.path for file in merged(found)] if found else []

        return await self._database.read(op)

    def _keep(self, conn: sa.Connection, agent_id: AgentId, image: rpc.ImageReport) -> None:
        """The agent's reports say the same from now on."""
        found = Image(
            name=image.name,
            architecture=image.architecture,
            digest=image.digest,
            size_bytes=image.size_bytes,
            labels=image.labels,
        )
        image_store.add(conn, agent_id, found, self._clock.now())

    async def _begin(
        self,
        principal: Principal,
        session: Session,
        request: rpc.Commit,
        task: str,
        result: str,
        done: Callable[[rpc.ImageReport], Awaitable[str]],
    ) -> Begun:
        if session.id in self._ongoing:
            raise CommitOngoing(
                f"an image is being made of the session {session.name!r} already",
                hint="Wait until it is done: 'GET /session/NAME/commit' says so.",
            )
        agent_id = session.main.agent_id
        assert agent_id is not None, "it runs"
        self._ongoing[session.id] = result
        stream: Stream | None = None
        try:
            stream = await self._bus.open_stream(agent_id, request, timeout_s=self._config.call_timeout_s)
            opened = stream

            async def work(reporter: Reporter) -> str:
                try:
                    return await done(await follow(opened, reporter))
                finally:
                    opened.close()
                    self._ongoing.pop(session.id, None)

            task_id = await self._tasks.start(principal, task, work)
        except BaseException:
            if stream is not None:
                stream.close()
            self._ongoing.pop(session.id, None)
            raise
        return Begun(task_id=task_id, kernel_id=session.main.id, result=result)


async def follow(stream: Stream, reporter: Reporter) -> rpc.ImageReport:
    """What the agent has made in the end. Raises the error with which it failed, or what the stream raises."""
    reader = StepReader()
    while data := await stream.receive():
        for step in reader.feed(data):
            reporter.update(step.done_bytes, step.total_bytes, step.message)
            if step.image is not None:
                return step.image
    raise StreamClosed("the agent has stopped before the image was whole")
