"""Input for programs of batch mode: a unix socket on which one program at a time asks for a line (see
lang/python_batch).

A program connects, sends one byte ("1" for a password), and reads its line until the connection is closed.
"""

from __future__ import annotations

import _socket
import os


class StepInput:
    """Attributes: `fd` to poll for reading: the listener, or the program that has connected but not asked; -1
    when nothing is awaited (somebody waits for an answer, or the socket could not be made: `path` is ""
    then)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1
        self._listener = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        )
        self._asker: _socket.socket | None = None
        try:
            if os.path.lexists(path):
                os.unlink(path)
            self._listener.bind(path)
            os.chmod(path, 0o600)
            self._listener.listen(16)
            self.fd = self._listener.fileno()
        except OSError:
            self.path = ""  # no writable folder for it: programs then see the end of their input

    def ready(self) -> bool | None:
        """Call when `fd` is readable. The answer to "is it a password?" once a program asks, else None."""
        try:
            if self._asker is None:
                fd, _ = self._listener._accept()  # type: ignore[attr-defined]
                self._asker = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
                self._asker.setblocking(False)
                self.fd = fd
                return None
            asked = self._asker.recv(1)
        except BlockingIOError:
            return None
        except OSError:
            asked = b""
        if not asked:
            self.drop()
            return None
        self.fd = -1
        return asked == b"1"

    def answer(self, text: str) -> None:
        """Gives the line to the program that asked."""
        if self._asker:
            try:
                self._asker.setblocking(True)
                self._asker.settimeout(1.0)
                self._asker.sendall(text.encode("utf-8", "replace") + b"\n")
            except OSError:
                pass  # the program is gone
            self.drop()

    def drop(self) -> None:
        """Forgets the program that asked; the next one may."""
        if self._asker:
            self._asker.close()
            self._asker = None
        self.fd = self._listener.fileno() if self.path else -1

    def close(self) -> None:
        self.drop()
        self._listener.close()
        if self.path:
            os.unlink(self.path)
