"""The runner's side of the two channels to a language worker: see `python_worker._frame` for the format."""

from __future__ import annotations

import os

RECORD_BYTES_MAX = 24 << 20


class ChannelError(Exception):
    """The worker's bytes are no records (user code wrote into the channel)."""


def pack(kind: bytes, *fields: str) -> bytes:
    """One record for the worker."""
    body = kind + "\0".join(fields).encode("utf-8", "backslashreplace")
    return len(body).to_bytes(4, "big") + body


class Outbox:
    """Records on their way to the worker through one non-blocking descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.waiting = b""
        """What the descriptor has not taken yet: call `write` when it can."""

    def put(self, record: bytes) -> None:
        self.waiting += record
        self.write()

    def write(self) -> None:
        try:
            while self.waiting:
                self.waiting = self.waiting[os.write(self.fd, self.waiting) :]
        except BlockingIOError:
            pass
        except OSError:
            self.waiting = b""  # the worker is dying: its end tells the rest


class Inbox:
    """Cuts the worker's byte stream into records."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The records that are now complete, as (kind, payload). Raises ChannelError."""
        buffer = self._buffer
        buffer += data
        records = []
        at = 0
        while len(buffer) - at >= 4:
            size = int.from_bytes(buffer[at : at + 4], "big")
            if not 0 < size <= RECORD_BYTES_MAX:
                raise ChannelError("a record of impossible size")
            if len(buffer) - at - 4 < size:
                break
            records.append((bytes(buffer[at + 4 : at + 5]), bytes(buffer[at + 5 : at + 4 + size])))
            at += 4 + size
        del buffer[:at]
        return records
