"""Amounts of resources: integers only.

A slot of type `count` or `unique` (cpu, cuda.device, cuda.shares) is counted in milli-units: 1000 is one; a slot of type `bytes` (mem) in
bytes. So sums are exact, and nothing is lost by rounding. Text forms ("0.5", "1.5g", "512MiB") are read and written here alone.
"""

import re
from collections.abc import ItemsView, Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple, NewType

from .errors import InvalidInput

SlotName = NewType("SlotName", str)
CPU = SlotName("cpu")
MEM = SlotName("mem")

MILLI = 1000
AMOUNT_MAX = 2**62

_SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50, "e": 1 << 60}
_SIZE = re.compile(
    r"\s*([0-9]{1,32}(?:\.[0-9]{0,32})?|\.[0-9]{1,32})\s*([kmgtpe]?)(?:i?b|bytes?)?\s*",
    re.IGNORECASE | re.ASCII,
)
_COUNT = re.compile(r"\s*\+?([0-9]{0,32})(?:\.([0-9]{0,32}))?\s*", re.ASCII)


def slot_type(name: str) -> str:
    """ "bytes" for mem and `*.mem` slots, "unique" for MIG-like ones, "count" for the rest (docs: resource slots)."""
    if name == MEM or name.endswith(".mem"):
        return "bytes"
    if name.endswith("-mig"):
        return "unique"
    return "count"


class ResourceSlots(Mapping[SlotName, int]):
    """Slot name to integer amount; a missing slot is zero, and zero amounts are not kept, so equality means equality.

    Immutable and hashable. `a + b`, `a - b` (may go negative), `a.fits(b)`.
    """

    __slots__ = ("_amounts",)

    def __init__(self, amounts: Mapping[str, int] | None = None) -> None:
        self._amounts = {SlotName(k): v for k, v in sorted((amounts or {}).items()) if v != 0}

    def __getitem__(self, name: SlotName) -> int:
        return self._amounts.get(name, 0)

    def __iter__(self) -> Iterator[SlotName]:
        return iter(self._amounts)

    def __len__(self) -> int:
        return len(self._amounts)

    def __contains__(self, name: object) -> bool:
        return name in self._amounts

    def items(self) -> ItemsView[SlotName, int]:
        return self._amounts.items()

    def __hash__(self) -> int:
        return hash(tuple(self._amounts.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResourceSlots) and self._amounts == other._amounts

    def __repr__(self) -> str:
        return f"ResourceSlots({self._amounts})"

    def __add__(self, other: "ResourceSlots") -> "ResourceSlots":
        return ResourceSlots({k: self[k] + other[k] for k in {*self, *other}})

    def __sub__(self, other: "ResourceSlots") -> "ResourceSlots":
        return ResourceSlots({k: self[k] - other[k] for k in {*self, *other}})

    def shortfalls(self, available: "ResourceSlots") -> list["Shortfall"]:
        """The slots in which this request asks for more than is available; empty when it fits."""
        return [Shortfall(k, v, available[k]) for k, v in self._amounts.items() if v > available[k]]

    def fits(self, available: "ResourceSlots") -> bool:
        return all(v <= available[k] for k, v in self._amounts.items())

    def amounts(self) -> dict[str, int]:
        """A plain, mutable copy for storage and wires."""
        return {str(name): amount for name, amount in self._amounts.items()}

    def texts(self) -> dict[str, str]:
        """The wire form: decimal strings, memory in bytes."""
        return {k: format_amount(k, v) for k, v in self._amounts.items()}


class SlotLimits(dict[str, int]):
    """The most of each slot that somebody may hold. Unlike an amount, a limit of zero says something: none at all."""

    def texts(self) -> dict[str, str]:
        """The wire form, as of `ResourceSlots`."""
        return {name: format_amount(name, amount) for name, amount in sorted(self.items())}


class Shortfall(NamedTuple):
    slot: SlotName
    asked: int
    available: int

    def texts(self) -> dict[str, str]:
        return {
            "slot": self.slot,
            "asked": format_amount(self.slot, self.asked),
            "available": format_amount(self.slot, self.available),
        }


def sum_slots(many: "list[ResourceSlots] | tuple[ResourceSlots, ...]") -> ResourceSlots:
    total: dict[str, int] = {}
    for slots in many:
        for name, amount in slots.items():
            total[name] = total.get(name, 0) + amount
    return ResourceSlots(total)


def parse_size(value: str | int | float) -> int:
    """Bytes of a BinarySize: "256m", "1.5g", "512MiB", "1024", 1024. Suffixes are binary. Raises InvalidInput."""
    if isinstance(value, bool):
        raise InvalidInput(f"{value!r} is no size", hint="Write for example 256m or 1.5g.")
    match = _SIZE.fullmatch(str(value))
    if match is None:
        raise InvalidInput(
            f"{str(value)[:40]!r} is no size", hint="Write for example 256m, 1.5g or a number of bytes."
        )
    amount = int(Fraction(match[1]) * _SUFFIXES[match[2].lower()])
    if amount > AMOUNT_MAX:
        raise InvalidInput(f"{str(value)[:40]!r} is too large a size")
    return amount


def format_size(size_bytes: int) -> str:
    """For people: "256 MiB", "1.5 GiB"."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(amount) < 1024 or unit == "PiB":
            return f"{amount:.0f} {unit}" if amount == int(amount) else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")


def parse_amount(slot: str, value: str | int | float) -> int:
    """The integer amount of a slot from its wire form. Raises InvalidInput naming the slot; negative amounts are refused."""
    if slot_type(slot) == "bytes":
        return parse_size(value)
    match = None if isinstance(value, bool) else _COUNT.fullmatch(str(value))
    whole, part = (match[1], (match[2] or "").rstrip("0")) if match is not None else ("", "")
    milli = int(f"0{whole}") * MILLI + int(f"{part:0<3}"[:3])
    digits = match is not None and bool(match[1] or match[2])
    if not digits or len(part) > 3 or milli > AMOUNT_MAX:
        raise InvalidInput(
            f"{str(value)[:40]!r} is no amount of {slot}",
            hint="Write a number such as 1 or 0.5 (steps of 0.001).",
            slot=slot,
        )
    return milli


def format_amount(slot: str, amount: int) -> str:
    """The wire form: bytes as an integer, counts as a decimal without needless zeros or exponents."""
    if slot_type(slot) == "bytes":
        return str(amount)
    whole, milli = divmod(abs(amount), MILLI)
    text = f"{whole}.{milli:03d}".rstrip("0").rstrip(".")
    return f"-{text}" if amount < 0 else text


def parse_slot_limits(values: Mapping[str, str | int | float]) -> SlotLimits:
    """Raises what `parse_amount` does."""
    return SlotLimits({name: parse_amount(name, value) for name, value in values.items()})


def parse_slots(values: Mapping[str, str | int | float]) -> ResourceSlots:
    return ResourceSlots({name: parse_amount(name, value) for name, value in values.items()})
