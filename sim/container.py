"""A node's container engine as one agent process sees it: it dies with the process, while the engine goes on with what it was told.

A call that is under way when the agent dies is finished by the engine all the same, as a real one does: the agent just never hears of it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from ai.backend.agent.container.backend import ContainerBackend
from ai.backend.agent.container.model import (
    CommitSpec,
    Container,
    ContainerSpec,
    Image,
    Network,
    NetworkSpec,
    Usage,
)

T = TypeVar("T")


class MortalBackend:
    """A `ContainerBackend`. `spawn` starts a task that belongs to the engine, not to the agent."""

    def __init__(
        self, inner: ContainerBackend, spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
    ) -> None:
        self._inner = inner
        self._spawn = spawn
        self.kind = inner.kind
        self.adopts = inner.adopts
        self.has_engine = inner.has_engine
        self.dead = False

    async def _ask(self, call: Coroutine[Any, Any, T]) -> T:
        if self.dead:
            call.close()
            raise asyncio.CancelledError
        result: T = await asyncio.shield(self._spawn(call))
        if self.dead:
            raise asyncio.CancelledError
        return result

    async def open(self) -> None:
        await self._ask(self._inner.open())

    async def close(self) -> None:
        if not self.dead:
            await self._inner.close()

    async def ping(self) -> None:
        await self._ask(self._inner.ping())

    async def images(self) -> list[Image]:
        return await self._ask(self._inner.images())

    async def commit(
        self, name: str, spec: CommitSpec, *, room: Callable[[int], None], tell: Callable[[int, int], None]
    ) -> Image:
        return await self._ask(self._inner.commit(name, spec, room=room, tell=tell))

    async def remove_image(self, name: str, digest: str) -> None:
        await self._ask(self._inner.remove_image(name, digest))

    async def unpack_home(self, image: str, folder: Path) -> None:
        await self._ask(self._inner.unpack_home(image, folder))

    async def create(self, spec: ContainerSpec) -> str:
        return await self._ask(self._inner.create(spec))

    async def start(self, name: str) -> None:
        await self._ask(self._inner.start(name))

    async def stop(self, name: str, *, grace_s: float) -> None:
        await self._ask(self._inner.stop(name, grace_s=grace_s))

    async def remove(self, name: str) -> None:
        await self._ask(self._inner.remove(name))

    async def ensure_network(self, spec: NetworkSpec) -> Network:
        return await self._ask(self._inner.ensure_network(spec))

    async def remove_network(self, name: str) -> None:
        await self._ask(self._inner.remove_network(name))

    async def networks(self) -> list[str]:
        return await self._ask(self._inner.networks())

    async def inspect(self, name: str) -> Container | None:
        return await self._ask(self._inner.inspect(name))

    async def list(self) -> list[Container]:
        return await self._ask(self._inner.list())

    async def logs(self, name: str, *, max_bytes: int) -> bytes:
        return await self._ask(self._inner.logs(name, max_bytes=max_bytes))

    async def usage(self, name: str) -> Usage | None:
        return await self._ask(self._inner.usage(name))

    async def events(self, on_change: Callable[[str], None]) -> AsyncIterator[None]:
        async for _ in self._inner.events(lambda name: None if self.dead else on_change(name)):
            yield
