"""The published test vectors of the request signature, and what a signature covers."""

from datetime import datetime

import pytest

from ai.backend.common.wire import signature

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
VECTORS = [
    (
        "GET",
        "/session/mysess?owner_access_key=AK2",
        "2024-01-02T03:04:05.678901+00:00",
        "127.0.0.1:8091",
        "text/plain",
        "v7.20230615",
        b"",
        "d0528280f0700e1e2726d54fcd30433fb73857daac6d5f849df51c75c9e8af07",
    ),
    (
        "POST",
        "/session",
        "2024-01-02T03:04:05.678901+00:00",
        "127.0.0.1:8091",
        "application/json",
        "v7.20230615",
        b"",
        "030eaa0588f4fa70aa07f53e8785cef1fc90a1180582b8273b65cdfbaff51d9b",
    ),
    (
        "POST",
        "/v2/kernel/create",
        "2018-03-05T09:00:00+00:00",
        "api.backend.ai",
        "application/json",
        "v2.20170315",
        b'{"lang":"python:latest"}',
        "29650ac65d1e56375ff382a4c24830d25663e8b6bf1c29053eb6b06f4fc54910",
    ),
]


@pytest.mark.parametrize("vector", VECTORS)
def test_published_vectors(vector):
    method, target, date, host, content_type, version, body, expected = vector
    text = signature.string_to_sign(
        method=method,
        target=target,
        date=date,
        host=host,
        content_type=content_type,
        version=version,
        body=body,
    )
    assert signature.sign(SECRET, datetime.fromisoformat(date), host, text) == expected


def text_of(**changes):
    fields = {
        "method": "post",
        "target": "/x",
        "date": "D",
        "host": "h",
        "content_type": "application/json",
        "version": "v8.20240915",
        "body": b"body",
    }
    return signature.string_to_sign(**fields | changes).split("\n")


def test_the_seven_lines():
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert text_of() == [
        "POST",
        "/x",
        "D",
        "host:h",
        "content-type:application/json",
        "x-backendai-version:v8.20240915",
        empty,
    ]
    assert text_of(content_type="Multipart/Form-Data; boundary=x")[4] == "content-type:multipart/form-data"
    assert text_of(content_type="")[4] == "content-type:application/octet-stream"
    assert text_of(version_header="x-sorna-version")[5] == "x-sorna-version:v8.20240915"


def test_the_body_counts_before_v4_only_and_not_for_forms():
    assert text_of(version="v3.20170615")[6] != text_of(version="v3.20170615", body=b"other")[6]
    assert text_of(version="v4.20181215")[6] == text_of(version="v4.20181215", body=b"other")[6]
    form = {"version": "v3.20170615", "content_type": "multipart/form-data"}
    assert text_of(**form)[6] == text_of(**form, body=b"other")[6]


def test_the_key_is_of_the_day_as_written():
    east = datetime.fromisoformat("2024-01-02T01:00:00+09:00")
    west = datetime.fromisoformat("2024-01-01T16:00:00+00:00")
    assert east == west
    assert signature.sign(SECRET, east, "h", "text") != signature.sign(SECRET, west, "h", "text")


def test_the_authorization_header():
    header = signature.authorization("AK", "00ff", "sha256")
    assert header == "BackendAI signMethod=HMAC-SHA256, credential=AK:00ff"
