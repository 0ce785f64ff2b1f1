"""A kernel as its agent knows it: the record that the journal keeps."""

import enum
from uuid import UUID

import msgspec

from ai.backend.common.wire.rpc import DesiredKernel, KernelState

from ..resource.model import Allocation

FORMAT = 1
"""Of a record on disk. Diary. 1 (2026-11-24): first."""


class State(enum.Enum):
    """Where a kernel stands on this node."""

    ABSENT = "absent"
    """Nothing of it is here."""
    PREPARING = "preparing"
    """Its resources, scratch folder and container are being made."""
    STARTING = "starting"
    """Its container runs; the runner is not ready yet."""
    RUNNING = "running"
    RESTARTING = "restarting"
    """Its container is being ended, to be made anew over the same scratch folder."""
    STOPPING = "stopping"
    """Everything of it is being undone."""
    TERMINATED = "terminated"
    """Nothing is left but the record (why it ended) and its log."""
    QUARANTINED = "quarantined"
    """Runs, but the manager does not list it."""


REPORTED = {
    State.PREPARING: KernelState.PREPARING,
    State.STARTING: KernelState.PREPARING,
    State.RESTARTING: KernelState.PREPARING,
    State.RUNNING: KernelState.RUNNING,
    State.STOPPING: KernelState.STOPPING,
    State.TERMINATED: KernelState.TERMINATED,
    State.QUARANTINED: KernelState.UNKNOWN,
}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel, complete: with this and the container's labels the agent goes on after any crash."""

    format: int = FORMAT
    desired: DesiredKernel
    state: State
    incarnation: int
    allocation: Allocation | None = None
    container_id: str = ""
    step: str = ""
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    stats: dict[str, int] = {}

    @property
    def kernel_id(self) -> UUID:
        return self.desired.kernel_id

    @property
    def container_name(self) -> str:
        return f"kernel-{self.desired.kernel_id}"
