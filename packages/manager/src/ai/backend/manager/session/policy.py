"""May this session be created, and what exactly will it be? Pure: a draft and facts in, a session or a refusal out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ai.backend.common.errors import (
    BackendError,
    ImageNotFound,
    ImpossibleResources,
    InvalidInput,
    QuotaExceeded,
    SessionExists,
)
from ai.backend.common.ids import KernelId, ProjectId, SessionId, check_session_name
from ai.backend.common.quantity import CPU, MEM, ResourceSlots, format_size, parse_amount, parse_size

from ..access.model import Principal
from ..agents.model import Agent
from ..config import ManagerConfig
from ..image.model import Image
from ..image.policy import architecture_of, resolve
from .machine import deadline
from .model import Kernel, Session, SessionDraft, SessionStatus, SessionType

SHM_DEFAULT_BYTES = 64 << 20
ENVIRON_BYTES_MAX = 128 << 10
TEXT_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the decision looks at, read in the transaction that will insert the session."""

    project_id: ProjectId
    images: list[Image]
    aliases: Mapping[tuple[str, str], str]
    agents: list[Agent]
    resource_groups: frozenset[str]
    existing: Session | None
    """The owner's live session of the same name."""
    live_sessions: int
    held_slots: ResourceSlots
    concurrent_sessions_max: int
    containers_per_session_max: int
    total_slots: ResourceSlots
    """The keypair's limit; slots that it does not name are unlimited."""
    bootstrap_script: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """Chance, drawn by the caller."""

    session_id: SessionId
    kernel_ids: tuple[KernelId, ...]


def admit(
    draft: SessionDraft, facts: Facts, principal: Principal, ids: Ids, now: datetime, config: ManagerConfig
) -> Session | BackendError:
    """The session to insert, the existing one to reuse (it has a version above zero), or the refusal."""
    try:
        return _admit(draft, facts, principal, ids, now, config)
    except BackendError as refusal:
        return refusal


def _admit(
    draft: SessionDraft, facts: Facts, principal: Principal, ids: Ids, now: datetime, config: ManagerConfig
) -> Session:
    _check_texts(draft)
    architecture = architecture_of(draft.architecture)
    image = resolve(draft.image, architecture, facts.images, facts.aliases)
    if image is None:
        known = sorted({other.name for other in facts.images if other.architecture == architecture})[:5]
        raise ImageNotFound(
            f"no image {draft.image!r} for {architecture}",
            hint=f"Known images: {', '.join(known)}."
            if known
            else "No agent has an image yet: see 'backend.ai image build'.",
            image=draft.image,
        )
    if facts.existing is not None:
        return _reuse(draft, facts.existing, image)
    slots, shm_bytes = _amounts(draft, image, facts.agents)
    _check_policy(draft, facts, slots)
    group = draft.resource_group or "default"
    if group not in facts.resource_groups:
        raise InvalidInput(f"no resource group {group!r}", field="scalingGroup")
    _check_possible(slots, architecture, group, facts.agents)
    kernels = tuple(
        Kernel(
            id=kernel_id,
            session_id=ids.session_id,
            cluster_role="main" if number == 0 else "sub",
            cluster_idx=1 if number == 0 else number,
            status=SessionStatus.PENDING,
            agent_id=None,
            image_name=image.name,
            image_digest=image.digest,
            architecture=architecture,
            image_labels=image.labels,
            requested_slots=slots,
            shm_bytes=shm_bytes,
            incarnation=1,
            stop_reason="",
            stop_forced=False,
            container_id="",
            step="",
            exit_code=None,
            stats={},
        )
        for number, kernel_id in enumerate(ids.kernel_ids)
    )
    return Session(
        id=ids.session_id,
        name=draft.name,
        session_type=draft.session_type,
        status=SessionStatus.PENDING,
        status_changed_at=now,
        status_history={"PENDING": now.isoformat()},
        deadline_at=deadline(SessionStatus.PENDING, now, config),
        reason="",
        reason_detail={},
        version=0,
        domain_name=draft.domain_name,
        project_id=facts.project_id,
        user_id=principal.user_id,
        access_key=principal.access_key,
        resource_group=group,
        priority=10,
        tag=draft.tag,
        requested_slots=ResourceSlots({name: amount * len(kernels) for name, amount in slots.items()}),
        resource_opts={"shmem": str(shm_bytes)},
        environ=dict(draft.environ),
        startup_command=draft.startup_command,
        bootstrap_script=draft.bootstrap_script
        if draft.bootstrap_script is not None
        else facts.bootstrap_script,
        result="undefined",
        created_at=now,
        terminated_at=None,
        kernels=kernels,
    )


