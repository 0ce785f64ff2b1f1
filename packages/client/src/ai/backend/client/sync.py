"""The blocking twin of the client: `with Client(config) as api: ...`, the same calls without `await`.

Nothing is written twice: each method here is the asynchronous one, run through a `Portal`; signatures and types are taken over from it.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from .client import AsyncClient
from .config import ClientConfig
from .dotfile import AsyncDotfiles
from .error import ClientError
from .execution import Console as AsyncConsole
from .portal import Portal
from .project import AsyncProjects
from .resource import AsyncResources
from .session import AsyncSession, AsyncSessions
from .setting import AsyncSettings
from .stream import AppStream as AsyncAppStream
from .stream import Forward as AsyncForward
from .template import AsyncTemplates

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")


class Twin(Generic[A]):
    """A blocking face of an asynchronous object."""

    def __init__(self, portal: Portal, inner: A) -> None:
        self._portal = portal
        self._inner = inner


def _call(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Twin[A]", P], T]:
    def inner(self: Twin[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._portal.run(method(self._inner, *args, **kwargs))

    inner.__doc__, inner.__name__ = method.__doc__, method.__name__
    return inner


def _iterate(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate["Twin[A]", P], Iterator[T]]:
    def inner(self: Twin[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._portal.iterate(method(self._inner, *args, **kwargs))

    inner.__doc__, inner.__name__ = method.__doc__, method.__name__
    return inner


def _create(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, AsyncSession]],
) -> Callable[Concatenate["Twin[A]", P], "Session"]:
    def inner(self: Twin[A], /, *args: P.args, **kwargs: P.kwargs) -> "Session":
        return Session(self._portal, self._portal.run(method(self._inner, *args, **kwargs)))

    inner.__doc__, inner.__name__ = method.__doc__, method.__name__
    return inner


class Console(Twin[AsyncConsole]):
    def __enter__(self) -> "Console":
        self._portal.run(_enter(self._inner))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._portal.run(_leave(self._inner))

    run = _call(AsyncConsole.run)
    execute = _iterate(AsyncConsole.execute)


class AppStream(Twin[AsyncAppStream]):
    """See `AsyncSession.connect`."""

    def __enter__(self) -> "AppStream":
        self._portal.run(_enter(self._inner))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._portal.run(_leave(self._inner))

    send = _call(AsyncAppStream.send)
    receive = _call(AsyncAppStream.receive)
    close = _call(AsyncAppStream.close)


class Forward(Twin[AsyncForward]):
    """See `AsyncSession.forward`."""

    def __enter__(self) -> "Forward":
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._portal.attended())
            self._portal.run(_enter(self._inner))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._stack:
            self._portal.run(_leave(self._inner))

    @property
    def address(self) -> tuple[str, int]:
        return self._inner.address

    serve_forever = _call(AsyncForward.serve_forever)


class Session(Twin[AsyncSession]):
    """See `AsyncSession`."""

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._portal.run(_leave(self._inner))

    @property
    def id(self) -> str:
        return self._inner.id

    @property
    def ref(self) -> str:
        return self._inner.ref

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def status(self) -> str:
        return self._inner.status

    @property
    def created(self) -> bool:
        return self._inner.created

    def console(self) -> Console:
        """See `AsyncSession.console`."""
        return Console(self._portal, self._inner.console())

    def connect(self, app: str, *, port: int | None = None) -> AppStream:
        """See `AsyncSession.connect`."""
        return AppStream(self._portal, self._inner.connect(app, port=port))

    def forward(
        self,
        app: str,
        *,
        host: str = "127.0.0.1",
        bind_port: int = 0,
        port: int | None = None,
        on_failure: Callable[[ClientError], None] = lambda _: None,
    ) -> Forward:
        """See `AsyncSession.forward`."""
        return Forward(
            self._portal,
            self._inner.forward(app, host=host, bind_port=bind_port, port=port, on_failure=on_failure),
        )

    info = _call(AsyncSession.info)
    destroy = _call(AsyncSession.destroy)
    restart = _call(AsyncSession.restart)
    rename = _call(AsyncSession.rename)
    commit = _call(AsyncSession.commit)
    commit_status = _call(AsyncSession.commit_status)
    convert_to_image = _call(AsyncSession.convert_to_image)
    logs = _call(AsyncSession.logs)
    status_history = _call(AsyncSession.status_history)
    dependency_graph = _call(AsyncSession.dependency_graph)
    why = _call(AsyncSession.why)
    destroy_recursive = _call(AsyncSession.destroy_recursive)
    execute = _iterate(AsyncSession.execute)
    run = _call(AsyncSession.run)
    interrupt = _call(AsyncSession.interrupt)
    complete = _call(AsyncSession.complete)
    upload = _call(AsyncSession.upload)
    write_file = _call(AsyncSession.write_file)
    download = _call(AsyncSession.download)
    read_file = _call(AsyncSession.read_file)
    list_files = _call(AsyncSession.list_files)
    apps = _call(AsyncSession.apps)
    start_service = _call(AsyncSession.start_service)
    shutdown_service = _call(AsyncSession.shutdown_service)
    events = _iterate(AsyncSession.events)


class Sessions(Twin[AsyncSessions]):
    """See `AsyncSessions`."""

    def at(self, ref: str) -> Session:
        """A session by id or name, without asking the server."""
        return Session(self._portal, self._inner.at(ref))

    create = _create(AsyncSessions.create)
    get = _call(AsyncSessions.get)
    list = _call(AsyncSessions.list)
    find = _call(AsyncSessions.find)
    task_log = _call(AsyncSessions.task_log)
    events = _iterate(AsyncSessions.events)


class Dotfiles(Twin[AsyncDotfiles]):
    """See `AsyncDotfiles`."""

    list = _call(AsyncDotfiles.list)
    get = _call(AsyncDotfiles.get)
    create = _call(AsyncDotfiles.create)
    update = _call(AsyncDotfiles.update)
    delete = _call(AsyncDotfiles.delete)
    bootstrap_script = _call(AsyncDotfiles.bootstrap_script)
    set_bootstrap_script = _call(AsyncDotfiles.set_bootstrap_script)


class Settings(Twin[AsyncSettings]):
    """See `AsyncSettings`."""

    announcement = _call(AsyncSettings.announcement)
    announce = _call(AsyncSettings.announce)
    status = _call(AsyncSettings.status)
    freeze = _call(AsyncSettings.freeze)
    unfreeze = _call(AsyncSettings.unfreeze)
    include_agents = _call(AsyncSettings.include_agents)
    exclude_agents = _call(AsyncSettings.exclude_agents)
    dry_run = _call(AsyncSettings.dry_run)
    get = _call(AsyncSettings.get)
    set = _call(AsyncSettings.set)
    delete = _call(AsyncSettings.delete)
    registries = _call(AsyncSettings.registries)
    error_logs = _call(AsyncSettings.error_logs)
    audit_logs = _call(AsyncSettings.audit_logs)


class Projects(Twin[AsyncProjects]):
    """See `AsyncProjects`."""

    members = _call(AsyncProjects.members)
    add_users = _call(AsyncProjects.add_users)
    remove_users = _call(AsyncProjects.remove_users)
    describe = _call(AsyncProjects.describe)


class Resources(Twin[AsyncResources]):
    """See `AsyncResources`."""

    groups = _call(AsyncResources.groups)
    presets = _call(AsyncResources.presets)
    check = _call(AsyncResources.check)
    watch_task = _iterate(AsyncResources.watch_task)


class Templates(Twin[AsyncTemplates]):
    """See `AsyncTemplates`."""

    create = _call(AsyncTemplates.create)
    list = _call(AsyncTemplates.list)
    get = _call(AsyncTemplates.get)
    get_yaml = _call(AsyncTemplates.get_yaml)
    update = _call(AsyncTemplates.update)
    delete = _call(AsyncTemplates.delete)
    start = _create(AsyncTemplates.start)
    start_cluster = _create(AsyncTemplates.start_cluster)


class Client(Twin[AsyncClient]):
    """See `AsyncClient`."""

    def __init__(self, config: ClientConfig) -> None:
        super().__init__(Portal(), AsyncClient(config))
        self.sessions = Sessions(self._portal, self._inner.sessions)
        self.dotfiles = Dotfiles(self._portal, self._inner.dotfiles)
        self.settings = Settings(self._portal, self._inner.settings)
        self.projects = Projects(self._portal, self._inner.projects)
        self.resources = Resources(self._portal, self._inner.resources)
        self.templates = Templates(self._portal, self._inner.templates)

    def __enter__(self) -> "Client":
        self._portal.run(_enter(self._inner))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._portal.run(_leave(self._inner))
        self._portal.close()

    log_in = _call(AsyncClient.log_in)
    log_out = _call(AsyncClient.log_out)
    version = _call(AsyncClient.version)
    health = _call(AsyncClient.health)
    images = _call(AsyncClient.images)
    graphql = _call(AsyncClient.graphql)
    agents = _call(AsyncClient.agents)
    sync_agent = _call(AsyncClient.sync_agent)


async def _enter(inner: AbstractAsyncContextManager[Any]) -> None:
    await inner.__aenter__()


async def _leave(inner: AbstractAsyncContextManager[Any]) -> None:
    await inner.__aexit__(None, None, None)
