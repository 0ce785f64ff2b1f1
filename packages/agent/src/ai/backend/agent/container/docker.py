"""The container backend on Docker Engine (API 1.41 or later, also Podman's compatible socket). Only this file
knows Docker.

How it works: the engine is the record. A container is called `<owner>.K.<name>` and labelled with its owner,
so that agents that share one engine never see each other's; there is no state here, so any adapter object
made at any moment finds the same containers. One `/events` stream wakes the agent; counters come from cgroup
files where they can be seen (`docker_cgroup`).

A session costs two calls, create and start. The expensive part of a start on older engines is the network
sandbox, which they build (with two re-executions of the daemon) even for network "none". So "none" is asked
for as `NetworkDisabled`: the runtime then gives the container a network namespace of its own that has nothing
but `lo`, and the engine stays out of it. What the engine would have written to /etc/hosts is mounted from
`state_dir` instead.

It must never know what a session or a kernel is, pull an image, or choose anything that the spec leaves open.
"""

import asyncio
import json
import math
import os
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import aiohttp
from aiodocker import Docker
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError

from . import docker_commit
from . import network as networking
from .docker_cgroup import DockerCgroup
from .docker_network import OWNER_LABEL, DockerNetworks
from .errors import (
    BackendUnavailable,
    ContainerError,
    ContainerExists,
    ContainerFailed,
    ContainerNotFound,
    ImageNotFound,
    NoSpace,
)
from .model import (
    CommitSpec,
    Container,
    ContainerSpec,
    ContainerStatus,
    EngineRequest,
    ExitCause,
    ExitInfo,
    Image,
    Mount,
    Network,
    NetworkSpec,
    Usage,
    architecture_of,
)

DEFAULT_URL = "unix:///var/run/docker.sock"
KEYS_LABEL = "ai.backend.docker.label-keys"
"""JSON list of the spec's own label keys: the engine mixes the image's labels into the container's."""
KERNELSPEC_LABEL = "ai.backend.kernelspec"

MIN_API = (1, 41)
_RECURSIVE_READ_ONLY_API = (1, 44)
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_CPU_PERIOD_US = 100_000
_CONNECT_S = 5
_CALL_S = 120
_BACKOFF_S = (0.05, 2.0)
_INSPECT_CONCURRENCY = 8
_LINE_BYTES = 1 << 20
"""Events carry all labels in one line."""
_EVENTS = ["create", "start", "die", "oom", "destroy"]
_STATUS = {
    "created": ContainerStatus.CREATED,
    "running": ContainerStatus.RUNNING,
    "paused": ContainerStatus.RUNNING,
    "restarting": ContainerStatus.RUNNING,
}
_SIGKILL_CODE = 137
_UNSEEN_CODE = 255
"""What the engine notes for containers that it finds dead without having seen how."""