def _check_texts(draft: SessionDraft) -> None:
    check_session_name(draft.name)
    if draft.name == "from-template":
        raise InvalidInput("the name 'from-template' is reserved", field="name")
    if draft.session_type is not SessionType.INTERACTIVE:
        raise InvalidInput(
            f"sessions of type {draft.session_type.value!r} are not served yet",
            hint="Create an interactive session and run the command in it.",
            field="type",
        )
    if draft.cluster_size != 1:
        raise InvalidInput(
            "sessions of more than one container are not served yet",
            hint="Use clusterSize 1.",
            field="clusterSize",
        )
    if sum(len(k) + len(v) for k, v in draft.environ.items()) > ENVIRON_BYTES_MAX:
        raise InvalidInput(f"environment variables over {ENVIRON_BYTES_MAX >> 10} KiB", field="environ")
    for name in draft.environ:
        if not name or "=" in name or "\0" in name or "\n" in name or "\0" in draft.environ[name]:
            raise InvalidInput(f"{name[:40]!r} can't be an environment variable", field="environ")
    for field, text in (
        ("bootstrap_script", draft.bootstrap_script),
        ("startupCommand", draft.startup_command),
    ):
        if text is not None and len(text) > TEXT_BYTES_MAX:
            raise InvalidInput(f"{field} is over {TEXT_BYTES_MAX >> 10} KiB", field=field)


def _reuse(draft: SessionDraft, existing: Session, image: Image) -> Session:
    if not draft.reuse or existing.main.image_name != image.name:
        raise SessionExists(
            f"a live session {draft.name!r} exists"
            + (
                ""
                if existing.main.image_name == image.name
                else f" with another image ({existing.main.image_name})"
            ),
            hint="Choose another name, end that session, or ask to reuse it.",
            existingSessionId=str(existing.id),
        )
    return existing


def _amounts(draft: SessionDraft, image: Image, agents: list[Agent]) -> tuple[ResourceSlots, int]:
    known = {CPU, MEM} | {name for agent in agents for name in agent.capacity}
    unknown = sorted(set(draft.resources) - known)
    if unknown:
        raise InvalidInput(
            f"unknown resource {', '.join(map(repr, unknown))}",
            hint=f"Known here: {', '.join(sorted(known))}. Shared memory is a resource option: shmem.",
            field="resources",
        )
    asked = {name: parse_amount(name, value) for name, value in draft.resources.items()}
    for name, fallback in ((CPU, "1"), (MEM, "256m")):
        minimum = parse_amount(name, image.labels.get(f"ai.backend.resource.min.{name}", "0"))
        usual = image.labels.get(f"ai.backend.resource.preferred.{name}")
        asked.setdefault(
            name, parse_amount(name, usual) if usual else max(minimum, parse_amount(name, fallback))
        )
        if asked[name] < max(minimum, 1):
            shown = format_size(minimum) if name == MEM else f"{minimum / 1000:g}"
            raise InvalidInput(f"the image {image.name} needs at least {shown} of {name}", field=name)
    label = image.labels.get("ai.backend.resource.preferred.shmem", SHM_DEFAULT_BYTES)
    shm_bytes = parse_size(draft.resource_opts["shmem"] if draft.resource_opts.get("shmem") else label)
    if shm_bytes >= asked[MEM]:
        if draft.resource_opts.get("shmem"):
            raise InvalidInput(
                f"shared memory ({format_size(shm_bytes)}) must be less than memory ({format_size(asked[MEM])})",
                field="shmem",
            )
        shm_bytes = asked[MEM] // 4
    return ResourceSlots(asked), shm_bytes


def _check_policy(draft: SessionDraft, facts: Facts, slots: ResourceSlots) -> None:
    if facts.live_sessions >= facts.concurrent_sessions_max:
        raise QuotaExceeded(
            f"you have {facts.live_sessions} live sessions of at most {facts.concurrent_sessions_max}",
            hint="End one, or ask an administrator for a higher limit.",
            limit="max_concurrent_sessions",
            used=facts.live_sessions,
            allowed=facts.concurrent_sessions_max,
        )
    if draft.cluster_size > facts.containers_per_session_max:
        raise QuotaExceeded(
            f"at most {facts.containers_per_session_max} containers for each session",
            limit="max_containers_per_session",
        )
    allowed = facts.total_slots.amounts()
    over = [
        short
        for short in (facts.held_slots + slots).shortfalls(ResourceSlots(allowed))
        if short.slot in allowed
    ]
    if over:
        texts = [short.texts() for short in over]
        raise QuotaExceeded(
            "over your keypair's limit: "
            + ", ".join(f"{t['slot']} would be {t['asked']} of {t['available']}" for t in texts),
            hint="End sessions, ask for less, or ask an administrator for a higher limit.",
            limit="total_resource_slots",
            slots=[f"{t['slot']}: {t['asked']} > {t['available']}" for t in texts],
        )


def _check_possible(slots: ResourceSlots, architecture: str, group: str, agents: list[Agent]) -> None:
    """Refuses what no agent could ever run, even if it were empty. Without any agent it waits: one may join."""
    candidates = [
        agent for agent in agents if agent.resource_group == group and agent.architecture == architecture
    ]
    if not candidates or any(slots.fits(agent.capacity) for agent in candidates):
        return
    nearest = min(candidates, key=lambda agent: len(slots.shortfalls(agent.capacity)))
    texts = [short.texts() for short in slots.shortfalls(nearest.capacity)]
    raise ImpossibleResources(
        "no agent is large enough: "
        + ", ".join(f"{t['slot']}: asked {t['asked']}, the largest has {t['available']}" for t in texts),
        hint="Ask for less, or add a larger agent.",
        slots=texts,
    )
