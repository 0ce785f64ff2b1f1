"""A small OpenID provider that is real where it matters: real RSA signatures, codes that work once, PKCE that is insisted on.

It has one person, whom it lets in without asking. `spoil` changes what its next ID token says, so that tests see what a relying party
does with a provider, or an attacker, that lies.
"""

import base64
import hashlib
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import RSAKey

from ai.backend.common.clock import Clock, SystemClock

CLIENT_ID, CLIENT_SECRET = "backend-ai", "a secret: with / and + in it"
KEY_BITS = 2048


def new_key() -> RSAKey:
    return RSAKey.generate_key(KEY_BITS, {"kid": secrets.token_hex(4), "use": "sig", "alg": "RS256"})


@cache
def _first_key() -> RSAKey:
    """Of every provider in this process: making one takes longer than most tests."""
    return new_key()


class OpenIdProvider:
    def __init__(self, issuer: str, clock: Clock | None = None) -> None:
        self.issuer = issuer
        self._clock = clock or SystemClock()
        self.person: dict[str, Any] = {
            "sub": "42",
            "email": "eve@example.com",
            "email_verified": True,
            "name": "Eve Moneypenny",
        }
        self.email_in_userinfo_only = False
        self.spoil: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
        """Changes the claims of an ID token."""
        self.forge: Callable[[dict[str, Any]], str] | None = None
        """Makes the whole ID token, instead of signing it."""
        self.redirect_uris: set[str] = set()
        self.asked: list[str] = []
        self.key = _first_key()
        self._codes: dict[str, dict[str, str]] = {}
        self._tokens: set[str] = set()

    def rotate(self) -> None:
        """From now on another key signs, and the old one is not published any more."""
        self.key = new_key()

    def sign(self, claims: dict[str, Any], key: RSAKey | None = None, alg: str = "RS256") -> str:
        key = key or self.key
        if alg != "RS256":
            # What the key is for is not for who forges to say.
            plain = {name: value for name, value in key.as_dict(private=True).items() if name != "alg"}
            key = RSAKey.import_key(plain)
        return jwt.encode({"alg": alg, "kid": key.kid}, claims, key, algorithms=[alg])

    def routes(self) -> web.Application:
        application = web.Application(middlewares=[self._note])
        application.add_routes(
            [
                web.get("/.well-known/openid-configuration", self._discover),
                web.get("/authorize", self._authorize),
                web.post("/token", self._token),
                web.get("/keys", self._keys),
                web.get("/userinfo", self._userinfo),
            ]
        )
        return application

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> Any:
        self.asked.append(request.path)
        return await handler(request)

    async def _discover(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.issuer,
                "authorization_endpoint": self.issuer + "/authorize",
                "token_endpoint": self.issuer + "/token",
                "jwks_uri": self.issuer + "/keys",
                "userinfo_endpoint": self.issuer + "/userinfo",
                "response_types_supported": ["code"],
                "code_challenge_methods_supported": ["S256"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            }
        )

    async def _keys(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": [self.key.as_dict(private=False)]})

    async def _authorize(self, request: web.Request) -> web.Response:
        asked = dict(request.query)
        if asked.get("client_id") != CLIENT_ID or asked.get("redirect_uri") not in self.redirect_uris:
            # To an address that nobody has registered, nothing is sent.
            return web.json_response({"error": "invalid_request"}, status=400)
        back = {"state": asked.get("state", ""), "iss": self.issuer}
        if not asked.get("code_challenge") or asked.get("code_challenge_method") != "S256":
            back["error"] = "invalid_request"
        elif asked.get("response_type") != "code" or "openid" not in asked.get("scope", "").split():
            back["error"] = "invalid_scope"
        else:
            back["code"] = secrets.token_urlsafe(16)
            self._codes[back["code"]] = asked
        raise web.HTTPFound(asked["redirect_uri"] + "?" + urlencode(back))

    async def _token(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        named = request.headers.get("Authorization", "").removeprefix("Basic ")
        if base64.b64decode(named).decode() != _basic():
            return web.json_response({"error": "invalid_client"}, status=401)
        asked = self._codes.pop(str(form.get("code")), None)
        verifier = str(form.get("code_verifier", ""))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        if (
            asked is None
            or form.get("grant_type") != "authorization_code"
            or form.get("redirect_uri") != asked["redirect_uri"]
            or challenge != asked["code_challenge"]
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = int(self._clock.now().timestamp())
        claims = self.person | {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": asked.get("nonce"),
        }
        if self.email_in_userinfo_only:
            claims = {name: value for name, value in claims.items() if not name.startswith("email")}
        claims = self.spoil(claims)
        token = self.forge(claims) if self.forge else self.sign(claims)
        access = secrets.token_urlsafe(16)
        self._tokens.add(access)
        return web.json_response(
            {"access_token": access, "token_type": "Bearer", "expires_in": 300, "id_token": token}
        )

    async def _userinfo(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self._tokens:
            return web.json_response({"error": "invalid_token"}, status=401)
        return web.json_response(self.person)


def _basic() -> str:
    return f"{quote(CLIENT_ID, safe='')}:{quote(CLIENT_SECRET, safe='')}"


@asynccontextmanager
async def openid_provider() -> AsyncIterator[OpenIdProvider]:
    """Served on a loopback port of its own. Register redirect URIs with it."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    host, port = sock.getsockname()
    provider = OpenIdProvider(f"http://{host}:{port}")
    runner = web.AppRunner(provider.routes())
    await runner.setup()
    await web.SockSite(runner, sock).start()
    try:
        yield provider
    finally:
        await runner.cleanup()
