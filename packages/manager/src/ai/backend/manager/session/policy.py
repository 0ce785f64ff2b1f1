"""May this session be created, and what exactly will it be? Pure: a draft and facts in, a session or a refusal out."""

import math
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ai.backend.common.errors import (
    BackendError,
    ImageNotFound,
    ImpossibleResources,
    InsufficientPrivilege,
    InvalidInput,
    SessionExists,
)
from ai.backend.common.ids import AgentId, KernelId, ProjectId, SessionId, check_session_name
from ai.backend.common.quantity import (
    CPU,
    MEM,
    ResourceSlots,
    SlotName,
    format_amount,
    format_size,
    parse_amount,
    parse_size,
)

from ..access.model import Principal, Role
from ..access.policy import Action, Reach, may, reach
from ..agents.model import WHOLE, Agent
from ..callback.policy import check_url
from ..config import ManagerConfig
from ..image.model import Image
from ..image.policy import architecture_of, resolve
from ..limit.policy import Quota, check_quota
from .machine import deadline
from .model import (
    WAITS_FOR_DEPENDENCIES,
    WAITS_FOR_TIME,
    ClusterMode,
    Dependency,
    Kernel,
    Session,
    SessionDraft,
    SessionResult,
    SessionStatus,
    SessionType,
)
from .port import LABEL as PORTS_LABEL
from .port import Protocol, service_ports

DEVICE_MODELS = "device_models"
"""The resource option: a list with commas."""
SHM_DEFAULT_BYTES = 64 << 20
ENVIRON_BYTES_MAX = 128 << 10
TEXT_BYTES_MAX = 64 << 10
STARTS_DAYS_MAX = 3660
DEPENDENCIES_MAX = 64
PRIORITY_MAX = JOB_PRIORITY_MAX = 100
BATCH_TIMEOUT_S_MAX = 10 * 366 * 86400


def allowed(principal: Principal, action: Action, session: Session) -> bool:
    """Whether the principal may do this to the session."""
    return may(
        principal,
        action,
        user_id=session.user_id,
        domain_name=session.domain_name,
        project_id=session.project_id,
    )


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
    quota: Quota
    bootstrap_script: str
    dependencies: tuple[Dependency, ...] = ()
    """The sessions that the draft names; all are there and may be seen."""


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
    timeout_s = _batch_timeout(draft)
    starts_at = _starts_at(draft, now)
    mode = _cluster_mode(draft)
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
    models = _models(draft, slots, facts.agents)
    check_quota(facts.quota, containers=draft.cluster_size, slots=_times(slots, draft.cluster_size))
    services = service_ports(image.labels.get(PORTS_LABEL, ""), draft.preopen_ports)
    group = draft.resource_group or "default"
    if group not in facts.resource_groups:
        raise InvalidInput(f"no resource group {group!r}", field="scalingGroup")
    together = draft.cluster_size if mode is ClusterMode.SINGLE_NODE else 1
    _check_possible(_times(slots, together), models, architecture, group, facts.agents)
    _check_chosen(draft, mode, group, principal, facts.agents)
    kernels = tuple(
        Kernel(
            id=kernel_id,
            session_id=ids.session_id,
            cluster_role="main" if number == 0 else "sub",
            cluster_idx=1 if number == 0 else number,
            image_name=image.name,
            image_digest=image.digest,
            architecture=architecture,
            image_labels=image.labels,
            requested_slots=slots,
            shm_bytes=shm_bytes,
            preopen_ports=tuple(p for s in services if s.protocol is Protocol.PREOPEN for p in s.ports),
            service_ports=services,
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
        deadline_at=deadline(SessionStatus.PENDING, max(now, starts_at or now), config),
        reason=WAITS_FOR_DEPENDENCIES if facts.dependencies else WAITS_FOR_TIME if starts_at else "",
        reason_detail={},
        version=0,
        domain_name=draft.domain_name,
        project_id=facts.project_id,
        user_id=principal.user_id,
        access_key=principal.access_key,
        resource_group=group,
        priority=10 if draft.priority is None else check_priority(draft.priority),
        job_priority=_job_priority(draft, principal),
        preemptible=draft.preemptible,
        tag=draft.tag,
        requested_slots=_times(slots, draft.cluster_size),
        resource_opts={
            "shmem": str(shm_bytes),
            **({DEVICE_MODELS: ",".join(sorted(models))} if models else {}),
        },
        environ=dict(draft.environ),
        startup_command=draft.startup_command,
        bootstrap_script=draft.bootstrap_script
        if draft.bootstrap_script is not None
        else facts.bootstrap_script,
        result=SessionResult.UNDEFINED,
        created_at=now,
        terminated_at=None,
        batch_timeout_s=timeout_s,
        starts_at=starts_at,
        dependencies=tuple(dict.fromkeys(one.id for one in facts.dependencies)),
        cluster_mode=mode,
        agent_list=draft.agent_list,
        callback_url=check_url(draft.callback_url, config) if draft.callback_url else None,
        kernels=kernels,
    )


def check_priority(priority: int) -> int:
    if not 0 <= priority <= PRIORITY_MAX:
        raise InvalidInput(f"a priority is 0 to {PRIORITY_MAX}, not {priority}", field="priority")
    return priority


def _job_priority(draft: SessionDraft, principal: Principal) -> int:
    """Anybody may put sessions below the others; above them, only those who administer a domain."""
    asked = draft.job_priority
    most = JOB_PRIORITY_MAX if principal.role in (Role.SUPERADMIN, Role.ADMIN) else 0
    if not -JOB_PRIORITY_MAX <= asked <= most:
        raise InvalidInput(
            f"your sessions may have a job priority of {-JOB_PRIORITY_MAX} to {most}, not {asked}",
            hint="Ask an administrator to start it." if most == 0 else "",
            field="job_priority",
        )
    return asked


def _check_texts(draft: SessionDraft) -> None:
    check_session_name(draft.name)
    if draft.name == "from-template":
        raise InvalidInput("the name 'from-template' is reserved", field="name")
    if draft.session_type is SessionType.BATCH and not (draft.startup_command or "").strip():
        raise InvalidInput(
            "a batch session runs a command, and there is none",
            hint="Give it as startupCommand.",
            field="startupCommand",
        )
    if draft.cluster_size < 1:
        raise InvalidInput("a session has at least one container", field="clusterSize")
    if len(draft.dependencies) > DEPENDENCIES_MAX:
        raise InvalidInput(f"at most {DEPENDENCIES_MAX} dependencies", field="dependencies")
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


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,6})?[smhdw])+")


