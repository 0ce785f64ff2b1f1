"""Sends each agent the whole set of kernels that it should have, whenever that set has changed or the agent is behind.

Pure part: `desired_kernel`. The loop compares the generation of the rows with the one that the agent has accepted (its reports say so).
"""

import asyncio
from collections.abc import Sequence

import sqlalchemy as sa

from ai.backend.common.bus import ManagerBus
from ai.backend.common.errors import BackendError
from ai.backend.common.ids import AgentId, KernelId
from ai.backend.common.log import get_logger
from ai.backend.common.wire import rpc
from ai.backend.common.wire.rpc import AgentReport, DesiredKernel, Sync, SyncReply

from ..config import ManagerConfig
from ..db.database import Database
from ..dotfile import store as dotfile_store
from ..dotfile.model import Dotfile
from ..dotfile.policy import merged
from ..image.policy import OWNER_LABEL
from ..loop import Loop
from ..secret import Secrets
from ..session import store as session_store
from ..session.model import Kernel, Session, SessionStatus
from ..session.port import environment
from . import store
from .clusterkey import cluster_key
from .intake import Intake, zombies

log = get_logger(__name__)

STARTING = frozenset({SessionStatus.SCHEDULED, SessionStatus.PREPARING})


def desired_kernel(
    session: Session, kernel: Kernel, files: Sequence[Dotfile] = (), key: rpc.ClusterKey | None = None
) -> DesiredKernel:
    """Complete instructions for one kernel; every choice is made here. `files` go into its home folder, `key` beside its settings."""
    labels = kernel.image_labels
    return DesiredKernel(
        kernel_id=kernel.id,
        session_id=session.id,
        target="stop" if kernel.stop_reason or kernel.status.terminal else "run",
        incarnation=kernel.incarnation,
        image=kernel.image_name,
        image_digest=kernel.image_digest,
        architecture=kernel.architecture,
        slots=kernel.requested_slots.amounts(),
        shm_bytes=kernel.shm_bytes,
        environ={**environment(kernel.service_ports), **session.environ},
        hostname=kernel.hostname,
        cluster_role=kernel.cluster_role,
        cluster_idx=kernel.cluster_idx,
        cluster_hosts=tuple(one.hostname for one in session.kernels),
        local_hosts=tuple(one.hostname for one in session.kernels if one.agent_id == kernel.agent_id),
        cluster_key=key,
        runtime_type=labels.get("ai.backend.runtime-type", "python"),
        runtime_path=labels.get("ai.backend.runtime-path", ""),
        home_from_image=OWNER_LABEL in labels,
        session_name=session.name,
        access_key=session.access_key,
        bootstrap_script=session.bootstrap_script,
        startup_command=_command(session, kernel),
        dotfiles=[rpc.Dotfile(path=f.path, permission=f.permission, content=f.data) for f in files],
        devices=kernel.devices,
        stop_reason=kernel.stop_reason
        or (session.reason or "already-terminated" if kernel.status.terminal else ""),
        forced=kernel.stop_forced,
    )


def _command(session: Session, kernel: Kernel) -> str:
    """A batch session's command goes to its main kernel; in a cluster not before all kernels run, for it may use the others."""
    if not session.is_batch or kernel.id != session.main.id:
        return ""
    ready = len(session.kernels) == 1 or SessionStatus.RUNNING.value in session.status_history
    return session.startup_command or "" if ready else ""


class DesiredState:
    def __init__(
        self, database: Database, bus: ManagerBus, intake: Intake, secrets: Secrets, config: ManagerConfig
    ) -> None:
        self._database = database
        self._secrets = secrets
        self._bus = bus
        self._intake = intake
        self._config = config
        self._accepted: dict[AgentId, tuple[int, int]] = {}
        """(started_at_us, generation) that the agent has confirmed to us: spares a resend until its next report says so."""
        self.loop = Loop("desired-state", self._run, period_s=5.0)

    async def _run(self) -> None:
        reports = [report for report in self._intake.newest.values() if not report.leaving]

        def op(conn: sa.Connection) -> list[tuple[AgentReport, Sync]]:
            generations = store.generations(conn)
            return [
                (
                    report,
                    Sync(
                        generation=generation, kernels=self._desired(conn, AgentId(report.agent_id), report)
                    ),
                )
                for report in reports
                if (generation := generations.get(AgentId(report.agent_id), 0)) > self._known(report)
                or self._needs_cleaning(report)
            ]

        async with asyncio.TaskGroup() as group:
            for report, sync in await self._database.read(op):
                group.create_task(self._send(report, sync))

    def _known(self, report: AgentReport) -> int:
        started_at_us, generation = self._accepted.get(AgentId(report.agent_id), (0, 0))
        return max(report.generation, generation if started_at_us == report.started_at_us else 0)

    @staticmethod
    def _needs_cleaning(report: AgentReport) -> bool:
        return any(kernel.state == "unknown" for kernel in report.kernels)

    async def _send(self, report: AgentReport, sync: Sync) -> None:
        agent_id = AgentId(report.agent_id)
        try:
            reply = await self._bus.call(agent_id, sync, SyncReply, timeout_s=self._config.call_timeout_s)
        except BackendError as exc:
            log.warning("sync-failed", agent=agent_id, error=str(exc))
            return
        log.debug("sync-sent", agent=agent_id, generation=sync.generation, accepted=reply.accepted)
        if reply.accepted:
            self._accepted[agent_id] = (report.started_at_us, reply.generation)
        elif reply.generation > sync.generation:
            await self._database.run(
                lambda conn: store.raise_generation(conn, agent_id, reply.generation + 1)
            )
            self.loop.wake()

    def _desired(self, conn: sa.Connection, agent_id: AgentId, report: AgentReport) -> list[DesiredKernel]:
        """Live kernels of this agent, ended ones whose logs it still holds, and ended ones that it still runs."""
        wanted: dict[KernelId, DesiredKernel] = {}
        for session in session_store.live_on(conn, agent_id):
            mine = [kernel for kernel in session.kernels if kernel.agent_id == agent_id]
            files: Sequence[Dotfile] = ()
            if any(kernel.status in STARTING and kernel.incarnation == 1 for kernel in mine):
                found = dotfile_store.for_session(
                    conn, session.access_key, session.project_id, session.domain_name
                )
                files = merged(found) if found else ()
            for kernel in mine:
                if kernel.status.occupying:
                    new = kernel.status in STARTING and kernel.incarnation == 1
                    key = cluster_key(self._secrets, session) if new else None
                    wanted[kernel.id] = desired_kernel(session, kernel, files if new else (), key)
        left = [KernelId(one.kernel_id) for one in zombies(report, frozenset(wanted))]
        for session, kernel in session_store.ended_on(conn, agent_id, left):
            wanted[kernel.id] = desired_kernel(session, kernel)
        return list(wanted.values())
