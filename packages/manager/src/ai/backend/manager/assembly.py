"""Puts a manager together: every service and loop, with its ports handed in. No component is built anywhere else."""

import asyncio
from dataclasses import dataclass

from ai.backend.common.bus import ManagerBus
from ai.backend.common.clock import Clock
from ai.backend.common.ids import Random
from ai.backend.common.log import get_logger
from ai.backend.plugin.host import SCHEDULER
from ai.backend.plugin.host import load as load_plugins
from ai.backend.scheduler.model import Fault
from ai.backend.scheduler.queue import QUEUES, check_queue

from .account.service import AccountService
from .agents.desired import DesiredState
from .agents.intake import Change, Intake
from .agents.service import AgentService
from .audit.service import AuditService
from .callback.client import CallbackClient
from .callback.service import Callbacks
from .commit.service import CommitService
from .config import ManagerConfig
from .coordinator.service import CoordinatorService
from .db.database import Database
from .directory.service import Directory
from .dotfile.service import DotfileService
from .errorlog.service import ErrorLogService
from .event.hub import EventHub
from .folder.service import FolderService
from .identity.service import IdentityService
from .image.service import ImageService
from .login.service import LoginService
from .loop import Loop
from .openid.service import OpenIdService
from .resource.service import ResourceService
from .scheduling.loop import Scheduling
from .scheduling.service import SchedulingService
from .session.catalogue import SessionCatalogue
from .session.loop import SessionLoops
from .session.service import SessionService
from .session.store import Memo
from .session.tasklog import TaskLogs
from .setting.service import SettingService
from .task.service import TaskService
from .template.service import TemplateService

ENDINGS = ("kernel_terminated", "kernel_cancelled")


log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manager:
    config: ManagerConfig
    clock: Clock
    database: Database
    identity: IdentityService
    logins: LoginService
    accounts: AccountService
    openid: OpenIdService
    sessions: SessionService
    commits: CommitService
    explanations: SchedulingService
    events: EventHub
    agents: AgentService
    images: ImageService
    settings: SettingService
    directory: Directory
    catalogue: SessionCatalogue
    templates: TemplateService
    audit: AuditService
    dotfiles: DotfileService
    folders: FolderService
    task_logs: TaskLogs
    tasks: TaskService
    callbacks: Callbacks
    coordinators: CoordinatorService
    error_logs: ErrorLogService
    resources: ResourceService
    scheduling: Scheduling
    intake: Intake
    loops: tuple[Loop, ...]

    async def run(self, *, ready: asyncio.Event) -> None:
        """Runs all loops until cancelled. The database must be open and migrated."""
        try:
            async with asyncio.TaskGroup() as group:
                for loop in self.loops:
                    group.create_task(loop.run(), name=loop.name)
                ready.set()
        finally:
            await self.tasks.close()
            await self.callbacks.close()
            await self.coordinators.close()


def build(
    *,
    config: ManagerConfig,
    clock: Clock,
    rng: Random,
    database: Database,
    bus: ManagerBus,
    identity: IdentityService,
) -> Manager:
    """Wires the features. Upward wake-ups are callables without arguments, so that no import is reversed."""
    hub = EventHub(database, clock, config)
    memo = Memo()
    plugins = load_plugins(SCHEDULER, check=check_queue, disabled=config.plugins_disabled)
    for plugin in plugins.found:
        if plugin.problem:
            log.warning("plugin-not-loaded", group=plugin.group, name=plugin.name, problem=plugin.problem)
    queues = {**QUEUES, **plugins.loaded()}
    error_logs = ErrorLogService(database, clock, rng)

    async def queue_at_fault(fault: Fault) -> None:
        await error_logs.tell(
            f"The resource group {fault.group} is scheduled by age: its scheduler {fault.queue} failed ({fault.message}).",
            resource_group=fault.group,
            scheduler=fault.queue,
        )

    def wake_after_write() -> None:
        """Something about sessions was committed: tell readers, place, and send to agents."""
        hub.wake()
        scheduling.loop.wake()
        desired.loop.wake()

    def wake_after_enqueue() -> None:
        hub.wake()
        scheduling.loop.wake()

    def wake_after_report(change: Change) -> None:
        if change is Change.TIMED:
            loops.deadlines.wake()
        if change in (Change.PROGRESS, Change.TIMED):
            hub.wake()
        else:
            wake_after_write()

    def wake_after_plan() -> None:
        hub.wake()
        desired.loop.wake()

    intake = Intake(database, clock, config, wake=wake_after_report)
    scheduling = Scheduling(
        database, clock, config, wake=wake_after_plan, queues=queues, fault=queue_at_fault
    )
    desired = DesiredState(database, bus, intake, identity.secrets, config)
    loops = SessionLoops(database, bus, clock, config, wake=wake_after_write)
    agents = AgentService(database, clock, config, wake=scheduling.loop.wake, wake_sync=desired.loop.wake)
    sessions = SessionService(
        database,
        bus,
        clock,
        rng,
        config,
        identity,
        hub,
        wake=wake_after_write,
        wake_enqueued=wake_after_enqueue,
        memo=memo,
    )
    tasks = TaskService(database, clock, rng)
    settings = SettingService(
        database, clock, loops=(scheduling.loop, desired.loop), end_all=sessions.end_all
    )
    callbacks = Callbacks(database, CallbackClient(config))
    hub.listen(lambda event: loops.logs.wake() if event.name in ENDINGS else None)
    hub.listen(callbacks.heard)
    coordinators = CoordinatorService(database, sessions, identity, config.coordinator)
    hub.listen(coordinators.heard)
    bus.on_report(intake.take)
    logins = LoginService(database, identity.secrets, identity, config.login, clock=clock, rng=rng)
    accounts = AccountService(
        database, identity.secrets, identity, logins, config.login, clock=clock, rng=rng
    )
    return Manager(
        config=config,
        clock=clock,
        database=database,
        identity=identity,
        logins=logins,
        accounts=accounts,
        openid=OpenIdService(
            database, identity.secrets, logins, accounts, config.openid, clock=clock, rng=rng
        ),
        sessions=sessions,
        commits=CommitService(database, bus, clock, rng, config, sessions, tasks),
        explanations=SchedulingService(database, clock, sessions, queues),
        events=hub,
        agents=agents,
        images=ImageService(
            database,
            clock,
            tasks,
            reports=lambda: list(intake.newest.values()),
            wake=scheduling.loop.wake,
        ),
        settings=settings,
        directory=Directory(
            database, clock, rng, identity, wake=scheduling.loop.wake, queues=frozenset(queues)
        ),
        catalogue=SessionCatalogue(database, memo),
        templates=TemplateService(database, identity, clock=clock, rng=rng),
        audit=AuditService(database),
        dotfiles=DotfileService(database, clock),
        folders=FolderService(database),
        task_logs=TaskLogs(database, sessions),
        tasks=tasks,
        callbacks=callbacks,
        coordinators=coordinators,
        error_logs=error_logs,
        resources=ResourceService(database, clock),
        scheduling=scheduling,
        intake=intake,
        loops=(
            hub.loop,
            hub.retention_loop,
            scheduling.loop,
            desired.loop,
            loops.deadlines,
            loops.logs,
            sessions.counts,
            agents.loop,
            tasks.loop,
            error_logs.loop,
        ),
    )
