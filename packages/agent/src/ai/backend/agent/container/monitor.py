"""The processes of a sandbox, from outside: start the monitor, recognise it, signal it, wait for its end.

    agent -> setsid (gone at once) -> sh = setpriv = bwrap (monitor) -> bwrap (pid 1 inside) -> main process

`setsid --fork` leaves an orphan, `sh`, which notes who it is, and becomes (exec) setpriv, which drops to the session's uid and
becomes bwrap. Meanwhile the agent puts it into its cgroups: the kernel takes 5 to 20 ms for that, as long as bwrap for its mounts;
bwrap starts the main process when both are done. It has to be an orphan before it becomes bwrap: `--die-with-parent` ties pid 1 to
the monitor, but also the monitor to its own parent. And it is not a shell's background job, because those ignore SIGINT, and so
would everything in the container. Knows files, pids and sockets; nothing of containers, images or the agent.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from .record import start_time

# $1 folder of the container, $2 seccomp program, $3 address space in KiB or "", then the command. Standard input
# is the socket on which the agent waits (see `wait_set_up`). A failing redirection ends the script.
_LAUNCH = r"""
read -r go || exit 125
cd -- "$1" && filter=$2 space=$3 && shift 3 || exit 125
echo $$ >&0
ulimit -c 0
[ -z "$space" ] || ulimit -v "$space"
echo 500 >/proc/self/oom_score_adj
read -r boot </proc/sys/kernel/random/boot_id
read -r stat </proc/self/stat
printf '%s\n%s\n' "$boot" "$stat" 1<>run || exit 125
exec "$@" 3<args 4<"$filter" 5<&0 6<>status 7<hosts </dev/null
"""
ARGS_FD, SECCOMP_FD, BLOCK_FD, STATUS_FD, HOSTS_FD = 3, 4, 5, 6, 7
"""The descriptors on which bwrap finds its inputs."""


def launch(
    setsid: str, folder: Path, seccomp: Path, space_kib: int | None, command: list[str]
) -> socket.socket:
    """Starts the monitor of a container's folder and returns the socket for `wait_set_up`.

    `command` begins with what becomes bwrap; `space_kib` is a limit on each process's address space. Raises OSError, or
    CalledProcessError when the orphan could not be left.
    """
    agent, inner = socket.socketpair()
    space = "" if space_kib is None else str(space_kib)
    arguments = [str(folder), str(seccomp), space, *command]
    try:
        with inner, (folder / "log").open("ab") as log:
            subprocess.run(
                [setsid, "--fork", "/bin/sh", "-c", _LAUNCH, "sandbox", *arguments],
                stdin=inner.fileno(),
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                check=True,
            )
        agent.setblocking(False)
        agent.send(b"\n")  # lets the orphan go on
    except BaseException:
        agent.close()
        raise
    return agent


async def wait_set_up(agent: socket.socket, groups: Sequence[Path], timeout_s: float) -> bool:
    """Puts the sandbox into its cgroups (their files `cgroup.procs`) and waits until it is complete (True), or has failed or takes
    too long (False). Raises OSError when a cgroup takes no process.

    bwrap reads one byte from the socket after all mounts are made, and closes its copies. A unix socket that is closed with the
    byte unread resets its peer: so the end of the stream says which of the two it was.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            pid = int((await loop.sock_recv(agent, 32)).strip() or 0)
            if not pid:
                return False
            if groups:
                await asyncio.to_thread(_enter, pid, groups)
            await loop.sock_sendall(agent, b"!")
            return await loop.sock_recv(agent, 1) == b""
    except (ConnectionResetError, BrokenPipeError, ProcessLookupError, TimeoutError):
        return False


def _enter(pid: int, groups: Sequence[Path]) -> None:
    """The monitor first: what it forks after that is inside already."""
    for group in groups:
        group.write_text(str(pid))
    child = first_child(pid)
    if child is not None:
        for group in groups:
            group.write_text(str(child))


def is_alive(pid: int, started: str) -> bool:
    """Whether the process of that pid and start time still runs; the dead that nobody has reaped do not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return start_time(stat) == started and stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def first_child(pid: int) -> int | None:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(children[0]) if children else None


def send_signal(pid: int, number: signal.Signals) -> None:
    """Does nothing for a process that is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def wait_done(done: "asyncio.Future[None]", timeout_s: float) -> None:
    """Waits until the future is done or the time is over, whichever is first."""
    await asyncio.wait([done], timeout=timeout_s)


@contextlib.asynccontextmanager
async def ended(pid: int | None) -> AsyncIterator["asyncio.Future[None]"]:
    """A future that is done when the process is gone; done at once for None."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    try:
        pidfd = -1 if pid is None else os.pidfd_open(pid)
    except ProcessLookupError:
        pidfd = -1
    if pidfd < 0:
        gone.set_result(None)
        yield gone
        return

    def on_readable() -> None:
        loop.remove_reader(pidfd)
        gone.set_result(None)

    loop.add_reader(pidfd, on_readable)
    try:
        yield gone
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
