"""Talking to a coordinator over HTTP. Its addresses are looked up here; what it says is judged in `policy`.

Must never tell the token, which goes into one header: not even by the HTTP library's own words, which may quote it.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import msgspec

from .model import Coordinator, CoordinatorFailed, CoordinatorMisconfigured, CoordinatorUnreachable
from .policy import ITS_ADMINISTRATOR, Address, address_of

BYTES_MAX = 64 << 10
TOKEN_HEADER = "X-BackendAI-Token"  # noqa: S105 (a name)


class CoordinatorClient:
    """One connection for each request: services are opened by people."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._tls: ssl.SSLContext | None = None

    async def addresses(self, coordinator: Coordinator) -> frozenset[Address]:
        """All that its host's name leads to. Raises CoordinatorUnreachable."""
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await asyncio.get_running_loop().getaddrinfo(
                    coordinator.host, None, type=socket.SOCK_STREAM
                )
        except (OSError, UnicodeError) as exc:
            raise CoordinatorUnreachable(
                "the name of the coordinator's host leads nowhere", hint=ITS_ADMINISTRATOR
            ) from exc
        known = (address_of(str(place[0])) for *_, place in found)
        return frozenset(address for address in known if address is not None)

    async def status(self, coordinator: Coordinator) -> dict[str, Any]:
        """`GET /status`: a JSON object. Raises the three errors of coordinators."""
        return await self._ask(coordinator, "GET", "/status")

    async def configure(self, coordinator: Coordinator, conf: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /v2/conf`: a JSON object. Raises the three errors of coordinators."""
        return await self._ask(coordinator, "POST", "/v2/conf", msgspec.json.encode(conf))

    async def _ask(
        self, coordinator: Coordinator, method: str, path: str, body: bytes | None = None
    ) -> dict[str, Any]:
        import httpx

        # Uncompressed, so that the limit below is one on what is held in memory.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "BackendAI"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if coordinator.token:
            headers[TOKEN_HEADER] = coordinator.token
        answer = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._tls is None:  # reads some hundred certificates
                    self._tls = await asyncio.to_thread(ssl.create_default_context)
                async with (
                    httpx.AsyncClient(
                        verify=self._tls, timeout=self._timeout_s, follow_redirects=False, trust_env=False
                    ) as http,
                    http.stream(method, coordinator.url + path, content=body, headers=headers) as response,
                ):
                    _check(response.status_code, path)
                    async for part in response.aiter_raw():
                        answer += part
                        if len(answer) > BYTES_MAX:
                            raise CoordinatorFailed(
                                f"the coordinator's answer to {path} is larger than {BYTES_MAX >> 10} KiB",
                                hint=ITS_ADMINISTRATOR,
                            )
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise CoordinatorUnreachable(
                f"the coordinator did not answer within {self._timeout_s:g} s", hint="Try again later."
            ) from exc
        except (httpx.ConnectError, httpx.InvalidURL) as exc:
            raise CoordinatorUnreachable(
                "the coordinator can't be connected to", hint=ITS_ADMINISTRATOR
            ) from exc
        except (httpx.HTTPError, httpx.StreamError, OSError) as exc:
            raise CoordinatorFailed(
                f"the coordinator broke off its answer to {path}, or it was no HTTP", hint=ITS_ADMINISTRATOR
            ) from exc
        return _object(bytes(answer), path)


def _check(status: int, path: str) -> None:
    if status in (200, 201):
        return
    if status in (401, 403):
        raise CoordinatorMisconfigured(
            f"the coordinator does not accept this server's token ({status} to {path})",
            hint="The resource group's wsproxy_api_token has to be the coordinator's secret.",
        )
    redirects = 300 <= status < 400
    raise CoordinatorFailed(
        f"the coordinator answered {status} to {path}",
        hint="Redirects are not followed: its address has to be the final one."
        if redirects
        else ITS_ADMINISTRATOR,
    )


def _object(answer: bytes, path: str) -> dict[str, Any]:
    try:
        values = msgspec.json.decode(answer)
    except (msgspec.DecodeError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CoordinatorFailed(
            f"the coordinator's answer to {path} is no JSON object", hint=ITS_ADMINISTRATOR
        )
    return values
