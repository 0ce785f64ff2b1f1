"""Sends one callback. The address is looked up once, judged, and connected to: a name can't lead elsewhere between the two."""

import asyncio
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ai.backend.common.errors import BackendError, Fault, Kind

from ..config import ManagerConfig
from .policy import forbidden, literal


class CallbackFailed(BackendError):
    """It was not delivered; nobody tries again."""

    kind = Kind.UNAVAILABLE
    code = "callback.failed"
    fault = Fault.USER


class CallbackClient:
    def __init__(self, config: ManagerConfig) -> None:
        self._config = config
        self._tls: ssl.SSLContext | None = None

    async def post(self, url: str, body: dict[str, Any], *, timeout_s: float) -> int:
        """The status of the answer, whose body is not read; redirects are not followed. Raises CallbackFailed."""
        import httpx

        try:
            async with asyncio.timeout(timeout_s):
                host, address = await self._address(url)
                if self._tls is None:  # reads some hundred certificates
                    self._tls = await asyncio.to_thread(ssl.create_default_context)
                target = httpx.URL(url).copy_with(host=address)
                headers = {
                    "Host": urlsplit(url).netloc,
                    "Content-Type": "application/json",
                    "User-Agent": "BackendAI",
                }
                async with (
                    httpx.AsyncClient(
                        verify=self._tls, timeout=timeout_s, follow_redirects=False, trust_env=False
                    ) as http,
                    http.stream(
                        "POST",
                        target,
                        content=msgspec.json.encode(body),
                        headers=headers,
                        extensions={"sni_hostname": host},
                    ) as response,
                ):
                    return response.status_code
        except TimeoutError as exc:
            raise CallbackFailed(f"no answer within {timeout_s:g} s") from exc
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            raise CallbackFailed(f"{type(exc).__name__}: {exc}"[:200]) from exc

    async def _address(self, url: str) -> tuple[str, str]:
        """The host as the URL names it, and the first of its addresses that a callback may go to."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, parts.port or (443 if parts.scheme == "https" else 80), type=socket.SOCK_STREAM
        )
        why = "no address"
        for *_, place in found:
            address = literal(str(place[0]))
            if address is None:
                continue
            why = forbidden(address, self._config)
            if not why:
                return host, str(address)
        raise CallbackFailed(f"{host} leads to {why}")
