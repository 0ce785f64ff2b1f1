"""Settings, the announcement, freezing, and what administrators tell the scheduler.

Every request of a changing route asks for the manager's state, so it is kept for KEPT_S: a change made here counts at once, one made by
another manager on the same database within that second. However many ask at the same time, one read answers them all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.errors import AgentNotFound, Frozen, InvalidInput
from ai.backend.common.log import get_logger
from ai.backend.common.quantity import CPU, MEM

from ..access.model import Principal
from ..access.policy import Action, demand
from ..audit import store as audit_store
from ..audit.model import note
from ..db.database import Database
from ..loop import Loop
from . import store
from .model import ManagerState, SchedulerStatus, SlotDetail, Status, Tree
from .policy import (
    ANNOUNCEMENT_KEY,
    REGISTRY_PREFIX,
    SCHEDULER_EVENTS,
    STATE_KEY,
    announcement_of,
    key_of,
    leaves,
    registries,
    slot_detail,
    tree,
)

log = get_logger(__name__)

KEPT_S = 1.0


class SettingService:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        loops: Sequence[Loop],
        end_all: Callable[[str, str], Awaitable[int]],
    ) -> None:
        """`loops`: what the scheduler consists of; `end_all`: ends every session, for a reason and with a message."""
        self._database = database
        self._clock = clock
        self._loops = loops
        self._end_all = end_all
        self._kept: tuple[float, Status] | None = None
        self._loading: asyncio.Task[Status] | None = None
        self._changes = 0

    # -- status ----------------------------------------------------------------------------------------------------------------

    async def status(self) -> Status:
        """At most KEPT_S old, counted from before it was read."""
        kept = self._kept
        if kept is not None and self._clock.monotonic() < kept[0]:
            return kept[1]
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load(), name="manager-status")
        # Whoever goes away must not break off the read that others wait for.
        return await asyncio.shield(self._loading)

    async def _load(self) -> Status:
        while True:
            until, changes = self._clock.monotonic() + KEPT_S, self._changes
            found = await self._database.read(store.status)
            if changes == self._changes:  # else: read before a change, perhaps
                self._kept = (until, found)
                return found

    def forget(self) -> None:
        self._changes += 1
        self._kept = None

    async def refuse_when_frozen(self) -> None:
        """Raises Frozen. Called for every request that would change something."""
        if (await self.status()).state is ManagerState.FROZEN:
            raise Frozen(
                "the cluster is frozen for maintenance",
                hint="Sessions that run can still be used and ended; try again later.",
            )

    async def _change(self, op: Callable[[sa.Connection], None]) -> None:
        try:
            await self._database.run(op)
        finally:
            self.forget()

    async def set_state(self, principal: Principal, state: str, *, force_kill: bool = False) -> None:
        """Freezes or unfreezes; `force_kill` ends every session after freezing. Raises NotPrivileged or InvalidInput."""
        demand(principal, Action.SETTING_WRITE)
        ((_, wanted),) = leaves(STATE_KEY, state).items()
        if force_kill and wanted != ManagerState.FROZEN:
            raise InvalidInput(
                "sessions are ended only together with freezing",
                hint="Send status 'frozen' with force_kill.",
                field="force_kill",
            )
        action = "manager:freeze" if wanted == ManagerState.FROZEN else "manager:unfreeze"
        told = note(principal, action, "manager", self._clock.now(), force_kill=force_kill)

        def op(conn: sa.Connection) -> None:
            store.put(conn, {STATE_KEY: wanted})
            audit_store.write(conn, told)

        await self._change(op)
        log.info("manager-state-set", state=wanted, by=principal.email, force_kill=force_kill)
        if force_kill:
            ended = await self._end_all("force-terminated", "An administrator froze the cluster.")
            log.info("sessions-ended", count=ended, by=principal.email)

    async def announce(self, principal: Principal, *, enabled: bool, message: str | None) -> None:
        """Raises NotPrivileged or InvalidInput."""
        demand(principal, Action.SETTING_WRITE)
        text = announcement_of(enabled, message)
        told = note(principal, "announcement:set", "manager", self._clock.now(), enabled=enabled)

        def op(conn: sa.Connection) -> None:
            if text:
                store.put(conn, {ANNOUNCEMENT_KEY: text})
            else:
                store.delete(conn, ANNOUNCEMENT_KEY)
            audit_store.write(conn, told)

        await self._change(op)

    # -- the tree of settings --------------------------------------------------------------------------------------------------

    async def get(self, principal: Principal, key: str, *, prefix: bool) -> Tree | None:
        """The value, or None; with `prefix` what is below the key, as nested names. Raises NotPrivileged or InvalidInput."""
        demand(principal, Action.SETTING_READ)
        wanted = key_of(key, whole=prefix)
        if prefix:
            return tree(wanted, await self._database.read(lambda conn: store.below(conn, wanted)))
        return await self._database.read(lambda conn: store.get(conn, wanted))

    async def set(self, principal: Principal, key: str, value: Tree) -> None:
        """Raises NotPrivileged or InvalidInput. Values may be secrets: neither the log nor the audit log has them."""
        demand(principal, Action.SETTING_WRITE)
        values = leaves(key_of(key), value)
        now = self._clock.now()
        told = [note(principal, "setting:set", each, now) for each in values]

        def op(conn: sa.Connection) -> None:
            store.put(conn, values)
            for each in told:
                audit_store.write(conn, each)

        await self._change(op)

    async def delete(self, principal: Principal, key: str, *, prefix: bool) -> None:
        """What is not there counts as deleted. Raises NotPrivileged or InvalidInput."""
        demand(principal, Action.SETTING_WRITE)
        wanted = key_of(key)
        told = note(principal, "setting:delete", wanted, self._clock.now(), prefix=prefix)

        def op(conn: sa.Connection) -> None:
            (store.delete_below if prefix else store.delete)(conn, wanted)
            audit_store.write(conn, told)

        await self._change(op)

    async def registries(self, principal: Principal) -> dict[str, str]:
        """Registries of images: host to address. Raises NotPrivileged."""
        demand(principal, Action.SETTING_READ)
        return registries(await self._database.read(lambda conn: store.below(conn, REGISTRY_PREFIX)))

    # -- the scheduler ---------------------------------------------------------------------------------------------------------

    async def operate_scheduler(self, principal: Principal, operation: str, agent_ids: Sequence[str]) -> None:
        """include-agents or exclude-agents. Raises NotPrivileged, InvalidInput or AgentNotFound (then nothing is changed)."""
        demand(principal, Action.AGENT_WRITE)
        if operation not in ("include-agents", "exclude-agents"):
            raise InvalidInput(
                f"no operation {operation[:40]!r}", hint="One of include-agents, exclude-agents.", field="op"
            )
        if not agent_ids:
            raise InvalidInput("which agents?", hint="Give their ids in args.", field="args")
        include = operation == "include-agents"
        now = self._clock.now()
        verb = "agent:include" if include else "agent:exclude"
        told = [note(principal, verb, agent_id, now) for agent_id in dict.fromkeys(agent_ids)]

        def op(conn: sa.Connection) -> None:
            unknown = store.set_schedulable(conn, agent_ids, schedulable=include)
            if unknown:
                raise AgentNotFound(f"no agent {', '.join(unknown)[:200]}", hint="See 'backend.ai agent ls'.")
            for each in told:
                audit_store.write(conn, each)

        await self._database.run(op)
        self._wake()

    def _wake(self) -> None:
        for loop in self._loops:
            loop.wake()

    async def trigger_scheduler(self, principal: Principal, event: str) -> None:
        """The scheduler looks now instead of at its next turn. Raises NotPrivileged or InvalidInput."""
        demand(principal, Action.SETTING_WRITE)
        if event not in SCHEDULER_EVENTS:
            known = ", ".join(sorted(SCHEDULER_EVENTS - {""}))
            raise InvalidInput(f"no event {event[:40]!r}", hint=f"One of {known}.", field="event")
        self._wake()

    async def scheduler_status(self, principal: Principal) -> SchedulerStatus:
        """Raises NotPrivileged."""
        demand(principal, Action.SETTING_READ)
        pending, schedulable = await self._database.read(store.pending_and_schedulable)
        return SchedulerStatus(
            pending_sessions=pending,
            schedulable_agents=schedulable,
            runs={loop.name: loop.runs for loop in self._loops},
            failures={loop.name: loop.failures for loop in self._loops},
        )

    # -- resource slots --------------------------------------------------------------------------------------------------------

    async def slots(self, resource_group: str | None = None) -> list[SlotDetail]:
        """Kinds of resources: processor and memory always, others where agents have them."""
        found = await self._database.read(lambda conn: store.capacity_slots(conn, resource_group))
        return [slot_detail(name) for name in sorted({CPU, MEM} | found)]