class DockerBackend:
    """See the module's docstring, and `ContainerBackend` for the contract."""

    kind = "docker"
    adopts = True
    has_engine = True

    def __init__(
        self,
        url: str | None,
        owner: str,
        *,
        network: str = "none",
        state_dir: Path | None = None,
        network_range: str = networking.DEFAULT_RANGE,
    ) -> None:
        """`owner` is the id of the agent instance; only its containers are seen and touched.

        `url`: "unix:///path" or "tcp://host:port"; None means $DOCKER_HOST, else the default socket.
        `network`: the engine's network for every container that has none of its own: "none" (only `lo`), "bridge", or a name.
        `state_dir`: a folder for one tiny file that containers see as /etc/hosts; without it network "none"
        starts more slowly.
        `network_range`: where the subnets of sessions' networks are taken from, in CIDR notation.
        """
        if not _OWNER.fullmatch(owner):
            raise ValueError(f"owner {owner!r} must match {_OWNER.pattern}")
        self.url = url or os.environ.get("DOCKER_HOST") or DEFAULT_URL
        self._owner = owner
        self._network = network
        self._networks = DockerNetworks(owner, networking.parse_range(network_range))
        self._hosts = state_dir / "hosts" if state_dir is not None and network == "none" else None
        self._docker: Docker | None = None
        self._api = MIN_API
        self._init = False
        self._architectures: dict[str, str] = {}
        self._cgroups: dict[str, DockerCgroup] = {}

    async def open(self) -> None:
        if self._docker is not None:
            return
        try:
            await self._connect()
        except ContainerError:
            await self.close()
            raise

    async def _connect(self) -> None:
        with self._mapped("connect"):
            # The default connector would hold back calls beyond a hundred, and a hundred containers may be
            # stopping at once.
            path = self.url.removeprefix("unix://")
            connector = aiohttp.UnixConnector(path, limit=0) if path != self.url else None
            timeout = aiohttp.ClientTimeout(total=_CALL_S, sock_connect=_CONNECT_S)
            # With a connector of its own, a Unix socket's address is any host name.
            self._docker = Docker(
                self.url if connector is None else "unix://localhost", connector, timeout=timeout
            )
            version = await self._docker.version()
            info = await self._docker.system.info()
            await docker_commit.sweep(self._docker, self._owner)
        self._api = _api_version(version["ApiVersion"])
        if self._api < MIN_API:
            raise BackendUnavailable(
                f"the Docker Engine at {self.url} speaks API {version['ApiVersion']}",
                hint=f"Install one with API {MIN_API[0]}.{MIN_API[1]} (Docker 20.10) or later.",
            )
        # Without its docker-init program the engine refuses to start such containers: then the command is PID
        # 1 itself.
        self._init = bool(info.get("InitBinary")) and info.get("InitCommit", {}).get("ID") != "N/A"
        if self._hosts is not None:
            try:
                self._hosts.parent.mkdir(parents=True, exist_ok=True)
                self._hosts.write_text(_HOSTS)
                self._hosts.chmod(0o644)
            except OSError as exc:
                raise BackendUnavailable(
                    f"{self._hosts} can't be written: {exc.strerror}",
                    hint="Check the folder's owner and the disk.",
                ) from exc

    async def close(self) -> None:
        docker, self._docker = self._docker, None
        if docker is not None:
            await docker.close()
            await docker.connector.close()

    async def ping(self) -> None:
        with self._mapped("ping"):
            async with self._stream("_ping", {}, timeout_s=_CONNECT_S) as body:
                await body.read()

    @property
    def _engine(self) -> Docker:
        if self._docker is None:
            raise BackendUnavailable(
                f"the Docker Engine at {self.url} was not opened", hint="Call `open` first."
            )
        return self._docker

    def _reference(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"container name {name!r} must match {_NAME.pattern}")
        # Names have no capital letters, so owner and name can be told apart, whatever the owner is called.
        return f"{self._owner}.K.{name}"

    def _container(self, name: str) -> DockerContainer:
        reference = self._reference(name)
        return self._engine.containers.container(reference)

    @asynccontextmanager
    async def _stream(
        self, path: str, params: dict[str, str], *, timeout_s: float | None
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """The body of a GET, for what aiodocker would only give as a whole or decoded."""
        engine = self._engine
        if engine.api_version == "auto":
            await engine.version()
        async with engine.session.get(
            f"{engine.docker_host}/{engine.api_version}/{path}",
            params=params,
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_S),
            read_bufsize=_LINE_BYTES,
        ) as response:
            if response.status >= 400:
                raise DockerError(response.status, await response.text())
            yield response.content

    @contextmanager
    def _mapped(self, doing: str, *, name: str = "", image: str = "") -> Iterator[None]:
        """The one place where the engine's errors become ours."""
        try:
            yield
        except DockerError as exc:
            raise self._error(exc, doing, name, image) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise self._unavailable(str(exc) or type(exc).__name__) from exc

    def _error(self, exc: DockerError, doing: str, name: str, image: str) -> ContainerError:
        said = exc.message.strip()
        lowered = said.lower()
        if exc.status in (503, 900):
            return self._unavailable(str(exc.__context__ or said))
        if "no space left on device" in lowered or "disk quota exceeded" in lowered:
            return NoSpace(
                f"the engine could not {doing}: {said}",
                hint="Free disk space below the engine's data folder.",
            )
        if exc.status == 404 and "no such image" in lowered:
            return ImageNotFound(
                f"image {image!r} is not on this node",
                hint="Add it to the engine (`docker pull` or `backend.ai` image commands).",
                image=image,
            )
        if exc.status == 404 and "no such container" in lowered:
            return ContainerNotFound(f"there is no container {name!r}", name=name)
        if exc.status == 409 and "is already in use" in lowered:
            return ContainerExists(f"there is already a container {name!r}", name=name)
        return ContainerFailed(f"the engine could not {doing}: {said}", status=exc.status)

    def _unavailable(self, said: str) -> BackendUnavailable:
        return BackendUnavailable(
            f"the Docker Engine at {self.url} does not answer: {said}",
            hint="Start it (`systemctl start docker`), check this user's access, or choose another address.",
            url=self.url,
        )

    async def images(self) -> list[Image]:
        with self._mapped("list images"):
            found = await self._engine.images.list(filters={"label": [KERNELSPEC_LABEL]})
            return [
                Image(
                    name=tag,
                    digest=item["Id"],
                    architecture=await self._architecture(item["Id"]),
                    size_bytes=item["Size"],
                    labels=dict(item["Labels"] or {}),
                )
                for item in found
                for tag in item["RepoTags"] or ()
                if tag != "<none>:<none>"
            ]

    async def _architecture(self, image_id: str) -> str:
        # An id is the digest of the image's configuration: what was once read stays true.
        if image_id not in self._architectures:
            inspected = await self._engine.images.inspect(image_id)
            self._architectures[image_id] = architecture_of(inspected["Architecture"])
        return self._architectures[image_id]

    async def load_image(self, archive: AsyncIterable[bytes]) -> None:
        """Takes a `docker save` archive (uncompressed tar). Raises NoSpace, BackendUnavailable or
        ContainerFailed.
        """
        with self._mapped("load the image"):
            await self._engine.images.import_image(archive)

    async def commit(
        self, name: str, spec: CommitSpec, *, room: Callable[[int], None], tell: Callable[[int, int], None]
    ) -> Image:
        reference = self._reference(name)
        with self._mapped("make an image of the container", name=name, image=spec.name):
            return await docker_commit.commit(
                self._engine, self._stream, self._owner, reference, spec, room=room, tell=tell
            )

    async def remove_image(self, name: str, digest: str) -> None:
        with self._mapped("remove the image", image=name):
            await docker_commit.remove_image(self._engine, name, digest)

    async def unpack_home(self, image: str, folder: Path) -> None:
        with self._mapped("read the image's home folder", image=image):
            await docker_commit.unpack_home(self._engine, self._stream, self._owner, image, folder)

    async def create(self, spec: ContainerSpec) -> str:
        reference = self._reference(spec.name)
        with self._mapped("create the container", name=spec.name, image=spec.image):
            return (await self._engine.containers.create(self._configuration(spec), name=reference)).id

    def _configuration(self, spec: ContainerSpec) -> dict[str, Any]:
        limits = spec.limits
        mounts = spec.mounts
        hosts = self._hosts if spec.network is None else None
        if hosts is not None:
            mounts = (Mount(source=hosts, target=PurePosixPath("/etc/hosts")), *mounts)
        own = {OWNER_LABEL: self._owner, KEYS_LABEL: json.dumps([key for key, _ in spec.labels])}
        configuration: dict[str, Any] = {
            "Image": spec.image,
            "Entrypoint": [],
            "Cmd": list(spec.command),
            "Env": [f"{key}={value}" for key, value in spec.environ],
            "Labels": {**dict(spec.labels), **own},
            "Hostname": spec.hostname,
            "User": f"{spec.uid}:{spec.gid}",
            "WorkingDir": str(spec.workdir),
            "StopSignal": "SIGTERM",
            "NetworkDisabled": hosts is not None,
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {
                "Mounts": [self._mount(mount) for mount in _uncovered(mounts)],
                # Not NanoCpus, which the engine refuses above the number of cores of an oversubscribed node.
                "CpuPeriod": _CPU_PERIOD_US,
                "CpuQuota": max(1000, limits.cpu_milli * _CPU_PERIOD_US // 1000),
                "CpusetCpus": ",".join(map(str, spec.cpuset)),
                "Memory": limits.memory_bytes,
                "MemorySwap": limits.memory_bytes,
                "PidsLimit": limits.pids,
                "ShmSize": limits.shm_bytes,
                "Init": self._init,
                "NetworkMode": self._network,
                "Devices": [
                    {
                        "PathOnHost": str(one.source),
                        "PathInContainer": str(one.target),
                        "CgroupPermissions": "rw",
                    }
                    for one in spec.device_files
                ],
                "DeviceRequests": [_device_request(one) for one in spec.engine_requests],
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "5m", "max-file": "2"}},
                "RestartPolicy": {"Name": "no"},
                "AutoRemove": False,
            },
        }
        self._networks.attach(spec, configuration)
        return configuration

    def _mount(self, mount: Mount) -> dict[str, Any]:
        options: dict[str, Any] = {"Propagation": "rprivate"}
        if mount.read_only and self._api < _RECURSIVE_READ_ONLY_API:
            # Older engines leave mounts below a read-only one writable: rather hide than expose them.
            options["NonRecursive"] = True
        return {
            "Type": "bind",
            "Source": str(mount.source),
            "Target": str(mount.target),
            "ReadOnly": mount.read_only,
            "BindOptions": options,
        }

    async def start(self, name: str) -> None:
        with self._mapped("start the container", name=name):
            await self._container(name).start()

    async def stop(self, name: str, *, grace_s: float) -> None:
        container = self._container(name)
        with self._mapped("stop the container", name=name), _unless_gone():
            if grace_s > 0:
                await container.stop(t=math.ceil(grace_s))
            else:
                await container.kill()
                await container.wait(condition="not-running")

    async def remove(self, name: str) -> None:
        container = self._container(name)
        self._cgroups.pop(name, None)
        with self._mapped("remove the container", name=name), _unless_gone():
            try:
                await container.delete(force=True, v=True)
            except DockerError as exc:
                if exc.status == 409:  # somebody else's removal is under way
                    await container.wait(condition="removed", timeout=aiohttp.ClientTimeout(total=_CALL_S))
                elif exc.status == 500:  # right after an exit an engine may find its files still busy
                    await asyncio.sleep(0.2)
                    await container.delete(force=True, v=True)
                else:
                    raise

    async def ensure_network(self, spec: NetworkSpec) -> Network:
        with self._mapped("make a network"):
            return await self._networks.ensure(self._engine, spec)

    async def remove_network(self, name: str) -> None:
        with self._mapped("remove a network"):
            await self._networks.remove(self._engine, name)

    async def networks(self) -> list[str]:
        with self._mapped("list networks"):
            return await self._networks.names(self._engine)

    async def inspect(self, name: str) -> Container | None:
        try:
            with self._mapped("inspect the container", name=name):
                data = await self._container(name).show()
        except ContainerNotFound:
            return None
        return self._snapshot(name, data)

    async def list(self) -> list[Container]:
        with self._mapped("list containers"):
            filters = json.dumps({"label": [f"{OWNER_LABEL}={self._owner}"]})
            found = await self._engine.containers.list(all=True, filters=filters)
        names = [name for item in found if (name := self._own_name((item["Names"] or [""])[0])) is not None]
        turn = asyncio.Semaphore(_INSPECT_CONCURRENCY)

        async def one(name: str) -> Container | None:
            async with turn:
                return await self.inspect(name)

        return [container for container in await asyncio.gather(*map(one, names)) if container is not None]

    def _own_name(self, reference: str) -> str | None:
        owner, mark, name = reference.removeprefix("/").rpartition(".K.")
        return name if mark and owner == self._owner else None

    def _snapshot(self, name: str, data: dict[str, Any]) -> Container | None:
        labels: dict[str, str] = data["Config"]["Labels"] or {}
        if labels.get(OWNER_LABEL) != self._owner:
            return None
        state = data["State"]
        status = _STATUS.get(state["Status"], ContainerStatus.EXITED)
        oom_kills = int(state["OOMKilled"])
        if status is ContainerStatus.RUNNING and (group := self._cgroup(name, data)) is not None:
            oom_kills = max(oom_kills, group.oom_kills())
        return Container(
            id=data["Id"],
            name=name,
            image=data["Config"]["Image"],
            status=status,
            labels={key: labels[key] for key in json.loads(labels.get(KEYS_LABEL, "[]"))},
            pid=state["Pid"] if status is ContainerStatus.RUNNING else None,
            exit=_exit_info(state, _boot_time_s()) if status is ContainerStatus.EXITED else None,
            oom_kills=oom_kills,
        )

    async def logs(self, name: str, *, max_bytes: int) -> bytes:
        if max_bytes <= 0:
            return b""
        path = f"containers/{self._reference(name)}/logs"
        # Each entry is at least one byte, so no more entries than bytes are of use.
        params = {"stdout": "1", "stderr": "1", "tail": str(max_bytes)}
        tail = bytearray()
        with self._mapped("read the log", name=name), _unless_gone():
            async with self._stream(path, params, timeout_s=_CALL_S) as body:
                async for chunk in _demultiplexed(body):
                    tail += chunk
                    del tail[:-max_bytes]
        return bytes(tail)

    async def usage(self, name: str) -> Usage | None:
        if name not in self._cgroups:
            container = await self.inspect(name)
            if container is None or container.status is not ContainerStatus.RUNNING:
                return None
            if name not in self._cgroups:
                return await self._usage_from_engine(name)
        try:
            return self._cgroups[name].usage()
        except FileNotFoundError:
            del self._cgroups[name]
            return None

    def _cgroup(self, name: str, data: dict[str, Any]) -> DockerCgroup | None:
        group = DockerCgroup.find(data["State"]["Pid"], data["Id"])
        if group is not None:
            self._cgroups[name] = group
        return group

    async def _usage_from_engine(self, name: str) -> Usage | None:
        path = f"containers/{self._reference(name)}/stats"
        with self._mapped("read counters", name=name), _unless_gone():
            async with self._stream(path, {"stream": "0", "one-shot": "1"}, timeout_s=_CALL_S) as body:
                stats = json.loads(await body.read())
            memory = stats["memory_stats"]
            if "usage" not in memory:
                return None
            return Usage(
                memory_bytes=memory["usage"],
                memory_peak_bytes=memory.get("max_usage"),
                cpu_used_us=stats["cpu_stats"]["cpu_usage"]["total_usage"] // 1000,
                pids=stats.get("pids_stats", {}).get("current"),
            )
        return None

    async def events(self, on_change: Callable[[str], None]) -> AsyncIterator[None]:
        filters = {"type": ["container"], "event": _EVENTS, "label": [f"{OWNER_LABEL}={self._owner}"]}
        params = {"filters": json.dumps(filters)}
        backoff_s = _BACKOFF_S[0]
        while True:
            try:
                with self._mapped("watch events"):
                    async with self._stream("events", params, timeout_s=None) as body:
                        # The engine answers just before it subscribes; another call's time later it has.
                        await self.ping()
                        yield
                        backoff_s = _BACKOFF_S[0]
                        async for line in body:
                            self._on_event(line, on_change)
            except BackendUnavailable:
                if self._docker is None:
                    return
            # It may come back as another version.
            if self._docker is not None:
                self._docker.api_version = "auto"
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _BACKOFF_S[1])

    def _on_event(self, line: bytes, on_change: Callable[[str], None]) -> None:
        if not line.strip():
            return
        name = self._own_name(json.loads(line)["Actor"]["Attributes"]["name"])
        if name is not None:
            on_change(name)


