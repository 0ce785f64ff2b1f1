"""The environment variables, as published."""

from pathlib import Path

import pytest

from ai.backend.client.config import ClientConfig, read_assignments
from ai.backend.client.transfer import archives_of
from ai.backend.common.errors import ConfigError


def test_variables_prefixes_and_defaults() -> None:
    config = ClientConfig.from_environ({"BACKEND_ENDPOINT": "http://h:1/", "SORNA_ACCESS_KEY": "AK"})
    assert config.endpoints == ("http://h:1",) and config.access_key == "AK"
    assert (config.domain, config.group, config.connection_timeout_s, config.read_timeout_s) == (
        "default",
        "default",
        10.0,
        0.0,
    )
    more = ClientConfig.from_environ(
        {
            "BACKEND_ENDPOINT": "http://a, https://b",
            "BACKEND_SKIP_SSLCERT_VALIDATION": "Yes",
            "BACKEND_VFOLDER_MOUNTS": "x,y",
        }
    )
    assert (
        more.endpoints == ("http://a", "https://b")
        and more.skip_sslcert_validation
        and more.mounts == ("x", "y")
    )


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"BACKEND_ENDPOINT": "localhost:8090"},
        {"BACKEND_ENDPOINT": "http://h", "BACKEND_READ_TIMEOUT": "soon"},
        {"BACKEND_ENDPOINT": "http://h", "BACKEND_CONNECTION_TIMEOUT": "-1"},
        {"BACKEND_ENDPOINT": "http://h", "BACKEND_ENDPOINT_TYPE": "carrier-pigeon"},
    ],
)
def test_wrong_values_are_told(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as told:
        ClientConfig.from_environ(values)
    assert "BACKEND_" in told.value.message and told.value.hint


def test_a_dotenv_file_above_overrides(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".env").write_text(
        "# mine\nexport BACKEND_ACCESS_KEY='A K'\nBACKEND_ENDPOINT=http://file\nnonsense ' here\n"
    )
    config = ClientConfig.from_environ({"BACKEND_ENDPOINT": "http://env"}, folder=tmp_path / "a" / "b")
    assert (config.endpoint, config.access_key) == ("http://file", "A K")


def test_secrets_are_not_in_the_text_of_a_configuration() -> None:
    assert "hidden" not in repr(ClientConfig(endpoint="http://h", secret_key="hidden"))


def test_assignments_are_read_as_a_shell_writes_them() -> None:
    assert read_assignments("export A='x y'\"z\"\nB=2 # two\nif true; then") == {"A": "x yz", "B": "2"}


def test_a_tar_inside_a_part_may_hold_anything(tmp_path: Path) -> None:
    content = b"\r\n--B1 \r\n\r\n\x00" * 3
    body = b"preamble\r\n--B0\r\nX: y\r\n\r\n" + content + b"\r\n--B0\r\n\r\nsecond\r\n--B0--\r\n"
    assert archives_of('multipart/mixed; boundary="B0"', body) == [content, b"second"]
