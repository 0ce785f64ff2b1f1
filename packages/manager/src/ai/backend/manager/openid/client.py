"""Talking to an OpenID provider. Nothing that it says is believed here; see `policy`."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from ai.backend.common.log import get_logger

from .model import OpenIdRefused, ProviderUnavailable
from .policy import REFUSED, is_safe

log = get_logger(__name__)

TIMEOUT_S = 10.0
BYTES_MAX = 512 * 1024


class ProviderClient:
    """One connection for each request: logins are rare."""

    async def get(self, url: str, *, bearer: str = "") -> dict[str, Any]:
        """The JSON object there. Raises ProviderUnavailable."""
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        status, values = await self._ask("GET", url, headers=headers)
        if status != 200:
            raise ProviderUnavailable(f"the OpenID provider answered with {status}")
        return values

    async def redeem(
        self, url: str, form: Mapping[str, str], *, basic: tuple[str, str] | None
    ) -> dict[str, Any]:
        """Trades a code for tokens. Raises OpenIdRefused when the provider does not want to."""
        # RFC 6749 2.3.1 wants both parts encoded before they are joined.
        auth = (quote(basic[0], safe=""), quote(basic[1], safe="")) if basic else None
        status, values = await self._ask("POST", url, data=dict(form), auth=auth)
        if status >= 500:
            raise ProviderUnavailable(f"the OpenID provider answered with {status}")
        if status != 200:
            log.info("openid-code-refused", status=status, error=str(values.get("error", ""))[:64])
            raise OpenIdRefused(REFUSED, reason="code")
        return values

    async def _ask(self, method: str, url: str, **given: Any) -> tuple[int, dict[str, Any]]:
        import httpx

        if not is_safe(url):
            raise ProviderUnavailable("the OpenID provider's address is not https")
        headers = {"Accept": "application/json", **given.pop("headers", {})}
        try:
            async with (
                httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=True) as http,
                http.stream(method, url, headers=headers, **given) as response,
            ):
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > BYTES_MAX:
                        raise ProviderUnavailable("the OpenID provider's answer is too large")
                values = msgspec.json.decode(bytes(body)) if body else {}
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise ProviderUnavailable(
                f"the OpenID provider can't be reached ({type(exc).__name__})", hint="Try again later."
            ) from exc
        except msgspec.DecodeError as exc:
            raise ProviderUnavailable("the OpenID provider's answer is no JSON") from exc
        if not isinstance(values, dict):
            raise ProviderUnavailable("the OpenID provider's answer is no JSON object")
        return response.status_code, values
