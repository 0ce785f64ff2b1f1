"""Decisions about OpenID logins: what a provider may be, where browsers are sent, which ID tokens count. Pure, but for the library that
verifies signatures."""

import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from ai.backend.common.errors import ConfigError

from ..config import OpenIdConfig
from .model import Claims, Identified, OpenIdRefused, Provider, ProviderUnavailable, Started

CALLBACK = "/func/openid/callback"
LIFETIME_S = 600
"""How long a browser may take at the provider."""
LEEWAY_S = 30
"""How far the provider's clock may be off."""
KEYS_MAX = 32
TEXT_MAX = 16 * 1024
SUBJECT_MAX = 255
ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"})
"""Never `none`, and none whose key we would have to share with the provider."""
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC"}
_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")
REFUSED = "The login at the provider did not work out."


def is_safe(url: str) -> bool:
    """Whether a secret may be sent there: https, or this very machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme == "https":
        return bool(host)
    if parts.scheme != "http":
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_config(config: OpenIdConfig) -> None:
    """Raises ConfigError for what could let nobody in, or anybody."""
    if not config.issuer:
        return
    why = ""
    if not is_safe(config.issuer):
        why = "issuer is no https address"
    elif not config.client_id:
        why = "client-id is missing"
    elif "openid" not in config.scopes:
        why = "scopes lack openid"
    elif not config.algorithms or not ASYMMETRIC.issuperset(config.algorithms):
        why = f"algorithms are some of {', '.join(sorted(ASYMMETRIC))}"
    if why:
        raise ConfigError(f"manager.openid: {why}")


def provider_of(issuer: str, document: Mapping[str, Any]) -> Provider:
    """What a discovery document says. Raises ProviderUnavailable when it is another issuer's, or makes no sense."""

    def url(name: str, *, needed: bool = True) -> str:
        found = document.get(name, "")
        if (found or needed) and not (isinstance(found, str) and is_safe(found)):
            raise ProviderUnavailable(f"the OpenID provider's discovery document has no usable {name}")
        return str(found)

    if document.get("issuer") != issuer:
        raise ProviderUnavailable(
            "the OpenID provider calls itself something else",
            hint="Set manager.openid.issuer to exactly what its discovery document says.",
        )
    methods = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    return Provider(
        issuer=issuer,
        authorization_endpoint=url("authorization_endpoint"),
        token_endpoint=url("token_endpoint"),
        jwks_uri=url("jwks_uri"),
        userinfo_endpoint=url("userinfo_endpoint", needed=False),
        basic_auth="client_secret_basic" in methods,
    )


def challenge_of(verifier: str) -> str:
    """RFC 7636, S256."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def redirect_uri(config: OpenIdConfig, base_url: str) -> str:
    """Where the provider sends browsers back to. It sends them only to addresses that were registered there."""
    return (config.public_url or base_url).rstrip("/") + CALLBACK


def authorization_url(provider: Provider, config: OpenIdConfig, base_url: str, started: Started) -> str:
    joint = "&" if "?" in provider.authorization_endpoint else "?"
    return (
        provider.authorization_endpoint
        + joint
        + urlencode(
            {
                "response_type": "code",
                "client_id": config.client_id,
                "redirect_uri": redirect_uri(config, base_url),
                "scope": " ".join(config.scopes),
                "state": started.state,
                "nonce": started.nonce,
                "code_challenge": challenge_of(started.verifier),
                "code_challenge_method": "S256",
            }
        )
    )


def safe_path(text: str) -> str:
    """A path on this site, or "/" for anything else: a login must not end on somebody else's page."""
    return text if len(text) <= 1024 and _PATH.fullmatch(text) else "/"


