"""Versions of the published protocol."""

import pytest

from ai.backend.common.errors import InvalidInput
from ai.backend.common.wire.version import ASSUMED, CURRENT, MANAGER_VERSION, ApiVersion, parse


def test_parse_and_compare() -> None:
    assert parse("v4.20190615") == ApiVersion(4, "20190615")
    assert parse("v4.20190615") < parse("v5.20191215") < parse("v10.20200101")
    assert parse(str(CURRENT)) == CURRENT
    assert parse(str(ASSUMED)) <= CURRENT


def test_the_manager_version_is_numeric() -> None:
    assert all(part.isdigit() for part in MANAGER_VERSION.split("."))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v4",
        "4.20190615",
        "v4.2019",
        "v4.20190615 ",
        "v4.20190615\n",
        "V4.20190615",
        "v٤.20190615",
        "v9999.20190615",
    ],
)
def test_no_versions(text: str) -> None:
    with pytest.raises(InvalidInput, match="Unsupported API version"):
        parse(text)
