"""Which user a kernel's processes run as: one of its own for each, so that the machine keeps sessions apart. Pure."""

from collections.abc import Iterable

UIDS_MAX = 60_000


def lowest_free(base: int, taken: Iterable[int]) -> int:
    """The lowest id from `base` on that is not taken."""
    used = set(taken)
    return next(uid for uid in range(base, base + UIDS_MAX) if uid not in used)
