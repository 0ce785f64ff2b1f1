"""Signatures: what a client signs verifies, and nothing else does."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.backend.common.errors import BadAuthParameters, Unauthenticated
from ai.backend.common.wire import signature
from ai.backend.gateway.auth import Claim, is_genuine, parse_date, read_claim

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOKEN = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
WORD = st.text("abcdefghijklmnopqrstuvwxyz-.0123456789", min_size=1, max_size=20)
DATES = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2099, 1, 1), timezones=st.just(UTC))


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "method": draw(st.sampled_from(["GET", "POST", "PATCH", "DELETE"])),
        "target": "/" + draw(TOKEN),
        "host": draw(WORD) + ":" + str(draw(st.integers(1, 65535))),
        "content_type": draw(st.sampled_from(["", "text/plain", "application/json; charset=utf-8"])),
        "version": draw(st.sampled_from(["v2.20170315", "v4.20181215", "v5.20191215", "v8.20240915"])),
        "body": draw(st.binary(max_size=40)),
        "hash_name": draw(st.sampled_from(["sha256", "sha1", "sha512", "sha3_256", "blake2b"])),
        "when": draw(DATES),
    }


def claim_of(request: dict[str, Any], secret: str = SECRET) -> Claim:
    """The claim that a server reads from a request signed with the secret."""
    date = request["when"].isoformat()
    text = signature.string_to_sign(
        method=request["method"],
        target=request["target"],
        date=date,
        host=request["host"],
        content_type=request["content_type"],
        version=request["version"],
        body=request["body"],
        hash_name=request["hash_name"],
    )
    proof = signature.sign(secret, request["when"], request["host"], text, request["hash_name"])
    headers = {
        "authorization": signature.authorization("AKIA", proof, request["hash_name"]),
        "date": date,
        "host": request["host"],
        "content-type": request["content_type"],
        "x-backendai-version": request["version"],
    }
    return read_claim(methods=(request["method"],), target=request["target"], scheme="http", headers=headers)


def with_changes(claim: Claim, **changes: Any) -> Claim:
    return Claim(**{name: getattr(claim, name) for name in Claim.__slots__} | changes)


@given(requests())
def test_what_was_signed_verifies(request_: dict[str, Any]) -> None:
    assert is_genuine(claim_of(request_), SECRET, request_["body"])


def _changed(text: str, at: int) -> str:
    at %= len(text)
    other = "x" if text[at].lower() != "x" else "y"
    return text[:at] + other + text[at + 1 :]


@settings(max_examples=200)
@given(
    requests(),
    st.sampled_from(["method", "target", "date", "host", "content_type", "version", "signature"]),
    st.integers(0, 99),
)
def test_any_changed_byte_fails(request_: dict[str, Any], what: str, at: int) -> None:
    claim = claim_of(request_)
    change: dict[str, Any]
    match what:
        case "method":
            change = {"methods": (_changed(claim.methods[0], at),)}
        case "host":
            change = {"hosts": (_changed(claim.hosts[0], at),)}
        case "content_type":
            change = {"content_type": _changed("application/xml", at)}
        case "signature":
            before = claim.signature
            at %= len(before)
            change = {"signature": before[:at] + ("0" if before[at] != "0" else "1") + before[at + 1 :]}
        case _:
            change = {what: _changed(getattr(claim, what), at)}
    assert not is_genuine(with_changes(claim, **change), SECRET, request_["body"])


@given(requests(), TOKEN)
def test_another_key_fails(request_: dict[str, Any], secret: str) -> None:
    if secret != SECRET:
        assert not is_genuine(claim_of(request_), secret, request_["body"])


@given(requests(), st.binary(min_size=1, max_size=8))
def test_the_body_counts_for_old_versions_only(request_: dict[str, Any], more: bytes) -> None:
    claim = claim_of(request_)
    assert is_genuine(claim, SECRET, request_["body"] + more) == (not claim.covers_body)


def test_the_default_port_may_have_been_signed() -> None:
    base = {
        "method": "GET",
        "target": "/x",
        "host": "example.com:80",
        "content_type": "",
        "version": "v8.20240915",
        "body": b"",
        "hash_name": "sha256",
        "when": datetime(2026, 1, 1, tzinfo=UTC),
    }
    signed = claim_of(base)
    headers = {
        "authorization": f"BackendAI signMethod=HMAC-SHA256, credential=AKIA:{signed.signature}",
        "date": signed.date,
        "host": "example.com",
        "x-backendai-version": signed.version,
    }
    for scheme, genuine in (("http", True), ("ws", True), ("https", False)):
        assert (
            is_genuine(read_claim(methods=("GET",), target="/x", scheme=scheme, headers=headers), SECRET)
            is genuine
        )


def test_host_aliases_are_for_old_clients_only() -> None:
    for version, count in (("v2.20170315", 2), ("v8.20240915", 1)):
        headers = {
            "authorization": "BackendAI signMethod=HMAC-SHA256, credential=A:" + "0" * 64,
            "date": "2026-01-01T00:00:00Z",
            "host": "h:1",
            "x-sorna-version": version,
        }
        claim = read_claim(
            methods=("GET",), target="/", scheme="http", headers=headers, host_aliases=("api.backend.ai",)
        )
        assert len(claim.hosts) == count
        assert claim.version_header == "x-sorna-version"


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-02T03:04:05.678901+00:00",
        "2024-01-02T03:04:05Z",
        "2024-01-02T03:04:05",
        "20240102T030405Z",
        "Tue, 02 Jan 2024 03:04:05 GMT",
        "2 Jan 2024 03:04:05 -0000",
        "Tue, 02 Jan 2024 04:04:05 +0100",
    ],
)
def test_dates_are_read_leniently(text: str) -> None:
    assert abs(parse_date(text) - datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)) < timedelta(seconds=1)


@pytest.mark.parametrize("text", ["", "yesterday", "1700000000", "2024-13-40T00:00:00Z", "9" * 5000])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(BadAuthParameters):
        parse_date(text)


@pytest.mark.parametrize(
    "header",
    [
        "Basic abc",
        "BackendAI signMethod=HMAC-SHA256",
        "BackendAI signMethod=HMAC-SHA256, credential=AK",
        "BackendAI signMethod=HMAC-NOPE, credential=AK:" + "0" * 64,
        "BackendAI signMethod=HMAC-SHAKE_128, credential=AK:" + "0" * 64,
    ],
)
def test_malformed_headers_are_refused(header: str) -> None:
    with pytest.raises(BadAuthParameters):
        read_claim(
            methods=("GET",),
            target="/",
            scheme="http",
            headers={"authorization": header, "date": "2024-01-01"},
        )


def test_no_header_is_no_access() -> None:
    with pytest.raises(Unauthenticated, match="Unauthorized access"):
        read_claim(methods=("GET",), target="/", scheme="http", headers={})
