"""Session mode: a login by cookie in front of the same calls, in the same process.

`/func/PATH` is `/PATH`, made by whoever's web session the request presents; nothing is signed. Published clients send the cookie
`AIOHTTP_SESSION` or the header `X-BackendAI-SessionID`, which wins. A browser sends a cookie for whoever makes it do so, so what a
cookie alone vouches for must come from our own pages (`from_our_pages`); a header is proof enough, because only our pages know it.

All pure but `decoded`, which stands before an application and reads a body.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from litestar.datastructures import Cookie
from litestar.types import Receive, ReceiveMessage

from ai.backend.common.errors import MalformedBody, TooLarge

from .limits import JSON_BYTES_MAX

PREFIX = "/func"
COOKIE = "AIOHTTP_SESSION"
HEADER = "x-backendai-sessionid"
ENCODED = b"x-backendai-encoded"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
IV_BYTES = 16
KEY_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9_-]{16,128}")
_TRUE = frozenset({b"true", b"1"})


def inner_path(path: str) -> str | None:
    """The call behind `/func/...`, or None for a path that is not of session mode."""
    if path == PREFIX:
        return "/"
    return path[len(PREFIX) :] if path.startswith(PREFIX + "/") else None


def cookies_of(header: str) -> dict[str, str]:
    """Cookies of a request; of several of one name, the first."""
    found: dict[str, str] = {}
    for part in header.split(";"):
        name, equals, value = part.strip().partition("=")
        if equals:
            found.setdefault(name, value.strip('"'))
    return found


def presented_id(headers: Mapping[str, str]) -> tuple[str, bool]:
    """The web session's id that a request presents ("": none), and whether only a cookie says so."""
    given = headers.get(HEADER, "")
    if given:
        return (given, False) if _ID.fullmatch(given) else ("", False)
    value = cookies_of(headers.get("cookie", "")).get(COOKIE, "")
    return (value, True) if _ID.fullmatch(value) else ("", True)


def from_our_pages(headers: Mapping[str, str]) -> bool:
    """Whether a request was not made by a page of another site. What is no browser says nothing of where it comes from, and passes."""
    site = headers.get("sec-fetch-site", "").lower()
    if site:
        return site in ("same-origin", "none")
    origin = headers.get("origin", "")
    if not origin:
        return True
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
    except ValueError:
        return False


def cookie(value: str, *, lifetime_s: int, secure: bool, name: str = COOKIE, path: str = "/") -> Cookie:
    """That no script can read, and that other sites' pages send along only when they link to us. A lifetime of 0 takes it away."""
    return Cookie(
        name, path=path, value=value, max_age=lifetime_s, secure=secure, httponly=True, samesite="lax"
    )


# Bodies that published clients send over plain HTTP scrambled with a key that everybody can derive from what is sent. It hides a
# password from a glance at a log, and from nobody who means it: only https does that.


def endpoints_of(host: str) -> Iterable[str]:
    """The address of this server, in the ways in which a client may have it configured, likeliest first."""
    for scheme in ("http", "https"):
        port = {"http": ":80", "https": ":443"}[scheme]
        authorities = [host] if ":" in host.rpartition("]")[2] else [host, host + port]
        for authority in authorities:
            yield f"{scheme}://{authority}"
            yield f"{scheme}://{authority}/"


def key_of(endpoint: str, iv: bytes) -> bytes:
    return (base64.b64encode(endpoint.encode("utf-8", "replace")) + iv + iv)[:KEY_BYTES]


def decode_body(body: bytes, host: str) -> bytes:
    """The JSON in an encoded body (`IV:base64(AES-256-CBC)`). Raises MalformedBody."""
    iv, colon, scrambled = body.partition(b":")
    try:
        sealed = base64.b64decode(scrambled, validate=True)
    except binascii.Error:
        sealed = b""
    if len(iv) != IV_BYTES or not colon or not sealed or len(sealed) % IV_BYTES:
        raise MalformedBody("Malformed body", hint="An encoded body has the form IV:base64.")
    for endpoint in endpoints_of(host):
        opener = Cipher(AES(key_of(endpoint, iv)), CBC(iv)).decryptor()
        padded = opener.update(sealed) + opener.finalize()
        remover = PKCS7(128).unpadder()
        try:
            plain = remover.update(padded) + remover.finalize()
        except ValueError:
            continue
        # A wrong key may by chance leave a right padding, but no JSON object.
        if plain.lstrip()[:1] == b"{" and plain.rstrip()[-1:] == b"}":
            return plain
    raise MalformedBody(
        "Malformed body",
        hint="It was encoded for another endpoint: use the address that the server is reached at.",
    )


def is_encoded(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(ENCODED, b"").lower() in _TRUE


def decoded(receive: Receive, host: str) -> Receive:
    """Hands on the whole decoded body as one message. Raises MalformedBody or TooLarge where the body is asked for."""
    done = False

    async def receive_decoded() -> ReceiveMessage:
        nonlocal done
        if done:
            return await receive()
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return message
            body += message["body"]
            if len(body) > JSON_BYTES_MAX:
                raise TooLarge("the body is too large", limit_bytes=JSON_BYTES_MAX)
            if not message.get("more_body"):
                break
        done = True
        plain = decode_body(bytes(body), host) if body else b""
        return {"type": "http.request", "body": plain, "more_body": False}

    return receive_decoded
