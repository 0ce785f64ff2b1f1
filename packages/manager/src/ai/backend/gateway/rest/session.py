"""The session calls: decode, call the service, encode. No decision is made here."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler
from msgspec import structs

from ai.backend.common.errors import InvalidInput
from ai.backend.common.quantity import ResourceSlots
from ai.backend.common.wire.rest import session as wire
from ai.backend.manager.session.model import (
    Created,
    Node,
    Session,
    SessionDraft,
    SessionStatus,
    SessionType,
)

from ..call import AnyRequest, begin, empty, reply
from ..limits import LIST_ITEMS_MAX
from ..openapi import Operation

SESSION = (403, 404)
KEPT_MAX = 4096
T = TypeVar("T")


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(tag="session", **fields)}


def draft_of(form: wire.CreateSession) -> SessionDraft:
    """Raises InvalidInput for a value that is none, and for what this server would have to ignore though it changes the meaning."""
    config = form.config
    if config.mounts or config.mount_map:
        raise InvalidInput(
            "config.mounts is not supported by this server", hint="Leave it out.", field="config.mounts"
        )
    try:
        session_type = SessionType(form.type.lower())
    except ValueError:
        known = ", ".join(SessionType)
        raise InvalidInput(
            f"no session type {form.type[:40]!r}", hint=f"One of {known}.", field="type"
        ) from None
    return SessionDraft(
        name=form.name,
        image=form.image,
        architecture=form.architecture,
        session_type=session_type,
        domain_name=form.domain,
        project=form.group,
        resource_group=config.resource_group or None,
        resources=config.resources,
        resource_opts=config.resource_opts,
        environ=config.environ,
        cluster_size=config.cluster_size or form.cluster_size,
        cluster_mode=form.cluster_mode or "single-node",
        agent_list=tuple(config.agent_list),
        preopen_ports=tuple(config.preopen_ports),
        tag=form.tag,
        startup_command=form.startup_command,
        batch_timeout=form.batch_timeout,
        starts_at=form.starts_at or None,
        dependencies=tuple(form.dependencies),
        callback_url=form.callback_url or None,
        bootstrap_script=form.bootstrap_script,
        reuse=form.reuse_if_exists,
        enqueue_only=form.enqueue_only,
        max_wait_s=form.max_wait_seconds,
        owner_access_key=form.owner_access_key or None,
        priority=form.priority,
        job_priority=form.job_priority,
        preemptible=form.is_preemptible,
    )


def created_reply(made: Created) -> wire.SessionCreated:
    session = made.session
    return wire.SessionCreated(
        session_id=str(session.id),
        session_name=session.name,
        status="TIMEOUT" if made.waited_out else session.status.value,
        created=made.created,
        service_ports=[service.as_row() for service in session.main.service_ports],
        kernel_id=session.name,
        sess_id=session.name,
    )


def _iso(when: datetime | None) -> str | None:
    return when.isoformat() if when else None


def _detail(session: Session, key: str) -> str:
    return str(session.reason_detail.get(key) or "")


def item_of(session: Session) -> wire.SessionItem:
    main = session.main
    return wire.SessionItem(
        id=str(session.id),
        name=session.name,
        status=session.status.value,
        reason=session.reason,
        message=_detail(session, "message"),
        hint=_detail(session, "hint"),
        image=main.image_name,
        architecture=main.architecture,
        type=session.session_type.value,
        domain=session.domain_name,
        project=str(session.project_id),
        user=str(session.user_id),
        access_key=session.access_key,
        resource_group=session.resource_group,
        agent=main.agent_id,
        tag=session.tag,
        cluster_size=len(session.kernels),
        requested_slots=session.requested_slots.texts(),
        result=session.result,
        created_at=session.created_at.isoformat(),
        terminated_at=_iso(session.terminated_at),
        exit_code=main.exit_code,
    )


class _Kept(Generic[T]):
    """What `make` made of sessions. Unchanged sessions are the same object at the next look, and most are unchanged."""

    def __init__(self, make: Callable[[Session], T]) -> None:
        self._make = make
        self._known: dict[int, tuple[Session, T]] = {}

    def __call__(self, session: Session) -> T:
        known = self._known.get(id(session))
        if known is None or known[0] is not session:
            if len(self._known) >= KEPT_MAX:
                del self._known[next(iter(self._known))]
            known = self._known[id(session)] = (session, self._make(session))
        return known[1]


_encoded_item = _Kept(lambda session: msgspec.Raw(msgspec.json.encode(item_of(session))))


def last_stat(stats: dict[str, int]) -> dict[str, Any] | None:
    """The published form of a kernel's newest measurements."""
    if not stats:
        return None
    used_ms = stats.get("cpu_used_us", 0) / 1000
    memory = str(stats.get("memory_bytes", 0))
    peak = str(stats.get("memory_peak_bytes", 0))
    return {
        "cpu_used": {"current": f"{used_ms:.3f}", "unit_hint": "msec"},
        "mem": {"current": memory, "stats.max": peak, "unit_hint": "bytes"},
    }


