"""The contract of `ContainerBackend` as tests: every adapter, the fake one included, passes the same suite.

To run it against an adapter, write a `Harness` for it and subclass the suite in a test file:

    class TestDocker(ContainerContract):
        @pytest.fixture
        async def harness(self):
            async with docker_harness() as harness:
                yield harness

Commands are shell lines that a real container runs; the fake's harness plays their outcome. What cannot be
played, because it is the kernel that acts, is in `RealContainerContract`, which real adapters subclass
instead.
"""

import asyncio
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import pytest

from ai.backend.agent.container.backend import ContainerBackend
from ai.backend.agent.container.errors import (
    ContainerError,
    ContainerExists,
    ContainerFailed,
    ContainerNotFound,
    ImageNotFound,
    NoSpace,
)
from ai.backend.agent.container.model import (
    CommitSpec,
    Container,
    ContainerSpec,
    ContainerStatus,
    DeviceFile,
    ExitCause,
    Limits,
    Mount,
)

PATIENCE_S = 30.0
"""How long anything may take before the suite calls it stuck. Not a measure: nothing here waits for it unless
something is wrong."""
EAT_MEMORY = "x=0123456789abcdef; while :; do x=$x$x; done"
"""Any shell's way to use all its memory."""


class Harness(Protocol):
    """One adapter under test. Each test has a new one, over an empty state."""

    @property
    def backend(self) -> ContainerBackend:
        """The adapter object of now, open."""

    @property
    def image(self) -> str:
        """The name of an image that has /bin/sh."""

    @property
    def small_image(self) -> str:
        """One that does not take long to copy, with /bin/sh and sleep."""

    @property
    def ids(self) -> tuple[int, int]:
        """The host's uid and gid for the container under test."""

    @property
    def shared_dir(self) -> Path:
        """An empty folder that can be mounted, in which the container's user may write."""

    async def reopen(self) -> ContainerBackend:
        """A new adapter object over the same state, as after `kill -9` of the agent; `backend` is it from now
        on."""

    async def leftovers(self, name: str) -> list[str]:
        """What is still on the machine of a removed container: processes, cgroups, mounts, files, in words.
        Empty is right."""

    async def leftover_images(self) -> list[str]:
        """What making images of containers has left that is no image for sessions, in words. Empty is right."""

    async def network_leftovers(self) -> list[str]:
        """What networks have of this machine when all of them are removed, in words. Empty is right."""

    def script(self, name: str, line: str) -> None:
        """Tells a fake what the container is about to run; a real adapter has nothing to do."""