def _device_request(asked: EngineRequest) -> dict[str, Any]:
    capabilities = [list(asked.capabilities)] if asked.capabilities else []
    return {"Driver": asked.driver, "DeviceIDs": list(asked.ids), "Capabilities": capabilities}


def _api_version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


@contextmanager
def _unless_gone() -> Iterator[None]:
    """For calls that have nothing to do when the container is unknown (404) or does not run (409)."""
    try:
        yield
    except DockerError as exc:
        if exc.status != 404 and not (exc.status == 409 and "is not running" in exc.message):
            raise


def _uncovered(mounts: tuple[Mount, ...]) -> list[Mount]:
    """Without the mounts that a later one covers: the engine sorts by depth and refuses two of one target."""
    return [
        mount
        for index, mount in enumerate(mounts)
        if not any(mount.target.is_relative_to(later.target) for later in mounts[index + 1 :])
    ]


def _exit_info(state: dict[str, Any], boot_time_s: float | None) -> ExitInfo:
    """How a container ended, from the engine's `State` record. `boot_time_s`: when this node started, seconds
    since 1970.
    """
    code = state["ExitCode"]
    if code == _UNSEEN_CODE and boot_time_s is not None and _timestamp_s(state["StartedAt"]) < boot_time_s:
        return ExitInfo(cause=ExitCause.LOST, exit_code=None)
    if code == _SIGKILL_CODE:
        return ExitInfo(
            cause=ExitCause.OUT_OF_MEMORY if state["OOMKilled"] else ExitCause.KILLED, exit_code=code
        )
    killed = 128 < code < _UNSEEN_CODE and code - 128 <= 64
    return ExitInfo(cause=ExitCause.KILLED if killed else ExitCause.EXITED, exit_code=code)


def _timestamp_s(text: str) -> float:
    # Nanoseconds are more digits than `fromisoformat` takes; whole seconds are enough.
    return datetime.fromisoformat(f"{text[:19]}+00:00").timestamp()


def _boot_time_s() -> float | None:
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) for line in lines if line.startswith("btime ")), None)


async def _demultiplexed(body: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The payloads of the engine's frames: a byte for the stream, three of padding, four of length
    (big-endian).
    """
    while True:
        try:
            header = await body.readexactly(8)
        except asyncio.IncompleteReadError:
            return
        left = int.from_bytes(header[4:])
        while left and (chunk := await body.read(left)):
            left -= len(chunk)
            yield chunk
