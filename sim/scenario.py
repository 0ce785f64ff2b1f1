"""One seed, whole: a cluster, its users, its faults, and two reckonings.

    0 s        users begin
    5 s        faults begin
    FAULTS_END everything is healed; users stop wishing
    + PATIENCE first reckoning: every session runs, waits with a reason, or has ended; rows and containers agree
               then every session is ended by its owner
    + PATIENCE second reckoning: nothing is left

All chance comes from the seed, so the story and the number of steps are the same at every run of it.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from ai.backend.common.clock import Clock
from ai.backend.common.ids import AccessKey, UserId, new_access_key, new_uuid
from ai.backend.common.ids import Random as RandomPort
from ai.backend.manager.access.model import Principal, Role
from ai.backend.manager.db import schema
from ai.backend.testkit.fake_container import FakeWorld
from ai.backend.testkit.inline_database import InlineDatabase

from . import faults, workload
from .checkers import Checkers
from .container import MortalBackend
from .loop import SimulationError, VirtualTimeLoop
from .model_agent import Journal, ModelAgent
from .network import AgentEnd
from .story import Story
from .world import EPOCH, AgentProgram, MakeAgent, Node, World

FAULTS_FROM_S = 5.0
FAULTS_END_S = 120.0
PATIENCE_S = 150.0
TICK_S = 5.0
NODES = 3
USERS = 2
STEPS_MAX = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a seed came to. Two runs of one seed are equal in every field."""

    seed: int
    violations: tuple[str, ...]
    fingerprint: str
    steps: int
    virtual_s: float
    sessions: int
    checks: int
    faults: tuple[str, ...]
    story: tuple[str, ...] = field(repr=False)


SCHEDULING: tuple[dict[str, Any], ...] = (
    {},
    {"reserve_after": 3},
    {"reserve_after": 3, "agent_selection_strategy": "fragmentation"},
    {"reserve_after": 5, "preemption": {"enabled": True, "scope": "resource-group"}},
    {"reserve_after": 5, "preemption": {"enabled": True, "order": "oldest", "min_runtime": 5}},
    {"reserve_after": 5, "preemption": {"enabled": True, "scope": "resource-group", "mode": "reschedule"}},
)
"""One of them in each run."""


async def make_model_agent(
    node: Node, backend: MortalBackend, bus: AgentEnd, clock: Clock, rng: RandomPort
) -> AgentProgram:
    journal = node.disk.setdefault("journal", Journal())
    return ModelAgent(
        node.agent_id, capacity=node.capacity, backend=backend, bus=bus, clock=clock, journal=journal
    )


def run_seed(seed: int, *, make_agent: MakeAgent = make_model_agent) -> Outcome:
    """Runs a seed to its end. Never raises for what the simulated programs do: that becomes a violation."""
    rng = Random(seed)
    loop = VirtualTimeLoop(Random(rng.getrandbits(64)), steps_max=STEPS_MAX, threads=True)
    story, checkers = Story(), Checkers(patience_s=PATIENCE_S - 2 * TICK_S, faults_end_at_s=FAULTS_END_S)
    plan = faults.plan(rng, nodes=NODES, from_s=FAULTS_FROM_S, until_s=FAULTS_END_S)
    if seed % 10 == 0:
        plan = []  # what breaks without any fault is worth knowing at once
    with _listening(loop, story, checkers):
        try:
            loop.run(_play(rng, loop, story, checkers, plan, make_agent))
        except SimulationError as exc:
            checkers.violations.append(f"{type(exc).__name__}: {exc}")
    story.tell(loop.time(), f"the end, after {loop.steps} steps")
    return Outcome(
        seed=seed,
        violations=tuple(checkers.violations),
        fingerprint=story.fingerprint,
        steps=loop.steps,
        virtual_s=round(loop.time(), 3),
        sessions=len(checkers.rows.sessions),
        checks=checkers.checks,
        faults=tuple(f"{fault.at_s:.1f} s {fault}" for fault in plan),
        story=tuple(story.lines()),
    )


