"""Admission: what a draft becomes, and every way in which it can be refused."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from ai.backend.common.errors import (
    ImageNotFound,
    ImpossibleResources,
    InsufficientPrivilege,
    InvalidInput,
    QuotaExceeded,
    SessionExists,
)
from ai.backend.common.ids import AccessKey, AgentId, KernelId, ProjectId, SessionId, UserId
from ai.backend.common.quantity import ResourceSlots
from ai.backend.manager.access.model import Principal, Role
from ai.backend.manager.agents.model import Agent, AgentStatus
from ai.backend.manager.config import ManagerConfig
from ai.backend.manager.image.model import Image
from ai.backend.manager.image.policy import resolve
from ai.backend.manager.limit.policy import Quota
from ai.backend.manager.session.model import (
    Dependency,
    Session,
    SessionDraft,
    SessionResult,
    SessionStatus,
    SessionType,
)
from ai.backend.manager.session.policy import Facts, Ids, admit
from ai.backend.scheduler.model import Limit, Scope

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PRINCIPAL = Principal(
    user_id=UserId(UUID(int=3)),
    email="user@example.com",
    role=Role.USER,
    domain_name="default",
    access_key=AccessKey("AKIAUSER"),
    is_admin=False,
    rate_limit=1000,
)
IDS = Ids(session_id=SessionId(UUID(int=1)), kernel_ids=(KernelId(UUID(int=2)),))


def image(name: str = "local/python:3.11-debian12", **labels: str) -> Image:
    return Image(
        name=name,
        architecture="x86_64",
        digest="sha256:1",
        size_bytes=1,
        labels={"ai.backend.resource.min.cpu": "1", "ai.backend.resource.min.mem": "64m", **labels},
    )


def agent(name: str = "a1", cpu: int = 4000, mem: int = 8 << 30) -> Agent:
    return Agent(
        id=AgentId(name),
        status=AgentStatus.ALIVE,
        resource_group="default",
        schedulable=True,
        generation=0,
        started_at_us=0,
        sequence=0,
        last_seen_at=NOW,
        first_contact_at=NOW,
        status_changed_at=NOW,
        lost_at=None,
        region="local",
        capacity=ResourceSlots({"cpu": cpu, "mem": mem}),
        occupied=ResourceSlots(),
        architecture="x86_64",
        backend="fake",
        version="1",
        address="",
        healthy=True,
        problem="",
        images=frozenset(),
    )


KEYPAIR = Limit(scope=Scope.KEYPAIR, name="AKIAUSER", label="AKIAUSER")
QUOTA = Quota(containers_per_session_max=1, allowances=(replace(KEYPAIR, sessions=5),), waiting=KEYPAIR)
FACTS = Facts(
    project_id=ProjectId(UUID(int=4)),
    images=[image()],
    aliases={},
    agents=[agent()],
    resource_groups=frozenset({"default"}),
    existing=None,
    quota=QUOTA,
    bootstrap_script="",
)
DRAFT = SessionDraft(name="mysess", image="python")


BATCH: dict[str, object] = {"session_type": SessionType.BATCH, "startup_command": "true"}


def decide(draft: SessionDraft = DRAFT, **facts: object):  # type: ignore[no-untyped-def]
    return admit(draft, replace(FACTS, **facts), PRINCIPAL, IDS, NOW, ManagerConfig())  # type: ignore[arg-type]


def test_what_is_missing_comes_from_the_image() -> None:
    session = decide()
    assert isinstance(session, Session) and session.status is SessionStatus.PENDING and session.version == 0
    assert session.main.image_name == "local/python:3.11-debian12"
    assert session.main.requested_slots == ResourceSlots({"cpu": 1000, "mem": 256 << 20})
    assert session.deadline_at is not None and session.main.shm_bytes == 64 << 20
    preferred = decide(images=[image(**{"ai.backend.resource.preferred.mem": "1g"})])
    assert preferred.main.requested_slots["mem"] == 1 << 30


def test_impossible_resources_name_slot_asked_and_available() -> None:
    refusal = decide(
        replace(DRAFT, resources={"cpu": 8, "mem": "16g"}), agents=[agent(), agent("a2", cpu=16000)]
    )
    assert isinstance(refusal, ImpossibleResources)
    assert refusal.detail["slots"] == [{"slot": "mem", "asked": str(16 << 30), "available": str(8 << 30)}]


def test_without_any_agent_it_waits() -> None:
    assert isinstance(decide(replace(DRAFT, resources={"cpu": 800}), agents=[]), Session)


def test_an_unknown_image_lists_known_ones() -> None:
    refusal = decide(replace(DRAFT, image="cobol:9"))
    assert isinstance(refusal, ImageNotFound) and "local/python" in refusal.hint


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "a"}, "session name"),
        ({"name": "from-template"}, "reserved"),
        ({"resources": {"shmem": "1g"}}, "shmem"),
        ({"resources": {"cpu": "-1"}}, "cpu"),
        ({"resources": {"cpu": "0"}}, "at least"),
        ({"resources": {"mem": "1m"}}, "at least"),
        ({"resources": {"mem": "lots"}}, "size"),
        ({"resource_opts": {"shmem": "1g"}}, "less than memory"),
        ({"session_type": SessionType.BATCH}, "runs a command"),
        ({"session_type": SessionType.BATCH, "startup_command": "  "}, "runs a command"),
        ({"batch_timeout": "1h"}, "only batch sessions"),
        (BATCH | {"batch_timeout": "soon"}, "no duration"),
        ({"starts_at": "1h"}, "only batch sessions"),
        (BATCH | {"starts_at": "tomorrow"}, "no duration"),
        (BATCH | {"starts_at": "9999-01-01"}, "10 years"),
        ({"dependencies": ("x",) * 65}, "64 dependencies"),
        (BATCH | {"batch_timeout": 0}, "1 second"),
        ({"cluster_size": 0}, "at least one container"),
        ({"cluster_mode": "all-nodes"}, "cluster mode"),
        ({"resource_group": "moon"}, "moon"),
        ({"environ": {"A=B": "x"}}, "environment variable"),
        ({"environ": {"A": "x" * 200_000}}, "environment variables over"),
    ],
)
def test_bad_input_is_told_in_words(change: dict[str, object], word: str) -> None:
    refusal = decide(replace(DRAFT, **change))  # type: ignore[arg-type]
    assert isinstance(refusal, InvalidInput) and word in refusal.message


@pytest.mark.parametrize(
    ("given", "limit_s"),
    [(None, None), ("", None), (90, 90), ("1.5", 2), ("90s", 90), ("1h30m", 5400), ("2d", 172800)],
)
def test_a_batch_session_may_have_a_limit(given: object, limit_s: int | None) -> None:
    made = decide(replace(DRAFT, **BATCH, batch_timeout=given))  # type: ignore[arg-type]
    assert (made.batch_timeout_s, made.startup_command, made.result) == (limit_s, "true", "undefined")


@pytest.mark.parametrize(
    ("given", "after_s"),
    [
        ("90s", 90),
        ("1h", 3600),
        ("2026-01-01T00:00:05", 5),
        ("2026-01-01T00:00:05Z", 5),
        ("2026-01-01T09:00:05+09:00", 5),
        ("2025-12-31", None),
        ("", None),
    ],
)
def test_a_batch_session_may_start_later(given: str, after_s: int | None) -> None:
    made = decide(replace(DRAFT, **BATCH, starts_at=given))  # type: ignore[arg-type]
    usual = decide(DRAFT).deadline_at
    if after_s is None:
        assert (made.starts_at, made.reason, made.deadline_at) == (None, "", usual)
    else:
        later = timedelta(seconds=after_s)
        assert (made.starts_at, made.reason) == (NOW + later, "waits-for-time")
        assert made.deadline_at == usual + later, "it may wait for resources as long as any other"


def test_a_session_with_dependencies_says_so_from_the_start() -> None:
    one = Dependency(
        id=SessionId(UUID(int=8)), name="first", status=SessionStatus.RUNNING, result=SessionResult.UNDEFINED
    )
    made = decide(DRAFT, dependencies=(one, one))
    assert (made.reason, made.dependencies) == ("waits-for-dependencies", (one.id,))


def test_what_could_never_start_is_refused_with_the_numbers_of_all_limits() -> None:
    domain = Limit(scope=Scope.DOMAIN, name="main", label="main", rest=1 << 20)
    quota = replace(QUOTA, allowances=(replace(KEYPAIR, sessions=0, slots={"cpu": 1500}), domain))
    refusal = decide(replace(DRAFT, resources={"cpu": 2, "mem": "1g"}), quota=quota)
    assert isinstance(refusal, QuotaExceeded) and refusal.detail["limit"] == "max_concurrent_sessions"
    assert "cpu: asked 2 of 1.5" in refusal.message and "mem: asked 1 GiB of 1 MiB" in refusal.message
    assert [tuple(one.values()) for one in refusal.detail["limits"]] == [
        ("max_concurrent_sessions", "keypair", "AKIAUSER", "sessions", "1", "0", "0"),
        ("total_resource_slots", "keypair", "AKIAUSER", "cpu", "2", "0", "1.5"),
        ("total_resource_slots", "domain", "main", "mem", str(1 << 30), "0", str(1 << 20)),
    ]
    exactly = replace(QUOTA, allowances=(replace(KEYPAIR, slots={"cpu": 2000}),))
    assert isinstance(decide(replace(DRAFT, resources={"cpu": 2}), quota=exactly), Session)


def test_what_waits_has_limits_of_its_own() -> None:
    waiting = replace(
        KEYPAIR, sessions=3, sessions_used=2, slots={"cpu": 4000}, slots_used=ResourceSlots({"cpu": 3000})
    )
    assert isinstance(decide(quota=replace(QUOTA, waiting=waiting)), Session)
    refusal = decide(quota=replace(QUOTA, waiting=replace(waiting, sessions_used=3)))
    assert isinstance(refusal, QuotaExceeded) and refusal.detail["limit"] == "max_pending_session_count"
    assert (refusal.detail["used"], refusal.detail["allowed"]) == ("3", "3")
    refusal = decide(replace(DRAFT, resources={"cpu": 2}), quota=replace(QUOTA, waiting=waiting))
    assert (
        isinstance(refusal, QuotaExceeded) and refusal.detail["limit"] == "max_pending_session_resource_slots"
    )
    assert "asked 2, used 3 of 4" in refusal.message and "Wait" in refusal.hint


THREE = Ids(session_id=IDS.session_id, kernel_ids=tuple(KernelId(UUID(int=n)) for n in (2, 3, 4)))
BOSS = replace(PRINCIPAL, role=Role.SUPERADMIN)


def cluster(
    principal: Principal = PRINCIPAL, agents: tuple[Agent, ...] = (agent(),), most: int = 3, **draft: object
):  # type: ignore[no-untyped-def]
    quota = replace(QUOTA, containers_per_session_max=most)
    facts = replace(FACTS, quota=quota, agents=list(agents))
    wish = replace(DRAFT, **{"cluster_size": 3, **draft})  # type: ignore[arg-type]
    ids = THREE if wish.cluster_size == 3 else IDS
    return admit(wish, facts, principal, ids, NOW, ManagerConfig())


def test_a_cluster_has_a_main_kernel_and_sub_kernels() -> None:
    made = cluster()
    assert [kernel.hostname for kernel in made.kernels] == ["main1", "sub1", "sub2"]
    assert made.requested_slots["cpu"] == 3000 and made.cluster_mode == "single-node"


def test_limits_count_a_cluster_whole() -> None:
    refusal = cluster(most=2)
    assert isinstance(refusal, QuotaExceeded) and refusal.detail["limit"] == "max_containers_per_session"
    assert "asked 3 of 2" in refusal.message
    refusal = cluster(resources={"cpu": 2})
    assert isinstance(refusal, ImpossibleResources) and refusal.detail["slots"][0]["asked"] == "6"
    assert isinstance(cluster(resources={"cpu": 2}, cluster_mode="multi-node"), Session)
    assert isinstance(cluster(resources={"cpu": 5}, cluster_mode="multi-node"), ImpossibleResources)


def test_only_a_superadministrator_chooses_agents_and_the_right_number() -> None:
    agents = (agent(), agent("a2"), replace(agent("far"), resource_group="moon"))
    assert isinstance(cluster(agents=agents, agent_list=("a1",)), InsufficientPrivilege)
    for chosen, mode, good in (
        (("a1",), "single-node", True), (("a1", "a2"), "single-node", False), (("a1",), "multi-node", False),
        (("a1", "a2", "a1"), "multi-node", True), (("gone",), "single-node", False), (("far",), "single-node", False),
    ):  # fmt: skip
        made = cluster(BOSS, agents, agent_list=chosen, cluster_mode=mode)
        assert isinstance(made, Session if good else InvalidInput), (chosen, mode)
        assert not good or made.agent_list == chosen


def test_reuse_and_its_refusals() -> None:
    existing = replace(decide(), version=3)
    assert decide(existing=existing) is existing
    for refused in (
        decide(replace(DRAFT, reuse=False), existing=existing),
        decide(replace(DRAFT, image="ruby"), existing=existing, images=[image(), image("local/ruby:3")]),
    ):
        assert isinstance(refused, SessionExists) and refused.detail["existingSessionId"] == str(existing.id)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("python", "local/python:3.12-debian13"),
        ("python:latest", "local/python:3.12-debian13"),
        ("python:3", "local/python:3.12-debian13"),
        ("python:3.11", "local/python:3.11"),
        ("local/python:3.11-debian12", "local/python:3.11-debian12"),
        ("py", "local/python:3.11"),
        ("python:3.1", None),
        ("ython", None),
        ("python:4", None),
    ],
)
def test_image_references(reference: str, name: str | None) -> None:
    tags = ("3.11", "3.11-debian12", "3.12-debian13")
    images = [image(f"local/python:{tag}") for tag in tags]
    found = resolve(reference, "x86_64", images, {("py", "x86_64"): "local/python:3.11"})
    assert (found.name if found else None) == name
    assert resolve(reference, "riscv64", images, {}) is None


def test_ports_come_from_the_image_and_the_wish() -> None:
    labelled = [image(**{"ai.backend.service-ports": "jupyter:http:8080"})]
    session = decide(replace(DRAFT, preopen_ports=("3000", 3001)), images=labelled)
    assert session.main.preopen_ports == (3000, 3001)
    assert [one.name for one in session.main.service_ports] == ["jupyter", "3000", "3001"]
    for ports, images in (
        (("80",), labelled),
        ((8080,), labelled),
        ((), [image(**{"ai.backend.service-ports": "x"})]),
    ):
        assert isinstance(decide(replace(DRAFT, preopen_ports=ports), images=images), InvalidInput)
