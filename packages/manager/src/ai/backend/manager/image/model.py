"""Images that sessions can be started from, as agents report them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    name: str
    """Canonical: [registry/]path:tag."""
    architecture: str
    digest: str
    size_bytes: int
    labels: dict[str, str]

    @property
    def path(self) -> str:
        return self.name.rpartition(":")[0]

    @property
    def tag(self) -> str:
        return self.name.rpartition(":")[2]
