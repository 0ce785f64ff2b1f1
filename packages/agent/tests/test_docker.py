"""What the Docker adapter does beyond the contract: outages, owners, errors, records of exits, counters."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from ai.backend.agent.container.docker import DockerBackend, _exit_info, _uncovered
from ai.backend.agent.container.docker_cgroup import DockerCgroup
from ai.backend.agent.container.errors import BackendUnavailable, ContainerFailed, NoSpace
from ai.backend.agent.container.model import (
    ContainerSpec,
    ContainerStatus,
    ExitCause,
    ExitInfo,
    Image,
    Limits,
    Mount,
    NetworkSpec,
    Usage,
)
from ai.backend.agent.image.build import build
from ai.backend.agent.image.recipe import load_recipe
from ai.backend.testkit.dockerd import PrivateDockerd, ensure_engine_packages

pytest_plugins = ["ai.backend.testkit.dockerd"]

PATIENCE_S = 30.0
PAIR = NetworkSpec(name="pair", hosts=("main1", "sub1"))
FIRST_PROGRAM = "tr '\\0' '\\n' </proc/1/cmdline | head -n 1"
RECIPE = Path(__file__).parents[3] / "kernels/python/kernel.toml"


def shell(name: str, line: str, image: str = "local/python:3.11-debian12") -> ContainerSpec:
    return ContainerSpec(
        name=name,
        image=image,
        command=("/bin/sh", "-c", line),
        environ=(),
        labels=(("kernel", name),),
        mounts=(),
        limits=Limits(memory_bytes=64 << 20, cpu_milli=1000, pids=32),
        uid=4321,
        gid=4321,
        hostname="main1",
        workdir=PurePosixPath("/"),
    )


@asynccontextmanager
async def opened(url: str, owner: str, **options: object) -> AsyncIterator[DockerBackend]:
    backend = DockerBackend(url, owner, **options)  # type: ignore[arg-type]
    await backend.open()
    try:
        yield backend
    finally:
        for container in await backend.list():
            await backend.remove(container.name)
        await backend.close()


@pytest.fixture
async def backend(
    dockerd: PrivateDockerd, python_image: Image, tmp_path: Path
) -> AsyncIterator[DockerBackend]:
    async with opened(dockerd.url, "own", state_dir=tmp_path) as backend:
        yield backend


@pytest.fixture
def own_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """For an engine that the test mistreats."""
    if reason := ensure_engine_packages():
        pytest.skip(reason)
    yield tmp_path_factory.mktemp("dockerd")


async def wait_log(backend: DockerBackend, name: str, text: bytes) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        while text not in (log := await backend.logs(name, max_bytes=1 << 20)):
            await asyncio.sleep(0.01)
        return log


async def said(backend: DockerBackend, spec: ContainerSpec) -> str:
    await backend.create(replace(spec, command=(*spec.command[:2], f"{spec.command[2]}; echo; echo END")))
    await backend.start(spec.name)
    return (await wait_log(backend, spec.name, b"END")).decode()


# With an engine


@pytest.mark.docker
async def test_engine_outage(own_root: Path, image_cache: Path) -> None:
    with PrivateDockerd(own_root) as engine:
        async with opened(engine.url, "own", state_dir=own_root / "state") as backend:
            await build(load_recipe(RECIPE), cache_dir=image_cache, engine=backend)
            await backend.create(shell("survivor", "echo up; exec sleep 600"))
            await backend.start("survivor")
            network = await backend.ensure_network(PAIR)
            await backend.create(replace(shell("neighbour", "exec sleep 600"), network=network))
            await backend.start("neighbour")
            before = await backend.inspect("survivor")
            watches: asyncio.Queue[None] = asyncio.Queue()
            changes: asyncio.Queue[str] = asyncio.Queue()

            async def watch() -> None:
                async for established in backend.events(changes.put_nowait):
                    watches.put_nowait(established)

            watcher = asyncio.create_task(watch())
            async with asyncio.timeout(PATIENCE_S):
                await watches.get()
            engine.kill()
            for call in (
                backend.ping(),
                backend.list(),
                backend.create(shell("next", "true")),
                backend.images(),
            ):
                with pytest.raises(BackendUnavailable) as caught:
                    await call
                assert str(engine.socket) in caught.value.message
                assert "systemctl" in caught.value.hint
            with pytest.raises(BackendUnavailable):
                await DockerBackend(engine.url, "own").open()
            await asyncio.to_thread(engine.start)
            async with asyncio.timeout(PATIENCE_S):
                await watches.get()
            assert await backend.networks() == ["pair"] and await backend.ensure_network(PAIR) == network
            await backend.remove("neighbour")
            await backend.remove_network("pair")
            assert await backend.networks() == []
            while not changes.empty():
                assert changes.get_nowait() == "neighbour"
            assert await backend.list() == [before]
            assert before is not None and before.labels == {"kernel": "survivor"}
            await backend.stop("survivor", grace_s=0)
            async with asyncio.timeout(PATIENCE_S):
                while (changed := await changes.get()) == "neighbour":
                    pass  # late news of its removal
                assert changed == "survivor"
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    assert engine.leftovers() == []


@pytest.mark.docker
async def test_full_disk_is_no_space(own_root: Path, image_cache: Path) -> None:
    (own_root / "data").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", own_root / "data"], check=True)
    with PrivateDockerd(own_root) as engine:
        async with opened(engine.url, "own") as backend:
            with pytest.raises(NoSpace):
                await build(load_recipe(RECIPE), cache_dir=image_cache, engine=backend)


@pytest.mark.docker
async def test_engine_without_docker_init(own_root: Path, image_cache: Path) -> None:
    with PrivateDockerd(own_root, "--init-path", "/nonexistent") as engine:
        async with opened(engine.url, "own") as backend:
            await build(load_recipe(RECIPE), cache_dir=image_cache, engine=backend)
            assert (await said(backend, shell("bare", FIRST_PROGRAM))).startswith("/bin/sh\n")
            await backend.create(replace(shell("wrong", ""), command=("/no/such/program",)))
            with pytest.raises(ContainerFailed, match=r"/no/such/program.*no such file"):
                await backend.start("wrong")
            container = await backend.inspect("wrong")
            assert container is not None and container.status is ContainerStatus.CREATED


@pytest.mark.docker
async def test_owners_do_not_see_each_other(backend: DockerBackend, dockerd: PrivateDockerd) -> None:
    async with opened(dockerd.url, "other.K.own") as other:
        await backend.create(shell("same", "true"))
        await other.create(shell("same", "exec sleep 600"))
        await other.create(shell("more", "true"))
        assert [c.name for c in await backend.list()] == ["same"]
        assert {c.name for c in await other.list()} == {"same", "more"}
        assert await backend.inspect("more") is None
        await backend.remove("more")
        await other.start("same")
        await backend.stop("same", grace_s=0)
        seen = await other.inspect("same")
        assert seen is not None and seen.status is ContainerStatus.RUNNING


@pytest.mark.docker
async def test_foreign_container_of_our_name_is_not_ours(
    backend: DockerBackend, dockerd: PrivateDockerd, python_image: Image
) -> None:
    docker = ["docker", "--host", dockerd.url]
    create = [*docker, "create", "--name", "own.K.alien", python_image.name]
    subprocess.run(create, check=True, capture_output=True)
    try:
        assert await backend.inspect("alien") is None
        assert await backend.list() == []
    finally:
        subprocess.run([*docker, "rm", "own.K.alien"], check=True, capture_output=True)


@pytest.mark.docker
async def test_container_has_few_rights_and_a_loopback(backend: DockerBackend) -> None:
    line = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; id -u; id -g; cat /etc/hosts; "
    words = (await said(backend, shell("meek", line + "ls /sys/class/net; " + FIRST_PROGRAM))).split()
    assert words[words.index("CapEff:") + 1] == words[words.index("CapBnd:") + 1] == "0" * 16
    assert words[words.index("NoNewPrivs:") + 1] == "1"
    assert words[words.index("Seccomp:") + 1] == "2"
    assert words.count("4321") == 2
    assert "localhost" in words
    assert "lo" in words and "eth0" not in words
    assert words[-2] == "/sbin/docker-init"


@pytest.mark.docker
async def test_labels_are_the_specs_alone(backend: DockerBackend) -> None:
    await backend.create(shell("labelled", "true"))
    (container,) = await backend.list()
    assert container.labels == {"kernel": "labelled"}


@pytest.mark.docker
async def test_command_that_cannot_run(backend: DockerBackend) -> None:
    await backend.create(replace(shell("wrong", ""), command=("/no/such/program",)))
    await backend.start("wrong")
    assert b"exec /no/such/program failed: No such file" in await wait_log(backend, "wrong", b"program")
    await backend.stop("wrong", grace_s=1)
    container = await backend.inspect("wrong")
    assert container is not None and container.exit == ExitInfo(cause=ExitCause.EXITED, exit_code=127)


@pytest.mark.docker
async def test_mount_without_source_is_refused(backend: DockerBackend) -> None:
    mount = Mount(source=Path("/no/such/folder"), target=PurePosixPath("/mnt"))
    with pytest.raises(ContainerFailed, match="/no/such/folder"):
        await backend.create(replace(shell("mountless", "true"), mounts=(mount,)))


@pytest.mark.docker
async def test_later_mount_covers_an_earlier_one(backend: DockerBackend, tmp_path: Path) -> None:
    for name in ("outer", "inner", "last"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "who").write_text(name)
    mounts = tuple(
        Mount(source=tmp_path / name, target=PurePosixPath(target))
        for name, target in (("inner", "/mnt/deep"), ("outer", "/mnt"), ("last", "/mnt/deep"))
    )
    spec = replace(shell("covered", "cat /mnt/who /mnt/deep/who"), mounts=mounts)
    assert (await said(backend, spec)).startswith("outerlast")


@pytest.mark.docker
async def test_log_is_cut_to_its_end(backend: DockerBackend) -> None:
    spec = shell("talker", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done")
    await said(backend, spec)
    log = await backend.logs("talker", max_bytes=64)
    assert len(log) == 64
    assert log.endswith(b"line 2999\n\nEND\n")
    assert await backend.logs("talker", max_bytes=0) == b""


@pytest.mark.docker
async def test_counters_of_engine_and_cgroup_agree(backend: DockerBackend) -> None:
    await backend.create(shell("counted", "exec sleep 600"))
    await backend.start("counted")
    files, engine = await backend.usage("counted"), await backend._usage_from_engine("counted")
    assert files is not None and engine is not None
    assert files.pids == engine.pids == 2
    assert files.memory_bytes and engine.memory_bytes and files.cpu_used_us and engine.cpu_used_us
    assert files.cpu_used_us <= engine.cpu_used_us


@pytest.mark.docker
async def test_removal_that_is_already_under_way(backend: DockerBackend) -> None:
    await backend.create(shell("twice", "exec sleep 600"))
    await backend.start("twice")
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(backend.remove("twice"))
    assert await backend.list() == []


# Without one


async def test_no_engine_says_what_to_do(tmp_path: Path) -> None:
    backend = DockerBackend(f"unix://{tmp_path}/none.sock", "own")
    with pytest.raises(BackendUnavailable) as caught:
        await backend.open()
    assert f"{tmp_path}/none.sock" in caught.value.message
    with pytest.raises(BackendUnavailable):
        await backend.ping()


@pytest.mark.parametrize("owner", ["", "a b", "../x", "a/b"])
def test_owner_is_a_plain_word(owner: str) -> None:
    with pytest.raises(ValueError, match="owner"):
        DockerBackend(None, owner)


@pytest.mark.parametrize("name", ["", "UP", "a/../b", "a b", "x" * 65])
async def test_container_name_is_checked(name: str) -> None:
    with pytest.raises(ValueError, match="container name"):
        await DockerBackend(None, "own").inspect(name)


BOOT_S = 1_700_000_000.0
BEFORE_BOOT = "2023-11-14T22:00:00.123456789Z"
AFTER_BOOT = "2023-11-14T23:00:00.123456789Z"


@pytest.mark.parametrize(
    ("code", "oom", "started", "expected"),
    [
        (0, False, AFTER_BOOT, ExitInfo(cause=ExitCause.EXITED, exit_code=0)),
        (3, True, AFTER_BOOT, ExitInfo(cause=ExitCause.EXITED, exit_code=3)),
        (137, True, AFTER_BOOT, ExitInfo(cause=ExitCause.OUT_OF_MEMORY, exit_code=137)),
        (137, False, AFTER_BOOT, ExitInfo(cause=ExitCause.KILLED, exit_code=137)),
        (143, False, AFTER_BOOT, ExitInfo(cause=ExitCause.KILLED, exit_code=143)),
        (200, False, AFTER_BOOT, ExitInfo(cause=ExitCause.EXITED, exit_code=200)),
        (255, False, AFTER_BOOT, ExitInfo(cause=ExitCause.EXITED, exit_code=255)),
        (255, False, BEFORE_BOOT, ExitInfo(cause=ExitCause.LOST, exit_code=None)),
    ],
)
def test_exit_record(code: int, oom: bool, started: str, expected: ExitInfo) -> None:
    assert _exit_info({"ExitCode": code, "OOMKilled": oom, "StartedAt": started}, BOOT_S) == expected


def test_covered_mounts_are_left_out() -> None:
    def mounts(*targets: str) -> tuple[Mount, ...]:
        return tuple(Mount(source=Path("/"), target=PurePosixPath(target)) for target in targets)

    def left(*targets: str) -> list[str]:
        return [str(mount.target) for mount in _uncovered(mounts(*targets))]

    assert left("/a", "/a/b", "/c") == ["/a", "/a/b", "/c"]
    assert left("/a/b", "/a", "/c", "/c") == ["/a", "/c"]


ID = "ab" * 32


@pytest.mark.parametrize("driver", [f"/docker/{ID}", f"/system.slice/docker-{ID}.scope"])
def test_counters_on_cgroup_v2(tmp_path: Path, driver: str) -> None:
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    group = root / driver.lstrip("/")
    group.mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu memory pids\n")
    (proc / "42").mkdir(parents=True)
    (proc / "42/cgroup").write_text(f"0::{driver}\n")
    files = {
        "memory.current": "1000\n",
        "memory.peak": "2000\n",
        "pids.current": "3\n",
        "cpu.stat": "usage_usec 4\nx 5\n",
    }
    for name, text in {**files, "memory.events": "oom 9\noom_kill 2\n"}.items():
        (group / name).write_text(text)
    found = DockerCgroup.find(42, ID, proc=proc, root=root)
    assert found is not None
    assert found.usage() == Usage(memory_bytes=1000, memory_peak_bytes=2000, cpu_used_us=4, pids=3)
    assert found.oom_kills() == 2
    assert DockerCgroup.find(42, "cd" * 32, proc=proc, root=root) is None
    assert DockerCgroup.find(43, ID, proc=proc, root=root) is None
    (group / "memory.current").unlink()
    with pytest.raises(FileNotFoundError):
        found.usage()