def info_of(session: Session, now: datetime) -> wire.SessionInfo:
    age = (session.terminated_at or now) - session.created_at
    return structs.replace(_lasting_info(session), age=int(age.total_seconds() * 1000))


def _info_but_age(session: Session) -> wire.SessionInfo:
    main = session.main
    first, _, rest = main.image_name.partition("/")
    occupied = session.requested_slots if session.status.occupying else ResourceSlots()
    return wire.SessionInfo(
        id=str(session.id),
        name=session.name,
        domain_name=session.domain_name,
        group_id=str(session.project_id),
        user_id=str(session.user_id),
        lang=main.image_name,
        image=main.image_name,
        architecture=main.architecture,
        registry=first if rest and ("." in first or ":" in first) else "",
        tag=session.tag,
        container_id=main.container_id,
        occupied_slots=str(occupied.texts()),
        occupying_slots=str(occupied.texts()),
        requested_slots=str(session.requested_slots.texts()),
        occupied_shares="{}",
        environ=str(session.environ),
        resource_opts=str(session.resource_opts),
        status=session.status.value,
        status_info=session.reason,
        status_data=session.reason_detail or None,
        age=0,
        creation_time=session.created_at.isoformat(),
        termination_time=_iso(session.terminated_at),
        num_queries_executed=session.num_queries,
        last_stat=last_stat(main.stats),
        idle_checks={},
        reason=session.reason,
        message=_detail(session, "message"),
        hint=_detail(session, "hint"),
        priority=session.priority,
        job_priority=session.job_priority,
        is_preemptible=session.preemptible,
    )


_lasting_info = _Kept(_info_but_age)


def statuses_of(text: str | None) -> frozenset[SessionStatus] | None:
    """Statuses from a comma-separated list. Raises InvalidInput."""
    words = [word.strip().upper() for word in (text or "").split(",") if word.strip()]
    try:
        return frozenset(map(SessionStatus, words)) or None
    except ValueError as exc:
        known = ", ".join(SessionStatus)
        raise InvalidInput(f"{str(exc)[:60]} of sessions", hint=f"One of {known}.", field="status") from None


@post(
    "/session",
    opt=_opt(
        summary="Create a session",
        description="Waits until it runs, unless `enqueueOnly`. A live session of yours with the same name and image is returned "
        "instead of making another, unless `reuseIfExists` is false. If you disconnect while waiting, the session stays.",
        form=wire.CreateSession,
        form_in="body",
        reply=wire.SessionCreated,
        status=201,
        refusals=(403, 404, 412, 500, 503),
    ),
)
async def create_session(request: AnyRequest) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.CreateSession)
    return reply(created_reply(await manager.sessions.create(principal, draft_of(form))), 201)


@get(
    "/session",
    opt=_opt(
        summary="List sessions",
        description="Your own; administrators see those of their domain, superadministrators all. Newest first.",
        form=wire.ListSessions,
        reply=wire.SessionPage,
        refusals=(403,),
    ),
)
async def list_sessions(request: AnyRequest) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.ListSessions)
    if not 1 <= form.limit <= LIST_ITEMS_MAX:
        raise InvalidInput(f"limit is 1 to {LIST_ITEMS_MAX}, not {form.limit}", field="limit")
    if form.offset < 0:
        raise InvalidInput(f"offset is 0 or more, not {form.offset}", field="offset")
    statuses = statuses_of(form.status)
    page = await manager.sessions.list(principal, statuses=statuses, limit=form.limit, offset=form.offset)
    return reply({"items": list(map(_encoded_item, page.items)), "total_count": page.total_count})


@get(
    "/session/_/match",
    opt=_opt(
        summary="Find live sessions by the beginning of their name or id",
        form=wire.MatchSessions,
        reply=wire.Matches,
        refusals=(403,),
    ),
)
async def match_sessions(request: AnyRequest) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.MatchSessions)
    found = await manager.sessions.match(principal, form.id)
    return reply(
        wire.Matches(matches=[wire.Match(id=str(s.id), name=s.name, status=s.status.value) for s in found])
    )


