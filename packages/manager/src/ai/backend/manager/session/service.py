"""What users ask of sessions. Each call: load facts, ask a pure decision, write, wake a loop; nothing here waits for a node except the
calls that promise to (a blocking create, destroy, restart) and those that go straight to a running kernel (execute, files).

`principal` is whom to act as (already delegated). `ref` is a session's id or name.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from ai.backend.common.bus import ManagerBus
from ai.backend.common.clock import Clock
from ai.backend.common.errors import (
    AgentUnreachable,
    AmbiguousSession,
    BackendError,
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidSessionState,
    KernelCreationFailed,
    KernelRestartFailed,
    SessionExists,
    SessionNotFound,
)
from ai.backend.common.ids import (
    AgentId,
    KernelId,
    ProjectId,
    Random,
    SessionId,
    check_session_name,
    new_uuid,
    parse_uuid,
)
from ai.backend.common.quantity import MEM
from ai.backend.common.stream import Stream
from ai.backend.common.wire import rpc

from ..access.model import Principal
from ..access.policy import Action, Reach, reach
from ..agents import store as agent_store
from ..config import ManagerConfig
from ..db.database import Database
from ..dotfile import store as dotfile_store
from ..event.hub import EventHub
from ..event.model import Event as SessionEvent
from ..identity.service import IdentityService
from ..image import store as image_store
from ..image.policy import owned_by
from ..limit import store as limit_store
from ..loop import Loop
from ..resource import store as resource_store
from . import store
from .machine import Event, ran
from .model import Created, Dependency, Node, Session, SessionDraft, SessionPage, SessionStatus
from .policy import DEPENDENCIES_MAX, Facts, Ids, admit, allowed, check_priority
from .port import ServicePort, resolve
from .transition import advance, announce, end_kernels, stop_kernels

R = TypeVar("R", bound=rpc.Message)

ROUTES_MAX = 4096
SETTLING = frozenset({"session_started", "session_terminating", "session_terminated", "session_cancelled"})
"""The events after which a waiting call looks again; progress in between wakes nobody."""
DOWNLOAD_BYTES_MAX = 1 << 20
NODES_MAX = 1000
"""Of a dependency graph that is shown."""
STEP_KEYS = ("clean", "build", "exec")


class Route(NamedTuple):
    """Where a running session's main kernel is: remembered, so that the hot path reads no database. Any event of the session makes
    it forgotten, and an agent that does not know the kernel refuses it."""

    session_id: SessionId
    kernel_id: KernelId
    agent_id: AgentId


class SessionService:
    def __init__(
        self,
        database: Database,
        bus: ManagerBus,
        clock: Clock,
        rng: Random,
        config: ManagerConfig,
        identity: IdentityService,
        hub: EventHub,
        *,
        wake: Callable[[], None],
        wake_enqueued: Callable[[], None],
        memo: store.Memo | None = None,
    ) -> None:
        """`wake_enqueued`: a session waits for its place; `wake`: anything else about sessions was written."""
        self._database = database
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._config = config
        self._identity = identity
        self._wake = wake
        self._wake_enqueued = wake_enqueued
        self._memo = memo or store.Memo()
        self._routes: dict[tuple[str, str, str, bool | frozenset[ProjectId], str], Route] = {}
        self._waiters: dict[SessionId, set[asyncio.Event]] = {}
        self._queries: Counter[SessionId] = Counter()
        """Runs that were begun since the counts were last written."""
        self.counts = Loop("query-counts", self._write_counts, period_s=10.0)
        hub.listen(self._on_event)

    # -- creation ------------------------------------------------------------------------------------------------------------

    async def create(self, principal: Principal, draft: SessionDraft) -> Created:
        """Creates a session or returns the live one of that name; unless `enqueue_only`, waits until it runs.

        Raises what `policy.admit` refuses with, and KernelCreationFailed when it could not start (the reason says why).
        """
        if reach(principal, Action.SESSION_CREATE) is Reach.NOTHING:
            raise Forbidden("your role may not create sessions")
        project_id = await self._identity.project(draft.domain_name, draft.project, principal)
        ids = Ids(
            session_id=SessionId(new_uuid(self._rng)),
            kernel_ids=tuple(
                KernelId(new_uuid(self._rng)) for _ in range(min(max(draft.cluster_size, 1), 256))
            ),
        )

        def op(conn: sa.Connection) -> Session | BackendError:
            now = self._clock.now()
            existing = store.by_name(conn, principal.access_key, draft.name, live_only=True)
            needed = tuple(
                self._dependency(conn, principal, one) for one in draft.dependencies[: DEPENDENCIES_MAX + 1]
            )
            facts = Facts(
                project_id=project_id,
                images=[
                    image for image in image_store.all_images(conn) if owned_by(image, principal.user_id)
                ],
                aliases=image_store.aliases(conn),
                agents=agent_store.all_agents(conn),
                resource_groups=resource_store.usable_groups(conn, principal, draft.domain_name, project_id),
                existing=existing[0] if existing else None,
                quota=limit_store.quota(conn, principal.access_key, project_id, draft.domain_name),
                bootstrap_script=dotfile_store.script(conn, principal.access_key),
                dependencies=needed,
            )
            outcome = admit(draft, facts, principal, ids, now, self._config)
            if isinstance(outcome, Session) and outcome.version == 0:
                store.insert(conn, outcome)
                store.depend(conn, outcome.id, outcome.dependencies)
                announce(conn, outcome, now)
            return outcome

        outcome = await self._database.run(op)
        if isinstance(outcome, BackendError):
            raise outcome
        created = outcome.version == 0
        if created:
            self._wake_enqueued()
        if draft.enqueue_only:
            return Created(session=outcome, created=created)
        return await self._wait_started(outcome.id, created=created, max_wait_s=draft.max_wait_s)

    @staticmethod
    def _dependency(conn: sa.Connection, principal: Principal, ref: str) -> Dependency:
        """A session by id or by name, the newest of that name. Raises SessionNotFound."""
        session_id = parse_uuid(ref)
        found = store.get(conn, SessionId(session_id)) if session_id is not None else None
        if found is None:
            found = next(iter(store.by_name(conn, principal.access_key, ref, live_only=False)), None)
        if found is None or not allowed(principal, Action.SESSION_READ, found):
            raise SessionNotFound(f"no session {ref[:80]!r} to depend on", hint="Give its name or its id.")
        return Dependency(id=found.id, name=found.name, status=found.status, result=found.result)

    async def _wait_started(self, session_id: SessionId, *, created: bool, max_wait_s: float) -> Created:
        def started(status: SessionStatus) -> bool:
            return status.terminal or status in (SessionStatus.RUNNING, SessionStatus.TERMINATING)

        session, in_time = await self._wait(session_id, started, max_wait_s or None)
        if not in_time:
            return Created(session=session, created=created, waited_out=True)
        # A short command may have ended before anybody looked: that is no failed start.
        if session.status is not SessionStatus.RUNNING and not (session.is_batch and ran(session)):
            raise KernelCreationFailed(
                session.reason_detail.get("message")
                or f"The session ended before it ran ({session.reason}).",
                hint=session.reason_detail.get("hint", ""),
                sessionId=str(session.id),
                status=session.status.value,
                reason=session.reason,
            )
        return Created(session=session, created=created)

    # -- looking -------------------------------------------------------------------------------------------------------------

    async def get(self, principal: Principal, ref: str, *, live_only: bool = True) -> Session:
        """Raises SessionNotFound (also when the principal may not see it) or AmbiguousSession."""
        session = await self._find(principal, ref, Action.SESSION_READ, live_only=live_only)
        uncounted = self._queries[session.id]
        return replace(session, num_queries=session.num_queries + uncounted) if uncounted else session

    async def _find(self, principal: Principal, ref: str, action: Action, *, live_only: bool) -> Session:
        session_id = parse_uuid(ref)

        def op(conn: sa.Connection) -> list[Session]:
            if session_id is not None:
                session = self._memo.get(conn, SessionId(session_id))
                if session is not None and not (live_only and session.status.terminal):
                    return [session]
            return store.by_name(conn, principal.access_key, ref, live_only=live_only)

        found = [
            session
            for session in await self._database.read(op)
            if allowed(principal, Action.SESSION_READ, session)
        ]
        if not found:
            raise SessionNotFound(f"no session {ref[:80]!r}", hint="List yours with 'backend.ai ps'.")
        if len(found) > 1:
            matches = [{"id": str(s.id), "name": s.name, "status": s.status.value} for s in found]
            raise AmbiguousSession(f"{len(found)} sessions match {ref[:80]!r}", matches=matches)
        (session,) = found
        if not allowed(principal, action, session):
            raise Forbidden(f"your role may look at the session {session.name!r}, but no more")
        return session

    async def list(
        self, principal: Principal, *, statuses: frozenset[SessionStatus] | None, limit: int, offset: int
    ) -> SessionPage:
        selection = store.Selection(statuses=statuses)
        items, total = await self._database.read(
            lambda conn: store.page(conn, principal, selection, memo=self._memo, limit=limit, offset=offset)
        )
        return SessionPage(items=tuple(items), total_count=total)

    async def dependency_graph(self, principal: Principal, ref: str) -> Node:
        """What a session depends on, all the way down, as far as the principal may see it. A session that is reached twice is shown
        twice, up to NODES_MAX in all."""
        root = await self._find(principal, ref, Action.SESSION_READ, live_only=False)

        def op(conn: sa.Connection) -> tuple[dict[SessionId, Session], dict[SessionId, list[SessionId]]]:
            known: dict[SessionId, Session] = {root.id: root}
            needs: dict[SessionId, list[SessionId]] = {}
            new = [root.id]
            while new:
                for session_id, found in store.dependencies(conn, new).items():
                    needs[session_id] = [one.id for one in found]
                reached = {one for session_id in new for one in needs[session_id]} - known.keys()
                found_now = store.by_ids(conn, sorted(reached))
                known |= {one.id: one for one in found_now if allowed(principal, Action.SESSION_READ, one)}
                new = sorted(reached & known.keys())
            return known, needs

        known, needs = await self._database.read(op)
        left = NODES_MAX

        def node(session_id: SessionId) -> Node:
            nonlocal left
            shown = []
            for one in needs[session_id]:
                if left > 0 and one in known:
                    left -= 1
                    shown.append(node(one))
            return Node(session=known[session_id], depends_on=tuple(shown))

        return node(root.id)

    async def match(self, principal: Principal, prefix: str) -> Sequence[Session]:
        """The principal's live sessions whose name or id starts like this."""
        return await self._database.read(lambda conn: store.by_prefix(conn, principal.access_key, prefix))

    # -- ending and restarting -----------------------------------------------------------------------------------------------

    async def destroy(self, principal: Principal, ref: str, *, forced: bool = False) -> dict[str, Any]:
        """Ends a session and waits, within limits, for its end; returns the published statistics."""
        (stats,) = await self._destroy(principal, ref, forced=forced, recursive=False)
        return stats

    async def destroy_recursive(
        self, principal: Principal, ref: str, *, forced: bool = False
    ) -> Sequence[dict[str, Any]]:
        """`destroy`, and with it the sessions that wait for this one, as far as the principal may end them; its own statistics come
        first."""
        return await self._destroy(principal, ref, forced=forced, recursive=True)

    async def _destroy(
        self, principal: Principal, ref: str, *, forced: bool, recursive: bool
    ) -> Sequence[dict[str, Any]]:
        session = await self._find(principal, ref, Action.SESSION_END, live_only=True)
        reason = "force-terminated" if forced else "user-requested"

        def may_end(one: Session) -> bool:
            return allowed(principal, Action.SESSION_END, one)

        def op(conn: sa.Connection) -> Sequence[SessionId]:
            now = self._clock.now()
            waiting = filter(may_end, store.dependents(conn, session.id)) if recursive else ()
            ids = [session.id, *(one.id for one in waiting)]
            for session_id in ids:
                current = store.get(conn, session_id)
                if current is not None and not current.status.terminal:
                    self._stop(conn, current, reason, f"Ended by {principal.email}.", forced=forced, now=now)
            return ids

        ids = await self._database.run(op)
        self._wake()
        async with asyncio.TaskGroup() as group:
            waits = [
                group.create_task(self._wait(one, lambda s: s.terminal, self._config.destroy_wait_s))
                for one in ids
            ]
        return [stats_of(wait.result()[0]) for wait in waits]

    def _stop(
        self,
        conn: sa.Connection,
        session: Session,
        reason: str,
        message: str,
        *,
        forced: bool,
        now: datetime,
    ) -> None:
        moved = advance(
            conn,
            session,
            Event.STOP_REQUESTED,
            now=now,
            config=self._config,
            reason=reason,
            detail={"message": message},
        )
        if moved is None and session.requeue is not None:
            # It was ending, to be tried again: now it only ends.
            values = {"requeue": None, "reason": reason, "reason_detail": {"message": message}}
            store.update(conn, session, values)
        if moved is not None and moved.status is SessionStatus.CANCELLED:
            end_kernels(conn, moved, now)
        else:
            stop_kernels(conn, moved or session, reason=reason, forced=forced, now=now)

    async def end_all(self, reason: str, message: str = "The cluster was shut down.") -> int:
        """Ends every live session, for a clean shutdown of the cluster or for maintenance; waits, within limits, and returns how many
        there were."""

        def op(conn: sa.Connection) -> Sequence[SessionId]:
            now = self._clock.now()
            live = store.all_live(conn)
            for session in live:
                self._stop(conn, session, reason, message, forced=False, now=now)
            return [session.id for session in live]

        ids = await self._database.run(op)
        self._wake()
        async with asyncio.TaskGroup() as group:
            for session_id in ids:
                group.create_task(self._wait(session_id, lambda s: s.terminal, self._config.destroy_wait_s))
        return len(ids)

    async def restart(self, principal: Principal, ref: str) -> None:
        """Recreates the containers, keeping the home folder; returns when it runs again. Raises KernelRestartFailed."""
        session = await self._find(principal, ref, Action.SESSION_END, live_only=True)

        def op(conn: sa.Connection) -> bool:
            now = self._clock.now()
            current = store.get(conn, session.id)
            if (
                current is None
                or advance(conn, current, Event.RESTART_REQUESTED, now=now, config=self._config) is None
            ):
                return False
            for kernel in current.kernels:
                values = {
                    "incarnation": kernel.incarnation + 1,
                    "status": "RESTARTING",
                    "status_changed_at": now,
                }
                store.update_kernel(conn, kernel.id, values)
            store.touch_agents(conn, (kernel.agent_id for kernel in current.kernels))
            return True

        if not await self._database.run(op):
            raise InvalidSessionState(
                f"only a running session can be restarted; this one is {session.status.value}",
                status=session.status.value,
            )
        self._forget(session.id)
        self._wake()
        after, _ = await self._wait(session.id, lambda s: s is not SessionStatus.RESTARTING, None)
        if after.status is not SessionStatus.RUNNING:
            raise KernelRestartFailed(
                after.reason_detail.get("message", "it did not come back"), reason=after.reason
            )

    async def modify(
        self, principal: Principal, ref: str, *, name: str | None = None, priority: int | None = None
    ) -> None:
        """Raises InvalidInput, and whatever `rename` raises. A new priority counts while the session waits."""
        if priority is not None:
            check_priority(priority)
            session = await self._find(principal, ref, Action.SESSION_USE, live_only=True)

            def op(conn: sa.Connection) -> bool:
                current = store.get(conn, session.id)
                return current is not None and store.update(conn, current, {"priority": priority})

            if not await self._database.run(op):
                raise Conflict("the session changed meanwhile", hint="Try again.")
            self._wake_enqueued()
        if name is not None:
            await self.rename(principal, ref, name)

    async def rename(self, principal: Principal, ref: str, name: str) -> None:
        """Raises InvalidInput, InvalidSessionState, or SessionExists when a live session has that name."""
        check_session_name(name)
        session = await self._find(principal, ref, Action.SESSION_USE, live_only=True)
        if session.status is not SessionStatus.RUNNING:
            raise InvalidSessionState("only a running session can be renamed", status=session.status.value)

        def op(conn: sa.Connection) -> bool:
            if taken := store.by_name(conn, session.access_key, name, live_only=True):
                raise SessionExists(
                    f"a live session {name!r} exists",
                    hint="Choose another name.",
                    existingSessionId=str(taken[0].id),
                )
            current = store.get(conn, session.id)
            return current is not None and store.rename(conn, current, name)

        if not await self._database.run(op):
            raise Conflict("the session changed meanwhile", hint="Try again.")
        self._forget(session.id)

    # -- a running kernel ----------------------------------------------------------------------------------------------------

    async def execute(
        self,
        principal: Principal,
        ref: str,
        *,
        mode: str,
        code: str,
        run_id: str | None,
        options: Mapping[str, Any],
        flush_s: float = 2.0,
    ) -> rpc.ExecuteReply:
        """One step of a run: query, batch, continue or input. The hot path: no database."""
        if mode not in ("query", "batch", "continue", "input"):
            raise InvalidInput(
                f"unknown mode {mode[:40]!r}", hint="One of query, batch, continue, input.", field="mode"
            )
        if run_id is None:
            if mode in ("continue", "input"):
                raise InvalidInput(f"mode {mode!r} needs the runId of a run", field="runId")
            run_id = f"{self._rng.getrandbits(64):016x}"
        steps = {key: str(options.get(key) or "") for key in STEP_KEYS} if mode == "batch" else {}

        def request(kernel_id: KernelId) -> rpc.Execute:
            return rpc.Execute(
                kernel_id=kernel_id,
                run_id=run_id,
                mode=mode,  # type: ignore[arg-type]
                code=code,
                build_log=bool(options.get("buildLog", False)),
                flush_s=flush_s,
                **steps,
            )

        began = mode in ("query", "batch")
        return await self._call(
            principal, ref, request, rpc.ExecuteReply, timeout_s=flush_s + 3600, counted=began
        )

    async def interrupt(self, principal: Principal, ref: str, run_id: str = "") -> None:
        await self._call(
            principal,
            ref,
            lambda k: rpc.Interrupt(kernel_id=k, run_id=run_id),
            rpc.Done,
            action=Action.SESSION_INTERRUPT,
        )

    async def complete(
        self, principal: Principal, ref: str, code: str, options: Mapping[str, Any]
    ) -> Sequence[str]:
        """Completions at the cursor that `options` gives: row, col, line, post."""
        try:
            row, col = int(options.get("row") or 0), int(options.get("col") or 0)
        except (TypeError, ValueError) as exc:
            raise InvalidInput("row and col are numbers", field="options") from exc
        line, post = str(options.get("line") or ""), str(options.get("post") or "")
        reply = await self._call(
            principal,
            ref,
            lambda k: rpc.Complete(kernel_id=k, code=code, row=row, col=col, line=line, post=post),
            rpc.CompleteReply,
        )
        return reply.completions

    async def upload(self, principal: Principal, ref: str, files: Sequence[rpc.UploadFile]) -> None:
        await self._call(principal, ref, lambda k: rpc.Upload(kernel_id=k, files=list(files)), rpc.Done)

    async def download(self, principal: Principal, ref: str, paths: Sequence[str]) -> Sequence[bytes]:
        """One uncompressed tar for each path."""
        reply = await self._call(
            principal,
            ref,
            lambda k: rpc.Download(kernel_id=k, paths=list(paths), bytes_max=DOWNLOAD_BYTES_MAX),
            rpc.DownloadReply,
        )
        return reply.archives

    async def read_file(self, principal: Principal, ref: str, path: str) -> bytes:
        reply = await self._call(
            principal,
            ref,
            lambda k: rpc.ReadFile(kernel_id=k, path=path, bytes_max=DOWNLOAD_BYTES_MAX),
            rpc.ReadFileReply,
        )
        return reply.content

    async def list_files(self, principal: Principal, ref: str, path: str) -> rpc.ListFilesReply:
        return await self._call(
            principal, ref, lambda k: rpc.ListFiles(kernel_id=k, path=path), rpc.ListFilesReply
        )

    async def apps(self, principal: Principal, ref: str) -> Sequence[ServicePort]:
        """What can be reached in a live session, by `connect`."""
        session = await self._find(principal, ref, Action.SESSION_USE, live_only=True)
        return session.main.service_ports

    async def app_port(self, principal: Principal, ref: str, app: str, port: int | None) -> int:
        """Where an app of a running session listens. Raises AppNotFound, InvalidInput or InvalidSessionState."""
        found = resolve(await self.apps(principal, ref), app, port)
        await self._route(principal, ref)
        return found

    async def connect(self, principal: Principal, ref: str, port: int) -> Stream:
        """A TCP connection into a running session; close it. Raises ServiceRefused when nothing listens there."""
        return await self._open(principal, ref, lambda k: rpc.Connect(kernel_id=k, port=port))

    async def terminal(self, principal: Principal, ref: str, *, rows: int, columns: int) -> Stream:
        """A shell on a new terminal in a running session; close it. It takes frames of `wire.terminal`, and gives what it prints."""
        return await self._open(
            principal, ref, lambda k: rpc.OpenTerminal(kernel_id=k, rows=rows, columns=columns)
        )

    async def _open(
        self, principal: Principal, ref: str, request: Callable[[KernelId], rpc.StreamRequest]
    ) -> Stream:
        route = await self._route(principal, ref)
        return await self._bus.open_stream(
            route.agent_id, request(route.kernel_id), timeout_s=self._config.call_timeout_s
        )

    async def logs(self, principal: Principal, ref: str) -> str:
        """What the session printed; also for one that has ended."""
        session = await self._find(principal, ref, Action.SESSION_USE, live_only=False)
        kernel = session.main
        kept = await self._database.read(lambda conn: store.logs_of(conn, kernel.id))
        if kept is not None or kernel.agent_id is None:
            return kept or ""
        request = rpc.GetLogs(kernel_id=kernel.id, bytes_max=self._config.logs_bytes_max)
        reply = await self._bus.call(
            kernel.agent_id, request, rpc.GetLogsReply, timeout_s=self._config.call_timeout_s
        )
        return reply.text

    async def _call(
        self,
        principal: Principal,
        ref: str,
        request: Callable[[KernelId], rpc.Request],
        reply: type[R],
        *,
        timeout_s: float | None = None,
        counted: bool = False,
        action: Action = Action.SESSION_USE,
    ) -> R:
        # Roles and the domain too: whoever loses them loses what they reached. And no road for one action is taken for another.
        usable = action is Action.SESSION_USE or principal.administers
        key = (principal.access_key, principal.role, principal.domain_name, usable, ref)
        route = self._routes.get(key)
        if route is None:
            route = await self._route(principal, ref, action)
            if len(self._routes) >= ROUTES_MAX:
                self._routes.clear()
            self._routes[key] = route
        limit_s = timeout_s or self._config.call_timeout_s
        if counted:
            self._queries[route.session_id] += 1
        try:
            return await self._bus.call(route.agent_id, request(route.kernel_id), reply, timeout_s=limit_s)
        except AgentUnreachable:
            self._routes.pop(key, None)
            raise

    async def _write_counts(self) -> None:
        """The hot path counts in memory; what a crash takes with it is the counts of some seconds."""
        counts = Counter(self._queries)
        if counts:
            await self._database.run(lambda conn: store.count_queries(conn, counts))
            self._queries -= counts

    async def running(self, principal: Principal, ref: str, action: Action) -> Session:
        """A session that runs. Raises InvalidSessionState, and what `get` raises, or Forbidden."""
        session = await self._find(principal, ref, action, live_only=True)
        if session.status is not SessionStatus.RUNNING or session.main.agent_id is None:
            raise InvalidSessionState(
                f"the session {session.name!r} is {session.status.value}, not RUNNING",
                hint=session.reason_detail.get("message", "") or "Wait until it runs.",
                status=session.status.value,
            )
        return session

    async def _route(self, principal: Principal, ref: str, action: Action = Action.SESSION_USE) -> Route:
        session = await self.running(principal, ref, action)
        kernel = session.main
        assert kernel.agent_id is not None, "it runs"
        return Route(session.id, kernel.id, kernel.agent_id)

    # -- waiting -------------------------------------------------------------------------------------------------------------

    def _on_event(self, event: SessionEvent) -> None:
        self._forget(event.session_id)
        if event.name in SETTLING:
            for signal in self._waiters.get(event.session_id, ()):
                signal.set()

    def _forget(self, session_id: SessionId) -> None:
        for key in [key for key, route in self._routes.items() if route.session_id == session_id]:
            del self._routes[key]

    async def _wait(
        self, session_id: SessionId, done: Callable[[SessionStatus], bool], timeout_s: float | None
    ) -> tuple[Session, bool]:
        """The session once `done` holds, and whether that was in time. Woken by its events, never polled."""
        signal = asyncio.Event()
        in_time = True
        self._waiters.setdefault(session_id, set()).add(signal)
        try:
            async with asyncio.timeout(timeout_s) as limit:
                while not done(await self._database.read(lambda conn: store.status_of(conn, session_id))):
                    await signal.wait()
                    signal.clear()
        except TimeoutError:
            if not limit.expired():
                raise
            in_time = False
        finally:
            waiting = self._waiters[session_id]
            waiting.discard(signal)
            if not waiting:
                del self._waiters[session_id]
        session = await self._database.read(lambda conn: store.get(conn, session_id))
        assert session is not None, "sessions are never deleted"
        return session, in_time


def stats_of(session: Session) -> dict[str, Any]:
    """The published statistics of an ended session (version 2 of their form)."""
    stats = session.main.stats
    if session.status is SessionStatus.CANCELLED:
        return {"status": "cancelled"}
    used_ms = stats.get("cpu_used_us", 0) / 1000
    return {
        "version": 2,
        "status": "terminated" if session.status.terminal else session.status.value.lower(),
        "cpu_used": {"current": f"{used_ms:.3f}", "capacity": "0", "pct": "0.00", "unit_hint": "msec"},
        "mem": {
            "current": str(stats.get("memory_bytes", 0)),
            "capacity": str(session.requested_slots[MEM]),
            "stats.max": str(stats.get("memory_peak_bytes", 0)),
            "pct": "0.00",
            "unit_hint": "bytes",
        },
    }
