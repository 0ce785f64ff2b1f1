"""When the network of a session's kernels on this node is made, and when it goes: before the first, after the last.

A kernel uses its session's network from its making until its container is gone for good; `idle` (pure) decides by that alone. A kernel
without neighbours on this node has none, and costs no call. It must never know how a backend makes one.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol
from uuid import UUID

from ai.backend.common.errors import BackendError
from ai.backend.common.log import get_logger
from ai.backend.common.wire.rpc import DesiredKernel

from ..container.backend import ContainerBackend
from ..container.model import Network, NetworkSpec

log = get_logger(__name__)


class User(Protocol):
    """A kernel, as far as its session's network is concerned."""

    desired: DesiredKernel

    @property
    def uses_network(self) -> bool:
        """False once its container is gone for good."""


def has_network(desired: DesiredKernel) -> bool:
    """Only those that have neighbours on their node."""
    return len(desired.local_hosts) > 1


def name_of(session_id: UUID) -> str:
    return str(session_id)


def idle(names: Iterable[str], users: Iterable[User]) -> list[str]:
    """Those networks that no kernel uses."""
    used = {name_of(user.desired.session_id) for user in users if user.uses_network}
    return [name for name in names if name not in used]


class SessionNetworks:
    """`users` gives all kernels of the agent, at any moment. One call at a time: none is made while it is taken away."""

    def __init__(self, backend: ContainerBackend, users: Callable[[], Iterable[User]]) -> None:
        self._backend = backend
        self._users = users
        self._turn = asyncio.Lock()

    async def join(self, desired: DesiredKernel) -> Network:
        """The network of the kernel's session, made if it is the first. Raises what the backend's `ensure_network` raises."""
        async with self._turn:
            spec = NetworkSpec(name=name_of(desired.session_id), hosts=desired.local_hosts)
            return await self._backend.ensure_network(spec)

    async def leave(self, desired: DesiredKernel) -> None:
        """Takes the network away if nobody uses it any more. Raises what the backend's `remove_network` raises."""
        await self._remove_idle([name_of(desired.session_id)])

    async def sweep(self, *, retry_s: float) -> None:
        """Takes away what kernels have left behind that nobody remembers; goes on until it is done."""
        while True:
            try:
                await self._remove_idle(await self._backend.networks())
                return
            except BackendError as exc:
                log.error("network-cleanup-failed", error=str(exc), retry_s=retry_s)
            await asyncio.sleep(retry_s)

    async def _remove_idle(self, names: list[str]) -> None:
        async with self._turn:
            for name in idle(names, self._users()):
                await self._backend.remove_network(name)
                log.debug("network-removed", network=name)
