"""What scopes (keypairs, users, projects, domains) may hold together: who would go over it, by how much, and how that is told."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from ai.backend.common.quantity import (
    ResourceSlots,
    Shortfall,
    SlotName,
    format_amount,
    format_size,
    slot_type,
    sum_slots,
)

from .model import Excess, Limit, Need, Refusal, Remedy, Rule, Scope, Workload

SESSIONS, CONTAINERS = "sessions", "containers"
COUNTED = frozenset({SESSIONS, CONTAINERS})
"""What is no slot."""


def exceeded(limit: Limit, slots: ResourceSlots) -> Iterator[Excess]:
    """By what one more session with these slots would exceed the limit: the number of sessions, then slots by name."""
    if limit.sessions is not None and limit.sessions_used + 1 > limit.sessions:
        yield Excess(limit=limit, what=SESSIONS, asked=1, used=limit.sessions_used, allowed=limit.sessions)
    if not limit.slots and limit.rest is None:
        return
    for name, asked in slots.items():
        allowed = limit.slots.get(name, limit.rest)
        used = limit.slots_used[name]
        if allowed is not None and used + asked > allowed:
            yield Excess(limit=limit, what=name, asked=asked, used=used, allowed=allowed)


class _Use:
    """One limit, and what is used of it by now."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._counts = bool(limit.slots) or limit.rest is not None
        self._sessions = limit.sessions_used
        self._slots = limit.slots_used.amounts()

    def refuses(self, slots: ResourceSlots) -> bool:
        limit = self._limit
        if limit.sessions is not None and self._sessions + 1 > limit.sessions:
            return True
        if self._counts:
            for name, asked in slots.items():
                allowed = limit.slots.get(name, limit.rest)
                if allowed is not None and self._slots.get(name, 0) + asked > allowed:
                    return True
        return False

    def add(self, slots: ResourceSlots) -> None:
        self._sessions += 1
        if self._counts:
            for name, amount in slots.items():
                self._slots[name] = self._slots.get(name, 0) + amount

    def now(self) -> Limit:
        return replace(self._limit, sessions_used=self._sessions, slots_used=ResourceSlots(self._slots))


class Limits:
    """The limits while workloads start one after the other."""

    def __init__(self, limits: Iterable[Limit]) -> None:
        self._uses = {(one.scope, one.name): _Use(one) for one in limits}
        self._of: dict[tuple[str, str, str, str], list[_Use]] = {}

    def over(self, workload: Workload) -> tuple[Excess, ...]:
        """All that it would exceed if it started now, from the narrowest scope to the widest."""
        slots = slots_of(workload)
        refusing = [use for use in self._scopes(workload) if use.refuses(slots)]
        return tuple(excess for use in refusing for excess in exceeded(use.now(), slots)) if refusing else ()

    def take(self, workload: Workload) -> None:
        """It starts."""
        slots = slots_of(workload)
        for use in self._scopes(workload):
            use.add(slots)

    def _scopes(self, workload: Workload) -> list[_Use]:
        whose = (workload.keypair, workload.user, workload.project, workload.domain)
        found = self._of.get(whose)
        if found is None:
            scopes = (Scope.KEYPAIR, Scope.USER, Scope.PROJECT, Scope.DOMAIN)
            keys = zip(scopes, whose, strict=True)
            found = self._of[whose] = [self._uses[key] for key in keys if key in self._uses]
        return found


def slots_of(workload: Workload) -> ResourceSlots:
    kernels = workload.kernels
    return kernels[0].slots if len(kernels) == 1 else sum_slots([kernel.slots for kernel in kernels])


def limited(workload: Workload, excesses: Sequence[Excess], position: int) -> Refusal:
    """`shortfalls`: of each slot, what the strictest of the limits leaves; nothing of limits whose numbers are hidden."""
    left: dict[str, Shortfall] = {}
    for one in excesses:
        room = max(0, one.allowed - one.used)
        known = left.get(one.what)
        if one.what not in COUNTED and not one.limit.hidden and (known is None or room < known.available):
            left[one.what] = Shortfall(SlotName(one.what), one.asked, room)
    return Refusal(
        workload_id=workload.id,
        rule=Rule.LIMIT,
        message=f"It would go over a limit: {told(excesses)}.",
        position=position,
        shortfalls=tuple(left[name] for name in sorted(left)),
        excesses=tuple(excesses),
        unblock=(Need(remedy=Remedy.LIMIT, text=f"{_ends(excesses)}, or the limit is raised"),),
    )


def _ends(excesses: Sequence[Excess]) -> str:
    whose = list(dict.fromkeys(f"the {one.limit.scope} {one.limit.label}" for one in excesses))
    return f"other sessions of {' and of '.join(whose)} end"


def told(excesses: Iterable[Excess]) -> str:
    """For people: "keypair AKIA (sessions: asked 1, used 5 of 5), domain main (cpu: asked 2, used 3 of 4)"."""
    by_limit = groupby(excesses, key=lambda one: (one.limit.scope, one.limit.label))
    return ", ".join(
        f"{scope} {label} ({', '.join(_numbers(one) for one in members)})"
        for (scope, label), members in by_limit
    )


def _numbers(excess: Excess) -> str:
    asked, used, allowed = (_amount(excess.what, n) for n in (excess.asked, excess.used, excess.allowed))
    what = f"{excess.what}: asked {asked}"
    if excess.limit.hidden:
        return what
    return f"{what}, used {used} of {allowed}" if excess.used else f"{what} of {allowed}"


def _amount(what: str, amount: int) -> str:
    if what in COUNTED:
        return str(amount)
    return format_size(amount) if slot_type(what) == "bytes" else format_amount(what, amount)


def texts(excess: Excess) -> dict[str, str]:
    """For programs: the scope, its name, what it is an amount of, and amounts as on the wire."""

    def amount(number: int) -> str:
        return str(number) if excess.what in COUNTED else format_amount(excess.what, number)

    found = {
        "scope": excess.limit.scope.value,
        "name": excess.limit.label,
        "what": excess.what,
        "asked": amount(excess.asked),
    }
    return (
        found
        if excess.limit.hidden
        else found | {"used": amount(excess.used), "allowed": amount(excess.allowed)}
    )
