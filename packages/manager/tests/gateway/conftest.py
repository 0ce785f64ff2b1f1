"""A real HTTP server on loopback in front of small in-memory services, and a client that signs as published clients do."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
import msgspec
import pytest
from yarl import URL

from ai.backend.common.clock import SystemClock
from ai.backend.common.errors import (
    AgentUnreachable,
    Conflict,
    Forbidden,
    Frozen,
    ImageNotFound,
    InvalidInput,
    KernelCreationFailed,
    KernelError,
    ProjectNotFound,
    QuotaExceeded,
    ServiceRefused,
    SessionNotFound,
    Unauthenticated,
    UserNotFound,
)
from ai.backend.common.ids import AccessKey, AgentId, KernelId, ProjectId, SessionId, UserId
from ai.backend.common.quantity import ResourceSlots
from ai.backend.common.stream import Frame, Stream, StreamEnd
from ai.backend.common.wire import rpc, signature
from ai.backend.gateway.limits import GatewayConfig
from ai.backend.gateway.main import bind, serve
from ai.backend.manager.access.model import Principal, Role
from ai.backend.manager.account.model import Application, Member, Roles, SshKeypair
from ai.backend.manager.agents.model import Agent, AgentStatus
from ai.backend.manager.event.model import Event
from ai.backend.manager.image.model import Image
from ai.backend.manager.login.model import Attempt, TooManyLogins, WebSession
from ai.backend.manager.openid.model import (
    Begun,
    Finished,
    OpenIdOff,
    OpenIdRefused,
    ProviderUnavailable,
    Returned,
)
from ai.backend.manager.session.model import (
    Created,
    Kernel,
    Node,
    Session,
    SessionDraft,
    SessionPage,
    SessionStatus,
    SessionType,
)
from ai.backend.manager.session.port import ServicePort, resolve, service_ports
from ai.backend.manager.setting.model import ManagerState, SlotDetail, Status
from ai.backend.manager.setting.policy import slot_detail

from .commits import FakeCommits
from .service_fakes import FakeCoordinators, FakeTaskLogs

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SLOTS = ResourceSlots({"cpu": 1000, "mem": 1 << 30})


def principal(key: str, role: Role, number: int, rate_limit: int = 100_000) -> Principal:
    return Principal(
        user_id=UserId(UUID(int=number)),
        email=f"{role}@example.com",
        role=role,
        domain_name="default",
        access_key=AccessKey(key),
        is_admin=role is Role.SUPERADMIN,
        rate_limit=rate_limit,
    )


def session(
    name: str, owner: Principal, number: int, status: SessionStatus = SessionStatus.RUNNING
) -> Session:
    kernel = Kernel(
        id=KernelId(UUID(int=1000 + number)),
        session_id=SessionId(UUID(int=number)),
        cluster_role="main",
        cluster_idx=1,
        status=status,
        agent_id=AgentId("agent-1"),
        image_name="cr.example.com/stable/python:3.11",
        image_digest="sha256:00",
        architecture="x86_64",
        image_labels={},
        requested_slots=SLOTS,
        shm_bytes=64 << 20,
        incarnation=1,
        stop_reason="",
        stop_forced=False,
        container_id="c0ffee",
        step="",
        exit_code=None,
        stats={"cpu_used_us": 1500, "memory_bytes": 10},
    )
    return Session(
        id=SessionId(UUID(int=number)),
        name=name,
        session_type=SessionType.INTERACTIVE,
        status=status,
        status_changed_at=NOW,
        status_history={"PENDING": NOW.isoformat(), "RUNNING": NOW.isoformat()},
        deadline_at=None,
        reason="started",
        reason_detail={"message": "It runs.", "hint": "Use it."},
        version=1,
        domain_name="default",
        project_id=ProjectId(UUID(int=7)),
        user_id=owner.user_id,
        access_key=owner.access_key,
        resource_group="default",
        priority=0,
        tag=None,
        requested_slots=SLOTS,
        resource_opts={},
        environ={"A": "1"},
        startup_command=None,
        bootstrap_script="",
        result="UNDEFINED",
        created_at=NOW,
        terminated_at=None,
        kernels=(kernel,),
    )


class FakeIdentity:
    def __init__(self) -> None:
        self.keys = {
            "AKIAUSERUSERUSERUSER": (principal("AKIAUSERUSERUSERUSER", Role.USER, 1), "user-secret"),
            "AKIAROOTROOTROOTROOT": (principal("AKIAROOTROOTROOTROOT", Role.SUPERADMIN, 2), "root-secret"),
            "AKIASLOWSLOWSLOWSLOW": (principal("AKIASLOWSLOWSLOWSLOW", Role.USER, 3, 1), "slow-secret"),
        }

    async def authenticate(self, access_key: str, /) -> tuple[Principal, str]:
        if access_key not in self.keys:
            raise Unauthenticated("Access key not found")
        return self.keys[access_key]

    async def delegate(self, principal: Principal, owner_access_key: str | None, /) -> Principal:
        if owner_access_key in (None, principal.access_key):
            return principal
        if principal.role is not Role.SUPERADMIN:
            raise Forbidden("You cannot act for that owner.")
        if owner_access_key not in self.keys:
            raise InvalidInput("Unknown owner access key")
        return self.keys[owner_access_key][0]


class FakeLogins:
    """One user with a password, whose web session is `WEB`; ten failures of a name, and it is refused. The real ones have tests of their
    own (`test_login.py`)."""

    domain_name = "default"
    WEB = "0123456789abcdef0123456789abcdef"

    def __init__(self, identity: FakeIdentity) -> None:
        self.identity = identity
        self.failed: Counter[str] = Counter()

    async def authorize(self, attempt: Attempt, /) -> tuple[Principal, str]:
        if self.failed[attempt.login] >= 10:
            raise TooManyLogins("Too many failed login attempts.", retry_after_s=7)
        if (attempt.login, attempt.password) != ("user@example.com", "right"):
            self.failed[attempt.login] += 1
            raise Unauthenticated("User credential mismatch.")
        return self.identity.keys["AKIAUSERUSERUSERUSER"]

    async def log_in(self, attempt: Attempt, presented_id: str = "", /) -> WebSession:
        principal, _ = await self.authorize(attempt)
        return WebSession(id=self.WEB, principal=principal, lifetime_s=60)

    async def log_in_by_token(self, text: str, address: str = "", /) -> WebSession:
        raise Unauthenticated("The login token is not valid.")

    async def find(self, session_id: str, /) -> Principal | None:
        return self.identity.keys["AKIAUSERUSERUSERUSER"][0] if session_id == self.WEB else None

    async def log_out(self, session_id: str, /) -> None:
        return None

    async def change_password(
        self, principal: Principal, old: str, new: str, /, *, address: str = "", kept_id: str = ""
    ) -> None:
        return None

    async def change_expired_password(self, attempt: Attempt, new: str, /) -> datetime:
        await self.authorize(attempt)
        return NOW

    async def prepare_totp(self, principal: Principal, /) -> tuple[str, str]:
        return "KEY", "otpauth://totp/x"

    async def activate_totp(self, principal: Principal, code: str, /) -> None:
        return None

    async def remove_totp(self, principal: Principal, email: str = "", /) -> None:
        if email == "missing@example.com":
            raise UserNotFound("no such user of yours")
        if email:
            raise Forbidden("You may remove only your own.")


class FakeOpenId:
    """A provider that is away for a while (`later`), or for ever (`never`)."""

    async def begin(self, base_url: str, next_path: str, /) -> Begun:
        if next_path == "/never":
            raise OpenIdOff("no OpenID provider is configured here")
        if next_path == "/later":
            raise ProviderUnavailable("the OpenID provider can't be reached")
        return Begun(url=base_url + "/authorize", kept="kept", lifetime_s=60)

    async def finish(self, base_url: str, returned: Returned, /) -> Finished:
        await self.begin(base_url, "/" + returned.code)
        if returned.code != "right":
            raise OpenIdRefused("The login at the provider did not work out.")
        who = principal("AKIAUSERUSERUSERUSER", Role.USER, 1)
        return Finished(
            session=WebSession(id=FakeLogins.WEB, principal=who, lifetime_s=60), next_path="/data"
        )


class FakeAccounts:
    pair = SshKeypair(public="ssh-rsa x", private="PEM")

    def __init__(self, identity: FakeIdentity) -> None:
        self.member = Member(principal=identity.keys["AKIAUSERUSERUSERUSER"][0], secret_key="new")

    async def sign_up(self, application: Application, /) -> Member:
        if application.email == "late@example.com":
            raise Forbidden("Signing up is switched off here.")
        return self.member

    async def sign_out(
        self, principal: Principal, email: str, password: str, /, *, address: str = ""
    ) -> None:
        if email != principal.email:
            raise Forbidden("You may do this only with your own account.")

    async def rename(self, principal: Principal, email: str, full_name: str, /) -> None:
        if email != principal.email:
            raise Forbidden("You may do this only with your own account.")

    async def roles(self, principal: Principal, project: str = "", /) -> Roles:
        if project == "missing":
            raise ProjectNotFound("none")
        return Roles(global_role="user", domain_role="user", group_role=None)

    async def ssh_public_key(self, principal: Principal, /) -> str | None:
        return None

    async def renew_ssh_keypair(self, principal: Principal, /) -> SshKeypair:
        return self.pair

    async def set_ssh_keypair(self, principal: Principal, public: str, private: str, /) -> SshKeypair:
        return self.pair


@dataclass
class FakeSessions:
    """`missing` is nowhere, `faraway` is on an agent that does not answer, `changed` changes under one's hands."""

    rows: dict[str, Session]
    drafts: list[tuple[Principal, SessionDraft]] = field(default_factory=list)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    uploads: list[rpc.UploadFile] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    code: str = ""
    inside: list[StreamEnd] = field(default_factory=list)
    """The other ends of all streams."""

    def _row(self, ref: str, *, kernel: bool = False) -> Session:
        if ref == "faraway" and kernel:
            raise AgentUnreachable("the agent does not answer")
        for row in self.rows.values():
            if ref in (row.name, str(row.id)):
                return row
        raise SessionNotFound(f"no session {ref!r}")

    async def create(self, principal: Principal, draft: SessionDraft, /) -> Created:
        self.drafts.append((principal, draft))
        match draft.image:
            case "nowhere":
                raise ImageNotFound("no image 'nowhere'", hint="Known images: python.")
            case "too-many":
                raise QuotaExceeded("You may have 1 session.", limit=1)
            case "broken":
                raise KernelCreationFailed("It did not start.", hint="Look at its log.")
            case "crash":
                raise RuntimeError("secret detail")
            case "blocked":
                await self.gate.wait()
        made = session(draft.name, principal, 500 + len(self.drafts))
        self.rows[draft.name] = made
        self.finished.set()
        return Created(session=made, created=True, waited_out=draft.max_wait_s == 1)

    async def get(self, principal: Principal, ref: str, /, *, live_only: bool = True) -> Session:
        return self._row(ref)

    async def list(
        self, principal: Principal, /, *, statuses: frozenset[SessionStatus] | None, limit: int, offset: int
    ) -> SessionPage:
        found = [row for row in self.rows.values() if statuses is None or row.status in statuses]
        return SessionPage(items=tuple(found[offset : offset + limit]), total_count=len(found))

    async def match(self, principal: Principal, prefix: str, /) -> Sequence[Session]:
        return [row for row in self.rows.values() if row.name.startswith(prefix)]

    async def destroy(self, principal: Principal, ref: str, /, *, forced: bool = False) -> dict[str, Any]:
        self.calls.append(("destroy", principal.access_key, self._row(ref).name, forced))
        return {"version": 2, "status": "terminated"}

    async def destroy_recursive(
        self, principal: Principal, ref: str, /, *, forced: bool = False
    ) -> Sequence[dict[str, Any]]:
        return [await self.destroy(principal, ref, forced=forced), {"status": "cancelled"}]

    async def dependency_graph(self, principal: Principal, ref: str, /) -> Node:
        return Node(session=self._row(ref), depends_on=())

    async def restart(self, principal: Principal, ref: str, /) -> None:
        self.calls.append(("restart", self._row(ref).name))

    async def rename(self, principal: Principal, ref: str, name: str, /) -> None:
        self.calls.append(("rename", self._row(ref).name, name))
        if ref == "changed":
            raise Conflict("the session changed meanwhile")

    async def logs(self, principal: Principal, ref: str, /) -> str:
        self._row(ref, kernel=True)
        return "hello\n"

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
    ) -> rpc.ExecuteReply:
        self._row(ref, kernel=True)
        self.calls.append(("execute", mode, code, run_id, dict(options), principal.access_key))
        run = run_id or "fresh-run"
        if mode in ("query", "batch"):
            self.code = code
        if mode == "input":
            return self._end(run, f"you said {code}\n")
        match self.code:
            case "ask":
                return rpc.ExecuteReply(
                    run_id=run, status="waiting-input", is_password=True, console=[("stdout", "who? ")]
                )
            case "long" if not self.stopped.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopped.wait(), 0.02)
                return rpc.ExecuteReply(run_id=run, status="continued")
            case "image":
                console: list[Any] = [("media", ("image/png", "data:")), ("stderr", "oops")]
                return rpc.ExecuteReply(run_id=run, status="finished", exit_code=1, console=console)
        if mode == "batch":
            self.code = ""
            return rpc.ExecuteReply(run_id=run, status="build-finished", exit_code=0)
        return self._end(run, "1\n")

    def _end(self, run: str, text: str) -> rpc.ExecuteReply:
        self.finished.set()
        return rpc.ExecuteReply(run_id=run, status="finished", exit_code=0, console=[("stdout", text)])

    async def interrupt(self, principal: Principal, ref: str, run_id: str = "", /) -> None:
        self._row(ref, kernel=True)
        self.calls.append(("interrupt", run_id))
        self.stopped.set()

    async def complete(
        self, principal: Principal, ref: str, code: str, options: Mapping[str, Any], /
    ) -> Sequence[str]:
        self._row(ref, kernel=True)
        return [f"{code}int", "printf"]

    async def upload(self, principal: Principal, ref: str, files: Sequence[rpc.UploadFile], /) -> None:
        self._row(ref, kernel=True)
        self.uploads.extend(files)

    async def download(self, principal: Principal, ref: str, paths: Sequence[str], /) -> Sequence[bytes]:
        self._row(ref, kernel=True)
        return [f"tar of {path}".encode() for path in paths]

    async def read_file(self, principal: Principal, ref: str, path: str, /) -> bytes:
        self._row(ref, kernel=True)
        return f"content of {path}".encode()

    async def list_files(self, principal: Principal, ref: str, path: str, /) -> rpc.ListFilesReply:
        self._row(ref, kernel=True)
        entry = rpc.FileEntry(mode="-rw-r--r--", size=3, ctime=1.0, mtime=1.0, atime=1.0, filename="a.txt")
        return rpc.ListFilesReply(abspath=path, files=[entry])

    async def apps(self, principal: Principal, ref: str, /) -> Sequence[ServicePort]:
        self._row(ref)
        return service_ports("web:http:8080,odd:tcp:[8081,8082]", [3000])

    async def app_port(self, principal: Principal, ref: str, app: str, port: int | None, /) -> int:
        return resolve(await self.apps(principal, ref), app, port)

    async def connect(self, principal: Principal, ref: str, port: int, /) -> Stream:
        """8081 refuses, 8082 fails."""
        self._row(ref, kernel=True)
        self.calls.append(("connect", port, principal.access_key))
        if port == 8081:
            raise ServiceRefused("nothing listens on port 8081")
        if port == 8082:
            raise KernelError("it broke")
        return self._stream()

    async def terminal(self, principal: Principal, ref: str, /, *, rows: int, columns: int) -> Stream:
        self._row(ref, kernel=True)
        self.calls.append(("terminal", rows, columns))
        return self._stream()

    def _stream(self) -> Stream:
        def inwards(frame: Frame) -> None:
            inside.take(frame)

        outside = StreamEnd(inwards)
        inside = StreamEnd(outside.take)
        self.inside.append(inside)
        return outside


