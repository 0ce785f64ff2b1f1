"""The port to one kernel runner's socket, and its ZeroMQ adapter.

The agent binds, in a folder that only it can write, before the container starts; the runner connects, and again whenever the agent
comes back. Frames mean nothing here.

ZeroMQ's descriptor is edge-triggered: it tells that something may have changed, once. So each turn goes on until the socket says that it
has nothing more, and each use of the socket outside of such a turn schedules one, since it may have eaten the signal.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import zmq

from ai.backend.common.errors import KernelCreationFailed

OnFrames = Callable[[list[bytes]], None]
_TURN_MESSAGES = 256
_OUTBOX_MESSAGES = 1024
_RECEIVE_MESSAGES = 64
_FRAME_BYTES_MAX = 65 << 20
"""The largest that a runner sends: a picture of 16 M characters, up to 4 bytes each."""


class RunnerLink(Protocol):
    """One message is a list of frames."""

    def open(self, on_frames: OnFrames) -> None:
        """Binds, and hands over each message from now on. Raises KernelCreationFailed."""

    def send(self, frames: list[bytes]) -> bool:
        """Queues a message until a runner takes it; False when too many wait already."""

    def pause(self) -> None:
        """Takes nothing more from the runner, until `resume`: it will block in the end."""

    def resume(self) -> None: ...

    def close(self) -> None: ...


class ZmqLink:
    """Over `folder`/`name`, readable for user `uid` alone."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", folder: Path, name: str, uid: int, gid: int
    ) -> None:
        self._context = context
        self._folder, self._name = folder, name
        self._uid, self._gid = uid, gid
        self._socket: zmq.Socket[bytes] | None = None
        self._folder_fd = -1
        self._fd = -1
        self._outbox: deque[list[bytes]] = deque()
        self._paused = False
        self._scheduled = False

    def open(self, on_frames: OnFrames) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_frames = on_frames
        socket = self._context.socket(zmq.DEALER)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, _RECEIVE_MESSAGES)
        socket.set(zmq.MAXMSGSIZE, _FRAME_BYTES_MAX)
        try:
            self._folder_fd = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.unlink(self._name, dir_fd=self._folder_fd)
            except FileNotFoundError:
                pass
            # Not by the folder's path, which may be longer than the 107 bytes of a socket's address.
            socket.bind(f"ipc:///proc/self/fd/{self._folder_fd}/{self._name}")
            os.chmod(self._name, 0o600, dir_fd=self._folder_fd)  # noqa: PTH101 -- by descriptor
            if os.geteuid() == 0:
                os.chown(self._name, self._uid, self._gid, dir_fd=self._folder_fd, follow_symlinks=False)
        except (OSError, zmq.ZMQError) as exc:
            socket.close()
            self._close_folder()
            raise KernelCreationFailed(f"the runner's socket could not be made: {exc.strerror}") from exc
        self._socket = socket
        self._fd = socket.FD
        self._loop.add_reader(self._fd, self._turn)
        self._schedule()

    def send(self, frames: list[bytes]) -> bool:
        if self._socket is None or len(self._outbox) >= _OUTBOX_MESSAGES:
            return False
        self._outbox.append(frames)
        self._flush(self._socket)
        self._schedule()
        return True

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._schedule()

    def close(self) -> None:
        if self._socket is None:
            return
        self._loop.remove_reader(self._fd)
        self._socket.close()
        self._socket = None
        self._close_folder()

    def _close_folder(self) -> None:
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn_now)

    def _turn_now(self) -> None:
        self._scheduled = False
        self._turn()

    def _turn(self) -> None:
        for _ in range(_TURN_MESSAGES):
            socket = self._socket
            if socket is None:
                return
            events = socket.get(zmq.EVENTS)
            if self._outbox and events & zmq.POLLOUT:
                self._flush(socket)
            if not events & zmq.POLLIN or self._paused:
                return
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._on_frames(frames)
        self._schedule()  # others want the loop too

    def _flush(self, socket: "zmq.Socket[bytes]") -> None:
        try:
            while self._outbox:
                socket.send_multipart(self._outbox[0], zmq.NOBLOCK)
                self._outbox.popleft()
        except zmq.Again:
            return  # nobody is connected, or is slow: the descriptor will tell
