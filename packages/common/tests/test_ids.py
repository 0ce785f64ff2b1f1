"""Identifiers: forms, chance as an argument, and names that nobody can smuggle anything into."""

import re
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.common.errors import InvalidInput
from ai.backend.common.ids import check_session_name, new_access_key, new_secret_key, new_uuid, parse_uuid


def test_chance_is_the_callers() -> None:
    first, second = Random(7), Random(7)
    assert new_uuid(first) == new_uuid(second)
    assert new_access_key(first) == new_access_key(second)
    assert new_secret_key(first) == new_secret_key(second)
    assert new_uuid(first) != new_uuid(first)


def test_forms() -> None:
    rng = Random(1)
    for _ in range(50):
        assert new_uuid(rng).version == 4
        assert re.fullmatch(r"AKIA[A-Z2-7]{16}", new_access_key(rng))
        assert re.fullmatch(r"[A-Za-z0-9_-]{40}", new_secret_key(rng))


@given(st.uuids())
def test_uuids_with_and_without_dashes(value: UUID) -> None:
    assert parse_uuid(str(value)) == parse_uuid(value.hex) == parse_uuid(str(value).upper()) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "{12345678-1234-5678-1234-567812345678}",
        "urn:uuid:12345678-1234-5678-1234-567812345678",
        "12345678123456781234567812345678\n",
        "1234567812345678123456781234567",
        "1_345678123456781234567812345678",
        "١2345678123456781234567812345678",
        "1234-5678123456781234567812345678",
    ],
)
def test_no_uuids(text: str) -> None:
    assert parse_uuid(text) is None


@pytest.mark.parametrize("name", ["abcd", "a-.b", "_run_", "0123", "x" * 64, "A.b-C_d"])
def test_session_names(name: str) -> None:
    assert check_session_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "abc",
        "x" * 65,
        "-abc",
        "abc-",
        ".abc",
        "abc.",
        "a b c",
        "abcd\n",
        "abcd\0",
        "näme",
        "a/bc",
        "ab\ncd",
    ],
)
def test_no_session_names(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_session_name(name)
    assert caught.value.detail == {"field": "name"}


@given(st.text(max_size=70))
def test_a_name_is_plain_ascii_or_refused(name: str) -> None:
    try:
        check_session_name(name)
    except InvalidInput:
        return
    assert re.fullmatch(r"[A-Za-z0-9_.\-]{4,64}", name)
