"""The container's log: a copy of what user code prints, on the runner's own standard output, that never
blocks and never fills a disk."""

from __future__ import annotations

import os
import select

FILE_BYTES_MAX = 10 << 20
_S_IFMT, _S_IFREG = 0o170000, 0o100000
_PIPE_BYTES = 4096
"""A pipe that polls writable takes this much without blocking."""


class ConsoleLog:
    """Writes to descriptor `fd` what was `put`, with the next `flush`. A regular file is emptied when it exceeds
    `limit_bytes`; a pipe that nobody reads loses output."""

    def __init__(self, fd: int = 1, limit_bytes: int = FILE_BYTES_MAX) -> None:
        self._fd = fd
        self._limit_bytes = limit_bytes
        self._is_file = False
        self._bytes = 0
        self._waiting: list[bytes] = []
        self._poll = select.poll()
        try:
            status = os.fstat(fd)
        except OSError:
            self._fd = -1
            return
        self._is_file = status.st_mode & _S_IFMT == _S_IFREG
        self._bytes = status.st_size
        self._poll.register(fd, select.POLLOUT)

    def put(self, data: bytes) -> None:
        if self._fd >= 0:
            self._waiting.append(data)

    def flush(self) -> None:
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        self._waiting.clear()
        try:
            if self._is_file:
                self._write_file(data)
            else:
                for start in range(0, len(data), _PIPE_BYTES):
                    ready = self._poll.poll(0)
                    if not ready or ready[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                        return
                    os.write(self._fd, data[start : start + _PIPE_BYTES])
        except OSError:
            self._fd = (
                -1
            )  # full disk or closed pipe: the log is a convenience, the session goes on without it

    def _write_file(self, data: bytes) -> None:
        if self._bytes + len(data) > self._limit_bytes:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            note = f"[earlier output was dropped: the limit is {self._limit_bytes >> 20} MiB]\n"
            data = note.encode() + data[-(self._limit_bytes // 2) :]
            self._bytes = 0
        self._bytes += os.write(self._fd, data)
