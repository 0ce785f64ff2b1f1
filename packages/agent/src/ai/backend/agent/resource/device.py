"""The node's devices: what there is, who holds what, and what a container needs to use its own.

Devices are those that plugins tell at the agent's start. One that gets a problem later is given no more and leaves the node's capacity;
who holds it keeps it. What kernels hold is written in the journal and on their containers (`Grant`): this object only adds it up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from ai.backend.common.errors import KernelError
from ai.backend.common.log import get_logger
from ai.backend.common.wire import rpc
from ai.backend.plugin.accelerator import WHOLE, Attachment, Given, SlotInfo
from ai.backend.plugin.accelerator import Device as PluginDevice

from ..container.model import DeviceFile, EngineRequest, Mount
from .accelerator import Caller, Silent
from .alloc import Allocation, Allocations, Device, Parts, Pool, Refused, Strategy

log = get_logger(__name__)

Held = dict[str, dict[str, int]]
"""Slot -> device -> milli, as it is kept."""
MIB = 1 << 20


class DevicesUnavailable(KernelError):
    """The node can't give what is asked for: others hold it, or it is broken."""

    code = "kernel.devices-unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What one kernel holds, and all that its container needs for it."""

    held: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    device_files: tuple[DeviceFile, ...] = ()
    engine_requests: tuple[EngineRequest, ...] = ()
    numa_nodes: frozenset[int] = frozenset()


NOTHING = Grant()


class Devices:
    def __init__(self, callers: Sequence[Caller] = (), strategy: Strategy = Strategy.FILL) -> None:
        self._callers = callers
        self._strategy = strategy
        self._known: dict[str, tuple[Caller, PluginDevice]] = {}
        self._allocations = Allocations(())
        self._capacity: dict[str, int] = {}
        self._facts: dict[str, dict[str, str]] = {}
        self._usage: dict[str, rpc.DeviceUsage] = {}

    async def open(self) -> None:
        """Looks at what there is. Called once, before anything else."""
        for caller in self._callers:
            for device in await caller.devices():
                self._known[_name(caller, device.id)] = caller, device
            try:
                self._facts[caller.name] = dict(await caller.call(caller.accelerator.facts))
            except Silent as exc:
                log.warning("accelerator-facts", plugin=caller.name, problem=str(exc))
        infos = [info for caller in self._callers for info in caller.accelerator.slots]
        self._allocations = Allocations(self._pool(info) for info in infos)
        self._count()

    def _pool(self, info: SlotInfo) -> Pool:
        mine = [(name, device) for name, (_, device) in self._known.items() if device.slot == info.slot]
        return Pool(
            slots=frozenset({info.slot}),
            devices=tuple(Device(id=name, numa_node=device.numa_node) for name, device in mine),
            strategy=self._strategy,
            quantum=info.quantum,
        )

    async def refresh(self) -> bool:
        """Looks again: whether devices can be used, and how busy they are. Says whether the capacity has changed."""
        before = dict(self._known)
        for caller in self._callers:
            now = {_name(caller, device.id): device for device in await caller.devices()}
            for name, (owner, device) in self._known.items():
                if owner is caller:
                    problem = caller.problem or "it is not there any more"
                    self._known[name] = caller, now.get(name, _broken(device, problem))
            try:
                usage = await caller.call(caller.accelerator.usage)
            except Silent as exc:
                log.debug("accelerator-usage", plugin=caller.name, problem=str(exc))
                usage = {}
            for name in (name for name, (owner, _) in self._known.items() if owner is caller):
                used = usage.get(self._known[name][1].id)
                self._usage.pop(name, None)
                if used is not None:
                    self._usage[name] = rpc.DeviceUsage(percent=used.percent, memory_bytes=used.memory_bytes)
        self._count()
        return before != self._known

    def _count(self) -> None:
        usable = [(name, device) for name, (_, device) in self._known.items() if not device.problem]
        self._allocations.unusable = frozenset(self._known) - {name for name, _ in usable}
        self._capacity = {}
        for _, device in usable:
            self._capacity[device.slot] = self._capacity.get(device.slot, 0) + WHOLE

    # -- what reports tell -----------------------------------------------------------------------------------------------------

    @property
    def capacity(self) -> dict[str, int]:
        """Milli by slot, of the devices that can be used."""
        return dict(self._capacity)

    @property
    def usage(self) -> dict[str, rpc.DeviceUsage]:
        return dict(self._usage)

    def reports(self) -> list[rpc.DeviceReport]:
        return [
            rpc.DeviceReport(
                id=name,
                slot=device.slot,
                model=device.model,
                memory_bytes=device.memory_bytes,
                units=device.units,
                numa_node=device.numa_node,
                location=device.location,
                problem=device.problem,
            )
            for name, (_, device) in self._known.items()
        ]

    def plugins(self) -> list[rpc.AcceleratorReport]:
        return [
            rpc.AcceleratorReport(
                key=caller.accelerator.key,
                version=caller.version,
                facts=self._facts.get(caller.name, {}),
                slots=[
                    rpc.SlotReport(
                        slot=info.slot,
                        description=info.description,
                        name=info.name,
                        unit=info.unit,
                        shared=info.shared,
                        quantum=info.quantum,
                    )
                    for info in caller.accelerator.slots
                ],
                problem=caller.problem,
            )
            for caller in self._callers
        ]

    # -- what kernels hold -----------------------------------------------------------------------------------------------------

    def give(self, kernel_id: UUID, slots: Mapping[str, int], hint: Mapping[str, int]) -> Held:
        """All devices that a kernel asks for; the same kernel again gets what it has. Raises DevicesUnavailable."""
        given = self._allocations.allocate(str(kernel_id), slots, hint)
        if isinstance(given, Refused):
            raise DevicesUnavailable(
                given.message,
                hint="Another session holds them, or they don't work: see 'backend.ai agent devices'.",
                slot=given.slot,
                asked=given.asked,
                available=given.available,
            )
        return _held(given)

    def adopt(self, kernel_id: UUID, held: Mapping[str, Mapping[str, int]]) -> None:
        """Takes over what a kernel was given before this agent began, as far as it is there still."""
        parts: dict[str, Parts] = {}
        for slot, given in held.items():
            lost = sorted(given.keys() - self._known.keys())
            if lost:
                log.error("devices-lost", kernel=str(kernel_id), devices=lost)
            kept = tuple(sorted((one, milli) for one, milli in given.items() if one not in lost))
            parts |= {slot: kept} if kept else {}
        wrong = self._allocations.adopt(str(kernel_id), Allocation(parts=parts)) if parts else ""
        if wrong:
            log.error("devices-not-adopted", kernel=str(kernel_id), problem=wrong)

    def take_back(self, kernel_id: UUID) -> None:
        self._allocations.release(str(kernel_id))

    async def grant(self, held: Held, *, engine: bool) -> Grant:
        """What a container needs to use these. Raises DevicesUnavailable."""
        by_caller: dict[str, tuple[Caller, list[Given]]] = {}
        for given in held.values():
            for name, milli in given.items():
                if name not in self._known:
                    raise DevicesUnavailable(f"device {name} is not there any more")
                caller, device = self._known[name]
                by_caller.setdefault(caller.name, (caller, []))[1].append(Given(device=device, milli=milli))
        if not by_caller:
            return NOTHING
        attached: list[Attachment] = []
        for caller, mine in by_caller.values():
            try:
                attached.append(await caller.call(caller.accelerator.attach, mine, engine=engine))
            except Silent as exc:
                raise DevicesUnavailable(f"the plugin {caller.name} can't attach its devices: {exc}") from exc
        everything = [(caller.accelerator.key, one) for caller, mine in by_caller.values() for one in mine]
        environ = environment_of(everything)
        for one in attached:
            environ |= one.environ
        return Grant(
            held=held,
            environ=environ,
            mounts=tuple(Mount(source=b.source, target=b.target) for one in attached for b in one.binds),
            device_files=tuple(
                DeviceFile(source=n.source, target=n.target)
                for n in dict.fromkeys(node for one in attached for node in one.nodes)
            ),
            engine_requests=tuple(
                EngineRequest(driver=r.driver, ids=r.ids, capabilities=r.capabilities)
                for one in attached
                for r in one.requests
            ),
            numa_nodes=frozenset(g.device.numa_node for _, g in everything if g.device.numa_node >= 0),
        )

    async def close(self) -> None:
        for caller in self._callers:
            try:
                await caller.call(caller.accelerator.close)
            except Silent as exc:
                log.warning("accelerator-close", plugin=caller.name, problem=str(exc))


