"""The socket to a kernel's runner. The agent binds it, in a folder of its own, before the container starts.

`RunnerLink` is the port; the adapter speaks ZeroMQ's wire protocol over a raw socket and the event loop's reader. libzmq and its I/O thread
would cost more than the rest of an execute.

One peer at a time: the runner connects before any code of the user runs, and whoever else connects while it is there is turned away.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ai.backend.common.log import get_logger
from ai.backend.kernel import zmtp
from ai.backend.kernel.protocol import SOCKET_NAME

log = get_logger(__name__)

READ_BYTES = 256 << 10
"""Of one turn: a slow reader of ours holds back the runner after so much instead of filling our memory."""
UNSENT_BYTES_MAX = 64 << 20


class RunnerLink(Protocol):
    def send(self, frames: list[bytes]) -> None:
        """Sends, or keeps until the runner connects."""

    def pause(self) -> None:
        """Takes no more messages until `resume`: the runner is held back."""

    def resume(self) -> None: ...

    def close(self) -> None:
        """Idempotent."""


OnMessage = Callable[[list[bytes]], None]


def listen(folder: Path, uid: int) -> socket.socket:
    """The runner's socket in `folder`, which only `uid` may connect to. Replaces what has its name."""
    path = folder / SOCKET_NAME
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # A socket's path may not be longer than 107 bytes, but folders may: go through the folder's descriptor.
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{handle}/{SOCKET_NAME}")
        path.chmod(0o600)
        if os.getuid() == 0:
            os.chown(path, uid, uid, follow_symlinks=False)
        listener.listen(4)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(handle)
    return listener


class ZmtpLink:
    def __init__(self, folder: Path, uid: int, on_message: OnMessage) -> None:
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._outgoing = zmtp.Outgoing()
        self._connection = zmtp.Connection()
        self._peer: socket.socket | None = None
        self._paused = self._waits_to_write = self._closed = False
        self._listener = listen(folder, uid)
        self._loop.add_reader(self._listener, self._accept)

    def send(self, frames: list[bytes]) -> None:
        if self._outgoing.bytes > UNSENT_BYTES_MAX:
            log.warning("runner-takes-nothing", unsent_bytes=self._outgoing.bytes)
            return
        self._outgoing.put(frames)
        self._write()

    def pause(self) -> None:
        self._paused = True
        if self._peer is not None:
            self._loop.remove_reader(self._peer)

    def resume(self) -> None:
        self._paused = False
        if self._peer is not None:
            self._loop.add_reader(self._peer, self._read)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._hang_up()

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return  # it went away again
        if not self._paused:
            self._read()  # its end may be known only now
        if self._peer is not None:
            peer.close()
            return
        peer.setblocking(False)
        self._peer = peer
        self._connection = zmtp.Connection()
        self._outgoing.restart()
        if not self._paused:
            self._loop.add_reader(peer, self._read)
        self._write()

    def _hang_up(self) -> None:
        if self._peer is not None:
            self._loop.remove_reader(self._peer)
            self._loop.remove_writer(self._peer)
            self._peer.close()
            self._peer, self._waits_to_write = None, False

    def _read(self) -> None:
        if self._peer is None:
            return
        try:
            data = self._peer.recv(READ_BYTES)
            messages = self._connection.receive(data)
        except BlockingIOError:
            return
        except (OSError, zmtp.ZmtpError) as exc:
            log.info("runner-hung-up", why=str(exc))
            data, messages = b"", []
        if not data:
            self._hang_up()
            return
        if self._connection.replies:
            self._outgoing.reply(self._connection.replies)
            self._connection.replies = b""
        if len(self._outgoing):
            self._write()
        for message in messages:
            if not self._closed:
                self._on_message(message)

    def _write(self) -> None:
        if self._peer is None:
            return
        waits = False
        try:
            self._outgoing.write(self._peer.send, self._connection.open)
        except BlockingIOError:
            waits = True
        except OSError:
            self._hang_up()
            return
        if waits is not self._waits_to_write:
            self._waits_to_write = waits
            if waits:
                self._loop.add_writer(self._peer, self._write)
            else:
                self._loop.remove_writer(self._peer)