def check_return(started: Started | None, state: str, issuer: str, error: str, now_s: int, ours: str) -> str:
    """Why a browser that came back is not let in, or "". The reason is for the log; browsers are told `REFUSED`."""
    if started is None:
        return "it keeps no login of ours"
    if not hmac.compare_digest(started.state.encode(), state.encode("utf-8", "replace")):
        return "the state is another one"
    if not 0 <= now_s - started.began_s <= LIFETIME_S:
        return "it took too long"
    if issuer and issuer != ours:
        return "another issuer answered"
    if error:
        return f"the provider says {re.sub('[^a-z_]', '', error.lower())[:64]}"
    return ""


def usable_keys(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Public keys for signatures, of a JWKS document."""
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise ProviderUnavailable("the OpenID provider's keys make no sense")
    return [
        key
        for key in keys[:KEYS_MAX]
        if isinstance(key, dict) and key.get("kty") in ("RSA", "EC") and key.get("use", "sig") == "sig"
    ]


def key_id_of(token: str) -> str | None:
    """Which key the token says that it is signed with. Not verified."""
    from joserfc.errors import JoseError
    from joserfc.jws import extract_compact

    try:
        found = extract_compact(token.encode()).headers().get("kid")
    except (JoseError, ValueError, UnicodeError) as exc:
        raise OpenIdRefused(REFUSED) from exc
    return str(found) if found is not None else None


def check_id_token(
    token: str, keys: Sequence[dict[str, Any]], config: OpenIdConfig, nonce: str, now: datetime
) -> Claims:
    """The claims of an ID token that is genuine, for us, for this very login, and not expired. Raises OpenIdRefused."""
    claims = _verified(token, keys, config)
    now_s = now.timestamp()
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    times = {name: claims.get(name) for name in ("exp", "iat", "nbf")}
    numeric = all(
        isinstance(value, int | float) and not isinstance(value, bool)
        for name, value in times.items()
        if value is not None or name == "exp"
    )
    given = claims.get("nonce")
    subject = claims.get("sub")
    azp = claims.get("azp")
    why = ""
    if claims.get("iss") != config.issuer:
        why = "issuer"
    elif not isinstance(audiences, list) or config.client_id not in audiences:
        why = "audience"
    elif azp not in (None, config.client_id) or (len(audiences) > 1 and azp is None):
        why = "authorized party"
    elif not numeric or times["exp"] is None or times["exp"] <= now_s - LEEWAY_S:
        why = "expiry"
    elif any((times[name] or 0) > now_s + LEEWAY_S for name in ("iat", "nbf")):
        why = "time of issue"
    elif not isinstance(given, str) or not hmac.compare_digest(
        given.encode("utf-8", "replace"), nonce.encode()
    ):
        why = "nonce"
    elif not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_MAX:
        why = "subject"
    if why:
        raise OpenIdRefused(REFUSED, reason=why)
    return claims


def _verified(token: str, keys: Sequence[dict[str, Any]], config: OpenIdConfig) -> Claims:
    """The claims of a token that one of the keys has signed, with an algorithm that we allow and that fits the key."""
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import import_key

    if len(token) > TEXT_MAX:
        raise OpenIdRefused(REFUSED, reason="size")
    wanted = key_id_of(token)
    for key in keys:
        if wanted is not None and key.get("kid") != wanted:
            continue
        # What the key itself says that it is for, the library looks at.
        fitting = [name for name in config.algorithms if _KEY_TYPES[name[:2]] == key["kty"]]
        try:
            return dict(jwt.decode(token, import_key(key), algorithms=fitting).claims)
        except (JoseError, ValueError, TypeError):
            continue
    raise OpenIdRefused(REFUSED, reason="signature")


def identified(claims: Claims, config: OpenIdConfig) -> Identified:
    """Who the claims are about. An address counts when the provider has verified it, or is trusted to know."""
    email = claims.get(config.email_claim)
    verified = claims.get("email_verified") in (True, "true") or config.trust_unverified_email
    usable = isinstance(email, str) and verified and len(email) <= 254
    name = claims.get("name")
    return Identified(
        subject=f"{config.issuer} {claims['sub']}",
        email=str(email).strip() if usable else "",
        name=name.strip()[:128] if isinstance(name, str) else "",
    )
