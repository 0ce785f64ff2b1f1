"""Child processes: how the runner starts the language worker and batch steps, and what environment they get.

Each child leads its own session and process group, so that a signal reaches it with all it started.
Descriptors: 0 is /dev/null, 1 and 2 are pipes to the runner. A worker has three more (`python_worker` tells what
for): 3 is its control channel, 4 a pipe from the runner and 5 one to it. Nothing else is inherited.
"""

from __future__ import annotations

import _sitebuiltins
import _socket
import builtins
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Mapping
else:
    import _signal  # signal.py wraps it in enums, for 4 ms

LOW_FDS = 5
ENVIRON_BYTES_MAX = 1 << 20
_RESET = (
    _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM, _signal.SIGCHLD, _signal.SIGPIPE,
)  # fmt: skip
"""A program started by `nohup` or as a shell's background job ignores some of them, and so would all below it."""


class Child:
    """A started process. `stdout`, `stderr`, `control`, `aside` and `shelf` are the runner's non-blocking ends,
    -1 when there is none."""

    def __init__(
        self, pid: int, stdout: int, stderr: int, control: int = -1, aside: int = -1, shelf: int = -1
    ) -> None:
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self.control, self.aside, self.shelf = control, aside, shelf

    def signal(self, number: int) -> None:
        """To the whole process group; nothing happens when it is gone."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def reserve_low_fds() -> None:
    """Occupies descriptors up to LOW_FDS, so that no pipe made later collides with the numbers children get."""
    while True:
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if fd > LOW_FDS:
            os.close(fd)
            return


def environment(path: str, home: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """The children's environment: the container's, over it the file's key=value lines, and defaults for what
    neither sets."""
    env = dict(inherited)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file.read(ENVIRON_BYTES_MAX).splitlines():
                key, found, value = line.partition("=")
                if found and key.strip() and "\0" not in line:
                    env[key.strip()] = value
    except FileNotFoundError:
        pass
    env["HOME"], env["USER"] = home, "work"
    for key, value in (("TERM", "xterm"), ("LANG", "C.UTF-8"), ("SHELL", "/bin/sh"), ("MPLBACKEND", "agg")):
        env.setdefault(key, value)
    own = os.path.dirname(sys.executable)
    folders = env.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    env["PATH"] = folders if own in folders.split(":") else f"{folders}:{own}"
    return env


def which(command: str, path: str) -> str:
    """The executable file that a child would start as `command`; "" when there is none."""
    for folder in [""] if "/" in command else path.split(":"):
        candidate = os.path.join(folder, command) if folder else command
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return ""


def start(program: list[str] | Callable[[], None], env: dict[str, str], home: str, *, control: bool) -> Child:
    """Forks and runs `program` (an argv to execute, or a function of this interpreter) in `home`. Raises
    OSError when it cannot fork."""
    out, err = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    ours, theirs = [out[0], err[0]], [out[1], err[1]]
    if control:
        ends = [end.detach() for end in _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)]
        aside, shelf = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        ours += [ends[0], aside[1], shelf[0]]
        theirs += [ends[1], aside[0], shelf[1]]
    try:
        pid = os.fork()
    except OSError:
        for fd in ours + theirs:
            os.close(fd)
        raise
    if pid == 0:
        _become(program, env, home, theirs)
    for fd in theirs:
        os.close(fd)
    for fd in ours:
        os.set_blocking(fd, False)
    return Child(pid, *ours)


def reset_signals() -> None:
    """In a forked child: signals do again what they do in any program."""
    _signal.set_wakeup_fd(-1)
    for number in _RESET:
        _signal.signal(number, _signal.SIG_DFL)


def _become(program: list[str] | Callable[[], None], env: dict[str, str], home: str, fds: list[int]) -> None:
    """In the child; never returns. `fds` become its descriptors from 1 on."""
    try:
        os.setsid()
        reset_signals()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for number, fd in enumerate(fds, start=1):
            os.dup2(fd, number)
        os.closerange(len(fds) + 1, 4096)
        try:
            os.chdir(home)
        except OSError:
            os.chdir("/")
        if callable(program):
            _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)  # as every Python interpreter has it
            _adopt(env)
            program()
        else:
            os.execve(program[0], program, env)  # noqa: S606
    except BaseException as exc:
        os.write(
            2, f"{program if isinstance(program, list) else 'worker'}: {type(exc).__name__}: {exc}\n".encode()
        )
    finally:
        os._exit(127)


def _adopt(env: dict[str, str]) -> None:
    """Makes this forked interpreter look like one that was started with `env`: the runner itself runs
    isolated and without site."""
    os.environ.clear()
    os.environ.update(env)
    package_root = __file__.rsplit("/ai/backend/kernel/", 1)[0]
    own = [path for path in sys.path if path != package_root]
    extra = [path for path in env.get("PYTHONPATH", "").split(":") if path]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    sites = [f"{env['HOME']}/.local/lib/{version}/site-packages", f"{sys.prefix}/lib/{version}/site-packages"]
    sys.path[:] = ["", *extra, *own, *sites]
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
