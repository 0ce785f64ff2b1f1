"""When a session is over before it should be, it may wait in the queue again, under the same id and with new kernels. Pure.

Two cases: it was preempted where its resource group reschedules victims, or it failed to start and another agent may do better. What was
tried is remembered with the session: an agent where it failed is the last that it is given again.
"""

from collections.abc import Mapping, Set
from datetime import datetime
from uuid import uuid5

from ai.backend.common.ids import AgentId, KernelId

from .model import Attempt, Kernel, Session, SessionStatus

STARTS_MAX = 3
"""So often it is tried to start a session: what fails on three agents fails by itself."""
ATTEMPTS_KEPT = 100
"""The newest are remembered; a session that is preempted for ever does not grow for ever."""
RETRIED = frozenset({"failed-to-start", "failed-to-create", "image-not-found", "container-not-found"})
"""Why a session never ran, where another agent may do better."""
_STARTING = (SessionStatus.SCHEDULED, SessionStatus.PREPARING)


def failures(session: Session) -> int:
    """How often it failed to start, up to now."""
    return sum(one.failed for one in session.attempts)


def avoided(session: Session) -> frozenset[AgentId]:
    """Agents on which it failed to start."""
    return frozenset(agent for one in session.attempts if one.failed for agent in one.blamed)


def tries_again(session: Session, blamed: Set[AgentId], agents: Set[AgentId]) -> bool:
    """Whether one that fails to start now, for one of the reasons `RETRIED`, goes back into the queue.

    Args:
        blamed: where it failed this time.
        agents: all that take sessions of its kind. On the same one again it would fail again.
    """
    if session.status not in _STARTING or session.agent_list:
        return False
    return failures(session) + 1 < STARTS_MAX and not agents <= avoided(session) | blamed


def attempt_of(session: Session, blamed: Set[AgentId], now: datetime, *, failed: bool) -> Attempt:
    """The present one, which is over."""
    return Attempt(
        number=session.attempts[-1].number + 1 if session.attempts else 1,
        reason=session.reason,
        message=str(session.reason_detail.get("message", "")),
        agents=tuple(sorted({one.agent_id for one in session.kernels if one.agent_id is not None})),
        blamed=tuple(sorted(blamed)),
        history=session.status_history,
        ended_at=now,
        failed=failed,
    )


def renewed(kernels: tuple[Kernel, ...], number: int) -> tuple[Kernel, ...]:
    """Kernels that ask for the same, for another attempt. Their ids follow from those of the ones before."""
    return tuple(
        Kernel(
            id=KernelId(uuid5(kernel.id, f"attempt {number}")),
            session_id=kernel.session_id,
            cluster_role=kernel.cluster_role,
            cluster_idx=kernel.cluster_idx,
            image_name=kernel.image_name,
            image_digest=kernel.image_digest,
            architecture=kernel.architecture,
            image_labels=kernel.image_labels,
            requested_slots=kernel.requested_slots,
            shm_bytes=kernel.shm_bytes,
            preopen_ports=kernel.preopen_ports,
            service_ports=kernel.service_ports,
        )
        for kernel in kernels
    )


def blamed_by(session: Session, reasons: Mapping[KernelId, str]) -> frozenset[AgentId]:
    """The agents of those kernels that ended for a reason that another agent may not have."""
    return frozenset(
        kernel.agent_id
        for kernel in session.kernels
        if kernel.agent_id is not None and reasons.get(kernel.id) in RETRIED
    )
