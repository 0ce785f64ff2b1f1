"""A terminal: a process between the agent's stream and a shell on a pseudo terminal.

Imported with the first one. `start` forks; the child connects to the agent, starts the shell and copies bytes
until either side ends. Each terminal is a process of its own, so that one that floods its user with output
disturbs neither the runner nor other terminals.

What comes from the agent are frames, see `ai.backend.common.wire.terminal`; what goes there are plain bytes.
Neither side is read while the other has not taken what came before: memory stays bounded, and a shell whose
user does not look is held back.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import select
import sys
import termios
import time

from .child import reset_signals, which

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

SHELLS = ("/bin/bash", "/bin/sh")
READ_BYTES = 65536
FRAME_BYTES_MAX = 1 << 20
CONNECT_TIMEOUT_S = 5.0
GRACE_S = 1.0
"""From SIGHUP to SIGKILL for the shell."""
FLUSH_S = 5.0
"""How long the last output waits for the agent, once the shell has ended."""
SILENCE_MS = 200
"""What a program wrote before its end comes a little later; after so much silence, nothing more does."""
_INPUT, _RESIZE, _HEAD_BYTES = b"i", b"r", 5


class FrameError(ValueError):
    """What came is no frame: the stream ends."""


class Frames:
    """Cuts what comes into frames. `feed` returns what was typed, and the newest size or None."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> tuple[bytes, tuple[int, int] | None]:
        """Raises FrameError."""
        buffer = self._buffer + data
        typed, size = [], None
        while len(buffer) >= _HEAD_BYTES:
            kind, length = buffer[:1], int.from_bytes(buffer[1:_HEAD_BYTES], "big")
            if length > FRAME_BYTES_MAX or kind not in (_INPUT, _RESIZE):
                raise FrameError("no frame")
            end = _HEAD_BYTES + length
            if kind == _INPUT:
                # Passed on as it comes: a large paste need not be here whole.
                got = buffer[_HEAD_BYTES:end]
                typed.append(got)
                if len(got) < length:
                    buffer = _INPUT + (length - len(got)).to_bytes(4, "big")
                    break
            elif length != 4:
                raise FrameError("no size")
            elif len(buffer) < end:
                break
            else:
                size = int.from_bytes(buffer[5:7], "big"), int.from_bytes(buffer[7:9], "big")
            buffer = buffer[end:]
        self._buffer = buffer
        return b"".join(typed), size


