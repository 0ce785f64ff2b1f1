"""What happened to sessions and kernels, in the published words."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ai.backend.common.ids import SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`id` grows with time and is the SSE id, so that a reader can resume after it. `payload` is the published event data:
    sessionId, sessionName, ownerAccessKey, reason, exitCode, and for kernel events kernelId, clusterRole, clusterIdx; ours adds
    `domainName`, `projectId`, `userId` for visibility, and `message`."""

    id: int
    created_at: datetime
    name: str
    """session_enqueued, session_scheduled, session_started, session_cancelled, session_terminating, session_terminated,
    kernel_preparing, kernel_creating, kernel_started, kernel_terminating, kernel_terminated, kernel_cancelled; and ours:
    session_waiting, which tells why a session waits whenever that is by another rule than before."""
    session_id: SessionId
    payload: dict[str, Any] = field(default_factory=dict)
