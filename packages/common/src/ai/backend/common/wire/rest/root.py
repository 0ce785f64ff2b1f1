"""Requests and replies of the calls that are about the service itself."""

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from .form import Form
from .session import Reply


class Version(Reply, frozen=True, kw_only=True):
    version: Annotated[str, Meta(pattern=r"^v[0-9]+\.[0-9]{8}$", description="Of the API.")]
    manager: Annotated[str, Meta(description="Of the server whose answers these are shaped like.")]


class Health(Reply, frozen=True, kw_only=True):
    status: Annotated[str, Meta(description="`ok`: this process answers.")]
    agents: Annotated[int, Meta(description="Agents that take new sessions, at most one second old.")]


class Announcement(Reply, frozen=True, kw_only=True):
    enabled: bool
    message: str


class ManagerNode(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    num_proc: int
    service_addr: str
    heartbeat_timeout: float
    ssl_enabled: bool
    active_sessions: int
    status: str
    version: str
    api_version: tuple[int, str]


class ManagerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`active_sessions`: all that have not ended, at most one second old."""

    nodes: list[ManagerNode]
    status: str
    active_sessions: int


class DeviceItem(Reply, frozen=True, kw_only=True):
    """An accelerator of an agent."""

    id: str
    slot: Annotated[str, Meta(description="What sessions ask for to get it.")]
    model: str
    memory_bytes: int
    numa_node: Annotated[int, Meta(description="-1: near none, or not known.")]
    location: str
    problem: Annotated[str, Meta(description="Why it can't be given; empty when it can.")]
    held: Annotated[str, Meta(description="How much of it sessions hold; 1 is all of it.")]
    percent: Annotated[float | None, Meta(description="How busy it was lately; null: not known.")]
    used_bytes: int | None


class AgentItem(Reply, frozen=True, kw_only=True):
    id: str
    status: str
    schedulable: bool
    healthy: bool
    takes_sessions: bool
    problem: Annotated[str, Meta(description="Why it takes no sessions; empty when it does.")]
    resource_group: str
    capacity: dict[str, str]
    occupied: dict[str, str]
    architecture: str
    backend: str
    version: str
    address: str
    last_seen_at: str
    devices: list[DeviceItem] = msgspec.field(default_factory=list)


class AgentList(Reply, frozen=True, kw_only=True):
    items: list[AgentItem]
    total_count: int = msgspec.field(name="total_count")


class ImageItem(Reply, frozen=True, kw_only=True):
    name: str
    architecture: str
    digest: str
    size_bytes: int
    labels: dict[str, str]


class ImageList(Reply, frozen=True, kw_only=True):
    items: list[ImageItem]
    total_count: int = msgspec.field(name="total_count")


class Echo(Form, frozen=True, kw_only=True):
    echo: str = ""


class Authorized(Reply, frozen=True, kw_only=True):
    authorized: str = "yes"
    echo: str


class Authorize(Form, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"email": "username"}

    type: str = "keypair"
    domain: str = "default"
    username: Annotated[str, Meta(description="The user's e-mail address.")]
    password: str
    otp: Annotated[
        str | int | None, Meta(description="The present code, of who has two-factor authentication.")
    ] = None


class Keypair(msgspec.Struct, frozen=True, kw_only=True):
    access_key: str
    secret_key: str
    role: str
    status: str


class KeypairReply(Reply, frozen=True, kw_only=True):
    data: Keypair


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Any refusal or failure (RFC 9457)."""

    type: str
    title: str
    error_code: Annotated[str, Meta(description="Stable; for programs.")]
    fault: Annotated[str, Meta(description="Who has to act: `user`, `quota` or `infrastructure`.")] = ""
    msg: Annotated[str, Meta(description="What happened.")] = ""
    hint: Annotated[str, Meta(description="What to do next.")] = ""
    data: Any = None
    request_id: Annotated[str, Meta(description="Names this request in the server's logs.")] = ""