def start(stream_id: str, path: str, rows: int, columns: int, env: dict[str, str], home: str) -> int:
    """Forks the terminal's process; returns its id. Raises OSError when it cannot fork."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            reset_signals()
            os.closerange(3, 4096)
            agent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
            agent.settimeout(CONNECT_TIMEOUT_S)
            agent.connect(path)
            agent.sendall(stream_id.encode())
            agent.setblocking(False)
            _serve(agent, rows, columns, env, home)
        except BaseException as exc:
            os.write(2, f"terminal: {type(exc).__name__}: {exc}\n".encode())
        finally:
            os._exit(0)
    return pid


def _serve(agent: _socket.socket, rows: int, columns: int, env: dict[str, str], home: str) -> None:
    master, slave = os.openpty()
    _set_size(master, rows, columns)
    shell = os.fork()
    if shell == 0:
        _become_shell(slave, env, home)
    os.close(slave)
    os.set_blocking(master, False)
    try:
        _Copy(agent, master, os.pidfd_open(shell)).run()
    finally:
        foreground = _foreground(master)
        os.close(master)  # the kernel sends SIGHUP to the shell, and the shell to its jobs
        _end(shell)
        # One that the shell had just begun may have missed it.
        _signal_group(foreground, _signal.SIGHUP)
        agent.close()


def _foreground(master: int) -> int:
    """The process group that has the terminal; 0 when there is none."""
    try:
        return os.tcgetpgrp(master)
    except OSError:
        return 0


def _signal_group(group: int, number: int) -> None:
    try:
        if group > 1:
            os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def _become_shell(slave: int, env: dict[str, str], home: str) -> None:
    """In the child; never returns."""
    try:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            os.dup2(slave, fd)
        os.closerange(3, 4096)
        try:
            os.chdir(home)
        except OSError:
            os.chdir("/")
        program = next((shell for shell in SHELLS if which(shell, "")), SHELLS[-1])
        own = dict(env, SHELL=program, TERM="xterm-256color")
        own.pop("LINES", None)
        own.pop("COLUMNS", None)
        os.execve(program, [program], own)  # noqa: S606
    except BaseException as exc:
        os.write(2, f"no shell can be started: {exc}\r\n".encode())
    finally:
        os._exit(127)


class _Copy:
    """Copies both ways until the agent closes, or the shell has ended and its output was delivered."""

    def __init__(self, agent: _socket.socket, master: int, shell: int) -> None:
        self._agent, self._master, self._shell = agent, master, shell
        self._to_shell, self._to_agent = b"", b""
        self._frames = Frames()
        self._poll = select.poll()
        self._ended_s: float | None = None
        """When the shell had ended."""
        self._drained = False

    def run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        ready = self._wait()
        agent, master = ready.get(self._agent.fileno(), 0), ready.get(self._master, 0)
        if self._shell in ready and self._ended_s is None:
            self._ended_s = time.monotonic()
        try:
            self._with_agent(agent)
        except BlockingIOError:
            pass
        except (OSError, FrameError):
            return False
        try:
            self._with_shell(master)
        except BlockingIOError:
            pass
        except OSError:  # EIO: nobody has the terminal open any more
            self._drained = True
        if self._drained:
            self._to_shell = b""
            self._ended_s = self._ended_s or time.monotonic()
            if not self._to_agent or time.monotonic() > self._ended_s + FLUSH_S:
                return False
        return not agent & (select.POLLHUP | select.POLLERR)

    def _wait(self) -> dict[int, int]:
        """What is ready. A side is read only when what came from it before has gone."""
        self._watch(
            self._agent.fileno(),
            (0 if self._to_shell else select.POLLIN) | (select.POLLOUT if self._to_agent else 0),
            always=True,
        )
        reads = 0 if self._to_agent or self._drained else select.POLLIN
        self._watch(self._master, reads | (select.POLLOUT if self._to_shell else 0))
        self._watch(self._shell, select.POLLIN if self._ended_s is None else 0)
        ready = dict(self._poll.poll(None if self._ended_s is None else SILENCE_MS))
        if self._ended_s is not None and not ready and not self._to_agent:
            self._drained = True
        return ready

    def _watch(self, fd: int, mask: int, *, always: bool = False) -> None:
        """Unwatched, for poll reports a hang-up whether it is asked or not."""
        if mask or always:
            self._poll.register(fd, mask)
        else:
            try:
                self._poll.unregister(fd)
            except KeyError:
                pass

    def _with_agent(self, ready: int) -> None:
        if self._to_agent and ready & select.POLLOUT:
            self._to_agent = self._to_agent[self._agent.send(self._to_agent) :]
        if ready & ~select.POLLOUT and not self._to_shell:
            data = self._agent.recv(READ_BYTES)
            if not data:
                raise BrokenPipeError
            self._to_shell, size = self._frames.feed(data)
            if size:
                _set_size(self._master, *size)

    def _with_shell(self, ready: int) -> None:
        if self._to_shell and ready & select.POLLOUT:
            self._to_shell = self._to_shell[os.write(self._master, self._to_shell) :]
        if (
            not self._to_agent
            and not self._drained
            and (ready & ~select.POLLOUT or self._ended_s is not None)
        ):
            self._to_agent = os.read(self._master, READ_BYTES)


def _end(shell: int) -> None:
    """Waits for the shell, and kills its process group when it does not heed the hang-up."""
    deadline_s = time.monotonic() + GRACE_S
    while time.monotonic() < deadline_s:
        if os.waitpid(shell, os.WNOHANG)[0]:
            return
        time.sleep(0.02)
    _signal_group(shell, _signal.SIGKILL)
    os.kill(shell, _signal.SIGKILL)  # one that has not come to lead a group of its own
    os.waitpid(shell, 0)


def _set_size(master: int, rows: int, columns: int) -> None:
    """Whatever is in the foreground gets SIGWINCH."""
    size = b"".join(value.to_bytes(2, sys.byteorder) for value in (rows & 0xFFFF, columns & 0xFFFF, 0, 0))
    fcntl.ioctl(master, termios.TIOCSWINSZ, size)
