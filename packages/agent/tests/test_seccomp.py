"""The system call filter: policy and compiled program agree; a real kernel, where there is one, does what
they say."""

import errno
import platform
import struct
import tomllib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from ai.backend.agent.container import seccomp
from ai.backend.agent.container.model import Limits, Mount
from ai.backend.testkit.container_contract import make_spec, run
from ai.backend.testkit.sandbox_container import SandboxHarness, sandbox_harness

EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
DENIED = {
    *(
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "unshare",
        "setns",
        "chroot",
    ),
    *(
        "mount",
        "umount2",
        "move_mount",
        "fsopen",
        "fsmount",
        "open_tree",
        "mount_setattr",
        "pivot_root",
        "acct",
    ),
    *(
        "kexec_load",
        "init_module",
        "finit_module",
        "delete_module",
        "reboot",
        "swapon",
        "swapoff",
        "quotactl",
    ),
    *("open_by_handle_at", "pidfd_getfd", "syslog", "settimeofday", "clock_settime", "sethostname"),
}
MISSING = {"io_uring_setup", "io_uring_enter", "io_uring_register", "clone3"}


def interpret(program: bytes, number: int, arch: int, arguments: tuple[int, ...] = ()) -> int:
    """Runs the BPF program over one `struct seccomp_data`."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator = position = 0
    while True:
        code, if_true, if_false, value = instructions[position]
        position += 1
        if code == seccomp.LOAD:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == seccomp.RETURN:
            return value
        elif code == seccomp.JUMP:
            position += value
        else:
            taken = {
                seccomp.JEQ: accumulator == value,
                seccomp.JGE: accumulator >= value,
                seccomp.JSET: bool(accumulator & value),
            }[code]
            position += if_true if taken else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_program_says_what_the_policy_says(machine: str) -> None:
    program, rules = seccomp.compile_policy(machine), seccomp.policy()
    names = {number: name for name, number in seccomp.numbers(machine).items()}
    samples = (
        0,
        1,
        2,
        8,
        16,
        17,
        40,
        0x5412,
        0x541C,
        0x20000,
        0x10000000,
        0x01200011,
        0x7E020000,
        0xFFFFFFFF,
    )
    for number in range(max(names) + 40):
        name = names.get(number, "")
        for sample in samples:
            for arguments in ((sample, 0), (0, sample), (sample | 1 << 32, sample | 1 << 32)):
                expected = seccomp.verdict(rules, name, arguments)
                assert interpret(program, number, seccomp.AUDIT_ARCH[machine], arguments) == expected, (
                    name,
                    arguments,
                )


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_dangerous_calls_are_refused(machine: str) -> None:
    program, table = seccomp.compile_policy(machine), seccomp.numbers(machine)
    arch = seccomp.AUDIT_ARCH[machine]
    assert {name: interpret(program, table[name], arch) for name in DENIED} == dict.fromkeys(DENIED, EPERM)
    assert {name: interpret(program, table[name], arch) for name in MISSING} == dict.fromkeys(MISSING, ENOSYS)
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert interpret(program, table["clone"], arch, (flag | 17,)) == EPERM
    thread_flags = 0x3D0F00
    assert interpret(program, table["clone"], arch, (thread_flags,)) == seccomp.ALLOW


def test_foreign_architectures_are_killed() -> None:
    for machine, others in {"x86_64": (0x40000003, 0xC00000B7), "aarch64": (0x40000028, 0xC000003E)}.items():
        program = seccomp.compile_policy(machine)
        for other in others:
            assert interpret(program, 1, other) == seccomp.KILL_PROCESS
    program, arch = seccomp.compile_policy("x86_64"), seccomp.AUDIT_ARCH["x86_64"]
    assert interpret(program, 0x40000000 | 1, arch) == seccomp.KILL_PROCESS
    assert interpret(program, 0xFFFFFFFF, arch) == ENOSYS


def test_every_group_has_a_reason() -> None:
    text = Path(seccomp.__file__).with_name("seccomp.toml").read_text()
    assert all(len(group["why"]) > 15 for group in tomllib.loads(text)["group"])


PROBE = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
for line in sys.argv[1].split():
    name, number, *arguments = line.split(",")
    ctypes.set_errno(0)
    result = libc.syscall(int(number), *(ctypes.c_long(int(a)) for a in arguments), 0, 0, 0, 0)
    print(name, errno.errorcode.get(ctypes.get_errno(), "OK") if result == -1 else "OK")
"""
WORKOUT = """
import asyncio, ctypes, multiprocessing, os, pty, socket, sqlite3, ssl, subprocess, sys, threading
from multiprocessing import shared_memory

def child(queue):
    queue.put(os.getpid())

async def talk():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    writer.close()
    server.close()
    assert await (await asyncio.create_subprocess_exec("true")).wait() == 0

if __name__ == "__main__":
    thread = threading.Thread(target=print, args=("thread",))
    thread.start()
    thread.join()
    print(subprocess.run(["/bin/sh", "-c", "echo subprocess"], capture_output=True, text=True).stdout.strip())
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        assert queue.get(timeout=60) == process.pid
        process.join()
        print(method)
    with multiprocessing.Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
    database = sqlite3.connect("/tmp/x.db")
    database.execute("pragma journal_mode=wal")
    database.execute("create table t(a)")
    database.execute("insert into t values (1)")
    database.commit()
    print("sqlite", database.execute("select * from t").fetchone()[0])
    asyncio.run(talk())
    print("asyncio")
    pid, fd = pty.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", "exit 3"])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    print("pty")
    block = shared_memory.SharedMemory(create=True, size=1000)
    block.close()
    block.unlink()
    print("shm")
"""