class FakeEvents:
    def __init__(self) -> None:
        self.past: list[Event] = []
        self.readers: list[asyncio.Queue[Event | Exception]] = []
        self.asked: list[dict[str, Any]] = []

    def publish(self, name: str, session_id: UUID, **payload: Any) -> None:
        event = Event(
            id=len(self.past) + 1,
            created_at=NOW,
            name=name,
            session_id=SessionId(session_id),
            payload={"domainName": "default", **payload},
        )
        self.past.append(event)
        for reader in self.readers:
            reader.put_nowait(event)

    async def watch(self, principal: Principal, /, **asked: Any) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.asked.append(asked)
        self.readers.append(queue)
        try:
            if asked["after"] is not None:
                for event in self.past[asked["after"] :]:
                    yield event
            while True:
                found = await queue.get()
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            self.readers.remove(queue)


class FakeAgents:
    counted = 0

    async def list(self, principal: Principal, /) -> Sequence[Agent]:
        if principal.role is not Role.SUPERADMIN:
            raise Forbidden("only administrators may list agents")
        agent = Agent(
            id=AgentId("agent-1"),
            status=AgentStatus.ALIVE,
            resource_group="default",
            schedulable=True,
            generation=1,
            started_at_us=1,
            sequence=1,
            last_seen_at=NOW,
            first_contact_at=NOW,
            status_changed_at=NOW,
            lost_at=None,
            region="local",
            capacity=SLOTS,
            occupied=ResourceSlots(),
            architecture="x86_64",
            backend="sandbox",
            version="0.1.0",
            address="here",
            healthy=False,
            problem="disk is full",
            images=frozenset(),
        )
        return [agent]

    async def count_alive(self) -> int:
        self.counted += 1
        return 3


