"""Sessions: making them, finding them, and everything that is done with one."""

import asyncio
import contextlib
import platform
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from ai.backend.common.wire.rest import session as wire
from ai.backend.common.wire.rest.scheduler import Why
from ai.backend.common.wire.rpc import FileEntry

from . import transfer
from .error import ApiError, ClientError, InvalidCall
from .event import SessionEvent, watch
from .execution import Console, InputSource, Item, Mode, RunResult, execute_by_requests
from .request import Requester, segment
from .stream import AppStream, Forward, list_apps

LIVE = ("PENDING", "SCHEDULED", "PREPARING", "RUNNING", "RESTARTING", "TERMINATING", "ERROR")
"""Statuses of sessions that have not ended."""


class Created(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to a creation; servers of other makes answer with fewer fields than ours."""

    session_id: str
    session_name: str = ""
    status: str
    created: bool
    service_ports: list[dict[str, Any]] = []


class AsyncSession:
    """One session, by id or name. As a context manager it ends the session on leaving.

    `ref` is what requests use; `name`, `status` and `created` (False: it was there before) are as of its creation, empty for a
    session that was looked up.
    """

    def __init__(self, requester: Requester, ref: str, made: Created | None = None) -> None:
        self._requester = requester
        self.ref = ref
        self.id = made.session_id if made else ""
        self.name = made.session_name if made else ref
        self.status = made.status if made else ""
        self.created = made.created if made else False

    @property
    def _path(self) -> str:
        return f"/session/{segment(self.ref)}"

    async def __aenter__(self) -> "AsyncSession":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self.destroy()
        except ApiError as exc:
            if exc.status != 404:
                raise

    async def info(self) -> wire.SessionInfo:
        """Raises ApiError (404) when it has ended."""
        return (await self._requester.call("GET", self._path)).decode(wire.SessionInfo)

    async def destroy(self, *, forced: bool = False) -> dict[str, Any]:
        """Ends it, waits (within the server's limits) for the end, and returns statistics with `status`."""
        query = {"forced": True} if forced else None
        return (await self._requester.call("DELETE", self._path, query=query)).decode(wire.SessionStats).stats

    async def destroy_recursive(self, *, forced: bool = False) -> list[dict[str, Any]]:
        """`destroy`, and with it the sessions that depend on this one; its own statistics come first."""
        query = {"recursive": True, **({"forced": True} if forced else {})}
        return (await self._requester.call("DELETE", self._path, query=query)).decode(list[dict[str, Any]])

    async def restart(self) -> None:
        """New containers, same home folder; returns when it runs again."""
        await self._requester.call("PATCH", self._path)

    async def rename(self, name: str) -> None:
        await self._requester.call("POST", f"{self._path}/rename", query={"name": name})
        self.name = name

    async def logs(self) -> str:
        """What its container printed; also after its end."""
        return (await self._requester.call("GET", f"{self._path}/logs")).decode(wire.LogsResult).result.logs

    async def commit(self, filename: str | None = None) -> wire.CommitBegun:
        """Begins to write its files as an image archive where it runs. `resources.watch_task(bgtask_id)` tells how far it is."""
        body = {"filename": filename} if filename else {}
        return (await self._requester.call("POST", f"{self._path}/commit", json=body)).decode(
            wire.CommitBegun
        )

    async def commit_status(self) -> wire.CommitStatus:
        """`ready`, or `ongoing` while an archive or an image is being made of it."""
        return (await self._requester.call("GET", f"{self._path}/commit")).decode(wire.CommitStatus)

    async def convert_to_image(self, image_name: str) -> wire.ImagifyBegun:
        """Begins to make an image of your own out of it: a name, and a tag if you like. `resources.watch_task(task_id)` tells how far
        it is; then sessions can be started from `image`, or from the name alone."""
        body = {"image_name": image_name}
        return (await self._requester.call("POST", f"{self._path}/imagify", json=body)).decode(
            wire.ImagifyBegun
        )

    async def status_history(self) -> dict[str, str]:
        answer = await self._requester.call("GET", f"{self._path}/status-history")
        return {k: v for k, v in answer.decode(wire.StatusHistory).result.items() if k.isupper()}

    async def why(self) -> Why:
        """Why it waits: the rule, what is asked and available, its position, what would let it start, and when if that can be known. Of
        one that does not wait: since when it is as it is, and why."""
        return (await self._requester.call("GET", f"{self._path}/why")).decode(Why)

    async def dependency_graph(self) -> wire.DependencyNode:
        """What it depends on, all the way down."""
        return (await self._requester.call("GET", f"{self._path}/dependency-graph")).decode(
            wire.DependencyNode
        )

    # -- code ------------------------------------------------------------------------------------------------------------

    def console(self) -> Console:
        """For many runs over one connection: `async with session.console() as console: await console.run(...)`."""
        return Console(self._requester, self.ref)

    async def execute(
        self,
        code: str = "",
        *,
        mode: Mode = "query",
        options: Mapping[str, Any] | None = None,
        on_input: InputSource | None = None,
        transport: Literal["websocket", "http"] = "websocket",
    ) -> AsyncIterator[Item]:
        """Runs code and yields what it prints as it comes; the last item is `Finished`. Leaving early interrupts the code.

        `options` of mode "batch": see `batch_options`. Raises ApiError when the session ends under it.
        """
        if transport == "http":
            by_requests = execute_by_requests(
                self._requester, self.ref, code, mode=mode, options=options, on_input=on_input
            )
            async for item in by_requests:
                yield item
            return
        async with Console(self._requester, self.ref, keep=False) as console:
            async for item in console.execute(code, mode=mode, options=options, on_input=on_input):
                yield item

    async def run(
        self,
        code: str = "",
        *,
        mode: Mode = "query",
        options: Mapping[str, Any] | None = None,
        on_input: InputSource | None = None,
        transport: Literal["websocket", "http"] = "websocket",
    ) -> RunResult:
        """`execute`, collected."""
        stream = self.execute(code, mode=mode, options=options, on_input=on_input, transport=transport)
        return RunResult.of([item async for item in stream])

    async def interrupt(self) -> None:
        """Sends SIGINT to what runs."""
        await self._requester.call("POST", f"{self._path}/interrupt")

    async def complete(
        self, code: str, *, row: int = 0, col: int | None = None, line: str = "", post: str = ""
    ) -> list[str]:
        """Completions of `code` at the cursor (by default its end)."""
        options = {"row": row, "col": len(code) if col is None else col, "line": line or code, "post": post}
        answer = await self._requester.call(
            "POST", f"{self._path}/complete", json={"code": code, "options": options}
        )
        return answer.decode(wire.Completed).result.completions

    # -- files -----------------------------------------------------------------------------------------------------------

    async def upload(self, paths: Sequence[str | Path], *, basedir: str | Path | None = None) -> list[str]:
        """Sends files and folders into the home folder; returns their names there. Nothing is sent when one is too large (1 MiB).

        With `basedir` names are relative to it; without, a relative path keeps its form and an absolute one its last part.
        """
        planned = await asyncio.to_thread(
            transfer.plan_upload, [Path(p) for p in paths], Path(basedir) if basedir is not None else None
        )
        if not planned:
            raise InvalidCall("there is no file to upload", hint="Name files, or folders with files in them.")
        for portion in transfer.upload_requests(planned):
            await self._requester.call("POST", f"{self._path}/upload", files=portion)
        return [name for name, _ in planned]

    async def write_file(self, path: str, content: bytes) -> None:
        """Writes one file, relative to the home folder; at most 1 MiB."""
        await self._requester.call("POST", f"{self._path}/upload", files=[(path, content)])

    async def download(self, paths: Sequence[str], dest: str | Path = ".") -> list[Path]:
        """Fetches files or folders into a local folder; returns the local files."""
        if not paths:
            raise InvalidCall("there is nothing to download", hint="Name files in the session.")
        folder = Path(dest)
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        written: list[Path] = []
        for start in range(0, len(paths), transfer.DOWNLOAD_PATHS_MAX):
            asked = list(paths[start : start + transfer.DOWNLOAD_PATHS_MAX])
            answer = await self._requester.call("POST", f"{self._path}/download", json={"files": asked})
            for archive in transfer.archives_of(answer.content_type, answer.body):
                written += await asyncio.to_thread(transfer.unpack, archive, folder)
        return written

    async def read_file(self, path: str) -> bytes:
        return (await self._requester.call("GET", f"{self._path}/download_single", query={"file": path})).body

    async def list_files(self, path: str = "/home/work") -> list[FileEntry]:
        answer = await self._requester.call("GET", f"{self._path}/files", json={"path": path})
        listed = answer.decode(wire.FileList)
        if listed.errors:
            raise ApiError(listed.errors, status=answer.status, code="session.list-failed")
        return msgspec.json.decode(listed.files, type=list[FileEntry])

    # -- programs --------------------------------------------------------------------------------------------------------

    async def apps(self) -> list[wire.AppItem]:
        """What can be connected to: the image's services and the preopen ports, each named by its number."""
        return await list_apps(self._requester, self.ref)

    def connect(self, app: str, *, port: int | None = None) -> AppStream:
        """One TCP connection: `async with session.connect("8080") as stream: await stream.send(...)`."""
        return AppStream(self._requester, self.ref, app, port=port)

    def forward(
        self,
        app: str,
        *,
        host: str = "127.0.0.1",
        bind_port: int = 0,
        port: int | None = None,
        on_failure: Callable[[ClientError], None] = lambda _: None,
    ) -> Forward:
        """A local port that leads there: `async with session.forward("8080") as local: print(local.address)`."""
        return Forward(
            self._requester, self.ref, app, host=host, bind_port=bind_port, port=port, on_failure=on_failure
        )

    async def start_service(
        self, app: str, *, port: int | None = None, login_session_token: str | None = None
    ) -> wire.ServiceStarted:
        """Opens an app through the app proxy of the session's resource group: a token, and where the proxy's coordinator wants to see it.
        `connect` and `forward` need no proxy. Raises ApiError, with the code `coordinator.none` where there is no proxy."""
        body = {"app": app, "port": port, "login_session_token": login_session_token}
        answer = await self._requester.call("POST", f"{self._path}/start-service", json=body)
        return answer.decode(wire.ServiceStarted)

    async def shutdown_service(self, app: str) -> None:
        """Closes what `start_service` opened, and the connections through it."""
        await self._requester.call("POST", f"{self._path}/shutdown-service", json={"service_name": app})

    def events(self, *, scope: str = "*", after: str = "") -> AsyncIterator[SessionEvent]:
        """From now on, or from after an event's id, until its end."""
        return watch(self._requester, self.id or self.ref, scope=scope, after=after)


class AsyncSessions:
    """All sessions that you may see."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    def at(self, ref: str) -> AsyncSession:
        """A session by id or name, without asking the server."""
        return AsyncSession(self._requester, ref)

    async def create(
        self,
        *,
        image: str,
        name: str | None = None,
        resources: Mapping[str, str | int | float] | None = None,
        resource_opts: Mapping[str, str | int | float] | None = None,
        environ: Mapping[str, str] | None = None,
        type: Literal["interactive", "batch", "inference"] = "interactive",
        startup_command: str | None = None,
        batch_timeout: str | None = None,
        bootstrap_script: str | None = None,
        enqueue_only: bool = False,
        max_wait_s: int = 0,
        reuse: bool = True,
        tag: str | None = None,
        group: str | None = None,
        domain: str | None = None,
        resource_group: str | None = None,
        cluster_size: int = 1,
        cluster_mode: Literal["single-node", "multi-node"] = "single-node",
        mounts: Sequence[str] = (),
        preopen_ports: Sequence[int] = (),
        architecture: str | None = None,
        starts_at: str | None = None,
        dependencies: Sequence[str] = (),
        callback_url: str | None = None,
        agents: Sequence[str] = (),
        owner_access_key: str | None = None,
        priority: int | None = None,
        job_priority: int = 0,
        preemptible: bool = True,
    ) -> AsyncSession:
        """Makes a session, or returns your live one of that name (`reuse`), and waits until it runs.

        `enqueue_only`: don't wait (status PENDING). `max_wait_s`: wait at most so long (then status TIMEOUT, and it stays in the
        queue). `agents`: where to run, for superadministrators. `priority`: its place in the queue, the highest first.
        `job_priority`: where its resource group preempts, it may take the place of `preemptible` sessions of a lower one. Memory as
        "512m" or "1.5g". Raises ApiError: unknown image, quota, impossible resources, failed start.
        """
        config = self._requester.config
        body = {
            "name": name or f"sdk-{secrets.token_hex(5)}",
            "image": image,
            "architecture": architecture or platform.machine() or "x86_64",
            "type": type,
            "group": group or config.group,
            "domain": domain or config.domain,
            "clusterSize": cluster_size,
            "clusterMode": cluster_mode,
            "tag": tag,
            "enqueueOnly": enqueue_only,
            "maxWaitSeconds": max_wait_s,
            "reuseIfExists": reuse,
            "startupCommand": startup_command,
            "batch_timeout": batch_timeout,
            "bootstrap_script": bootstrap_script,
            "starts_at": starts_at,
            "dependencies": list(dependencies),
            "callback_url": callback_url,
            "owner_access_key": owner_access_key,
            **({"priority": priority} if priority is not None else {}),
            **({"job_priority": job_priority} if job_priority else {}),
            **({} if preemptible else {"is_preemptible": False}),
            "config": {
                "mounts": [*mounts, *config.mounts],
                "environ": dict(environ or {}),
                "resources": dict(resources or {}),
                "resource_opts": dict(resource_opts or {}),
                "scalingGroup": resource_group,
                "preopen_ports": list(preopen_ports),
                **({"agentList": list(agents)} if agents else {}),
            },
        }
        made = (await self._requester.call("POST", "/session", json=body)).decode(Created)
        if not made.session_name:
            made = msgspec.structs.replace(made, session_name=str(body["name"]))
        return AsyncSession(self._requester, made.session_id, made)

    async def get(self, ref: str) -> wire.SessionInfo:
        return await self.at(ref).info()

    async def task_log(self, task: str) -> str:
        """What a batch session's command has printed so far; `task` is the session's id or name, or its main container's id. Raises
        ApiError (404) when it is none, or was never begun."""
        answer = await self._requester.call("GET", "/session/_/logs", query={"taskId": task})
        return answer.body.decode("utf-8", "replace")

    async def list(
        self, *, statuses: Sequence[str] = LIVE, limit: int = 50, offset: int = 0
    ) -> wire.SessionPage:
        """Newest first. `statuses` empty: all of them, ended ones too."""
        query = {"status": ",".join(statuses) or None, "limit": limit, "offset": offset}
        return (await self._requester.call("GET", "/session", query=query)).decode(wire.SessionPage)

    async def find(self, ref: str) -> wire.SessionItem | None:
        """The newest session of that id or name, ended ones too, among the last hundred."""
        page = await self.list(statuses=(), limit=100)
        return next((one for one in page.items if ref in (one.id, one.name)), None)

    def events(self, ref: str = "*", *, scope: str = "*", after: str = "") -> AsyncIterator[SessionEvent]:
        return watch(self._requester, ref, scope=scope, after=after)

    @contextlib.asynccontextmanager
    async def temporary(self, **wishes: Any) -> AsyncIterator[AsyncSession]:
        """`create`, and the end of it on leaving: also when the creation itself is broken off."""
        name = wishes.pop("name", None) or f"sdk-{secrets.token_hex(5)}"
        try:
            yield await self.create(name=name, **wishes)
        finally:
            await self._end(name)

    async def _end(self, name: str) -> None:
        try:
            await self.at(name).destroy()
        except ApiError as exc:
            if exc.status != 404:
                raise