async def _play(
    rng: Random,
    loop: VirtualTimeLoop,
    story: Story,
    checkers: Checkers,
    plan: list[faults.Fault],
    make_agent: MakeAgent,
) -> None:
    database = InlineDatabase()
    await database.open()
    principals = await database.run(lambda conn: seed_rows(conn, rng))
    nodes = [
        Node(
            agent_id=f"i-node{number}",
            engine=FakeWorld(Random(rng.getrandbits(64))),
            capacity={"cpu": rng.choice((2000, 4000)), "mem": rng.choice((2, 4)) << 30},
            gpus=rng.choice((0, 1, 2)),
        )
        for number in range(NODES)
    ]
    world = World(
        rng,
        loop=loop,
        database=database,
        nodes=nodes,
        make_agent=make_agent,
        checkers=checkers,
        story=story,
    )
    loop.set_exception_handler(
        lambda _loop, context: world.unexpected(str(context.get("message")), context.get("exception"))
    )
    await world.start()
    world.spawn(_tick(world))
    users = [
        world.spawn(workload.user(world, Random(rng.getrandbits(64)), principal, FAULTS_END_S))
        for principal in principals
    ]
    for fault in plan:
        await asyncio.sleep(max(0.0, fault.at_s - world.now_s))
        world.fault(fault)
    await asyncio.sleep(max(0.0, FAULTS_END_S - world.now_s))
    world.heal()
    world.tell("all faults are over")
    await asyncio.sleep(PATIENCE_S)
    for task in users:
        task.cancel()  # a blocking create may wait for room that never comes
    world.tell("first reckoning")
    checkers.finish(all_ended=False)
    await workload.end_everything(world, principals)
    await asyncio.sleep(PATIENCE_S)
    world.tell("second reckoning")
    checkers.finish(all_ended=True)
    for node in nodes:
        ran = node.disk["runners"].ran if "runners" in node.disk else []
        checkers.violations += [
            f"the command of {one} ran twice" for one in sorted({x for x in ran if ran.count(x) > 1})
        ]
    await database.close()


async def _tick(world: World) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        world.checkers.tick(world.now_s)


def seed_rows(conn: sa.Connection, rng: Random) -> list[Principal]:
    """An installation without a bootstrap: the least that sessions need. Returns the users."""
    schema.metadata.create_all(conn)
    project_id = new_uuid(rng)
    limits = {"max_concurrent_sessions": 20, "max_containers_per_session": 3}
    for table, row in (
        (schema.domains, {"name": "default"}),
        (schema.resource_groups, {"name": "default", "scheduler_opts": rng.choice(SCHEDULING)}),
        (schema.keypair_policies, {"name": "default", **limits}),
        (schema.user_policies, {"name": "default"}),
        (schema.project_policies, {"name": "default"}),
        (schema.projects, {"id": project_id, "name": "default", "domain_name": "default"}),
    ):
        conn.execute(sa.insert(table).values(created_at=EPOCH, **row))
    association = {"resource_group": "default", "domain_name": "default"}
    conn.execute(sa.insert(schema.resource_group_domains).values(association))
    return [_seed_user(conn, rng, project_id, f"user{number}") for number in range(USERS)]


def _seed_user(conn: sa.Connection, rng: Random, project_id: UUID, name: str) -> Principal:
    user_id, access_key = UserId(new_uuid(rng)), new_access_key(rng)
    email = f"{name}@localhost"
    conn.execute(
        sa.insert(schema.users).values(
            id=user_id,
            email=email,
            username=name,
            password_hash="",
            role=Role.USER.value,
            domain_name="default",
            created_at=EPOCH,
        )
    )
    conn.execute(sa.insert(schema.project_members).values(project_id=project_id, user_id=user_id))
    conn.execute(
        sa.insert(schema.keypairs).values(
            access_key=access_key,
            secret_key_sealed=b"",
            user_id=user_id,
            policy_name="default",
            rate_limit=1000,
            created_at=EPOCH,
        )
    )
    return Principal(
        user_id=user_id,
        email=email,
        role=Role.USER,
        domain_name="default",
        access_key=AccessKey(access_key),
        is_admin=False,
        rate_limit=1000,
    )


@contextmanager
def _listening(loop: VirtualTimeLoop, story: Story, checkers: Checkers) -> Iterator[None]:
    """Logs become part of the story; one with a traceback is a bug that somebody caught."""

    def hear(_logger: Any, method: str, event: Any) -> Any:
        exc_info = event.pop("exc_info", None)
        event.pop("logger_name", None)
        text = " ".join(f"{key}={value}" for key, value in sorted(event.items()))
        story.tell(loop.time(), f"log {method}: {text}"[:200])
        if exc_info:
            checkers.violations.append(f"logged with a traceback: {text}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.add_log_level, hear],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)
