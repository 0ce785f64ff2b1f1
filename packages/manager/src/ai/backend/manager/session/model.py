"""Sessions and their kernels as this system sees them. Frozen values; no SQL, no wire forms."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ai.backend.common.ids import AccessKey, AgentId, KernelId, ProjectId, SessionId, UserId
from ai.backend.common.quantity import ResourceSlots

from .port import ServicePort


class SessionStatus(enum.StrEnum):
    """The published words."""

    PENDING = "PENDING"
    SCHEDULED = "SCHEDULED"
    PREPARING = "PREPARING"
    RUNNING = "RUNNING"
    RESTARTING = "RESTARTING"
    TERMINATING = "TERMINATING"
    TERMINATED = "TERMINATED"
    ERROR = "ERROR"
    """Its end was not confirmed in time: containers may still run, so its slots stay held until the agent tells."""
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        return self in (SessionStatus.TERMINATED, SessionStatus.CANCELLED)

    @property
    def occupying(self) -> bool:
        """Whether its kernels hold slots of their agents."""
        return not self.terminal and self is not SessionStatus.PENDING


KernelStatus = SessionStatus
"""A kernel's statuses are the same words."""


class SessionType(enum.StrEnum):
    INTERACTIVE = "interactive"
    BATCH = "batch"
    INFERENCE = "inference"


class ClusterMode(enum.StrEnum):
    """The published words."""

    SINGLE_NODE = "single-node"
    MULTI_NODE = "multi-node"


class SessionResult(enum.StrEnum):
    """What came of a batch session; the published words are these in upper case."""

    UNDEFINED = "undefined"
    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDraft:
    """A request for a session, not yet admitted. Amounts may be missing: the image's minimums fill them."""

    name: str
    image: str
    architecture: str = "x86_64"
    session_type: SessionType = SessionType.INTERACTIVE
    domain_name: str = "default"
    project: str = "default"
    """Name or id."""
    resource_group: str | None = None
    resources: dict[str, str | int | float] = field(default_factory=dict)
    resource_opts: dict[str, str | int | float] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    cluster_size: int = 1
    cluster_mode: str = "single-node"
    agent_list: tuple[str, ...] = ()
    """Nodes that a superadministrator chose: one for each kernel, or one for all of them."""
    preopen_ports: tuple[Any, ...] = ()
    """Numbers, or text of them."""
    tag: str | None = None
    startup_command: str | None = None
    starts_at: str | None = None
    """ISO time, or from now in text such as "1h"."""
    dependencies: tuple[str, ...] = ()
    """Names or ids of sessions that have to succeed first."""
    callback_url: str | None = None
    batch_timeout: str | float | None = None
    """Seconds, or text such as "90s" or "1h"."""
    bootstrap_script: str | None = None
    reuse: bool = True
    enqueue_only: bool = False
    max_wait_s: float = 0
    """0: as long as it takes."""
    owner_access_key: str | None = None
    priority: int | None = None
    job_priority: int = 0
    preemptible: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    id: KernelId
    session_id: SessionId
    cluster_role: str
    cluster_idx: int
    status: KernelStatus = KernelStatus.PENDING
    agent_id: AgentId | None = None
    image_name: str
    image_digest: str
    architecture: str
    image_labels: dict[str, str]
    requested_slots: ResourceSlots
    shm_bytes: int
    incarnation: int = 1
    stop_reason: str = ""
    stop_forced: bool = False
    container_id: str = ""
    step: str = ""
    exit_code: int | None = None
    stats: dict[str, int] = field(default_factory=dict)
    preopen_ports: tuple[int, ...] = ()
    devices: dict[str, int] = field(default_factory=dict)
    """Those of its agent that it holds, in milli, by id."""
    service_ports: tuple[ServicePort, ...] = ()
    """The image's services and one for each preopen port."""

    @property
    def hostname(self) -> str:
        return f"{self.cluster_role}{self.cluster_idx}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An earlier time that the session was placed; it went back into the queue then."""

    number: int
    """From 1."""
    reason: str
    message: str
    agents: tuple[AgentId, ...]
    blamed: tuple[AgentId, ...]
    """Of these, where the reason came from."""
    history: Mapping[str, str]
    """Its `status_history`."""
    ended_at: datetime
    failed: bool
    """It never ran; else it was preempted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    id: SessionId
    name: str
    session_type: SessionType
    status: SessionStatus
    status_changed_at: datetime
    status_history: dict[str, str]
    deadline_at: datetime | None
    reason: str
    reason_detail: dict[str, Any]
    version: int
    domain_name: str
    project_id: ProjectId
    user_id: UserId
    access_key: AccessKey
    resource_group: str
    priority: int
    tag: str | None
    requested_slots: ResourceSlots
    resource_opts: dict[str, Any]
    environ: dict[str, str]
    startup_command: str | None
    bootstrap_script: str
    result: str
    created_at: datetime
    terminated_at: datetime | None
    batch_timeout_s: int | None = None
    starts_at: datetime | None = None
    callback_url: str | None = None
    cluster_mode: ClusterMode = ClusterMode.SINGLE_NODE
    agent_list: tuple[str, ...] = ()
    dependencies: tuple[SessionId, ...] = ()
    """Known when it is admitted, not when it is read: few ask."""
    num_queries: int = 0
    """Runs that were begun through the API."""
    job_priority: int = 0
    """Whom it may preempt, where its resource group allows that: those of a lower one. `priority` is its place in the queue."""
    preemptible: bool = True
    attempts: tuple[Attempt, ...] = ()
    """Those before the present one, the oldest first."""
    requeue: frozenset[AgentId] | None = None
    """Once its kernels are gone it waits in the queue again: the agents that are to blame, if it failed to start. None: it is over then."""
    kernels: tuple[Kernel, ...]
    """Of the present attempt."""

    @property
    def is_batch(self) -> bool:
        return self.session_type is SessionType.BATCH

    @property
    def main(self) -> Kernel:
        return self.kernels[0]


WAITS_FOR_TIME = "waits-for-time"
WAITS_FOR_DEPENDENCIES = "waits-for-dependencies"
FAILED_DEPENDENCY = "dependency-failed"
"""Reasons of sessions that depend on something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """A session as one that waits for it sees it."""

    id: SessionId
    name: str
    status: SessionStatus
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A session and, again as nodes, those that it depends on."""

    session: Session
    depends_on: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The answer to a creation. `waited_out`: `max_wait_s` passed before it ran (the published status word is TIMEOUT)."""

    session: Session
    created: bool
    waited_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPage:
    items: tuple[Session, ...]
    total_count: int
