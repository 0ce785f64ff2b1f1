"""Logins through an OpenID provider."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from ai.backend.common.errors import NotFound, Unauthenticated, Unavailable

from ..login.model import WebSession


class OpenIdOff(NotFound):
    """Nobody has configured a provider."""

    code = "openid.off"
    what = "OpenID provider"


class OpenIdRefused(Unauthenticated):
    """The provider, or what came back from it, lets nobody in."""

    code = "openid.refused"


class ProviderUnavailable(Unavailable):
    """The provider does not answer, or not as providers do."""

    code = "openid.provider-unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """What its discovery document says, as far as we need it."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    basic_auth: bool
    """How our secret is sent: as HTTP Basic authentication, or in the form."""


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A login under way. The browser keeps it, sealed: any manager may finish what another began, and only in that browser."""

    state: str
    nonce: str
    verifier: str
    began_s: int
    next_path: str

    def __repr__(self) -> str:
        return "Started(...)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """Where to send the browser, and what it has to keep until it comes back."""

    url: str
    kept: str = field(repr=False)
    lifetime_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """With what the browser came back. All of it is anybody's word."""

    state: str = field(repr=False)
    code: str = field(repr=False)
    issuer: str = ""
    error: str = ""
    kept: str = field(default="", repr=False)
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """Who it is, as the provider says and proves."""

    subject: str
    """ "issuer sub": unlike an address, never anybody else's."""
    email: str
    """Empty when none is known, or none that counts."""
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    session: WebSession
    next_path: str


Claims = dict[str, Any]
