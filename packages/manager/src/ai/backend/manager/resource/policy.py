"""Which resource groups somebody may use, what is left of limits, and what was used. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from ai.backend.common.errors import InvalidInput
from ai.backend.common.quantity import CPU, MEM, ResourceSlots, format_amount, slot_type, sum_slots

from ..access.model import Principal, Role
from .model import (
    Amounts,
    Bin,
    Check,
    GroupStanding,
    Holding,
    KernelUse,
    Limit,
    Preset,
    ProjectUse,
    ResourceGroup,
    Room,
    Standing,
)

UNLIMITED, HIDDEN = "Infinity", "NaN"
VISIBILITY_KEY = "config/api/resources/group_resource_visibility"
"""A setting: "false" hides a project's limits and use from its plain members."""
PERIOD_DAYS_MAX = 100
BIN = timedelta(minutes=15)
BINS = 30 * 24 * 4


def given(groups: Iterable[ResourceGroup], principal: Principal) -> frozenset[str]:
    """Names of the active resource groups that the domain, project or keypair was given which was asked for, as far as the principal sees
    them: one that is not public is for administrators alone."""
    return frozenset(
        group.name
        for group in groups
        if group.is_active
        and (group.of_domain or group.of_project or group.of_keypair)
        and (group.is_public or principal.role in (Role.SUPERADMIN, Role.ADMIN))
    )


def usable(groups: Sequence[ResourceGroup], principal: Principal) -> frozenset[str]:
    """Where a principal's own sessions may run: what is given, and for superadministrators every active one."""
    if principal.role is Role.SUPERADMIN:
        return frozenset(group.name for group in groups if group.is_active)
    return given(groups, principal)


# -- limits ------------------------------------------------------------------------------------------------------------------------


def standing(limit: Limit, held: Iterable[ResourceSlots], names: Iterable[str]) -> Standing:
    """What an owner may hold of these slots, holds, and has left (never below zero)."""
    using = sum_slots(list(held)).amounts()
    limits: dict[str, int | None] = {}
    remaining: dict[str, int | None] = {}
    for name in sorted(names):
        most = limit.slots.amounts().get(name, 0) if name in limit.named else None
        if name not in limit.named and not limit.rest_is_unlimited:
            most = 0
        limits[name] = most
        remaining[name] = None if most is None else max(0, most - using.get(name, 0))
    return Standing(limits=limits, using={name: using.get(name, 0) for name in limits}, remaining=remaining)


def least(*many: Amounts) -> dict[str, int | None]:
    """The strictest of several limits, slot by slot; None is the mildest."""
    names = sorted({name for one in many for name in one})
    return {
        name: min((amount for one in many if (amount := one.get(name)) is not None), default=None)
        for name in names
    }


def within(slots: ResourceSlots, most: Amounts) -> bool:
    return all(
        (limit := most.get(name, 0)) is None or amount <= limit for name, amount in slots.amounts().items()
    )


def texts(amounts: Amounts) -> dict[str, str]:
    """The published form: decimal numbers without exponents, and a word for what has no limit."""
    return {
        name: UNLIMITED if amount is None else format_amount(name, amount) for name, amount in amounts.items()
    }