class FakeImages:
    async def list(self, principal: Principal, /) -> Sequence[Image]:
        return [
            Image(
                name="python:3.11", architecture="x86_64", digest="sha256:0", size_bytes=5, labels={"a": "b"}
            )
        ]


class FakeSettings:
    """Freezes when told. The calls about settings are tested with a real manager (`tests/rest`)."""

    frozen = False

    async def refuse_when_frozen(self) -> None:
        if self.frozen:
            raise Frozen("the cluster is frozen for maintenance")

    async def status(self) -> Status:
        return Status(state=ManagerState.RUNNING, active_sessions=0, announcement="")

    async def slots(self, resource_group: str | None = None, /) -> Sequence[SlotDetail]:
        return [slot_detail("cpu"), slot_detail("mem")]


class FakeManager:
    def __init__(self) -> None:
        self.clock = SystemClock()
        self.identity = FakeIdentity()
        self.logins = FakeLogins(self.identity)
        self.accounts = FakeAccounts(self.identity)
        self.openid = FakeOpenId()
        owner = self.identity.keys["AKIAUSERUSERUSERUSER"][0]
        rows = {
            name: session(name, owner, n)
            for n, name in enumerate(("mysess", "faraway", "changed", "create"), 1)
        }
        ended = session("ended", owner, 9, SessionStatus.TERMINATED)
        rows["ended"] = replace(ended, terminated_at=NOW + timedelta(seconds=2))
        self.sessions = FakeSessions(rows)
        self.task_logs = FakeTaskLogs(self.sessions)
        self.commits = FakeCommits(self.sessions)
        self.coordinators = FakeCoordinators(self.sessions)
        self.events = FakeEvents()
        self.agents = FakeAgents()
        self.images = FakeImages()
        self.settings = FakeSettings()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


