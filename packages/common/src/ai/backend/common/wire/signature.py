"""The published request signature: HMAC over method, raw target, date, host, content type, version and a body digest.

Pure: used by the gateway to verify and by the client library to sign. Source of the rules: the public wire protocol of Backend.AI,
API v4 to v9; the test vectors in the tests were produced by the published client.
"""

import hashlib
import hmac
from datetime import datetime

EMPTY_BODY_SINCE = "v4.20181215"
"""From this version on (compared as text, as the published clients do) the body is not part of the signature."""
DEFAULT_CONTENT_TYPE = "application/octet-stream"


def string_to_sign(
    *,
    method: str,
    target: str,
    date: str,
    host: str,
    content_type: str,
    version: str,
    body: bytes = b"",
    version_header: str = "x-backendai-version",
    hash_name: str = "sha256",
) -> str:
    """The seven lines. `target` is the raw request target as sent; `date` the raw header text; `content_type` may carry parameters
    (they are dropped) or be empty (then application/octet-stream)."""
    media_type = content_type.partition(";")[0].strip().lower() or DEFAULT_CONTENT_TYPE
    if version >= EMPTY_BODY_SINCE or media_type == "multipart/form-data":
        body = b""
    digest = hashlib.new(hash_name, body).hexdigest()
    return "\n".join(
        [
            method.upper(),
            target,
            date,
            f"host:{host}",
            f"content-type:{media_type}",
            f"{version_header}:{version}",
            digest,
        ]
    )


def sign(secret_key: str, when: datetime, host: str, text: str, hash_name: str = "sha256") -> str:
    """The hexadecimal signature of a string to sign; the key's date is `when` in its own offset."""
    day_key = hmac.digest(secret_key.encode(), when.strftime("%Y%m%d").encode(), hash_name)
    return hmac.digest(hmac.digest(day_key, host.encode(), hash_name), text.encode(), hash_name).hex()


def authorization(access_key: str, signature: str, hash_name: str = "sha256") -> str:
    """The value of the Authorization header."""
    return f"BackendAI signMethod=HMAC-{hash_name.upper()}, credential={access_key}:{signature}"
