"""Scheduling decisions a second: of the pure cycle, and durable ones, from rows to rows.

`python -m bench.scheduler [--agents 5000] [--sessions 50000] [--jobs 1000] [--json]`. A durable decision is a pending session that was read
from the database (SQLite, PostgreSQL), planned and written as scheduled, guarded, with its kernels and its event. Sessions ask for cpu and
mem; a tenth of them are gangs of two to four kernels; users share by DRF; limits are counted. The peer is Slurm on this machine
(`bench.slurm`): jobs that do nothing, from their submission to their end. Beside that, how long a session of an idle cluster waits for its
place, by the cluster's own records.
"""

import argparse
import asyncio
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ai.backend.client.sync import Client
from ai.backend.common.clock import SystemClock
from ai.backend.common.quantity import ResourceSlots
from ai.backend.manager.config import ManagerConfig
from ai.backend.manager.db import schema as t
from ai.backend.manager.db.database import Database
from ai.backend.manager.db.migration import migrate
from ai.backend.manager.db.opening import open_database
from ai.backend.manager.identity.service import IdentityService
from ai.backend.manager.scheduling.loop import Scheduling
from ai.backend.manager.secret import FileSecrets
from ai.backend.scheduler.cycle import plan
from ai.backend.scheduler.model import AgentView, Group, KernelRequest, Snapshot, Workload
from ai.backend.testkit.postgres import PrivatePostgres, ensure_postgres, server_folder

from . import slurm
from .cluster import python_image, running
from .measure import machine, summary

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CAPACITY = {"cpu": 64_000, "mem": 256 << 30}
USERS = 100
ROUNDS = 30
IMAGE = "python:bench"


def asked(rng: random.Random) -> tuple[dict[str, int], int]:
    """Slots of each kernel, and how many kernels."""
    slots = {"cpu": rng.choice((1000, 2000, 4000)), "mem": rng.choice((1, 2, 8)) << 30}
    return slots, rng.randint(2, 4) if rng.random() < 0.1 else 1


def workloads(count: int, rng: random.Random) -> Iterator[Workload]:
    for number in range(count):
        slots, kernels = asked(rng)
        yield Workload(
            id=UUID(int=number + 1),
            resource_group="default",
            priority=10,
            created_at=NOW + timedelta(milliseconds=number),
            single_node=False,
            user=f"u{number % USERS}",
            kernels=tuple(
                KernelRequest(
                    id=UUID(int=(number + 1) * 10_000 + rank),
                    slots=ResourceSlots(slots),
                    image=IMAGE,
                    architecture="x86_64",
                )
                for rank in range(kernels)
            ),
        )


def pure(agents: int, sessions: int, seed: int) -> float:
    """Decisions a second of the cycle alone."""
    view = AgentView(
        id="",
        resource_group="default",
        architecture="x86_64",
        capacity=ResourceSlots(CAPACITY),
        occupied=ResourceSlots(),
        images=frozenset({IMAGE}),
    )
    snapshot = Snapshot(
        agents=tuple(_named(view, number) for number in range(agents)),
        workloads=tuple(workloads(sessions, random.Random(seed))),
        groups=(Group(name="default", order="drf"),),
    )
    began_s = time.perf_counter()
    made = plan(snapshot)
    took_s = time.perf_counter() - began_s
    assert len(made.starts) + len(made.refusals) == sessions
    return sessions / took_s


def _named(view: AgentView, number: int) -> AgentView:
    return AgentView(
        id=f"a{number:05}",
        resource_group=view.resource_group,
        architecture=view.architecture,
        capacity=view.capacity,
        occupied=view.occupied,
        images=view.images,
    )


async def fill(database: Database, folder: Path, agents: int, sessions: int, seed: int) -> None:
    rng = random.Random(seed)
    identity = IdentityService(database, FileSecrets(folder / "key", rng), clock=SystemClock(), rng=rng)
    seeded = await identity.seed(rng, NOW)
    user, _ = await identity.authenticate(seeded.user.access_key)

    def op(conn: sa.Connection) -> None:
        conn.execute(sa.update(t.resource_groups).values(scheduler="drf"))
        # Limits are looked at, and reached by nobody.
        conn.execute(
            sa.update(t.keypair_policies).values(
                max_concurrent_sessions=10 * sessions, total_resource_slots={"cpu": sessions * 100_000}
            )
        )
        conn.execute(
            sa.insert(t.images),
            [
                {
                    "name": IMAGE,
                    "architecture": "x86_64",
                    "digest": "sha256:0",
                    "size_bytes": 1,
                    "labels": {},
                    "created_at": NOW,
                }
            ],
        )
        conn.execute(
            sa.insert(t.agents),
            [
                {
                    "id": f"a{number:05}", "status": "ALIVE", "status_changed_at": NOW, "resource_group": "default",
                    "last_seen_at": NOW, "first_contact_at": NOW, "capacity": CAPACITY, "architecture": "x86_64",
                    "backend": "sandbox", "version": "0", "address": "", "healthy": True,
                }
                for number in range(agents)
            ],
        )  # fmt: skip
        conn.execute(
            sa.insert(t.agent_images),
            [{"agent_id": f"a{number:05}", "image_name": IMAGE} for number in range(agents)],
        )
        sessions_made, kernels_made = [], []
        for work in workloads(sessions, rng):
            total = {
                name: amount * len(work.kernels) for name, amount in work.kernels[0].slots.amounts().items()
            }
            sessions_made.append(
                {
                    "id": work.id, "name": f"s{work.id.int}", "session_type": "interactive", "status": "PENDING",
                    "status_changed_at": NOW, "domain_name": user.domain_name, "project_id": seeded.project_id,
                    "user_id": user.user_id, "access_key": user.access_key, "resource_group": "default",
                    "requested_slots": total, "created_at": work.created_at, "cluster_mode": "multi-node",
                }
            )  # fmt: skip
            kernels_made += [
                {
                    "id": kernel.id, "session_id": work.id, "cluster_role": "sub" if rank else "main",
                    "cluster_idx": rank or 1, "status": "PENDING", "image_name": IMAGE, "image_digest": "sha256:0",
                    "architecture": "x86_64", "requested_slots": kernel.slots.amounts(), "shm_bytes": 0,
                    "status_changed_at": NOW,
                }
                for rank, kernel in enumerate(work.kernels)
            ]  # fmt: skip
        conn.execute(sa.insert(t.sessions), sessions_made)
        conn.execute(sa.insert(t.kernels), kernels_made)

    await database.run(op)


