"""What manager and agents say to each other over the bus. Encoded as MessagePack; decoding is tolerant (unknown fields are ignored), so
that the two sides may be upgraded one after the other.

Desired state: the manager sends each agent, whole, the set of kernels it should have (`Sync`, with a generation that only grows). The
agent refuses older generations and drives each kernel towards its target on its own. What it sees it reports, whole, as an
`AgentReport` on every change and on every heartbeat: late, doubled and lost messages are repaired by the next one.

A kernel that runs but is not listed in the newest Sync is *unknown*: it is quarantined and shown, never killed. To end one, it is
listed with `target="stop"`; once it is reported terminated the manager stops listing it, and the agent forgets it.
"""

import enum
from typing import Literal
from uuid import UUID

import msgspec
from msgspec import structs

PROTOCOL_VERSION = 1
"""Diary. 1 (2026-11-24): first."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Root of all bus messages."""


class Call(Message, frozen=True, kw_only=True):
    """Root of what the manager asks of an agent."""

    request_id: str = ""
    """Of the request that caused it, for the agent's log; empty when unknown. Adapters of the bus set it (`encode_call`)."""


class Dotfile(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """Relative to the home folder."""
    permission: str
    """Three octal digits."""
    content: str


class ClusterKey(msgspec.Struct, frozen=True, kw_only=True):
    """The SSH key with which the containers of one session know each other."""

    private: str
    """In OpenSSH's format."""
    public: str
    """One line."""

    def __repr__(self) -> str:
        return "ClusterKey(...)"


class DesiredKernel(msgspec.Struct, frozen=True, kw_only=True):
    """One container that should exist, complete: the agent makes no choice that the manager can make."""

    kernel_id: UUID
    session_id: UUID
    target: Literal["run", "stop"]
    incarnation: int = 1
    """Grows by one at each restart; the agent recreates the container and keeps the scratch folder, also when the older incarnation
    has ended meanwhile. With target "stop" the end is reported under this number, or the manager takes it for old news."""
    image: str = ""
    image_digest: str = ""
    architecture: str = "x86_64"
    slots: dict[str, int] = {}
    """Milli-units and bytes, see common.quantity."""
    shm_bytes: int = 64 << 20
    environ: dict[str, str] = {}
    hostname: str = "main1"
    cluster_role: str = "main"
    cluster_idx: int = 1
    cluster_hosts: tuple[str, ...] = ("main1",)
    """The names of all kernels of the session, the main one first."""
    local_hosts: tuple[str, ...] = ()
    """Those of them that are on the same agent, this one included, in that order: these reach each other by their names."""
    cluster_key: ClusterKey | None = None
    """Of a session of several kernels; not sent any more once it runs."""
    runtime_type: str = "python"
    runtime_path: str = ""
    session_name: str = ""
    access_key: str = ""
    bootstrap_script: str = ""
    startup_command: str = ""
    """Run once when the kernel is ready; its end ends the kernel, with its exit code and the reason task-finished."""
    dotfiles: list[Dotfile] = []
    """Written into the home folder before the first start; not sent any more once it runs."""
    home_from_image: bool = False
    """Its home folder begins with what the image has there: the image was made of a session."""
    devices: dict[str, int] = {}
    """Which devices the scheduler chose for it, in milli of each, by `DeviceReport.id`. The agent takes others if these are not free."""
    stop_reason: str = ""
    """With target "stop": why, in the published words (user-requested, ...)."""
    forced: bool = False
    """With target "stop": kill at once, without a grace period."""


class KernelState(enum.StrEnum):
    """As the agent reports it."""

    PREPARING = "preparing"
    RUNNING = "running"
    STOPPING = "stopping"
    TERMINATED = "terminated"
    UNKNOWN = "unknown"
    """Runs here, but no Sync lists it: quarantined."""


class KernelReport(msgspec.Struct, frozen=True, kw_only=True):
    kernel_id: UUID
    session_id: UUID
    incarnation: int
    state: KernelState
    step: str = ""
    """What is being done or was done last ("create", "start", "wait-ready"): shown as progress."""
    reason: str = ""
    """When TERMINATED or STOPPING: a stable machine word (user-requested, out-of-memory, failed-to-start, self-terminated, ...)."""
    message: str = ""
    """The reason in a sentence for people: what happened, with numbers, and what to do."""
    exit_code: int | None = None
    container_id: str = ""
    cores: list[int] = []
    """Those that it may run on; empty: any."""
    devices: dict[str, int] = {}
    """What it holds, in milli of each device, by `DeviceReport.id`."""
    stats: dict[str, int] = {}
    """memory_bytes, memory_peak_bytes, cpu_used_us, pids: the newest values, kept after the end."""


class ImageReport(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    digest: str
    architecture: str
    size_bytes: int
    labels: dict[str, str]


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One accelerator of the node; see `ai.backend.plugin.accelerator.Device` for the fields."""

    id: str
    """KEY/ID: its plugin's key and its own id."""
    slot: str
    model: str
    memory_bytes: int = 0
    units: int = 0
    numa_node: int = -1
    location: str = ""
    problem: str = ""
    """Why it can't be given; empty: it can."""


class SlotReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a slot of accelerators is shown to people, and in which steps, in milli, it is given."""

    slot: str
    description: str
    name: str
    unit: str
    shared: bool
    quantum: int


class AcceleratorReport(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin of the node."""

    key: str
    version: str
    facts: dict[str, str]
    slots: list[SlotReport]
    problem: str = ""
    """Why its devices can't be used; empty: they can."""


class DeviceUsage(msgspec.Struct, frozen=True, kw_only=True):
    """None: not known."""

    percent: float | None = None
    memory_bytes: int | None = None


class AgentReport(Message, frozen=True, tag="agent-report"):
    """The agent's whole state. Newer means greater (`started_at_us`, `sequence`)."""

    agent_id: str
    started_at_us: int
    """When this agent process started, microseconds since the epoch: orders reports across restarts."""
    sequence: int
    generation: int
    """The newest Sync it has accepted."""
    version: str
    backend: str
    architecture: str
    address: str
    capacity: dict[str, int]
    images: list[ImageReport]
    kernels: list[KernelReport]
    devices: list[DeviceReport] = []
    accelerators: list[AcceleratorReport] = []
    usage: dict[str, DeviceUsage] = {}
    """How busy devices are, by id."""
    healthy: bool = True
    problem: str = ""
    """When not healthy: what is wrong (the engine does not answer, the disk is full). No new kernel is placed there."""
    leaving: bool = False
    """Sent once at a clean shutdown."""


class Sync(Call, frozen=True, tag="sync"):
    generation: int
    kernels: list[DesiredKernel]


class SyncReply(Message, frozen=True, tag="sync-reply"):
    accepted: bool
    generation: int
    """The newest generation the agent holds."""


class Execute(Call, frozen=True, tag="execute"):
    """One step of a run. `mode`: query, batch (start); continue, input (go on). Returns at the end of the run, when input is needed, at
    the end of a batch step, or after `flush_s` seconds (sooner when much output waits)."""

    kernel_id: UUID
    run_id: str
    mode: Literal["query", "batch", "continue", "input"]
    code: str = ""
    clean: str = ""
    build: str = ""
    build_log: bool = False
    exec: str = ""
    flush_s: float = 2.0


class ExecuteReply(Message, frozen=True, tag="execute-reply"):
    run_id: str
    status: Literal[
        "continued", "waiting-input", "clean-finished", "build-finished", "finished", "exec-timeout"
    ]
    exit_code: int | None = None
    is_password: bool = False
    console: list[tuple[str, str | tuple[str, str]]] = []
    """In order: ("stdout"|"stderr"|"html"|"log", text) or ("media", (mime, data)); neighbours of one kind are merged."""


class Interrupt(Call, frozen=True, tag="interrupt"):
    kernel_id: UUID
    run_id: str = ""
    """Only if this run is the current one; "" means whatever runs."""


class Complete(Call, frozen=True, tag="complete"):
    kernel_id: UUID
    code: str
    row: int = 0
    col: int = 0
    line: str = ""
    post: str = ""


class CompleteReply(Message, frozen=True, tag="complete-reply"):
    completions: list[str]


class UploadFile(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """Relative to the home folder."""
    content: bytes


class Upload(Call, frozen=True, tag="upload"):
    """All or nothing is not promised; each file is written whole (temporary file, then rename)."""

    kernel_id: UUID
    files: list[UploadFile]


class Download(Call, frozen=True, tag="download"):
    kernel_id: UUID
    paths: list[str]
    bytes_max: int


class DownloadReply(Message, frozen=True, tag="download-reply"):
    archives: list[bytes]
    """One uncompressed tar for each path, in order."""


class ReadFile(Call, frozen=True, tag="read-file"):
    kernel_id: UUID
    path: str
    bytes_max: int


class ReadFileReply(Message, frozen=True, tag="read-file-reply"):
    content: bytes


class ListFiles(Call, frozen=True, tag="list-files"):
    kernel_id: UUID
    path: str


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    mode: str
    """As ls prints it: "-rw-r--r--"."""
    size: int
    ctime: float
    mtime: float
    atime: float
    filename: str


class ListFilesReply(Message, frozen=True, tag="list-files-reply"):
    abspath: str
    files: list[FileEntry]


class GetLogs(Call, frozen=True, tag="get-logs"):
    """Works while the agent still has the kernel's record, also after its end."""

    kernel_id: UUID
    bytes_max: int = 10 << 20


class GetLogsReply(Message, frozen=True, tag="get-logs-reply"):
    text: str


class Connect(Call, frozen=True, tag="connect"):
    """Opens a stream: a TCP connection to a port of the container's own loopback."""

    kernel_id: UUID
    port: int


class OpenTerminal(Call, frozen=True, tag="open-terminal"):
    """Opens a stream: a shell on a new pseudo terminal. Towards it go frames (`wire.terminal`), from it what it prints."""

    kernel_id: UUID
    rows: int
    columns: int


class Commit(Call, frozen=True, tag="commit"):
    """Opens a stream: makes an image of a running kernel, and tells how far it is (`wire.commit`). Closing the stream breaks it off."""

    kernel_id: UUID
    image: str
    """Its name: canonical."""
    labels: dict[str, str] = {}
    """On top of those of the kernel's image."""
    left_out: list[str] = []
    """What of the home folder stays out, relative to it."""
    folder: str = ""
    filename: str = ""
    """Where the archive is written, below the agent's folder of such; both empty: it is kept as an image of the agent's."""


class Done(Message, frozen=True, tag="done"):
    """The answer when there is nothing to say."""


class Failure(Message, frozen=True, tag="failure"):
    """An error that crossed the bus; the caller's side raises it again as the class of that code."""

    code: str
    text: str
    hint: str = ""
    detail: dict[str, str | int | float | bool | list[str] | None] = {}


Request = Sync | Execute | Interrupt | Complete | Upload | Download | ReadFile | ListFiles | GetLogs
Reply = (
    SyncReply
    | ExecuteReply
    | CompleteReply
    | DownloadReply
    | ReadFileReply
    | ListFilesReply
    | GetLogsReply
    | Done
    | Failure
)
StreamRequest = Connect | OpenTerminal | Commit
"""What a stream can be opened for."""

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_stream_requests: msgspec.msgpack.Decoder[StreamRequest] = msgspec.msgpack.Decoder(StreamRequest)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
_reports = msgspec.msgpack.Decoder(AgentReport)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def encode_call(call: Call, request_id: str) -> bytes:
    """The call as made for that request."""
    return _encoder.encode(structs.replace(call, request_id=request_id) if request_id else call)


def decode_request(data: bytes) -> Request:
    """Raises msgspec.ValidationError or msgspec.DecodeError for what is no request."""
    return _requests.decode(data)


def decode_stream_request(data: bytes) -> StreamRequest:
    """Raises msgspec.ValidationError or msgspec.DecodeError for what is no request for a stream."""
    return _stream_requests.decode(data)


def decode_reply(data: bytes) -> Reply:
    return _replies.decode(data)


def decode_report(data: bytes) -> AgentReport:
    return _reports.decode(data)
