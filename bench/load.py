"""Load over HTTP/1.1 from few sockets: each of `connections` sends its next request when the last one was answered whole.

The requests are signed once, before: what is measured is the server. Everything stays on this machine and ends by itself.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import cast
from urllib.parse import urlsplit

from yarl import URL

from ai.backend.client.config import ClientConfig
from ai.backend.client.request import signed_headers
from ai.backend.common.wire.version import CURRENT


@dataclass(frozen=True, slots=True)
class Load:
    """How a series went."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    requests: int


def request_bytes(config: ClientConfig, method: str, target: str, body: bytes = b"") -> bytes:
    """A whole signed request, ready to send."""
    url = URL(config.endpoints[0] + target, encoded=True)
    headers = signed_headers(config, str(CURRENT), method, url, "application/json", datetime.now(UTC))
    lines = [f"{method} {target} HTTP/1.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _Connection(asyncio.Protocol):
    def __init__(
        self, request: bytes, until_s: float, taken_s: list[float], done: "asyncio.Future[None]"
    ) -> None:
        self._request = request
        self._until_s = until_s
        self._taken_s = taken_s
        self._done = done
        self._buffer = bytearray()
        self._began_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, but not by inheritance
        self._send()

    def _send(self) -> None:
        self._began_s = time.perf_counter()
        if self._began_s > self._until_s:
            self._transport.close()
            return
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        size = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + size:
            return
        if not head.startswith(b"http/1.1 2"):
            self._done.set_exception(RuntimeError(bytes(self._buffer[:600]).decode(errors="replace")))
            self._transport.close()
            return
        self._taken_s.append(time.perf_counter() - self._began_s)
        self._buffer.clear()
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def _run(config: ClientConfig, request: bytes, connections: int, seconds: float) -> Load:
    place = urlsplit(config.endpoints[0])
    loop = asyncio.get_running_loop()
    taken_s: list[float] = []
    began_s = time.perf_counter()
    ends = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        ends.append(done)
        await loop.create_connection(
            partial(_Connection, request, began_s + seconds, taken_s, done),
            place.hostname or "",
            place.port or 80,
        )
    await asyncio.gather(*ends)
    elapsed_s = time.perf_counter() - began_s
    ordered = sorted(taken_s)
    return Load(
        requests_per_s=round(len(ordered) / elapsed_s, 1),
        p50_ms=round(statistics.median(ordered) * 1000, 2),
        p99_ms=round(ordered[int(len(ordered) * 0.99)] * 1000, 2),
        requests=len(ordered),
    )


def load(config: ClientConfig, request: bytes, *, connections: int = 32, seconds: float = 2.0) -> Load:
    """Raises RuntimeError when an answer is no success."""
    import uvloop

    return uvloop.run(_run(config, request, connections, seconds))
