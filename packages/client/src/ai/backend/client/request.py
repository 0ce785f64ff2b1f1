"""Requests: sign, send, and turn what comes back into an answer or an error. The only file that knows the HTTP library's errors.

The version is negotiated once, with the first request. Endpoints are tried in order until one can be reached; a request that may have
arrived is never sent twice.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from ai.backend.common.clock import Clock, SystemClock
from ai.backend.common.wire import signature
from ai.backend.common.wire.rest.root import Version
from ai.backend.common.wire.version import CURRENT, ApiVersion, parse

from .config import ClientConfig
from .error import ApiError, RequestTimeout, Unreachable

T = TypeVar("T")
AGENT = "Backend.AI Client (independent)"
JSON = "application/json"
FRAME_BYTES_MAX = 64 << 20
_WS_TIMEOUT = aiohttp.ClientWSTimeout(ws_close=1.0)
"""Leaving does not wait long for the server's goodbye."""
Query = Mapping[str, str | int | bool | None]
Files = Sequence[tuple[str, bytes]]


class _GraphQLAnswer(msgspec.Struct):
    data: dict[str, Any] | None = None
    errors: list[dict[str, Any]] = msgspec.field(default_factory=list)


def target_of(path: str, query: Query | None = None) -> str:
    """The request target as sent: query values that are None are left out, booleans are `true` and `false`."""
    pairs = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in (query or {}).items()
        if value is not None
    }
    return path + ("?" + urlencode(pairs, quote_via=quote) if pairs else "")


def segment(text: str) -> str:
    """A name as one segment of a path."""
    return quote(text, safe="")


def signed_headers(
    config: ClientConfig, version: str, method: str, url: URL, content_type: str, when: datetime
) -> dict[str, str]:
    """Headers of a request. `content_type` empty: the header is left out, as event streams and WebSockets have it. A multipart type is
    signed without its boundary and its header is the HTTP library's to write."""
    host = url.raw_host or ""
    host = f"[{host}]" if ":" in host else host
    if url.port is not None and not url.is_default_port():
        host = f"{host}:{url.port}"
    date = when.isoformat()
    headers = {
        "User-Agent": AGENT,
        "Host": host,
        "Date": date,
        "X-BackendAI-Version": version,
        "X-BackendAI-Domain": config.domain,
    }
    if content_type and not content_type.startswith("multipart/"):
        headers["Content-Type"] = content_type
    if config.access_key:
        text = signature.string_to_sign(
            method=method,
            target=url.raw_path_qs,
            date=date,
            host=host,
            content_type=content_type,
            version=version,
        )
        signed = signature.sign(config.secret_key, when, host, text)
        headers["Authorization"] = signature.authorization(config.access_key, signed)
    return headers


def session_headers(config: ClientConfig, version: str, content_type: str) -> dict[str, str]:
    """Headers of a request in session mode, where a login vouches for it instead of a signature."""
    headers = {"User-Agent": AGENT, "X-BackendAI-Version": version, "X-BackendAI-Domain": config.domain}
    if content_type and not content_type.startswith("multipart/"):
        headers["Content-Type"] = content_type
    if config.session_id:
        headers["X-BackendAI-SessionID"] = config.session_id
    return headers


