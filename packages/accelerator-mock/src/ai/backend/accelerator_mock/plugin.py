"""Devices of any kind that are not there. They are counted, given and shown as real ones are; programs that look for them find none.

Options (`[agent.accelerators.mock]`):

    count = 4                       how many
    family = "cuda"                 of which kind: cuda, rocm, atom, ...
    model = "H100"
    memory = "80g"                  of each
    fractional = true               shares of them are given (cuda.shares), else whole ones (cuda.device)
    numa-nodes = 2                  they are spread over so many
    broken = [3]                    the numbers of those that can't be used
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ai.backend.common.quantity import parse_size
from ai.backend.plugin.accelerator import WHOLE, Accelerator, Attachment, Device, Given, SlotInfo, Usage

COUNT_MAX = 64
SHARE_QUANTUM = 10


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    count: int = 0
    family: str = "cuda"
    model: str = "H100"
    memory: str = "80g"
    fractional: bool = False
    numa_nodes: int = 1
    broken: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.count <= COUNT_MAX:
            raise ValueError(f"count is 0 to {COUNT_MAX}, not {self.count}")
        if self.numa_nodes < 1:
            raise ValueError("numa-nodes is 1 or more")
        parse_size(self.memory)


class Mock:
    def __init__(self, options: Options) -> None:
        self._options = options
        self.key = options.family
        self._slot = f"{self.key}.{'shares' if options.fractional else 'device'}"
        self.slots: Sequence[SlotInfo] = (
            SlotInfo(
                slot=self._slot,
                description=f"{'Shares of devices' if options.fractional else 'Devices'} that are not there",
                name=f"{self.key.upper()} (mock)",
                unit="share" if options.fractional else "device",
                shared=options.fractional,
                quantum=SHARE_QUANTUM if options.fractional else WHOLE,
            ),
        )

    def facts(self) -> Mapping[str, str]:
        return {"mock": "true"}

    def devices(self) -> Sequence[Device]:
        given = self._options
        return [
            Device(
                id=str(number),
                slot=self._slot,
                model=given.model,
                memory_bytes=parse_size(given.memory),
                numa_node=number * given.numa_nodes // given.count,
                location=f"0000:{number:02x}:00.0",
                problem="it is configured to be broken" if number in given.broken else "",
            )
            for number in range(given.count)
        ]

    def usage(self) -> Mapping[str, Usage]:
        return {device.id: Usage(percent=0.0, memory_bytes=0) for device in self.devices()}

    def attach(self, given: Sequence[Given], *, engine: bool) -> Attachment:
        numbers = ",".join(one.device.id for one in given)
        return Attachment(environ={f"{self.key.upper().replace('-', '_')}_VISIBLE_DEVICES": numbers})

    def close(self) -> None:
        pass


def create(options: Mapping[str, Any]) -> Accelerator | None:
    """None without a count. Raises msgspec.ValidationError or InvalidInput for options that are wrong."""
    converted = msgspec.convert(options, Options)
    return Mock(converted) if converted.count else None