def hidden(names: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(sorted(names), HIDDEN)


def check(
    *,
    names: frozenset[str],
    principal: Principal,
    project_id: object,
    groups: frozenset[str],
    keypair_limit: Limit,
    project_limit: Limit,
    domain_limit: Limit,
    holdings: Sequence[Holding],
    rooms: Sequence[Room],
    presets: Sequence[Preset],
    project_visible: bool,
) -> Check:
    """What is left for this principal in this project. `holdings`: of the whole domain; `rooms`: of agents that take sessions."""
    keypair = standing(
        keypair_limit, [h.slots for h in holdings if h.access_key == principal.access_key], names
    )
    project = standing(project_limit, [h.slots for h in holdings if h.project_id == project_id], names)
    domain = standing(domain_limit, [h.slots for h in holdings], names)
    allowed = least(keypair.remaining, project.remaining, domain.remaining)
    mine = [h for h in holdings if h.user_id == principal.user_id]
    of_groups: dict[str, GroupStanding] = {}
    for group in sorted(groups):
        left = sum_slots([room.slots for room in rooms if room.resource_group == group])
        held = sum_slots([h.slots for h in mine if h.resource_group == group])
        of_groups[group] = GroupStanding(
            using={name: held.amounts().get(name, 0) for name in sorted(names)},
            remaining=least(allowed, {name: max(0, left.amounts().get(name, 0)) for name in names}),
        )
    total = sum_slots([room.slots for room in rooms if room.resource_group in groups])
    visible = [room for room in rooms if room.resource_group in groups]
    return Check(
        keypair=Standing(
            limits=keypair.limits, using=keypair.using, remaining=least(allowed, keypair.remaining)
        ),
        project=Standing(
            limits=project.limits,
            using=project.using,
            remaining=least(project.remaining, domain.remaining),
        )
        if project_visible
        else None,
        groups=of_groups,
        remaining=least(allowed, {name: max(0, total.amounts().get(name, 0)) for name in names}),
        presets=tuple((preset, allocatable(preset, visible, allowed)) for preset in presets),
    )


def allocatable(preset: Preset, rooms: Iterable[Room], allowed: Amounts) -> bool:
    """Whether an agent has room for it (in its resource group, if it names one) and the limits allow it."""
    return within(preset.slots, allowed) and any(
        preset.slots.fits(room.slots) and preset.resource_group in ("", room.resource_group) for room in rooms
    )


# -- use ---------------------------------------------------------------------------------------------------------------------------


def month(text: str) -> tuple[datetime, datetime]:
    """The beginning and the end of YYYYMM. Raises InvalidInput."""
    if len(text) != 6:
        raise InvalidInput(f"{text[:20]!r} is no month", hint="Write YYYYMM.", field="month")
    begin = _day(f"{text}01", "month")
    end = datetime(begin.year + begin.month // 12, begin.month % 12 + 1, 1, tzinfo=UTC)
    return begin, end


def period(start: str, end: str) -> tuple[datetime, datetime]:
    """From the beginning of one day to the end of another, both YYYYMMDD. Raises InvalidInput."""
    begin, last = _day(start, "start_date"), _day(end, "end_date")
    if last < begin:
        raise InvalidInput("the period ends before it begins", field="end_date")
    if (last - begin).days >= PERIOD_DAYS_MAX:
        raise InvalidInput(f"a period has at most {PERIOD_DAYS_MAX} days", field="end_date")
    return begin, last + timedelta(days=1)


def _day(text: str, field: str) -> datetime:
    if len(text) == 8 and text.isascii() and text.isdigit():
        try:
            day = datetime(int(text[:4]), int(text[4:6]), int(text[6:]), tzinfo=UTC)
        except ValueError:
            day = None
        if day is not None and 1970 <= day.year <= 9000:
            return day
    raise InvalidInput(f"{text[:20]!r} is no day", hint="Write YYYYMMDD.", field=field)


def devices_of(slots: ResourceSlots) -> ResourceSlots:
    """Everything but processors and memory."""
    return ResourceSlots({name: amount for name, amount in slots.items() if name not in (CPU, MEM)})


def device_milli(slots: ResourceSlots) -> int:
    return sum(amount for name, amount in devices_of(slots).items() if slot_type(name) != "bytes")


def device_bytes(slots: ResourceSlots) -> int:
    return sum(amount for name, amount in devices_of(slots).items() if slot_type(name) == "bytes")


def per_project(kernels: Iterable[KernelUse]) -> list[ProjectUse]:
    """Sums over whole kernels: one that began before the period or went on after it counts with all that it used."""
    by_project: dict[object, list[KernelUse]] = {}
    for kernel in kernels:
        by_project.setdefault(kernel.project_id, []).append(kernel)
    found = []
    for members in by_project.values():
        total = sum_slots([kernel.slots for kernel in members])
        first = members[0]
        found.append(
            ProjectUse(
                project_id=first.project_id,
                project_name=first.project_name,
                domain_name=first.domain_name,
                cpu_milli=total[CPU],
                cpu_used_us=sum(kernel.stats.get("cpu_used_us", 0) for kernel in members),
                memory_bytes=total[MEM],
                memory_used_bytes=sum(kernel.stats.get("memory_peak_bytes", 0) for kernel in members),
                shm_bytes=sum(kernel.shm_bytes for kernel in members),
                devices=tuple(sorted({name.partition(".")[0] for name in devices_of(total)})),
                device_milli=device_milli(total),
                device_memory_bytes=device_bytes(total),
                kernels=tuple(members),
            )
        )
    return sorted(found, key=lambda use: (use.domain_name, use.project_name))


def bins_before(now: datetime) -> tuple[datetime, datetime]:
    """The 30 days that the monthly statistics tell: whole quarters of an hour, the last one the present one."""
    end = datetime.fromtimestamp((now.timestamp() // BIN.total_seconds() + 1) * BIN.total_seconds(), UTC)
    return end - BIN * BINS, end


def in_bins(kernels: Iterable[KernelUse], begin: datetime, now: datetime) -> list[Bin]:
    """What was held in each quarter of an hour, by any kernel that ran in it."""
    steps: list[dict[str, int]] = [{} for _ in range(BINS + 1)]
    for kernel in kernels:
        first = max(0, (kernel.began_at - begin) // BIN)
        last = min(BINS - 1, ((kernel.terminated_at or now) - begin) // BIN)
        if first > last:
            continue
        held = {
            "sessions": int(kernel.is_main),
            "cpu": kernel.slots[CPU],
            "mem": kernel.slots[MEM],
            "devices": device_milli(kernel.slots),
        }
        for name, amount in held.items():
            steps[first][name] = steps[first].get(name, 0) + amount
            steps[last + 1][name] = steps[last + 1].get(name, 0) - amount
    level = {"sessions": 0, "cpu": 0, "mem": 0, "devices": 0}
    found = []
    for number, step in enumerate(steps[:BINS]):
        level = {name: amount + step.get(name, 0) for name, amount in level.items()}
        found.append(
            Bin(
                begins_at=begin + BIN * number,
                sessions=level["sessions"],
                cpu_milli=level["cpu"],
                memory_bytes=level["mem"],
                device_milli=level["devices"],
            )
        )
    return found


def began_at(history: Mapping[str, str]) -> datetime | None:
    """When a session's containers began to be made or to run; None: they never did."""
    text = history.get("RUNNING") or history.get("PREPARING") or history.get("SCHEDULED")
    return datetime.fromisoformat(text) if text else None