def duration_s(text: str, *, field: str) -> float:
    """Seconds of "90s", "1.5h" or "1d12h"; a number alone is seconds. Raises InvalidInput."""
    spelled = text.strip().lower()
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,6})?", spelled):
        return float(spelled)
    if not _DURATION.fullmatch(spelled):
        raise InvalidInput(
            f"{text[:40]!r} is no duration", hint="For example 90s, 30m, 1h or 2d.", field=field
        )
    return sum(float(part[:-1]) * _UNITS_S[part[-1]] for part in re.findall(r"[\d.]+[smhdw]", spelled))


def _starts_at(draft: SessionDraft, now: datetime) -> datetime | None:
    text = (draft.starts_at or "").strip()
    if not text:
        return None
    if draft.session_type is not SessionType.BATCH:
        raise InvalidInput("only batch sessions start at a time", field="starts_at")
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = now + timedelta(seconds=duration_s(text, field="starts_at"))
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    if when > now + timedelta(days=STARTS_DAYS_MAX):
        raise InvalidInput("starts_at is within the next 10 years", field="starts_at")
    return when if when > now else None


def _batch_timeout(draft: SessionDraft) -> int | None:
    if draft.batch_timeout is None or draft.batch_timeout == "":
        return None
    if draft.session_type is not SessionType.BATCH:
        raise InvalidInput("only batch sessions have a time limit for their command", field="batch_timeout")
    limit_s = math.ceil(duration_s(str(draft.batch_timeout), field="batch_timeout"))
    if not 1 <= limit_s <= BATCH_TIMEOUT_S_MAX:
        raise InvalidInput("batch_timeout is 1 second to 10 years", field="batch_timeout")
    return limit_s


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
    known = {CPU, MEM} | {name for agent in agents for name in {*agent.capacity, *agent.device_slots}}
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
    _check_devices(asked, image, known, agents)
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


_MINIMUM = "ai.backend.resource.min."


def _check_devices(asked: dict[str, int], image: Image, known: Set[str], agents: list[Agent]) -> None:
    """Devices come in the steps in which agents give them, a share is of exactly one device, and an image gets no less than it needs:
    what it needs and was not asked for is added to `asked`."""
    for label, value in image.labels.items():
        name = label.removeprefix(_MINIMUM)
        if label != name and name in known - {CPU, MEM}:
            minimum = parse_amount(name, value)
            if asked.setdefault(name, minimum) < minimum:
                raise InvalidInput(
                    f"the image {image.name} needs at least {format_amount(name, minimum)} of {name}",
                    field=name,
                )
    infos = {slot.slot: slot for agent in agents for one in agent.accelerators for slot in one.slots}
    for name in asked.keys() & infos.keys():
        info, amount = infos[name], asked[name]
        if amount % info.quantum:
            raise InvalidInput(
                f"{name} comes in steps of {format_amount(name, info.quantum)}, not {format_amount(name, amount)}",
                field=name,
            )
        if amount > WHOLE and amount % WHOLE:
            raise InvalidInput(
                f"{format_amount(name, amount)} of {name} is neither a share of one device nor a number of whole ones",
                hint=f"Ask for less than 1, or for {amount // WHOLE} or {amount // WHOLE + 1}.",
                field=name,
            )


