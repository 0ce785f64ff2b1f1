"""Control groups: version 1 on the real kernel, version 2 on a folder that looks like it."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ai.backend.agent.container import cgroup
from ai.backend.agent.container.cgroup import CgroupV1, CgroupV2, detect
from ai.backend.agent.container.model import Limits, Usage

LIMITS = Limits(memory_bytes=32 << 20, cpu_milli=500, pids=7)


def mount_line(point: Path, kind: str, options: str) -> str:
    return f"31 23 0:28 / {point} rw,relatime shared:9 - {kind} {kind} {options}\n"


class FakeV2:
    """A cgroup2 mount as files. New groups get their files as the kernel would give them, when asked for by
    `fill`."""

    def __init__(self, folder: Path, controllers: str = "cpuset cpu io memory pids") -> None:
        self.point = folder / "cgroup"
        self.point.mkdir()
        self.controllers = controllers
        self.fill(self.point)
        self.mounts = folder / "mountinfo"
        self.mounts.write_text(mount_line(self.point, "cgroup2", "rw,nsdelegate"))
        self.own = folder / "own"
        self.own.write_text("0::/system.slice/agent.service\n")

    def fill(self, group: Path, **content: str) -> None:
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.controllers").write_text(self.controllers)
        (group / "cgroup.subtree_control").write_text(self.controllers)
        for name in (
            "memory.max",
            "memory.swap.max",
            "cpu.max",
            "pids.max",
            "cpuset.cpus",
            "cgroup.procs",
            "cgroup.kill",
        ):
            (group / name).write_text("")
        for name, text in content.items():
            (group / name.replace("__", ".")).write_text(text)

    def tree(self, parent: str = "/backend.ai") -> CgroupV2:
        self.fill(self.point / parent.lstrip("/"))
        tree = detect(parent, mounts=self.mounts, own=self.own)
        assert isinstance(tree, CgroupV2)
        return tree


class TestVersion2:
    @pytest.fixture
    def fake(self, tmp_path: Path) -> FakeV2:
        return FakeV2(tmp_path)

    def test_limits_are_written(self, fake: FakeV2) -> None:
        tree = fake.tree()
        group = fake.point / "backend.ai" / "c1"
        fake.fill(group)
        assert tree.enforced == {"memory", "cpu", "pids", "cpuset"}
        assert tree.create("c1", LIMITS, (0, 3)) == [group / "cgroup.procs"]
        files = ("memory.max", "memory.swap.max", "cpu.max", "pids.max", "cpuset.cpus")
        written = [(group / name).read_text() for name in files]
        assert written == [str(32 << 20), "0", "50000 100000", "7", "0,3"]

    def test_node_without_swap_accounting(self, fake: FakeV2) -> None:
        tree = fake.tree()
        group = fake.point / "backend.ai" / "c1"
        fake.fill(group)
        (group / "memory.swap.max").unlink()
        tree.create("c1", LIMITS)
        assert not (group / "memory.swap.max").exists()
        assert (group / "cpuset.cpus").read_text() == ""

    def test_counters(self, fake: FakeV2) -> None:
        tree = fake.tree()
        fake.fill(
            fake.point / "backend.ai" / "c1",
            memory__current="4096\n",
            memory__peak="8192\n",
            cpu__stat="usage_usec 1234\nuser_usec 1000\n",
            pids__current="3\n",
            memory__events="low 0\noom 2\noom_kill 1\noom_group_kill 0\n",
        )
        expected = Usage(memory_bytes=4096, memory_peak_bytes=8192, cpu_used_us=1234, pids=3)
        assert tree.usage("c1") == expected
        assert tree.oom_kills("c1") == 1
        nothing = Usage(memory_bytes=None, memory_peak_bytes=None, cpu_used_us=None, pids=None)
        assert tree.usage("absent") == nothing
        assert tree.oom_kills("absent") == 0

    async def test_oom_is_noticed_without_polling(self, fake: FakeV2) -> None:
        tree = fake.tree()
        group = fake.point / "backend.ai" / "c1"
        fake.fill(group, memory__events="oom_kill 0\n")
        fd = tree.watch_oom("c1")
        assert fd is not None
        woken = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, woken.set)
        try:
            await asyncio.sleep(0)
            assert not woken.is_set()
            (group / "memory.events").write_text("oom_kill 1\n")
            async with asyncio.timeout(10):
                await woken.wait()
            cgroup.drain(fd)
            with pytest.raises(BlockingIOError):
                os.read(fd, 1)
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        assert tree.watch_oom("absent") is None

    async def test_kill_and_remove(self, fake: FakeV2, tmp_path: Path) -> None:
        tree = fake.tree()
        group = fake.point / "backend.ai" / "c1"
        fake.fill(group, cgroup__procs="1 2\n")
        killing = asyncio.create_task(tree.kill("c1"))
        async with asyncio.timeout(10):
            while (group / "cgroup.kill").read_text() != "1":
                await asyncio.sleep(0.001)
            (group / "cgroup.procs").write_text("")
            await killing
        await tree.remove("absent")
        empty = fake.point / "backend.ai" / "c2"
        empty.mkdir()
        await tree.remove("c2")
        assert not empty.exists()

    def test_only_what_is_delegated_is_enforced(self, tmp_path: Path) -> None:
        fake = FakeV2(tmp_path, controllers="memory pids")
        tree = fake.tree()
        group = fake.point / "backend.ai" / "c1"
        fake.fill(group)
        assert tree.enforced == {"memory", "pids"}
        tree.create("c1", LIMITS, (0,))
        assert (group / "pids.max").read_text() == "7"
        assert (group / "cpu.max").read_text() == (group / "cpuset.cpus").read_text() == ""

    def test_relative_parent_is_below_the_own_group(self, fake: FakeV2) -> None:
        own = fake.point / "system.slice" / "agent.service"
        for group in (own.parent, own, own / "sandbox", own / "sandbox" / "c1"):
            fake.fill(group)
        tree = detect("sandbox", mounts=fake.mounts, own=fake.own)
        assert tree is not None
        assert tree.create("c1", LIMITS) == [own / "sandbox" / "c1" / "cgroup.procs"]

    def test_controllers_are_handed_down(self, fake: FakeV2) -> None:
        parent = fake.point / "backend.ai"
        fake.fill(parent, cgroup__subtree_control="")
        detect("/backend.ai", mounts=fake.mounts, own=fake.own)
        # A kernel file takes each write as a command; a plain file keeps the last one.
        assert (parent / "cgroup.subtree_control").read_text() == "+cpuset"

    @pytest.mark.sandbox
    async def test_real_group_without_controllers(self) -> None:
        """A hybrid machine keeps a version 2 hierarchy beside version 1: entering, killing and removing are
        real there."""
        point = Path("/sys/fs/cgroup/unified")
        if not os.access(point / "cgroup.procs", os.W_OK):
            pytest.skip("no writable version 2 hierarchy at /sys/fs/cgroup/unified")
        tree = CgroupV2(point, point / f"backend.ai-test-{os.getpid()}")
        try:
            (procs,) = tree.create("c1", LIMITS)
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"echo 0 >{procs}; sleep 600 & echo up; wait"], stdout=subprocess.PIPE
            )
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
            assert len(tree.pids("c1")) == 2
            await tree.kill("c1")
            assert process.wait() == -9
            await tree.remove("c1")
            assert not procs.parent.exists()
        finally:
            procs.parent.parent.rmdir()


class TestDetection:
    def test_no_cgroups(self, tmp_path: Path) -> None:
        mounts, own = tmp_path / "mountinfo", tmp_path / "own"
        mounts.write_text("22 27 0:21 / /proc rw,relatime - proc proc rw\n")
        own.write_text("")
        assert detect("/x", mounts=mounts, own=own) is None

    def test_hybrid_is_version_1(self, tmp_path: Path) -> None:
        mounts, own = tmp_path / "mountinfo", tmp_path / "own"
        for name in ("memory", "cpu,cpuacct", "unified"):
            (tmp_path / name).mkdir()
        mounts.write_text(
            mount_line(tmp_path / "unified", "cgroup2", "rw")
            + mount_line(tmp_path / "memory", "cgroup", "rw,memory")
            + mount_line(tmp_path / "cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
        )
        own.write_text("2:cpu,cpuacct:/mine\n1:memory:/mine\n0::/\n")
        tree = detect("sandbox", mounts=mounts, own=own)
        assert isinstance(tree, CgroupV1)
        assert tree.enforced == {"memory", "cpu"}
        assert (tmp_path / "memory/mine/sandbox").is_dir()
        assert not (tmp_path / "unified/mine").exists()

    def test_unwritable_tree_is_left_out(self, tmp_path: Path) -> None:
        """A read-only mount, as in most containers: nothing can be made there."""
        mounts, own = tmp_path / "mountinfo", tmp_path / "own"
        mounts.write_text(mount_line(Path("/proc"), "cgroup", "rw,memory"))
        own.write_text("1:memory:/\n")
        assert detect("/backend.ai", mounts=mounts, own=own) is None


def real_v1() -> CgroupV1 | None:
    tree = detect(f"/backend.ai-cgroup-test-{os.getpid()}")
    return tree if isinstance(tree, CgroupV1) else None


@pytest.mark.sandbox
class TestVersion1:
    @pytest.fixture
    async def tree(self):
        tree = real_v1()
        if tree is None or "memory" not in tree.enforced:
            pytest.skip("no writable version 1 control groups on this machine")
        yield tree
        await tree.kill("c1")
        await tree.remove("c1")
        for folder in tree._parents.values():
            folder.rmdir()

    def enter(self, files: list[Path], code: str) -> "subprocess.Popen[bytes]":
        """A Python process that waits for a line of input inside the groups and then runs the code."""
        process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.stdin.readline(); {code}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for file in files:
            file.write_text(str(process.pid))
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
        return process

    async def test_limits_counters_kill_and_remove(self, tree: CgroupV1) -> None:
        files = tree.create("c1", LIMITS, (0,))
        memory = tree._parents["memory"] / "c1"
        assert int((memory / "memory.limit_in_bytes").read_text()) == LIMITS.memory_bytes
        assert (tree._parents["cpu"] / "c1/cpu.cfs_quota_us").read_text().strip() == "50000"
        assert (tree._parents["pids"] / "c1/pids.max").read_text().strip() == "7"
        assert (tree._parents["cpuset"] / "c1/cpuset.cpus").read_text().strip() == "0"
        process = self.enter(files, "x = bytearray(4 << 20); print('up', flush=True); sys.stdin.readline()")
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        usage = tree.usage("c1")
        assert usage.memory_bytes and usage.memory_bytes >= 4 << 20
        assert usage.memory_peak_bytes and usage.cpu_used_us and usage.pids == 1
        assert tree.pids("c1") == [process.pid]
        await tree.kill("c1")
        assert process.wait() == -9
        assert tree.pids("c1") == []
        await tree.remove("c1")
        assert not memory.exists()

    async def test_oom_wakes_and_counts(self, tree: CgroupV1) -> None:
        files = tree.create("c1", LIMITS)
        fd = tree.watch_oom("c1")
        assert fd is not None
        woken = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, woken.set)
        process = self.enter(files, "x = bytearray(256 << 20)")
        async with asyncio.timeout(30):
            await woken.wait()
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        assert process.wait() == -9
        assert tree.oom_kills("c1") == 1

    async def test_kill_outruns_a_fork_bomb(self, tree: CgroupV1) -> None:
        files = tree.create("c1", Limits(memory_bytes=64 << 20, cpu_milli=1000, pids=40))
        bomb = "import os\nwhile True:\n try:\n  os.fork()\n except OSError: pass"
        process = self.enter(files, f"exec({bomb!r})")
        async with asyncio.timeout(30):
            while len(tree.pids("c1")) < 40:
                await asyncio.sleep(0.01)
            await tree.kill("c1")
        process.wait()
        assert tree.pids("c1") == []