def environment_of(given: Sequence[tuple[str, Given]]) -> dict[str, str]:
    """The published variables that tell programs of their devices: how many, of which kind, and how much memory of each is theirs."""
    memory = [one.device.memory_bytes * one.milli // WHOLE for _, one in given]
    return {
        "GPU_TYPE": given[0][0],
        "GPU_MODEL_NAME": given[0][1].device.model,
        "GPU_COUNT": str(len(given)),
        "N_GPUS": str(len(given)),
        "GPU_CONFIG": ",".join(f"{number}:{amount}" for number, amount in enumerate(memory)),
        "TF_GPU_MEMORY_ALLOC": str(memory[0] // MIB),
    }


def resource_lines(held: Mapping[str, Mapping[str, int]]) -> str:
    """Of resource.txt: for each slot which devices, and how much of each."""
    lines = ""
    for slot, given in sorted(held.items()):
        shares = ",".join(
            f"{name.partition('/')[2]}:{milli / WHOLE:g}" for name, milli in sorted(given.items())
        )
        lines += f"{slot.upper()}_SHARES={shares}\n"
    return lines


def _name(caller: Caller, device_id: str) -> str:
    return f"{caller.accelerator.key}/{device_id}"


def _held(given: Allocation) -> Held:
    return {slot: dict(parts) for slot, parts in given.parts.items()}


def _broken(device: PluginDevice, problem: str) -> PluginDevice:
    return replace(device, problem=problem)