def device_models(resource_opts: Mapping[str, Any]) -> frozenset[str]:
    """Of its devices, the models that will do; empty: any."""
    return frozenset(filter(None, map(str.strip, str(resource_opts.get(DEVICE_MODELS) or "").split(","))))


def _models(draft: SessionDraft, slots: ResourceSlots, agents: list[Agent]) -> frozenset[str]:
    models = device_models(draft.resource_opts)
    devices = [device for agent in agents for device in agent.devices]
    known = {device.model for device in devices if slots[SlotName(device.slot)]}
    if models and not models & known:
        told = ", ".join(sorted({device.model for device in devices})[:10]) or "none"
        raise InvalidInput(
            f"no device that it asks for is of the model {' or '.join(sorted(models))[:200]}",
            hint=f"Models here: {told}. Ask for devices too, for example -r cuda.device=1.",
            field=DEVICE_MODELS,
        )
    return models


def _times(slots: ResourceSlots, count: int) -> ResourceSlots:
    return ResourceSlots({name: amount * count for name, amount in slots.items()})


def _cluster_mode(draft: SessionDraft) -> ClusterMode:
    try:
        return ClusterMode(draft.cluster_mode.lower())
    except ValueError:
        known = ", ".join(ClusterMode)
        raise InvalidInput(
            f"no cluster mode {draft.cluster_mode[:40]!r}", hint=f"One of {known}.", field="clusterMode"
        ) from None


def _check_chosen(
    draft: SessionDraft, mode: ClusterMode, group: str, principal: Principal, agents: list[Agent]
) -> None:
    """Agents that were chosen by name: by whom, how many, and whether they are there."""
    if not draft.agent_list:
        return
    if reach(principal, Action.AGENT_WRITE) is not Reach.ALL:
        raise InsufficientPrivilege(
            "only a superadministrator chooses agents for a session", hint="Leave agentList out."
        )
    wanted = draft.cluster_size if mode is ClusterMode.MULTI_NODE else 1
    if len(draft.agent_list) != wanted:
        raise InvalidInput(
            f"agentList names {len(draft.agent_list)} agents, and this session takes {wanted}",
            hint="One for a single-node session, one for each container of a multi-node session.",
            field="agentList",
        )
    known = {agent.id: agent for agent in agents}
    for agent_id in draft.agent_list:
        agent = known.get(AgentId(agent_id))
        if agent is None or agent.resource_group != group:
            raise InvalidInput(
                f"no agent {agent_id[:64]!r} in the resource group {group!r}", field="agentList"
            )


def _check_possible(
    slots: ResourceSlots, models: frozenset[str], architecture: str, group: str, agents: list[Agent]
) -> None:
    """Refuses what no agent could ever run, even if it were empty. Without any agent it waits: one may join."""
    candidates = [
        agent for agent in agents if agent.resource_group == group and agent.architecture == architecture
    ]
    large = [agent for agent in candidates if slots.fits(agent.capacity)]
    if not candidates or any(_has(agent, slots, models) for agent in large):
        return
    if large:
        raise ImpossibleResources(
            f"no agent has so many devices of the model {' or '.join(sorted(models))}",
            hint="Ask for fewer, or name other models.",
        )
    nearest = min(candidates, key=lambda agent: _lack(slots, agent))
    texts = [short.texts() for short in slots.shortfalls(nearest.capacity)]
    raise ImpossibleResources(
        "no agent is large enough: "
        + ", ".join(f"{t['slot']}: asked {t['asked']}, the largest has {t['available']}" for t in texts),
        hint="Ask for less, or add a larger agent.",
        slots=texts,
    )


def _lack(slots: ResourceSlots, agent: Agent) -> tuple[int, float]:
    """In how many slots it is too small, and by how much of what is asked for."""
    short = slots.shortfalls(agent.capacity)
    return len(short), sum(1 - one.available / one.asked for one in short)


def _has(agent: Agent, slots: ResourceSlots, models: frozenset[str]) -> bool:
    """Whether it has enough devices of these models, all of them free."""
    if not models:
        return True
    mine = [device.slot for device in agent.devices if device.model in models and not device.problem]
    return all(slots[SlotName(slot)] <= mine.count(slot) * WHOLE for slot in agent.device_slots)