@pytest.mark.sandbox
class TestKernel:
    @pytest.fixture
    async def harness(self) -> AsyncIterator[SandboxHarness]:
        async with sandbox_harness() as harness:
            yield harness

    async def python(self, harness: SandboxHarness, script: str, *arguments: str) -> str:
        """What the node's Python says to a script inside the sandbox, or the log of its failure."""
        (harness.shared_dir / "script.py").write_text(script)
        spec = make_spec(harness, "probe", limits=Limits(memory_bytes=256 << 20, cpu_milli=2000, pids=64))
        mount = Mount(source=harness.shared_dir, target=PurePosixPath("/home/work"))
        command = ("/usr/bin/python3", "/home/work/script.py", *arguments)
        container = await run(harness, replace(spec, command=command, mounts=(mount,)))
        log = (await harness.backend.logs("probe", max_bytes=1 << 20)).decode()
        assert container.exit is not None and container.exit.exit_code == 0, log
        return log

    async def test_refused_calls(self, harness: SandboxHarness) -> None:
        table = seccomp.numbers(platform.machine())
        calls = [f"{name},{table[name]}" for name in (*DENIED, *MISSING) if name in table]
        calls += [f"clone-newuser,{table['clone']},{0x10000000 | 17}", f"af-alg,{table['socket']},38,5"]
        calls += [f"af-vsock,{table['socket']},40,1", f"tiocsti,{table['ioctl']},0,{0x5412}"]
        calls += [f"personality,{table['personality']},{0x0400000}", f"getpid,{table['getpid']}"]
        said = dict(
            line.split() for line in (await self.python(harness, PROBE, " ".join(calls))).splitlines()
        )
        assert len(said) == len(calls)
        assert {name: said.pop(name) for name in ("getpid", "af-alg", "af-vsock")} == {
            "getpid": "OK",
            "af-alg": "EAFNOSUPPORT",
            "af-vsock": "EAFNOSUPPORT",
        }
        assert {name: said.pop(name) for name in MISSING} == dict.fromkeys(MISSING, "ENOSYS")
        assert said == dict.fromkeys(said, "EPERM")

    async def test_ordinary_programs_work(self, harness: SandboxHarness) -> None:
        said = (await self.python(harness, WORKOUT)).split()
        expected = "thread subprocess fork spawn forkserver sqlite 1 asyncio pty shm"
        assert said == expected.split()
