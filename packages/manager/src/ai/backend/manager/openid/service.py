"""The authorization code flow with PKCE: begin, and finish in a web session.

Between the two nothing is kept here but in the browser, sealed, so that any manager can finish and a restart loses no login.
"""

import asyncio
import base64
import binascii
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.ids import Random, UserId
from ai.backend.common.log import get_logger

from ..account.model import Application, EmailTaken
from ..account.service import AccountService
from ..config import OpenIdConfig
from ..db.database import Database, UniqueViolation
from ..login.policy import address_allowed
from ..login.service import LoginService
from ..secret import Secrets, SecretUnreadable
from . import policy, store
from .client import ProviderClient
from .model import (
    Begun,
    Claims,
    Finished,
    Identified,
    OpenIdOff,
    OpenIdRefused,
    Provider,
    ProviderUnavailable,
    Returned,
    Started,
)

log = get_logger(__name__)

CONTEXT = "openid login"
DISCOVERY_S = 3600.0
KEYS_S = 3600.0
KEYS_AGAIN_S = 10.0
"""An unknown key makes us ask for the keys anew, but not more often than this."""
RANDOM_BITS = 256


class OpenIdService:
    def __init__(
        self,
        database: Database,
        secrets: Secrets,
        logins: LoginService,
        accounts: AccountService,
        config: OpenIdConfig,
        *,
        clock: Clock,
        rng: Random,
        client: ProviderClient | None = None,
    ) -> None:
        self._database = database
        self._secrets = secrets
        self._logins = logins
        self._accounts = accounts
        self._config = config
        self._clock = clock
        self._rng = rng
        self._client = client or ProviderClient()
        self._provider: tuple[float, Provider] | None = None
        self._keys: tuple[float, list[dict[str, Any]]] | None = None
        self._asking = asyncio.Lock()
        policy.check_config(config)

    async def begin(self, base_url: str, next_path: str) -> Begun:
        """Raises OpenIdOff or ProviderUnavailable."""
        provider = await self._discovered()
        started = Started(
            state=self._random(),
            nonce=self._random(),
            verifier=self._random(),
            began_s=int(self._clock.now().timestamp()),
            next_path=policy.safe_path(next_path),
        )
        sealed = self._secrets.seal(msgspec.json.encode(started).decode(), context=CONTEXT)
        return Begun(
            url=policy.authorization_url(provider, self._config, base_url, started),
            kept=base64.urlsafe_b64encode(sealed).rstrip(b"=").decode(),
            lifetime_s=policy.LIFETIME_S,
        )

    async def finish(self, base_url: str, returned: Returned) -> Finished:
        """Raises OpenIdOff, OpenIdRefused or ProviderUnavailable."""
        provider = await self._discovered()
        started = self._unsealed(returned.kept)
        now = self._clock.now()
        why = policy.check_return(
            started, returned.state, returned.issuer, returned.error, int(now.timestamp()), provider.issuer
        )
        if why or started is None or not returned.code:
            raise self._refused(why or "there is no code")
        tokens = await self._redeem(provider, base_url, started, returned.code)
        claims = await self._claims(provider, tokens, started.nonce)
        who = policy.identified(claims, self._config)
        user_id = await self._user(who)
        principal = await self._logins.principal_of(user_id)
        if principal is None or not address_allowed(returned.address, principal.allowed_client_ip):
            raise self._refused("the user may not come in")
        until = datetime.fromtimestamp(started.began_s + 2 * policy.LIFETIME_S, UTC)
        if not await self._logins.spend(f"openid {started.state}", principal, until):
            raise self._refused("this login was finished already")
        return Finished(session=await self._logins.open(principal), next_path=started.next_path)

    def _random(self) -> str:
        raw = self._rng.getrandbits(RANDOM_BITS).to_bytes(RANDOM_BITS // 8, "big")
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def _refused(self, why: str) -> OpenIdRefused:
        """The reason goes to the log; a browser that was sent here by somebody else learns nothing."""
        log.info("openid-refused", why=why)
        return OpenIdRefused(policy.REFUSED, hint="Begin again.")

    def _unsealed(self, kept: str) -> Started | None:
        try:
            sealed = base64.urlsafe_b64decode(kept + "=" * (-len(kept) % 4))
            return msgspec.json.decode(self._secrets.unseal(sealed, context=CONTEXT), type=Started)
        except (binascii.Error, ValueError, SecretUnreadable, msgspec.MsgspecError):
            return None

    async def _discovered(self) -> Provider:
        if not self._config.issuer:
            raise OpenIdOff("no OpenID provider is configured here")
        async with self._asking:
            now = self._clock.monotonic()
            if self._provider is None or now >= self._provider[0]:
                issuer = self._config.issuer
                document = await self._client.get(issuer.rstrip("/") + "/.well-known/openid-configuration")
                self._provider = (now + DISCOVERY_S, policy.provider_of(issuer, document))
            return self._provider[1]

    async def _keys_for(self, provider: Provider, token: str) -> list[dict[str, Any]]:
        """The provider's keys, asked for anew when they are old or do not have the one that the token names."""
        wanted = policy.key_id_of(token)
        async with self._asking:
            now = self._clock.monotonic()
            kept = self._keys
            unknown = kept is not None and all(key.get("kid") != wanted for key in kept[1])
            age_s = now - kept[0] if kept is not None else KEYS_S
            if kept is None or age_s >= KEYS_S or (unknown and age_s >= KEYS_AGAIN_S):
                kept = (now, policy.usable_keys(await self._client.get(provider.jwks_uri)))
                self._keys = kept
            return kept[1]

    async def _redeem(self, provider: Provider, base_url: str, started: Started, code: str) -> dict[str, Any]:
        config = self._config
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": policy.redirect_uri(config, base_url),
            "code_verifier": started.verifier,
        }
        basic = None
        if config.client_secret and provider.basic_auth:
            basic = (config.client_id, config.client_secret)
        else:
            form["client_id"] = config.client_id
            if config.client_secret:
                form["client_secret"] = config.client_secret
        return await self._client.redeem(provider.token_endpoint, form, basic=basic)

    async def _claims(self, provider: Provider, tokens: dict[str, Any], nonce: str) -> Claims:
        token = tokens.get("id_token")
        if not isinstance(token, str):
            raise ProviderUnavailable("the OpenID provider sends no ID token")
        keys = await self._keys_for(provider, token)
        try:
            claims = policy.check_id_token(token, keys, self._config, nonce, self._clock.now())
        except OpenIdRefused as exc:
            raise self._refused(f"the ID token: {exc.detail.get('reason', 'makes no sense')}") from exc
        access = tokens.get("access_token")
        if self._config.email_claim not in claims and provider.userinfo_endpoint and isinstance(access, str):
            more = await self._client.get(provider.userinfo_endpoint, bearer=access)
            # What is told over this connection is the provider's word, but it must be about the same person.
            if more.get("sub") == claims["sub"]:
                claims = more | claims
        return claims

    async def _user(self, who: Identified) -> UserId:
        """The user with that subject; else the one with that address, who gets the subject; else a new one, where that is wanted."""

        def op(conn: sa.Connection) -> UserId | str:
            known = store.user_by_subject(conn, who.subject)
            if known is not None:
                return known
            if store.known_subject(conn, who.subject):
                return "the user is not active"
            if not who.email:
                return "no verified address"
            return store.link(conn, self._config.domain, who.email, who.subject) or ""

        found = await self._database.run(op)
        if isinstance(found, UUID):
            return UserId(found)
        if found or not self._config.create_users:
            raise self._refused(found or "nobody has that address")
        return await self._new_user(who)

    async def _new_user(self, who: Identified) -> UserId:
        application = Application(
            domain_name=self._config.domain,
            email=who.email,
            # Nobody knows it, so that there is no other way in than through the provider.
            password=self._random(),
            full_name=who.name,
        )
        try:
            member = await self._accounts.make(application, project=self._config.project)
        except EmailTaken as exc:
            raise self._refused("the address is somebody's who may not be linked") from exc
        try:
            linked = await self._database.run(
                lambda conn: store.link(conn, self._config.domain, who.email, who.subject)
            )
        except UniqueViolation as exc:
            raise self._refused("somebody else got this subject meanwhile") from exc
        if linked != member.principal.user_id:
            raise self._refused("the new user could not be linked")
        log.info("openid-user-made", user=str(linked))
        return linked
