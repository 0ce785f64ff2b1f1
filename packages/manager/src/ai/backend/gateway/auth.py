"""Who sent this request? Verifies the published HMAC signature over the request exactly as it came on the wire.

`read_claim` and `is_genuine` are pure. `Authenticator` is the shell: it looks the key up, verifies, counts the request, and leaves the
`Principal` in the connection's state. It must never know what the request is about. Requests of session mode (`web`) are not signed:
they present a web session instead.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from litestar.connection import ASGIConnection, Request
from litestar.handlers.base import BaseRouteHandler

from ai.backend.common.clock import Clock
from ai.backend.common.errors import BadAuthParameters, Forbidden, RateLimited, Unauthenticated
from ai.backend.common.wire import signature
from ai.backend.common.wire.version import ASSUMED
from ai.backend.manager.access.model import Principal
from ai.backend.manager.login.policy import address_allowed

from . import web
from .limits import RATE_WINDOW_S, GatewayConfig
from .peer import address_of, headers_of
from .port import Identity, Logins
from .rate import RateLimiter

_AUTHORIZATION = re.compile(
    r"^(?:BackendAI|Sorna)\s+signMethod\s*=\s*HMAC-([A-Za-z0-9_-]{1,16})\s*,\s*"
    r"credential\s*=\s*([A-Za-z0-9_-]{1,64}):([0-9A-Fa-f]{32,256})\s*$"
)
_HASHES = frozenset(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake"))
_DEFAULT_PORTS = {"http": "80", "ws": "80", "https": "443", "wss": "443"}
DATE_HEADERS = ("date", "x-backendai-date", "x-sorna-date")
VERSION_HEADERS = ("x-backendai-version", "x-sorna-version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """All that a signature covers, as it came. `methods` and `hosts` hold what the client may have signed, likeliest first."""

    access_key: str
    signature: str
    hash_name: str
    methods: tuple[str, ...]
    target: str
    date: str
    when: datetime
    hosts: tuple[str, ...]
    content_type: str
    version: str
    version_header: str

    @property
    def covers_body(self) -> bool:
        return self.version < signature.EMPTY_BODY_SINCE


def parse_date(text: str) -> datetime:
    """ISO 8601 or RFC 822; without a zone it is UTC. Raises BadAuthParameters."""
    text = text.strip()[:64]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            when = parsedate_to_datetime(text)
        except (ValueError, IndexError) as exc:
            raise BadAuthParameters("Date/time sync error", hint="Send Date in ISO 8601 form.") from exc
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _first(headers: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    return next(((name, headers[name]) for name in names if headers.get(name)), (names[0], ""))


def read_claim(
    *,
    methods: tuple[str, ...],
    target: str,
    scheme: str,
    headers: Mapping[str, str],
    host_aliases: tuple[str, ...] = (),
) -> Claim:
    """What a request says of its sender. `headers` have lower-case names. Raises Unauthenticated when it says nothing, BadAuthParameters
    when it makes no sense."""
    authorization = headers.get("authorization", "")
    if not authorization:
        raise Unauthenticated("Unauthorized access", hint="Sign the request with a keypair.")
    match = _AUTHORIZATION.match(authorization)
    if match is None:
        raise BadAuthParameters(
            "Malformed Authorization header",
            hint="Form: BackendAI signMethod=HMAC-SHA256, credential=ACCESS_KEY:SIGNATURE",
        )
    hash_name = match[1].lower().replace("-", "_")
    if hash_name not in _HASHES:
        raise BadAuthParameters(f"Unsupported hash {match[1]!r}", hint="Use HMAC-SHA256.")
    _, date = _first(headers, DATE_HEADERS)
    when = parse_date(date)
    version_header, version = _first(headers, VERSION_HEADERS)
    version = version or str(ASSUMED)
    host = headers.get("host", "")
    hosts = [host]
    if ":" not in host.rpartition("]")[2]:
        hosts.append(f"{host}:{_DEFAULT_PORTS.get(scheme, '80')}")
    if version < signature.EMPTY_BODY_SINCE:
        hosts.extend(host_aliases)
    return Claim(
        access_key=match[2],
        signature=match[3].lower(),
        hash_name=hash_name,
        methods=methods,
        target=target,
        date=date,
        when=when,
        hosts=tuple(hosts),
        content_type=headers.get("content-type", ""),
        version=version,
        version_header=version_header,
    )


def is_genuine(claim: Claim, secret_key: str, body: bytes = b"") -> bool:
    """Whether the holder of the key signed this. `body` matters only when the claim covers it."""
    for method in claim.methods:
        for host in claim.hosts:
            text = signature.string_to_sign(
                method=method,
                target=claim.target,
                date=claim.date,
                host=host,
                content_type=claim.content_type,
                version=claim.version,
                body=body,
                version_header=claim.version_header,
                hash_name=claim.hash_name,
            )
            expected = signature.sign(secret_key, claim.when, host, text, claim.hash_name)
            if hmac.compare_digest(expected, claim.signature):
                return True
    return False


class Authenticator:
    """The guard of every route that is not flagged anonymous."""

    def __init__(
        self, identity: Identity, logins: Logins, clock: Clock, rate: RateLimiter, config: GatewayConfig
    ) -> None:
        self._identity = identity
        self._logins = logins
        self._clock = clock
        self._rate = rate
        self._config = config

    async def guard(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Leaves the principal in the connection's state. Raises Unauthenticated, BadAuthParameters, RateLimited."""
        operation = handler.opt.get("operation")
        if operation is not None and operation.anonymous:
            return
        state = connection.scope["state"]
        principal = await (self._by_session(connection) if state["web"] else self._by_signature(connection))
        address = address_of(connection.scope, self._config.trusted_proxies)
        if not address_allowed(address, principal.allowed_client_ip):
            raise Unauthenticated(
                "Unauthorized access", hint="Your account may not be used from this address."
            )
        state["principal"] = principal
        remaining = await self._rate.request(principal.access_key, principal.rate_limit)
        state["rate"] = (principal.rate_limit, max(remaining, 0))
        if remaining < 0:
            raise RateLimited(
                f"More than {principal.rate_limit} requests in {RATE_WINDOW_S // 60} minutes.",
                hint="Wait, or ask an administrator for a higher limit.",
                limit=principal.rate_limit,
                window_s=RATE_WINDOW_S,
            )

    async def _by_session(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
        headers = headers_of(connection.scope)
        session_id, by_cookie = web.presented_id(headers)
        # A WebSocket is opened by a GET, but what is sent through it is no reading.
        reads = isinstance(connection, Request) and connection.method in web.SAFE_METHODS
        if by_cookie and not reads and not web.from_our_pages(headers):
            raise Forbidden("The request comes from a page of another site.")
        principal = await self._logins.find(session_id) if session_id else None
        if principal is None:
            raise Unauthenticated("Unauthorized access", hint="Log in first.")
        return principal

    async def _by_signature(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
        scope = connection.scope
        headers = headers_of(scope)
        target = scope["raw_path"].partition(b"?")[0]
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        claim = read_claim(
            methods=scope["state"]["methods"],
            target=target.decode("latin-1"),
            scheme=scope["scheme"],
            headers=headers,
            host_aliases=self._config.host_aliases,
        )
        if abs(self._clock.now() - claim.when) > timedelta(seconds=self._config.clock_skew_s):
            raise BadAuthParameters("Date/time sync error", hint="Set the clock of your machine.")
        principal, secret_key = await self._identity.authenticate(claim.access_key)
        body = b""
        if claim.covers_body and isinstance(connection, Request) and "multipart/" not in claim.content_type:
            body = await connection.body()
        if not is_genuine(claim, secret_key, body):
            raise Unauthenticated(
                "Signature mismatch", hint="Check the secret key and the endpoint's address."
            )
        return principal


def principal_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """Who signed the request. Only for routes that are not anonymous."""
    principal: Principal = connection.scope["state"]["principal"]
    return principal
