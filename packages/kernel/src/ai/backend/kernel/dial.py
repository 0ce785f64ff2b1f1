"""Connections to ports inside the container, made for the agent and handed to it as descriptors.

Imported with the first one: sessions that are only computed in never pay for it. Nothing waits: the caller
polls `watched`, tells what is ready, and calls `settle` when `deadline_s` has come.
"""

from __future__ import annotations

import _socket
import os
import sys

CONNECT_TIMEOUT_S = 5.0
"""A listener whose queue is full does not answer at all."""
ADDRESSES = (("127.0.0.1", _socket.AF_INET), ("::1", _socket.AF_INET6))
"""Many programs that are told to listen on "localhost" take only one of the two."""
_EINPROGRESS, _ECONNREFUSED, _EAFNOSUPPORT, _EADDRNOTAVAIL = 115, 111, 97, 99
_NOBODY = (_ECONNREFUSED, _EAFNOSUPPORT, _EADDRNOTAVAIL)

Outcome = tuple[str, bool, str]
"""Stream id, whether the connection was refused, and why it failed; "" when it was handed over."""


class _Dial:
    def __init__(self, stream_id: str, port: int, deadline_s: float) -> None:
        self.stream_id, self.port, self.deadline_s = stream_id, port, deadline_s
        self.left = list(ADDRESSES)
        self.socket: _socket.socket | None = None


class Dialer:
    """`path` is the agent's socket for streams. Times are on the caller's monotonic clock."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._dials: dict[int, _Dial] = {}

    @property
    def watched(self) -> list[int]:
        """Descriptors to poll for POLLOUT."""
        return list(self._dials)

    @property
    def deadline_s(self) -> float | None:
        return min((dial.deadline_s for dial in self._dials.values()), default=None)

    def dial(self, stream_id: str, port: int, now_s: float) -> Outcome | None:
        """Begins a connection; the outcome when there is one at once."""
        return self._try(_Dial(stream_id, port, now_s + CONNECT_TIMEOUT_S))

    def settle(self, ready: dict[int, int], now_s: float) -> list[Outcome]:
        """What has come of the connections whose descriptors are ready or whose time is up."""
        outcomes = []
        for fd, dial in list(self._dials.items()):
            if fd in ready:
                outcome = self._finish(self._dials.pop(fd))
            elif dial.deadline_s <= now_s:
                del self._dials[fd]
                self._drop(dial)
                outcome = (
                    dial.stream_id,
                    False,
                    f"port {dial.port} did not answer in {CONNECT_TIMEOUT_S:g} s",
                )
            else:
                continue
            if outcome:
                outcomes.append(outcome)
        return outcomes

    def _try(self, dial: _Dial) -> Outcome | None:
        while dial.left:
            host, family = dial.left.pop(0)
            try:
                dial.socket = _socket.socket(
                    family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
                )
                error = dial.socket.connect_ex((host, dial.port))
            except OSError as exc:
                error = exc.errno or _ECONNREFUSED
            if error == _EINPROGRESS and dial.socket:
                self._dials[dial.socket.fileno()] = dial
                return None
            if error == 0:
                return self._hand_over(dial)
            self._drop(dial)
            if error not in _NOBODY:
                return dial.stream_id, False, f"port {dial.port}: {os.strerror(error)}"
        return dial.stream_id, True, f"nothing listens on port {dial.port}"

    def _finish(self, dial: _Dial) -> Outcome | None:
        assert dial.socket is not None
        error = dial.socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if error == 0:
            return self._hand_over(dial)
        self._drop(dial)
        if error in _NOBODY:
            return self._try(dial)
        return dial.stream_id, False, f"port {dial.port}: {os.strerror(error)}"

    def _hand_over(self, dial: _Dial) -> Outcome:
        assert dial.socket is not None
        agent = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
        )
        try:
            agent.connect(self._path)
            fd = dial.socket.fileno().to_bytes(4, sys.byteorder)
            agent.sendmsg([dial.stream_id.encode()], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd)])
        except OSError as exc:
            return dial.stream_id, False, f"the agent did not take the connection: {exc.strerror}"
        finally:
            agent.close()
            self._drop(dial)
        return dial.stream_id, False, ""

    @staticmethod
    def _drop(dial: _Dial) -> None:
        if dial.socket is not None:
            dial.socket.close()
            dial.socket = None