@get(
    "/session/{name:str}",
    opt=_opt(
        summary="Show a session",
        description="`reason`, `message` and `hint` say why it is in its status and what to do.",
        form=wire.GetSession,
        reply=wire.SessionInfo,
        refusals=SESSION,
    ),
)
async def get_session(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, _ = await begin(request, wire.GetSession)
    session = await manager.sessions.get(principal, name)
    return reply(info_of(session, manager.clock.now()))


@patch(
    "/session/{name:str}",
    opt=_opt(
        summary="Restart a session",
        description="Makes its containers anew and keeps the home folder; answers when it runs again.",
        form=wire.GetSession,
        status=204,
        refusals=(*SESSION, 503),
    ),
)
async def restart_session(request: AnyRequest, name: FromPath[str]) -> Response[None]:
    manager, principal, _ = await begin(request, wire.GetSession)
    await manager.sessions.restart(principal, name)
    return empty()


@delete(
    "/session/{name:str}",
    status_code=200,
    opt=_opt(
        summary="End a session",
        description="Waits, within limits, for its end. One that has not started yet is cancelled. With `recursive` the sessions that "
        "depend on it are ended too, and the answer is an array of the statistics of all, its own first.",
        form=wire.DestroySession,
        reply=wire.SessionStats,
        refusals=SESSION,
        while_frozen=True,
    ),
)
async def destroy_session(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.DestroySession)
    if form.recursive:
        return reply(await manager.sessions.destroy_recursive(principal, name, forced=form.forced))
    return reply(wire.SessionStats(stats=await manager.sessions.destroy(principal, name, forced=form.forced)))


@post(
    "/session/{name:str}/rename",
    opt=_opt(
        summary="Rename a running session",
        form=wire.RenameSession,
        status=204,
        refusals=(403, 404, 409, 503),
    ),
)
async def rename_session(request: AnyRequest, name: FromPath[str]) -> Response[None]:
    manager, principal, form = await begin(request, wire.RenameSession)
    await manager.sessions.rename(principal, name, form.name)
    return empty()


@get(
    "/session/{name:str}/status-history",
    opt=_opt(
        summary="When a session reached each status",
        form=wire.GetSession,
        reply=wire.StatusHistory,
        refusals=SESSION,
    ),
)
async def get_status_history(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, _ = await begin(request, wire.GetSession)
    session = await manager.sessions.get(principal, name, live_only=False)
    both = {
        spelled: when
        for status, when in session.status_history.items()
        for spelled in (status.upper(), status.lower())
    }
    return reply(wire.StatusHistory(result=both))


def node_of(node: Node) -> wire.DependencyNode:
    session = node.session
    changed = session.status_changed_at.replace(tzinfo=None)
    return wire.DependencyNode(
        session_id=str(session.id),
        # Published clients show the last piece but one between dashes, and stop at a name that has no dash.
        session_name=session.name if "-" in session.name else f"{session.name}-",
        status=f"KernelStatus.{session.status.value}",
        status_changed=str(changed),
        depends_on=[node_of(one) for one in node.depends_on],
    )


@get(
    "/session/{name:str}/dependency-graph",
    opt=_opt(
        summary="What a session depends on",
        description="A tree: a session that is reached in two ways is in it twice.",
        form=wire.GetSession,
        reply=wire.DependencyNode,
        refusals=SESSION,
    ),
)
async def get_dependency_graph(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, _ = await begin(request, wire.GetSession)
    return reply(node_of(await manager.sessions.dependency_graph(principal, name)))


@get(
    "/session/{name:str}/abusing-report",
    opt=_opt(
        summary="What the abuse detection says of a session",
        description="Nothing: there is no such detection here.",
        form=wire.GetSession,
        reply=wire.AbuseReport,
        refusals=SESSION,
    ),
)
async def get_abusing_report(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, _ = await begin(request, wire.GetSession)
    await manager.sessions.get(principal, name)
    return reply(wire.AbuseReport())


@get(
    "/session/{name:str}/commit",
    opt=_opt(
        summary="Whether an image is being made of a session",
        form=wire.GetSession,
        reply=wire.CommitStatus,
        refusals=SESSION,
    ),
)
async def get_commit_status(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, _ = await begin(request, wire.GetSession)
    session, ongoing = await manager.commits.status(principal, name)
    return reply(wire.CommitStatus(status="ongoing" if ongoing else "ready", kernel=str(session.main.id)))


@post(
    "/session/{name:str}/commit",
    opt=_opt(
        summary="Write a running session as an archive",
        description="The container's file system and the home folder, without mounted folders, keys and dotfiles, as an image in the "
        "form of `docker save`, gzipped, into the folder of its node that the agent's `commit-dir` names. The task tells how far it "
        "is (`/events/background-task`); it fails when the session ends meanwhile.",
        form=wire.CommitSession,
        reply=wire.CommitBegun,
        status=201,
        refusals=(*SESSION, 400, 409, 503),
    ),
)
async def commit_session(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.CommitSession)
    begun = await manager.commits.commit(principal, name, form.filename)
    answer = wire.CommitBegun(bgtask_id=str(begun.task_id), kernel=str(begun.kernel_id), path=begun.result)
    return reply(answer, 201)


@post(
    "/session/{name:str}/imagify",
    opt=_opt(
        summary="Make a running session into an image of your own",
        description="As `commit`, but the node keeps it, and sessions of yours can be started from it, by its name alone or by `image`.",
        form=wire.ImagifySession,
        reply=wire.ImagifyBegun,
        status=201,
        refusals=(*SESSION, 400, 409, 412, 503),
    ),
)
async def imagify_session(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.ImagifySession)
    begun = await manager.commits.imagify(
        principal, name, form.image_name, form.image_visibility, form.image_owner_id
    )
    return reply(wire.ImagifyBegun(task_id=str(begun.task_id), image=begun.result), 201)


ROUTES: tuple[ControllerRouterHandler, ...] = (
    create_session,
    list_sessions,
    match_sessions,
    get_session,
    restart_session,
    destroy_session,
    rename_session,
    get_status_history,
    get_dependency_graph,
    get_abusing_report,
    get_commit_status,
    commit_session,
    imagify_session,
)