class Answer(msgspec.Struct, frozen=True):
    """A successful response, read whole."""

    status: int
    content_type: str
    body: bytes
    session_id: str = ""
    """Of a login, if that is what the call was."""

    def decode(self, kind: type[T]) -> T:
        """Raises ApiError when it is not what it should be."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except msgspec.MsgspecError as exc:
            raise ApiError(
                f"the server's answer is not understood: {exc}",
                status=self.status,
                code="client.answer-not-understood",
                hint="Is it another kind of server, or another version of it?",
            ) from exc


class Requester:
    """A connection pool with an identity. `open` and `close` it, in one event loop."""

    def __init__(self, config: ClientConfig, clock: Clock | None = None) -> None:
        self.config = config
        self._clock = clock or SystemClock()
        self._endpoints = list(config.endpoints)
        self._version: ApiVersion | None = None
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        tls: ssl.SSLContext | bool = True
        if self.config.skip_sslcert_validation:
            tls = False
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self.config.connection_timeout_s or None,
                sock_read=self.config.read_timeout_s or None,
            ),
            auto_decompress=True,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def version(self) -> Version:
        """What the server says of itself; negotiates on the way."""
        async with self._sent("GET", "/", signed=False) as response:
            told = await self._answer(response)
        found = told.decode(Version)
        self._version = min(CURRENT, parse(found.version))
        return found

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        json: Any = None,
        files: Files | None = None,
    ) -> Answer:
        """One signed request. Raises ApiError, Unreachable or RequestTimeout."""
        await self._negotiated()
        async with self._sent(method, target_of(path, query), json=json, files=files) as response:
            return await self._answer(response)

    async def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The data of a GraphQL query; raises ApiError when it has errors."""
        sent = {"query": query, "variables": dict(variables or {})}
        found = (await self.call("POST", "/admin/gql", json=sent)).decode(_GraphQLAnswer)
        if found.errors:
            code = found.errors[0].get("extensions", {}).get("code", "graphql.error")
            raise ApiError("; ".join(str(one.get("message")) for one in found.errors), code=code)
        return found.data or {}

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, *, query: Query | None = None, last_event_id: str = ""
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a response that goes on."""
        await self._negotiated()
        extra = {"Accept": "text/event-stream"}
        if last_event_id:
            extra["Last-Event-ID"] = last_event_id
        async with self._sent("GET", target_of(path, query), content_type="", extra=extra) as response:
            if response.status >= 400:
                await self._answer(response)
            yield self._lines(response)

    async def _lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        with _mapped(str(response.url.origin())):
            async for line in response.content:
                yield line

    @contextlib.asynccontextmanager
    async def websocket(
        self, path: str, *, query: Query | None = None
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Raises ApiError with the status only when the server refuses: the library keeps no body of a refused upgrade."""
        await self._negotiated()
        socket = await self._upgraded(target_of(path, query))
        try:
            yield socket
        finally:
            await socket.close()

    async def _upgraded(self, target: str) -> aiohttp.ClientWebSocketResponse:
        assert self._session is not None, "open() first"
        while True:
            url = URL(self._endpoints[0] + self._prefixed(target), encoded=True)
            headers = self._headers("GET", url, "")
            try:
                with _mapped(self._endpoints[0]):
                    return await self._session.ws_connect(
                        url, headers=headers, heartbeat=30, max_msg_size=FRAME_BYTES_MAX, timeout=_WS_TIMEOUT
                    )
            except _NotConnected:
                self._next_endpoint()

    def _prefixed(self, target: str) -> str:
        """Where the target is: session mode has all but its own calls below `/func`."""
        return (
            f"/func{target}" if self.config.in_session_mode and not target.startswith("/server/") else target
        )

    def _headers(self, method: str, url: URL, content_type: str) -> dict[str, str]:
        if self.config.in_session_mode:
            return session_headers(self.config, str(self._version), content_type)
        return signed_headers(self.config, str(self._version), method, url, content_type, self._clock.now())

    async def _negotiated(self) -> None:
        if self._version is None:
            await self.version()

    @contextlib.asynccontextmanager
    async def _sent(
        self,
        method: str,
        target: str,
        *,
        json: Any = None,
        files: Files | None = None,
        content_type: str | None = None,
        extra: Mapping[str, str] | None = None,
        signed: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "open() first"
        if content_type is None:
            content_type = (
                "multipart/form-data" if files is not None else JSON if json is not None else "text/plain"
            )
        while True:
            endpoint = self._endpoints[0]
            url = URL(endpoint + self._prefixed(target), encoded=True)
            headers: dict[str, str] = {"User-Agent": AGENT}
            if signed:
                headers = self._headers(method, url, content_type)
            data: Any = _form(files) if files is not None else None
            if json is not None:
                data = msgspec.json.encode(json)
            try:
                with _mapped(endpoint):
                    response = await self._session.request(
                        method, url, headers={**headers, **(extra or {})}, data=data, allow_redirects=False
                    )
                break
            except _NotConnected:
                self._next_endpoint()
        try:
            yield response
        finally:
            response.release()

    def _next_endpoint(self) -> None:
        """Moves on to the next endpoint, or gives up when each was tried."""
        self._endpoints.pop(0)
        if not self._endpoints:
            self._endpoints = list(self.config.endpoints)
            raise Unreachable(
                f"nothing answers at {', '.join(self._endpoints)}",
                hint="Is the cluster up ('backend.ai status')? Is BACKEND_ENDPOINT right?",
            )

    async def _answer(self, response: aiohttp.ClientResponse) -> Answer:
        with _mapped(str(response.url.origin())):
            body = await response.read()
        if response.status >= 400:
            try:
                problem = msgspec.json.decode(body)
            except msgspec.DecodeError:
                problem = None
            raise ApiError.of(response.status, problem, response.reason or "")
        headers = response.headers
        session_id = headers.get("X-BackendAI-SessionID", "")
        return Answer(response.status, headers.get("Content-Type", ""), body, session_id)


class _NotConnected(Exception):
    """Nothing was sent: another endpoint may be tried."""


@contextlib.contextmanager
def _mapped(where: str) -> Any:
    """The HTTP library's errors as ours."""
    try:
        yield
    except aiohttp.WSServerHandshakeError as exc:
        raise ApiError(f"the server refused the connection with {exc.status}", status=exc.status) from exc
    except aiohttp.ClientSSLError as exc:
        raise Unreachable(
            f"no trusted connection to {where}: {exc}",
            hint="Install the server's certificate authority, or (for tests only) use --skip-sslcert-validation.",
        ) from exc
    except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as exc:
        raise _NotConnected from exc
    except TimeoutError as exc:
        raise RequestTimeout(
            f"{where} did not answer in time", hint="Raise BACKEND_READ_TIMEOUT, or ask again."
        ) from exc
    except aiohttp.InvalidURL as exc:
        raise Unreachable(f"no URL: {exc}", hint="Set BACKEND_ENDPOINT to http://HOST:PORT.") from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise Unreachable(
            f"the connection to {where} broke off ({exc or type(exc).__name__})",
            hint="See with 'backend.ai status' whether the cluster still runs.",
        ) from exc


def _form(files: Files) -> aiohttp.FormData:
    form = aiohttp.FormData(quote_fields=False)
    for name, content in files:
        form.add_field("src", content, filename=name, content_type="application/octet-stream")
    return form
