"""Hosts of virtual folders, as their users are told of them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    default: str | None
    """Where a folder is made when none is named; None when there is none that may be used."""
    allowed: tuple[str, ...]
    """By name."""