async def durable(url: str, folder: Path, agents: int, sessions: int, seed: int) -> float:
    """Durable decisions a second; the database is new."""
    database = await open_database(url, rng=random.Random(1))
    try:
        await migrate(database)
        await fill(database, folder, agents, sessions, seed)
        scheduling = Scheduling(database, SystemClock(), ManagerConfig(), wake=lambda: None)
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)  # as the cluster's process does
        began_s = time.perf_counter()
        await scheduling._run()
        took_s = time.perf_counter() - began_s

        def scheduled(conn: sa.Connection) -> int:
            query = (
                sa.select(sa.func.count()).select_from(t.sessions).where(t.sessions.c.status == "SCHEDULED")
            )
            return int(conn.execute(query).scalar_one())

        placed = await database.read(scheduled)
        assert placed == sessions, "there is room for all of them"
        return sessions / took_s
    finally:
        await database.close()


def measure(agents: int, sessions: int, seed: int, jobs: int) -> dict[str, Any]:
    surroundings = machine()
    missing = slurm.available()
    print(missing or f"{jobs} jobs of Slurm ...", file=sys.stderr)
    peer = None if missing else slurm.jobs_per_s(jobs)
    print(f"{sessions} sessions on SQLite ...", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="bench-scheduler-") as name:
        folder = Path(name)
        on_sqlite = asyncio.run(durable(f"sqlite:///{folder / 'bench.db'}", folder, agents, sessions, seed))
    print(f"{sessions} sessions on PostgreSQL ...", file=sys.stderr)
    on_postgres = _on_postgres(agents, sessions, seed)
    print(f"{ROUNDS} sessions of an idle cluster ...", file=sys.stderr)
    waited_s = waits(ROUNDS)
    return {
        "durable_decisions_per_s": round(on_sqlite, 1),
        "durable_decisions_per_s_postgresql": None if on_postgres is None else round(on_postgres, 1),
        "enqueue_to_placement": summary(waited_s),
        "pure_decisions_per_s": round(pure(agents, sessions, seed), 1),
        "slurm_jobs_per_s": None if peer is None else round(peer, 1),
        "durable_over_slurm": None if peer is None else round(on_sqlite / peer, 1),
        "agents": agents,
        "sessions": sessions,
        "jobs": jobs,
        "seed": seed,
        "machine": surroundings,
    }


def waits(rounds: int) -> list[float]:
    """Seconds from the enqueueing of a session to its placement, one session after the other."""
    found = []
    with running("sandbox") as cluster, Client(cluster.config) as api:
        image = python_image(api)
        for _ in range(rounds):
            with api.sessions.create(image=image, resources={"cpu": "1", "mem": "64m"}) as session:
                told = {status: datetime.fromisoformat(at) for status, at in session.status_history().items()}
                found.append((told["SCHEDULED"] - told["PENDING"]).total_seconds())
    return found


def _on_postgres(agents: int, sessions: int, seed: int) -> float | None:
    """None where there is no server to be started."""
    reason, programs = ensure_postgres(), server_folder()
    if programs is None:
        print(reason, file=sys.stderr)
        return None
    server = PrivatePostgres(programs)
    try:
        server.start()
        with tempfile.TemporaryDirectory(prefix="bench-scheduler-") as name:
            return asyncio.run(durable(server.create(), Path(name), agents, sessions, seed))
    finally:
        server.remove()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.scheduler", description="Scheduling decisions a second.")
    parser.add_argument("--agents", type=int, default=5000)
    parser.add_argument("--sessions", type=int, default=50_000)
    parser.add_argument("--jobs", type=int, default=1000, help="of the peer")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    given = parser.parse_args()
    print(
        json.dumps(
            measure(given.agents, given.sessions, given.seed, given.jobs), indent=None if given.json else 2
        )
    )


if __name__ == "__main__":
    main()
