"""What users do in a run: a seeded stream of wishes from a few people with a few names, so that they collide often.

Refusals and lost connections are part of life. Anything else that comes out of a call is a finding.
"""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from ai.backend.common.errors import BackendError, Timeout
from ai.backend.manager.access.model import Principal
from ai.backend.manager.assembly import Manager
from ai.backend.manager.session.model import SessionDraft, SessionType

from .world import World

NAMES = tuple(f"name{number}" for number in range(6))
THINK_S = (0.0, 12.0)
Work = Callable[[Manager], Coroutine[Any, Any, Any]]


async def act(world: World, what: str, work: Work) -> Any:
    """One call; its outcome goes into the story. Returns what it returned, or None."""
    world.tell(f"{what} ...")
    try:
        result = await world.ask(work)
    except BackendError as exc:
        world.tell(f"{what}: {exc}"[:160])
        return None
    except Exception as exc:
        world.unexpected(what, exc)
        return None
    world.tell(f"{what}: done")
    return result


async def user(world: World, rng: Random, principal: Principal, until_s: float) -> None:
    """One person, until the given moment."""
    while world.now_s < until_s:
        await asyncio.sleep(rng.uniform(*THINK_S))
        await wish(world, rng, principal, rng.choice(NAMES))


async def wish(world: World, rng: Random, principal: Principal, name: str) -> None:
    """One thing that a person may want of a session."""
    who = principal.email.partition("@")[0]
    other, forced, draw = rng.choice(NAMES), rng.random() < 0.3, rng.random()
    if draw < 0.15:
        await create_batch(world, rng, principal, who, name)
    elif draw < 0.5:
        await create(world, rng, principal, who, name)
    elif draw < 0.7:
        how = " by force" if forced else ""
        await act(
            world, f"{who} destroys {name}{how}", lambda m: m.sessions.destroy(principal, name, forced=forced)
        )
    elif draw < 0.8:
        await act(world, f"{who} restarts {name}", lambda m: m.sessions.restart(principal, name))
    elif draw < 0.85:
        await act(
            world, f"{who} renames {name} to {other}", lambda m: m.sessions.rename(principal, name, other)
        )
    elif draw < 0.95:
        await act(world, f"{who} executes in {name}", lambda m: execute(m, principal, name))
    else:
        await act(
            world,
            f"{who} lists",
            lambda m: m.sessions.list(principal, statuses=None, limit=50, offset=0),
        )


async def execute(manager: Manager, principal: Principal, name: str) -> Any:
    """One short run; the user's patience is half a minute."""
    try:
        async with asyncio.timeout(30):
            return await manager.sessions.execute(
                principal, name, mode="query", code="print(1)", run_id=None, options={}
            )
    except TimeoutError as exc:
        raise Timeout("the user gave up waiting") from exc


async def create(world: World, rng: Random, principal: Principal, who: str, name: str) -> None:
    resources: dict[str, str | int | float] = {
        "cpu": rng.choice(("0.5", "1", "2", "4")),
        "mem": rng.choice(("256m", "1g", "4g")),
    }
    if any(node.gpus for node in world.nodes) and rng.random() < 0.4:
        # Little else, so that several meet on one device.
        resources = {"cpu": "0.5", "mem": "256m", "cuda.shares": rng.choice(("0.3", "0.5", "0.7", "1"))}
    draft = SessionDraft(
        name=name,
        image="python",
        cluster_size=rng.choice((1, 1, 1, 1, 2, 3)),
        cluster_mode=rng.choice(("single-node", "multi-node")),
        resources=resources,
        enqueue_only=rng.random() < 0.5,
        reuse=rng.random() < 0.7,
        max_wait_s=rng.choice((0, 5, 30)),
        job_priority=rng.choice((0, 0, -1, -2)),
        preemptible=rng.random() < 0.8,
    )
    created = await act(
        world,
        f"{who} creates {name} {'/'.join(map(str, resources.values()))}",
        lambda m: m.sessions.create(principal, draft),
    )
    if created is not None:
        world.checkers.acknowledged(str(created.session.id))


async def create_batch(world: World, rng: Random, principal: Principal, who: str, name: str) -> None:
    """A command of some seconds that ends well or badly, at some time and after some others."""
    script = f"sleep {rng.choice(('0.1', '3', '15', '60'))}; exit {rng.choice((0, 0, 0, 1))}"
    draft = SessionDraft(
        name=name,
        image="python",
        session_type=SessionType.BATCH,
        startup_command=script,
        batch_timeout=rng.choice((None, None, 10, 30)),
        starts_at=rng.choice((None, None, "5s", "20s")),
        dependencies=tuple(other for other in NAMES if other != name and rng.random() < 0.15),
        resources={"cpu": rng.choice(("0.5", "1")), "mem": "256m"},
        cluster_size=rng.choice((1, 1, 1, 2)),
        enqueue_only=rng.random() < 0.7,
        reuse=rng.random() < 0.7,
        job_priority=rng.choice((0, 0, -1)),
    )
    created = await act(
        world, f"{who} creates batch {name}: {script}", lambda m: m.sessions.create(principal, draft)
    )
    if created is not None:
        world.checkers.acknowledged(str(created.session.id))


async def end_everything(world: World, principals: list[Principal]) -> None:
    """Each owner ends what is theirs; a second time what a first call did not reach."""
    owners = {str(principal.access_key): principal for principal in principals}
    for _ in range(2):
        for session in world.checkers.rows.sessions:
            if session.id in world.live():
                await end(world, owners[session.access_key], session.id)


async def end(world: World, principal: Principal, session_id: str) -> None:
    await act(world, f"the end of {session_id[:8]}", lambda m: m.sessions.destroy(principal, session_id))
