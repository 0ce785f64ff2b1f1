"""Streams from the manager's side: who may open one, into what, and what its kernels are told. The agent is played."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ai.backend.common.bus import Accept
from ai.backend.common.errors import (
    AppNotFound,
    Forbidden,
    InvalidInput,
    InvalidSessionState,
    ServiceRefused,
    SessionNotFound,
)
from ai.backend.common.wire import rpc
from ai.backend.manager.access.model import Role

from .test_manager import PlayedAgent, World, database, draft, postgres, running  # noqa: F401 (fixtures)

PORTS: dict[str, Any] = {"preopen_ports": ("3000", 3001)}


@pytest.fixture
async def world(database: Any, tmp_path: Path) -> AsyncIterator[World]:  # noqa: F811
    async with running(database, tmp_path) as made:
        yield made


async def parrot(request: rpc.StreamRequest, accept: Accept) -> None:
    """Repeats what it hears, after saying what it is; nothing listens on 3001."""
    if isinstance(request, rpc.Connect) and request.port == 3001:
        raise ServiceRefused("nothing listens on port 3001")
    stream = accept()
    await stream.send(repr(request).encode())
    while data := await stream.receive():
        await stream.send(data)


async def test_ports_are_kept_and_told(world: World) -> None:
    sessions = world.manager.sessions
    made = await sessions.create(world.user, draft(**PORTS))
    told = [one.as_row() for one in made.session.main.service_ports]
    assert told == [
        {"name": "3000", "protocol": "preopen", "ports": [3000]},
        {"name": "3001", "protocol": "preopen", "ports": [3001]},
    ]
    again = await sessions.create(world.user, draft())
    assert not again.created and again.session.main.service_ports == made.session.main.service_ports
    assert again.session.main.preopen_ports == (3000, 3001)
    assert await sessions.apps(world.user, "mysess") == made.session.main.service_ports
    environ = world.agent.syncs[-1].kernels[0].environ
    assert (environ["BACKENDAI_PREOPEN_PORTS"], environ["BACKENDAI_SERVICE_PORTS"]) == ("3000,3001", "")


async def test_streams_reach_the_agent(world: World) -> None:
    sessions = world.manager.sessions
    made = await sessions.create(world.user, draft(**PORTS))
    serving = asyncio.create_task(world.agent.bus.serve("a1", world.agent.handle, parrot))
    await asyncio.sleep(0)
    kernel_id: UUID = made.session.main.id
    stream = await sessions.connect(world.user, "mysess", 3000)
    assert await stream.receive() == repr(rpc.Connect(kernel_id=kernel_id, port=3000)).encode()
    stream.close()
    stream = await sessions.terminal(world.user, str(made.session.id), rows=2, columns=3)
    assert await stream.receive() == repr(rpc.OpenTerminal(kernel_id=kernel_id, rows=2, columns=3)).encode()
    with pytest.raises(ServiceRefused):
        await sessions.connect(world.user, "mysess", 3001)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_apps_are_found_or_refused(world: World) -> None:
    sessions = world.manager.sessions
    await sessions.create(world.user, draft(**PORTS))
    assert await sessions.app_port(world.user, "mysess", "3001", None) == 3001
    with pytest.raises(AppNotFound):
        await sessions.app_port(world.user, "mysess", "jupyter", None)
    with pytest.raises(InvalidInput):
        await sessions.app_port(world.user, "mysess", "3001", 3000)
    await sessions.create(world.user, draft("waits", resources={"cpu": 4}, enqueue_only=True, **PORTS))
    with pytest.raises(InvalidSessionState):
        await sessions.app_port(world.user, "waits", "3000", None)


async def test_others_see_nothing_and_monitors_only_look(world: World) -> None:
    sessions = world.manager.sessions
    made = await sessions.create(world.user, draft(**PORTS))
    ref = str(made.session.id)
    stranger = replace(world.user, user_id=world.admin.user_id, access_key=world.admin.access_key)
    monitor = replace(stranger, role=Role.MONITOR)
    for who, refusal in ((stranger, SessionNotFound), (monitor, Forbidden)):
        with pytest.raises(refusal):
            await sessions.apps(who, ref)
        with pytest.raises(refusal):
            await sessions.app_port(who, ref, "3000", None)
        with pytest.raises(refusal):
            await sessions.connect(who, ref, 3000)
        with pytest.raises(refusal):
            await sessions.terminal(who, ref, rows=24, columns=80)
    assert await sessions.apps(world.admin, ref)
