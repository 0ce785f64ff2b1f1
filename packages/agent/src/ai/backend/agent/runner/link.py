"""The socket to a kernel's runner. The agent binds it, in a folder of its own, before the container starts.

`RunnerLink` is the port; the ZeroMQ adapter uses a raw socket and the event loop's reader instead of zmq.asyncio, which costs more than the
whole rest of an execute. ZeroMQ's descriptor is edge-triggered: after every event, and after every send, everything must be drained.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import zmq

from ai.backend.kernel.protocol import SOCKET_NAME

RECEIVE_QUEUE = 16
"""Messages that libzmq may hold for us: small, so that a slow reader holds back the runner instead of filling our memory."""
UNSENT_MAX = 10_000
MESSAGE_BYTES_MAX = 72 << 20
"""A rich result is one message of up to 16 M characters; a larger frame would cost the connection."""


class RunnerLink(Protocol):
    def send(self, frames: list[bytes]) -> None:
        """Sends, or keeps until the runner connects."""

    def pause(self) -> None:
        """Takes no more messages until `resume`: the runner is held back."""

    def resume(self) -> None: ...

    def close(self) -> None:
        """Idempotent."""


OnMessage = Callable[[list[bytes]], None]


class ZmqLink:
    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], folder: Path, uid: int, on_message: OnMessage
    ) -> None:
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[list[bytes]] = deque(maxlen=UNSENT_MAX)
        self._paused = False
        self._socket = context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RCVHWM, RECEIVE_QUEUE)
        self._socket.set(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
        # A socket's path may not be longer than 107 bytes, but folders may: go through the folder's descriptor.
        handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            (folder / SOCKET_NAME).unlink(missing_ok=True)
            self._socket.bind(f"ipc:///proc/self/fd/{handle}/{SOCKET_NAME}")
        finally:
            os.close(handle)
        path = folder / SOCKET_NAME
        path.chmod(0o600)
        if os.getuid() == 0:
            os.chown(path, uid, uid, follow_symlinks=False)
        self._fd = int(self._socket.get(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)

    def send(self, frames: list[bytes]) -> None:
        self._unsent.append(frames)
        self._drain()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        while not self._socket.closed:
            events = int(self._socket.get(zmq.EVENTS))
            if self._unsent and events & zmq.POLLOUT:
                try:
                    self._socket.send_multipart(self._unsent[0], zmq.NOBLOCK)
                    self._unsent.popleft()
                except zmq.Again:
                    pass
            elif events & zmq.POLLIN and not self._paused:
                self._on_message(self._socket.recv_multipart(zmq.NOBLOCK))
            else:
                return

    def close(self) -> None:
        if not self._socket.closed:
            self._loop.remove_reader(self._fd)
            self._socket.close()
