"""Admission: what a draft becomes, and every way in which it can be refused."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from ai.backend.common.errors import (
    ImageNotFound,
    ImpossibleResources,
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
from ai.backend.manager.session.model import Session, SessionDraft, SessionStatus, SessionType
from ai.backend.manager.session.policy import Facts, Ids, admit

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


FACTS = Facts(
    project_id=ProjectId(UUID(int=4)),
    images=[image()],
    aliases={},
    agents=[agent()],
    resource_groups=frozenset({"default"}),
    existing=None,
    live_sessions=0,
    held_slots=ResourceSlots(),
    concurrent_sessions_max=5,
    containers_per_session_max=1,
    total_slots=ResourceSlots(),
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
        (BATCH | {"batch_timeout": 0}, "1 second"),
        ({"cluster_size": 3}, "container"),
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


def test_quotas_tell_numbers() -> None:
    refusal = decide(live_sessions=5)
    assert isinstance(refusal, QuotaExceeded) and refusal.detail["allowed"] == 5
    refusal = decide(
        replace(DRAFT, resources={"cpu": 2}),
        held_slots=ResourceSlots({"cpu": 3000}),
        total_slots=ResourceSlots({"cpu": 4000}),
    )
    assert isinstance(refusal, QuotaExceeded) and "cpu would be 5 of 4" in refusal.message


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