def make_spec(harness: Harness, name: str, line: str = "exec sleep 600", **changes: object) -> ContainerSpec:
    """A small container that runs one shell line. `changes` replace fields of the spec."""
    harness.script(name, line)
    uid, gid = harness.ids
    spec = ContainerSpec(
        name=name,
        image=harness.image,
        command=("/bin/sh", "-c", line),
        environ=(("PATH", "/usr/local/bin:/usr/bin:/bin"), ("GREETING", "grüß dich\nzweite Zeile")),
        labels=(
            ("ai.backend.owner", "contract"),
            ("ai.backend.kernel-id", f"k-{name}"),
            ("note", 'a "b" = ü'),
        ),
        mounts=(),
        limits=Limits(memory_bytes=64 << 20, cpu_milli=1000, pids=64),
        uid=uid,
        gid=gid,
        hostname="contract",
        workdir=PurePosixPath("/"),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def commit_spec(
    folder: Path, *, archive: Path | None, left_out: tuple[PurePosixPath, ...] = ()
) -> CommitSpec:
    """An image with one file in its home."""
    home = folder / "home.tar"
    with tarfile.open(home, "w") as tar:
        for name, kind in (
            ("home", tarfile.DIRTYPE),
            ("home/work", tarfile.DIRTYPE),
            ("home/work/hello.txt", tarfile.REGTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid = kind, 0o755, 1000, 1000
            info.size = 5 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"hello"))
    scratch = folder / "scratch"
    scratch.mkdir()
    return CommitSpec(
        name="customized/contract/made:latest",
        labels=(("note", "made of a container"),),
        home=home,
        left_out=left_out,
        archive=archive,
        scratch=scratch,
    )


async def run_program(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command


def nothing(*_: int) -> None:
    """Hears how far it is."""


@asynccontextmanager
async def changes_of(backend: ContainerBackend) -> AsyncIterator["asyncio.Queue[str]"]:
    """The names that `events` reports, from now on."""
    names: asyncio.Queue[str] = asyncio.Queue()
    ready = asyncio.Event()

    async def watch() -> None:
        async for _ in backend.events(names.put_nowait):
            ready.set()

    task = asyncio.create_task(watch())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await ready.wait()
        yield names
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def wait_for(
    backend: ContainerBackend,
    names: "asyncio.Queue[str]",
    name: str,
    condition: Callable[[Container], bool],
) -> Container:
    """Looks at the container whenever `events` says so until the condition holds. Fails when no event
    comes."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            container = await backend.inspect(name)
            assert container is not None
            if condition(container):
                return container
            await names.get()


def exited(container: Container) -> bool:
    return container.status is ContainerStatus.EXITED


async def run(harness: Harness, spec: ContainerSpec) -> Container:
    """Creates and starts the container, and waits for its end by events alone."""
    async with changes_of(harness.backend) as names:
        await harness.backend.create(spec)
        await harness.backend.start(spec.name)
        return await wait_for(harness.backend, names, spec.name, exited)


async def wait_for_log(backend: ContainerBackend, name: str, text: bytes) -> bytes:
    """Logs have no events: this one polls."""
    async with asyncio.timeout(PATIENCE_S):
        while text not in (log := await backend.logs(name, max_bytes=1 << 20)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return log


class ContainerContract:
    """What holds for every adapter."""

    async def test_open_backend_answers(self, harness: Harness) -> None:
        await harness.backend.ping()
        assert await harness.backend.list() == []

    async def test_images_carry_the_kernelspec_label(self, harness: Harness) -> None:
        images = {image.name: image for image in await harness.backend.images()}
        assert harness.image in images
        assert all("ai.backend.kernelspec" in image.labels for image in images.values())
        assert all(image.digest and image.architecture for image in images.values())

    async def test_created_container_is_listed_with_its_labels(self, harness: Harness) -> None:
        spec = make_spec(harness, "created")
        container_id = await harness.backend.create(spec)
        (listed,) = await harness.backend.list()
        assert listed == await harness.backend.inspect("created")
        assert (listed.id, listed.name, listed.image) == (container_id, "created", harness.image)
        assert dict(spec.labels).items() <= listed.labels.items()
        assert (listed.status, listed.pid, listed.exit) == (ContainerStatus.CREATED, None, None)
        assert await harness.backend.usage("created") is None

    async def test_second_container_of_a_name_is_refused(self, harness: Harness) -> None:
        await harness.backend.create(make_spec(harness, "twin"))
        with pytest.raises(ContainerExists):
            await harness.backend.create(make_spec(harness, "twin"))
        assert len(await harness.backend.list()) == 1

    async def test_unknown_image_is_refused_and_leaves_nothing(self, harness: Harness) -> None:
        with pytest.raises(ImageNotFound):
            await harness.backend.create(make_spec(harness, "lost", image="nowhere.example/none:1"))
        assert await harness.backend.list() == []

    async def test_start_needs_a_container(self, harness: Harness) -> None:
        with pytest.raises(ContainerNotFound):
            await harness.backend.start("nobody")

    async def test_running_container(self, harness: Harness) -> None:
        await harness.backend.create(make_spec(harness, "runs"))
        await harness.backend.start("runs")
        container = await harness.backend.inspect("runs")
        assert container is not None
        assert (container.status, container.exit) == (ContainerStatus.RUNNING, None)
        assert container.pid is not None
        await harness.backend.start("runs")
        again = await harness.backend.inspect("runs")
        assert again is not None and again.pid == container.pid, "start of a running container does nothing"
        usage = await harness.backend.usage("runs")
        assert usage is not None

    async def test_exit_code_and_log(self, harness: Harness) -> None:
        container = await run(harness, make_spec(harness, "ends", "echo out; echo err >&2; exit 7"))
        assert container.exit is not None
        assert (container.exit.cause, container.exit.exit_code) == (ExitCause.EXITED, 7)
        assert container.pid is None
        log = await harness.backend.logs("ends", max_bytes=1000)
        assert (b"out" in log, b"err" in log) == (True, True)
        assert len(await harness.backend.logs("ends", max_bytes=3)) == 3
        assert await harness.backend.usage("ends") is None

    async def test_success_is_exit_code_zero(self, harness: Harness) -> None:
        container = await run(harness, make_spec(harness, "fine", "exit 0"))
        assert container.exit is not None
        assert (container.exit.cause, container.exit.exit_code) == (ExitCause.EXITED, 0)

    async def test_stop_sends_sigterm_first(self, harness: Harness) -> None:
        command = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done"
        await harness.backend.create(make_spec(harness, "polite", command))
        await harness.backend.start("polite")
        await wait_for_log(harness.backend, "polite", b"up")
        await harness.backend.stop("polite", grace_s=PATIENCE_S)
        container = await harness.backend.inspect("polite")
        assert container is not None and container.exit is not None
        assert container.exit.exit_code == 3
        assert b"bye" in await harness.backend.logs("polite", max_bytes=1000)

    async def test_stop_kills_after_the_grace(self, harness: Harness) -> None:
        command = "trap '' TERM; echo up; while :; do sleep 600; done"
        await harness.backend.create(make_spec(harness, "stubborn", command))
        await harness.backend.start("stubborn")
        await wait_for_log(harness.backend, "stubborn", b"up")
        await harness.backend.stop("stubborn", grace_s=0.2)
        container = await harness.backend.inspect("stubborn")
        assert container is not None and container.exit is not None
        assert (container.exit.cause, container.exit.exit_code) == (ExitCause.KILLED, 137)

    async def test_stop_without_grace_kills(self, harness: Harness) -> None:
        await harness.backend.create(make_spec(harness, "killed"))
        await harness.backend.start("killed")
        await harness.backend.stop("killed", grace_s=0)
        container = await harness.backend.inspect("killed")
        assert container is not None and container.exit is not None
        assert (container.exit.cause, container.exit.exit_code) == (ExitCause.KILLED, 137)
        await harness.backend.stop("killed", grace_s=0)

    async def test_stop_and_remove_of_nothing(self, harness: Harness) -> None:
        await harness.backend.stop("nobody", grace_s=1)
        await harness.backend.remove("nobody")
        assert await harness.backend.inspect("nobody") is None
        assert await harness.backend.logs("nobody", max_bytes=100) == b""
        assert await harness.backend.usage("nobody") is None
        await harness.backend.create(make_spec(harness, "unstarted"))
        await harness.backend.stop("unstarted", grace_s=1)
        await harness.backend.remove("unstarted")
        await harness.backend.remove("unstarted")
        assert await harness.backend.list() == []
        assert await harness.leftovers("unstarted") == []

    async def test_remove_ends_what_runs_and_leaves_nothing(self, harness: Harness) -> None:
        await harness.backend.create(make_spec(harness, "leaver"))
        await harness.backend.start("leaver")
        await harness.backend.remove("leaver")
        assert await harness.backend.inspect("leaver") is None
        assert await harness.leftovers("leaver") == []
        await harness.backend.create(make_spec(harness, "leaver"))
        await harness.backend.start("leaver")
        await harness.backend.remove("leaver")

    async def test_events_tell_of_a_killed_container(self, harness: Harness) -> None:
        await harness.backend.create(make_spec(harness, "watched"))
        await harness.backend.start("watched")
        async with changes_of(harness.backend) as names:
            await harness.backend.stop("watched", grace_s=0)
            await wait_for(harness.backend, names, "watched", exited)

    async def test_out_of_memory(self, harness: Harness) -> None:
        spec = make_spec(harness, "hungry", EAT_MEMORY)
        container = await run(harness, spec)
        assert container.exit is not None
        assert container.exit.cause is ExitCause.OUT_OF_MEMORY
        assert container.oom_kills > 0

    async def test_new_adapter_finds_the_containers(self, harness: Harness) -> None:
        await harness.backend.create(make_spec(harness, "new"))
        await run(harness, make_spec(harness, "done", "exit 5"))
        await harness.backend.create(make_spec(harness, "busy"))
        await harness.backend.start("busy")
        before = await harness.backend.list()
        backend = await harness.reopen()
        assert await backend.list() == before
        assert {container.name for container in before} == {"new", "done", "busy"}
        done = await backend.inspect("done")
        assert done is not None and done.exit is not None and done.exit.exit_code == 5
        async with changes_of(backend) as names:
            await backend.stop("busy", grace_s=0)
            await wait_for(backend, names, "busy", exited)
        await backend.start("new")
        for container in before:
            await backend.remove(container.name)
        for container in before:
            assert await harness.leftovers(container.name) == []

    async def test_many_at_once(self, harness: Harness) -> None:
        specs = [make_spec(harness, f"many-{number}", f"exit {number}") for number in range(6)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(harness, spec)) for spec in specs]
        exits = [task.result().exit for task in tasks]
        assert [exit_info and exit_info.exit_code for exit_info in exits] == [*range(6)]
        async with asyncio.TaskGroup() as group:
            for spec in specs:
                group.create_task(harness.backend.remove(spec.name))
        assert await harness.backend.list() == []

    async def test_an_image_of_a_container_is_kept(self, harness: Harness, tmp_path: Path) -> None:
        backend = harness.backend
        await self.running(harness, "origin")
        rooms: list[int] = []
        told: list[tuple[int, int]] = []
        spec = commit_spec(tmp_path, archive=None)
        made = await backend.commit("origin", spec, room=rooms.append, tell=lambda *n: told.append(n))
        assert len(rooms) == 1 and rooms[0] >= spec.home.stat().st_size
        assert all(done <= total for done, total in told)
        assert (await backend.inspect("origin")).status is ContainerStatus.RUNNING  # type: ignore[union-attr]
        backend = await harness.reopen()
        (found,) = [image for image in await backend.images() if image.name == spec.name]
        assert (found.digest, found.labels, found.architecture) == (
            made.digest,
            made.labels,
            made.architecture,
        )
        assert found.labels["ai.backend.kernelspec"] and found.labels["note"] == "made of a container"
        home = tmp_path / "unpacked"
        home.mkdir()
        await backend.unpack_home(spec.name, home)
        assert {path.name: path.read_text() for path in home.iterdir()} == {"hello.txt": "hello"}
        await run(harness, make_spec(harness, "again", "exit 3", image=spec.name))
        await backend.remove("again")
        await backend.remove("origin")
        await backend.remove_image(spec.name, "sha256:" + "1" * 64)
        assert spec.name in {image.name for image in await backend.images()}
        await backend.remove_image(spec.name, made.digest)
        await backend.remove_image(spec.name, made.digest)
        assert spec.name not in {image.name for image in await backend.images()}

    async def test_an_image_needs_a_running_container_and_room(
        self, harness: Harness, tmp_path: Path
    ) -> None:
        backend = harness.backend
        before = await backend.images()
        spec = commit_spec(tmp_path, archive=tmp_path / "made.tar.gz")

        def full(_: int) -> None:
            raise NoSpace("no room")

        with pytest.raises(ContainerNotFound):
            await backend.commit("nobody", spec, room=full, tell=nothing)
        await self.running(harness, "origin")
        with pytest.raises(NoSpace, match="no room"):
            await backend.commit("origin", spec, room=full, tell=nothing)
        assert not (tmp_path / "made.tar.gz").exists()
        await backend.stop("origin", grace_s=0)
        with pytest.raises(ContainerError):
            await backend.commit("origin", spec, room=lambda _: None, tell=nothing)
        assert await backend.images() == before

    async def test_the_home_of_an_image_that_has_none(self, harness: Harness, tmp_path: Path) -> None:
        home = tmp_path / "home"
        home.mkdir()
        await harness.backend.unpack_home(harness.image, home)
        with pytest.raises(ImageNotFound):
            await harness.backend.unpack_home("nowhere/nothing:1", home)
        assert not any(home.iterdir())

    async def running(
        self, harness: Harness, name: str, line: str = "exec sleep 600", **changes: Any
    ) -> None:
        await harness.backend.create(make_spec(harness, name, line, **changes))
        await harness.backend.start(name)


class RealContainerContract(ContainerContract):
    """What the kernel has to do. For adapters with real processes, on a node whose limits are enforced."""

    async def output(self, harness: Harness, name: str, line: str, **changes: object) -> str:
        """What a container says that runs one shell line and is removed."""
        await run(harness, make_spec(harness, name, line, **changes))
        log = await harness.backend.logs(name, max_bytes=1 << 20)
        await harness.backend.remove(name)
        return log.decode(errors="replace")

    async def test_an_archive_of_a_container_is_an_image(self, harness: Harness, tmp_path: Path) -> None:
        """Its root and its home, and nothing that is mounted there, of its environment or of its processes."""
        (harness.shared_dir / "mounted.txt").write_text("mounted")
        mount = Mount(source=harness.shared_dir, target=PurePosixPath("/opt/kernel"))
        await self.running(
            harness,
            "origin",
            "echo 1 > /tmp/scratch.txt; exec sleep 600",
            mounts=(mount,),
            environ=(("SECRET", "s3cret"),),
            image=harness.small_image,
        )
        archive = tmp_path / "made.tar.gz"
        spec = commit_spec(tmp_path, archive=archive, left_out=(mount.target,))
        told: list[tuple[int, int]] = []
        made = await harness.backend.commit(
            "origin", spec, room=lambda _: None, tell=lambda *n: told.append(n)
        )
        assert told and told[-1][0] > 1 << 20
        assert b"s3cret" not in gzip.decompress(archive.read_bytes())
        layers: list[dict[str, tarfile.TarInfo]] = []
        with tarfile.open(archive) as tar:
            (manifest,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
            assert manifest["RepoTags"] == [spec.name]
            config = tar.extractfile(manifest["Config"]).read()  # type: ignore[union-attr]
            assert made.digest == f"sha256:{hashlib.sha256(config).hexdigest()}"
            described = json.loads(config)
            assert described["config"]["Labels"]["note"] == "made of a container"
            assert len(manifest["Layers"]) == len(described["rootfs"]["diff_ids"])
            for name, digest in zip(manifest["Layers"], described["rootfs"]["diff_ids"], strict=True):
                content = tar.extractfile(name).read()  # type: ignore[union-attr]
                assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
                with tarfile.open(fileobj=io.BytesIO(content)) as layer:
                    layers.append({one.name.removeprefix("./"): one for one in layer})
        everything = {name for layer in layers for name in layer}
        assert layers[-1]["home/work/hello.txt"].uid == 1000
        assert any(name in everything for name in ("usr/bin/env", "usr/bin/dash"))
        assert not [
            name for name in everything if name.startswith(("proc/", "opt/kernel/")) or "mounted" in name
        ]
        assert not await harness.leftover_images()
        await harness.backend.remove("origin")

    async def test_a_broken_off_image_leaves_nothing(self, harness: Harness, tmp_path: Path) -> None:
        await self.running(harness, "origin")
        before = await harness.backend.images()
        begun = asyncio.Event()
        spec = commit_spec(tmp_path, archive=tmp_path / "made.tar.gz")
        job = asyncio.create_task(
            harness.backend.commit("origin", spec, room=lambda _: None, tell=lambda *_: begun.set())
        )
        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert not await harness.leftover_images()
        assert await harness.backend.images() == before
        # Nobody writes to it any more.
        (tmp_path / "made.tar.gz").unlink()
        assert (await harness.backend.inspect("origin")).status is ContainerStatus.RUNNING  # type: ignore[union-attr]
        await harness.backend.remove("origin")

    async def test_a_full_disk_leaves_no_image(self, harness: Harness, tmp_path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can make a small disk")
        await self.running(harness, "origin", image=harness.small_image)
        before = await harness.backend.images()
        disk = tmp_path / "disk"
        disk.mkdir()
        await run_program("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk))
        try:
            spec = commit_spec(tmp_path, archive=disk / "made.tar.gz")
            with pytest.raises(NoSpace):
                await harness.backend.commit("origin", spec, room=lambda _: None, tell=nothing)
        finally:
            await run_program("umount", str(disk))
        assert not await harness.leftover_images()
        assert await harness.backend.images() == before
        await harness.backend.remove("origin")

    async def test_environment_hostname_and_folder(self, harness: Harness) -> None:
        command = 'echo "$GREETING"; uname -n; pwd; echo "[${HOME-none}]"'
        said = await self.output(harness, "env", command)
        assert "grüß dich\nzweite Zeile\ncontract\n/\n" in said

    async def test_mounts(self, harness: Harness) -> None:
        (harness.shared_dir / "note").write_text("from outside")
        target = PurePosixPath("/home/work")
        writable = Mount(source=harness.shared_dir, target=target, read_only=False)
        await self.output(harness, "rw", "cp note copy", mounts=(writable,), workdir=target)
        assert (harness.shared_dir / "copy").read_text() == "from outside"
        assert (harness.shared_dir / "copy").stat().st_uid == harness.ids[0]
        said = await self.output(
            harness,
            "ro",
            "touch denied || echo refused",
            mounts=(replace(writable, read_only=True),),
            workdir=target,
        )
        assert "refused" in said
        assert not (harness.shared_dir / "denied").exists()

    async def test_device_files(self, harness: Harness) -> None:
        probe = PurePosixPath("/dev/probe0")
        command = "[ -c /dev/probe0 ] && echo there && echo x > /dev/probe0 && cat /dev/probe0 && echo usable"
        given = DeviceFile(source=Path("/dev/null"), target=probe)
        said = await self.output(harness, "with-device", command, device_files=(given,))
        assert "there" in said and "usable" in said
        assert "there" not in await self.output(harness, "without-device", f"{command} || echo no")

    async def test_usage_is_counted(self, harness: Harness) -> None:
        await harness.backend.create(
            make_spec(
                harness, "counted", "i=0; while [ $i -lt 99999 ]; do i=$((i+1)); done; echo up; sleep 600"
            )
        )
        await harness.backend.start("counted")
        await wait_for_log(harness.backend, "counted", b"up")
        usage = await harness.backend.usage("counted")
        assert usage is not None
        assert usage.memory_bytes and usage.memory_peak_bytes and usage.cpu_used_us and usage.pids
        assert usage.memory_bytes < 64 << 20
        assert 1 <= usage.pids <= 3

    async def test_killed_child_does_not_end_the_container(self, harness: Harness) -> None:
        command = f"( {EAT_MEMORY} ); echo survived; exec sleep 600"
        async with changes_of(harness.backend) as names:
            await harness.backend.create(make_spec(harness, "parent", command))
            await harness.backend.start("parent")
            container = await wait_for(harness.backend, names, "parent", lambda seen: seen.oom_kills > 0)
        assert container.status is ContainerStatus.RUNNING
        await wait_for_log(harness.backend, "parent", b"survived")

    async def test_pids_limit_holds_a_fork_bomb(self, harness: Harness) -> None:
        bomb = "i=0; while [ $i -lt 40 ]; do sleep 600 & i=$((i+1)); done; echo all"
        limits = Limits(memory_bytes=64 << 20, cpu_milli=1000, pids=16)
        said = await self.output(harness, "bomb", bomb, limits=limits)
        assert "fork" in said
        assert "all" not in said

    async def test_cpu_limit_holds(self, harness: Harness) -> None:
        limits = Limits(memory_bytes=64 << 20, cpu_milli=200, pids=16)
        await harness.backend.create(make_spec(harness, "spin", "while :; do :; done", limits=limits))
        await harness.backend.start("spin")
        loop = asyncio.get_running_loop()
        first, began = await harness.backend.usage("spin"), loop.time()
        await asyncio.sleep(1.0)
        second, ended = await harness.backend.usage("spin"), loop.time()
        assert first is not None and second is not None
        assert first.cpu_used_us is not None and second.cpu_used_us is not None
        # Two periods (0.1 s) of slack: the quota refills at the period's edges.
        assert second.cpu_used_us - first.cpu_used_us < (ended - began + 0.2) * 200_000
        assert second.cpu_used_us > first.cpu_used_us

    async def test_children_die_with_the_container(self, harness: Harness) -> None:
        command = "setsid sleep 600 & setsid sleep 601 & echo up; wait"
        await harness.backend.create(make_spec(harness, "family", command))
        await harness.backend.start("family")
        await wait_for_log(harness.backend, "family", b"up")
        await harness.backend.stop("family", grace_s=1)
        container = await harness.backend.inspect("family")
        assert container is not None and container.status is ContainerStatus.EXITED
        await harness.backend.remove("family")
        assert await harness.leftovers("family") == []

    async def test_exit_while_nobody_watches(self, harness: Harness) -> None:
        """The agent dies, the container ends, a new agent reads how."""
        await harness.backend.create(
            make_spec(harness, "alone", "echo up; read -r _ <go; exit 9", **self._gate(harness))
        )
        await harness.backend.start("alone")
        await wait_for_log(harness.backend, "alone", b"up")
        await harness.backend.close()
        (harness.shared_dir / "go").write_text("on\n")
        backend = await harness.reopen()
        async with changes_of(backend) as names:
            container = await wait_for(backend, names, "alone", exited)
        assert container.exit is not None and container.exit.exit_code == 9

    @staticmethod
    def _gate(harness: Harness) -> dict[str, object]:
        os.mkfifo(harness.shared_dir / "go")
        (harness.shared_dir / "go").chmod(0o666)
        target = PurePosixPath("/home/work")
        return {"mounts": (Mount(source=harness.shared_dir, target=target),), "workdir": target}

    async def test_unexecutable_command(self, harness: Harness) -> None:
        """An adapter may notice at the start or by the exit."""
        spec = make_spec(harness, "wrong", command=("/does/not/exist",))
        try:
            container = await run(harness, spec)
        except ContainerFailed as exc:
            assert "/does/not/exist" in exc.message
        else:
            assert container.exit is not None and container.exit.exit_code not in (0, None)
            assert b"/does/not/exist" in await harness.backend.logs("wrong", max_bytes=1000)
