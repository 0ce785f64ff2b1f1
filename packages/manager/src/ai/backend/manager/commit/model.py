"""Images that are made of running sessions."""

from dataclasses import dataclass
from uuid import UUID

from ai.backend.common.ids import KernelId


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What was begun. `result`: the archive's path below the agent's folder of such, or the image's name."""

    task_id: UUID
    kernel_id: KernelId
    result: str