SECRETS = {
    "user": ("AKIAUSERUSERUSERUSER", "user-secret"),
    "root": ("AKIAROOTROOTROOTROOT", "root-secret"),
    "slow": ("AKIASLOWSLOWSLOWSLOW", "slow-secret"),
    "stranger": ("AKIANOBODYNOBODYNOBO", "x"),
    "liar": ("AKIAUSERUSERUSERUSER", "wrong"),
}


class Client:
    def __init__(self, manager: FakeManager, http: aiohttp.ClientSession, authority: str) -> None:
        self.manager = manager
        self.http = http
        self.authority = authority

    def signed(
        self,
        method: str,
        target: str,
        *,
        key: str = "user",
        content_type: str = "",
        version: str = "v8.20240915",
        date_header: str = "Date",
        date: str | None = None,
        host: str | None = None,
        body: bytes = b"",
        prefix: str = "X-BackendAI",
    ) -> dict[str, str]:
        access_key, secret = SECRETS[key]
        when = datetime.now(UTC) if date is None else datetime.fromisoformat(date)
        date = date or when.isoformat()
        text = signature.string_to_sign(
            method=method,
            target=target,
            date=date,
            host=host or self.authority,
            content_type=content_type,
            version=version,
            body=body,
            version_header=f"{prefix.lower()}-version",
        )
        proof = signature.sign(secret, when, host or self.authority, text)
        return {
            date_header: date,
            f"{prefix}-Version": version,
            "Authorization": signature.authorization(access_key, proof),
        }

    def url(self, target: str, scheme: str = "http") -> URL:
        return URL(f"{scheme}://{self.authority}{target}", encoded=True)

    async def call(
        self,
        method: str,
        target: str,
        json: Any = None,
        *,
        key: str | None = "user",
        body: bytes | None = None,
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
        form: aiohttp.FormData | None = None,
        **sign: Any,
    ) -> Answer:
        if json is not None:
            body, content_type = msgspec.json.encode(json), content_type or "application/json"
        content_type = content_type or ("multipart/form-data" if form else "text/plain")
        all_headers = {} if form else {"Content-Type": content_type}
        if key is not None:
            sign.setdefault("body", body or b"")
            all_headers |= self.signed(method, target, key=key, content_type=content_type, **sign)
        all_headers |= headers or {}
        request = self.http.request(
            method, self.url(target), data=form or body, headers=all_headers, allow_redirects=False
        )
        async with request as response:
            return Answer(response.status, response.headers, await response.read())

    def stream(self, target: str, *, key: str = "user") -> Any:
        return self.http.ws_connect(self.url(target, "ws"), headers=self.signed("GET", target, key=key))

    def watch(self, target: str, headers: Mapping[str, str] | None = None) -> Any:
        signed = self.signed("GET", target) | dict(headers or {})
        return self.http.get(self.url(target), headers=signed, skip_auto_headers=["Content-Type"])


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    manager = FakeManager()
    listener = bind("127.0.0.1", 0)
    host, port = listener.getsockname()
    ready = asyncio.Event()
    serving = asyncio.create_task(
        serve(manager, listener, ready=ready, config=GatewayConfig(shutdown_timeout_s=1))
    )
    await ready.wait()
    async with aiohttp.ClientSession() as http:
        yield Client(manager, http, f"{host}:{port}")
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
