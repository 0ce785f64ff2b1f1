"""Requests and replies of the session calls, as they are on the wire. Field names are camelCase there unless stated."""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from .form import Form, OwnedForm

SlotAmounts = dict[str, str | int | float]


class Reply(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Root of replies."""


class CreateConfig(Form, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"scalinggroup": "resourceGroup"}

    environ: Annotated[dict[str, str], Meta(description="Environment variables inside the session.")] = (
        msgspec.field(default_factory=dict)
    )
    resources: Annotated[
        SlotAmounts,
        Meta(description='Amounts by slot: `{"cpu": 1, "mem": "1g"}`. What is missing comes from the image.'),
    ] = msgspec.field(default_factory=dict)
    resource_opts: Annotated[
        SlotAmounts,
        Meta(
            description="`shmem`: size of the shared memory; `device_models`: models of accelerators that will do, with commas."
        ),
    ] = msgspec.field(default_factory=dict, name="resource_opts")
    resource_group: Annotated[
        str | None, Meta(description="Where to run; also accepted as `scalingGroup`.")
    ] = None
    cluster_size: int | None = None
    mounts: list[Any] = msgspec.field(default_factory=list)
    mount_map: dict[str, Any] = msgspec.field(default_factory=dict, name="mount_map")
    preopen_ports: list[Any] = msgspec.field(default_factory=list, name="preopen_ports")
    agent_list: list[str] = msgspec.field(default_factory=list)


class CreateSession(OwnedForm, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {
        "sessionname": "name",
        "clientsessiontoken": "name",
        "lang": "image",
        "arch": "architecture",
        "sessiontype": "type",
        "groupname": "group",
        "project": "group",
        "domainname": "domain",
    }

    name: Annotated[
        str, Meta(description="4 to 64 letters, digits, `_`, `.`, `-`; unique among your live sessions.")
    ]
    image: Annotated[str, Meta(description="An image name or a short form of it, such as `python:3.11`.")]
    architecture: str = "x86_64"
    type: Annotated[str, Meta(description="`interactive`, `batch` or `inference`.")] = "interactive"
    group: Annotated[str, Meta(description="Project, by name or id.")] = "default"
    domain: str = "default"
    cluster_size: Annotated[int, Meta(description="Number of containers.")] = 1
    cluster_mode: str = "single-node"
    tag: str | None = None
    enqueue_only: Annotated[bool, Meta(description="Answer at once instead of waiting until it runs.")] = (
        False
    )
    max_wait_seconds: Annotated[
        float, Meta(description="How long to wait until it runs; 0 is as long as it takes.")
    ] = 0
    reuse_if_exists: Annotated[
        bool, Meta(description="Return the live session of that name, if it has the same image.")
    ] = True
    startup_command: Annotated[str | None, Meta(description="What a batch session runs.")] = None
    batch_timeout: Annotated[
        str | float | None,
        Meta(description="Ends the command of a batch session: seconds, or text such as `1h`."),
    ] = msgspec.field(default=None, name="batch_timeout")
    bootstrap_script: str | None = msgspec.field(default=None, name="bootstrap_script")
    starts_at: Annotated[
        str | None, Meta(description="When a batch session starts: ISO 8601, or from now, such as `1h`.")
    ] = msgspec.field(default=None, name="starts_at")
    dependencies: Annotated[
        list[str], Meta(description="Sessions, by name or id, that have to succeed first.")
    ] = msgspec.field(default_factory=list)
    callback_url: Annotated[
        str | None, Meta(description="Told of each event of the session by a POST; once, within 30 s.")
    ] = msgspec.field(default=None, name="callback_url")
    priority: Annotated[
        int | None,
        Meta(description="0 to 100: its place in the queue, 10 if nothing is said; the highest is first."),
    ] = None
    job_priority: Annotated[
        int,
        Meta(
            description="-100 to 100: where its resource group preempts, it may take the place of sessions of a lower one. "
            "Above 0 for administrators of a domain only."
        ),
    ] = msgspec.field(default=0, name="job_priority")
    is_preemptible: Annotated[
        bool, Meta(description="Whether sessions of a higher job priority may take its place.")
    ] = msgspec.field(default=True, name="is_preemptible")
    config: CreateConfig = CreateConfig()


class SessionCreated(Reply, frozen=True, kw_only=True):
    session_id: str
    session_name: str
    status: Annotated[
        str, Meta(description="`PENDING`, `RUNNING`, ...; `TIMEOUT` when `maxWaitSeconds` passed first.")
    ]
    created: Annotated[bool, Meta(description="False when a live session was returned instead.")]
    service_ports: list[dict[str, Any]] = []
    kernel_id: Annotated[str, Meta(description="The session's name, for clients of the year 2018.")]
    sess_id: str


class ListSessions(OwnedForm, frozen=True, kw_only=True):
    status: Annotated[
        str | None, Meta(description="Statuses, separated by commas; none means all of them.")
    ] = None
    limit: Annotated[int, Meta(description="1 to 100.")] = 50
    offset: int = 0


class SessionItem(Reply, frozen=True, kw_only=True):
    id: str
    name: str
    status: str
    reason: Annotated[str, Meta(description="A stable word for why it is in this status.")]
    message: Annotated[str, Meta(description="The reason in a sentence, with numbers.")]
    hint: Annotated[str, Meta(description="What to do about it.")]
    image: str
    architecture: str
    type: str
    domain: str
    project: str
    user: str
    access_key: str
    resource_group: str
    agent: str | None
    tag: str | None
    cluster_size: int
    requested_slots: dict[str, str]
    result: str
    created_at: str
    terminated_at: str | None
    exit_code: int | None


class SessionPage(Reply, frozen=True, kw_only=True):
    items: list[SessionItem]
    total_count: int = msgspec.field(name="total_count")


class GetSession(OwnedForm, frozen=True, kw_only=True):
    """Nothing but whom to act as."""


class SessionInfo(Reply, frozen=True, kw_only=True):
    """Mappings in text form (`occupiedSlots` and the like) are for people; `requestedSlots` of the list is for programs."""

    id: str
    name: str
    domain_name: str
    group_id: str
    user_id: str
    lang: str
    image: str
    architecture: str
    registry: str
    tag: str | None
    container_id: str
    occupied_slots: str
    occupying_slots: str
    requested_slots: str
    occupied_shares: str
    environ: str
    resource_opts: str
    status: str
    status_info: str
    status_data: dict[str, Any] | None
    age: Annotated[int, Meta(description="Milliseconds since its creation.")]
    creation_time: str
    termination_time: str | None
    num_queries_executed: int
    last_stat: dict[str, Any] | None
    idle_checks: dict[str, Any]
    reason: str
    message: str
    hint: str
    priority: int = 10
    job_priority: int = msgspec.field(default=0, name="job_priority")
    is_preemptible: bool = msgspec.field(default=True, name="is_preemptible")


class DestroySession(OwnedForm, frozen=True, kw_only=True):
    forced: Annotated[bool, Meta(description="Kill at once, and in any status.")] = False
    recursive: bool = False


class SessionStats(Reply, frozen=True, kw_only=True):
    stats: Annotated[dict[str, Any], Meta(description="`status` and, in version 2, what was used.")]


class ExecuteCode(OwnedForm, frozen=True, kw_only=True):
    mode: Annotated[str | None, Meta(description="`query`, `batch`, `continue`, `input` or `complete`.")] = (
        None
    )
    code: str | None = None
    run_id: Annotated[
        str | None, Meta(description="Given back by the first call of a run; needed to go on with it.")
    ] = None
    options: Annotated[
        dict[str, Any],
        Meta(description="batch: `clean`, `build`, `buildLog`, `exec`; complete: `row`, `col`, ..."),
    ] = msgspec.field(default_factory=dict)


class StreamCode(Form, frozen=True, kw_only=True):
    """The first frame of an execution stream."""

    mode: str = "query"
    code: str | None = None
    options: dict[str, Any] = msgspec.field(default_factory=dict)


Console = list[tuple[str, str | tuple[str, str]]]


class StreamFrame(Reply, frozen=True, kw_only=True):
    """One frame of an execution stream."""

    status: str
    console: Console
    exit_code: int | None
    options: dict[str, Any] | None
    files: list[Any] = []


class ExecuteResult(Reply, frozen=True, kw_only=True):
    status: Annotated[
        str,
        Meta(
            description="`continued`, `waiting-input`, `clean-finished`, `build-finished`, `finished`, `exec-timeout`."
        ),
    ]
    run_id: str
    exit_code: int | None
    options: dict[str, Any] | None
    files: list[Any] = []
    console: Annotated[
        Console, Meta(description="Pairs of kind (`stdout`, `stderr`, `media`, `html`, `log`) and content.")
    ]


class Completions(Reply, frozen=True, kw_only=True):
    status: Literal["finished"] = "finished"
    completions: list[str]


class Executed(Reply, frozen=True, kw_only=True):
    result: ExecuteResult


class CompleteCode(OwnedForm, frozen=True, kw_only=True):
    code: str | None = None
    options: Annotated[dict[str, Any], Meta(description="`row`, `col`, `line`, `post`.")] = msgspec.field(
        default_factory=dict
    )


class Completed(Reply, frozen=True, kw_only=True):
    result: Completions


class DownloadFiles(OwnedForm, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"file": "files"}

    files: Annotated[list[str], Meta(description="1 to 5 paths, relative to /home/work.")] = msgspec.field(
        default_factory=list
    )


class DownloadFile(OwnedForm, frozen=True, kw_only=True):
    file: Annotated[str, Meta(description="A path, relative to /home/work.")]


class UploadFiles(OwnedForm, frozen=True, kw_only=True):
    """Only the query is read; the files are multipart fields named `src`."""


class ListFiles(OwnedForm, frozen=True, kw_only=True):
    path: str = "/home/work"


class FileList(Reply, frozen=True, kw_only=True):
    files: Annotated[
        str, Meta(description="A JSON text: a list of `mode`, `size`, `ctime`, `mtime`, `atime`, `filename`.")
    ]
    errors: str = ""
    abspath: str


class Logs(Reply, frozen=True, kw_only=True):
    logs: str


class LogsResult(Reply, frozen=True, kw_only=True):
    result: Logs


class RenameSession(OwnedForm, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"newname": "name"}

    name: str


class StatusHistory(Reply, frozen=True, kw_only=True):
    result: Annotated[
        dict[str, str],
        Meta(description="When each status was first reached; names in upper and in lower case."),
    ]


class DependencyNode(msgspec.Struct, frozen=True, kw_only=True):
    session_id: str
    session_name: Annotated[str, Meta(description="A name without a dash has one at its end.")]
    status: Annotated[str, Meta(description="`KernelStatus.` and the word.")]
    status_changed: str
    depends_on: "list[DependencyNode]"


class AbuseReport(Reply, frozen=True, kw_only=True, omit_defaults=True):
    kernel: str | None = None
    abuse_report: str | None = msgspec.field(default=None, name="abuse_report")


class CommitStatus(Reply, frozen=True, kw_only=True):
    status: Annotated[str, Meta(description="`ready` or `ongoing`.")]
    kernel: str


class CommitSession(OwnedForm, frozen=True, kw_only=True):
    filename: Annotated[
        str | None,
        Meta(description="The archive's; `.tar.gz` is added. The session's name and the time if not given."),
    ] = None


class CommitBegun(msgspec.Struct, frozen=True, kw_only=True):
    bgtask_id: str
    kernel: str
    path: Annotated[str, Meta(description="Below the agent's folder of archives.")]


class ImagifySession(OwnedForm, frozen=True, kw_only=True):
    image_name: Annotated[str, Meta(description="A name, and a tag if you like: `mine` or `mine:v2`.")] = (
        msgspec.field(name="image_name")
    )
    image_visibility: Annotated[str | None, Meta(description="`user`.")] = msgspec.field(
        default=None, name="image_visibility"
    )
    image_owner_id: Annotated[str | None, Meta(description="Yourself.")] = msgspec.field(
        default=None, name="image_owner_id"
    )


class ImagifyBegun(msgspec.Struct, frozen=True, kw_only=True):
    task_id: str
    image: Annotated[str, Meta(description="Its full name.")]


class MatchSessions(OwnedForm, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="The beginning of a name or id.")]


class Match(Reply, frozen=True, kw_only=True):
    id: str
    name: str
    status: str


class Matches(Reply, frozen=True, kw_only=True):
    matches: list[Match]


class WatchEvents(OwnedForm, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"name": "sessionName"}

    session_id: str | None = None
    session_name: Annotated[str, Meta(description="`*` is every session that you may see.")] = "*"
    scope: Annotated[str, Meta(description="`*`, `session`, `kernel`, or several with commas.")] = "*"


class StreamExecution(OwnedForm, frozen=True, kw_only=True):
    keep: Annotated[
        bool, Meta(description="Stay open after `finished`: the next text frame is another request.")
    ] = False


class StreamApp(OwnedForm, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"service": "app"}

    app: Annotated[str, Meta(description="A service of the session; for a preopen port its number.")]
    port: Annotated[int | None, Meta(description="One of the service's ports; by default its first.")] = None
    arguments: Annotated[
        str | None, Meta(description="A JSON object of text; for services that are started on demand.")
    ] = None
    envs: Annotated[str | None, Meta(description="As `arguments`.")] = None


class AppItem(Reply, frozen=True, kw_only=True):
    name: str
    protocol: Annotated[str, Meta(description="`http`, `tcp`, `preopen` or `pty`.")]
    ports: list[int]


class StartService(StreamApp, frozen=True, kw_only=True):
    login_session_token: Annotated[str | None, Meta(description="Handed on to the coordinator.")] = (
        msgspec.field(default=None, name="login_session_token")
    )


class ServiceStarted(Reply, frozen=True, kw_only=True):
    token: Annotated[str, Meta(description="Of the coordinator, for the way to this service.")]
    wsproxy_addr: Annotated[str, Meta(description="Where the coordinator is.")] = msgspec.field(
        name="wsproxy_addr"
    )


class ShutdownService(OwnedForm, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"app": "service_name", "service": "service_name"}

    service_name: Annotated[str, Meta(description="A service of the session.")] = msgspec.field(
        name="service_name"
    )


class DirectAccess(Reply, frozen=True, kw_only=True):
    """Nothing: no session here is one that is reached directly."""


class GetTaskLog(OwnedForm, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"sessionname": "taskId", "sessionid": "taskId"}

    task_id: Annotated[str, Meta(description="A batch session, by id or name, or its main container by id.")]


class TerminalFrame(Form, frozen=True, kw_only=True):
    """What a terminal's client sends."""

    type: str
    chars: Annotated[str, Meta(description="What was typed, in base 64.")] = ""
    rows: int = 0
    cols: int = 0
