"""Configuration: precedence, and errors that name the file, the line and the key, or the variable, or the flag."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ai.backend.common.config import load
from ai.backend.common.errors import ConfigError


class Pool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    size_max: int = 4


class Gateway(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    listen: str = "127.0.0.1:8091"
    body_bytes_max: int = 1000
    pool: Pool = Pool()


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    name: str = "main"
    debug: bool = False
    ratio: float = 0.5
    tags: list[str] = []
    gateway: Gateway = Gateway()


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    home_dir: str


def read(
    tmp_path: Path,
    text: str,
    environ: dict[str, str] | None = None,
    overrides: dict[str, Any] | None = None,
) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load(Config, path, environ=environ or {}, overrides=overrides)


def failing(
    tmp_path: Path,
    text: str,
    environ: dict[str, str] | None = None,
    overrides: dict[str, Any] | None = None,
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, environ, overrides)
    return caught.value


def test_defaults() -> None:
    assert load(Config, None, environ={}) == Config()


def test_precedence(tmp_path: Path) -> None:
    text = '[gateway]\nlisten = "file"\nbody-bytes-max = 1\n[gateway.pool]\nsize-max = 1\n'
    environ = {
        "BACKENDAI_GATEWAY_LISTEN": "environ",
        "BACKENDAI_GATEWAY_POOL_SIZE_MAX": "2",
        "GATEWAY_LISTEN": "no",
    }
    config = read(tmp_path, text, environ, {"gateway.listen": "flag", "name": None})
    assert config.gateway == Gateway(listen="flag", body_bytes_max=1, pool=Pool(size_max=2))
    assert config.name == "main"


def test_environment_values_are_converted(tmp_path: Path) -> None:
    config = read(tmp_path, "", {"BACKENDAI_DEBUG": "true", "BACKENDAI_RATIO": "0.25", "BACKENDAI_NAME": "7"})
    assert (config.debug, config.ratio, config.name) == (True, 0.25, "7")


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("nmae = 'x'\n", 1, "nmae"),
        ("# a comment\n\nname = 'x'\n[gateway]\n\nlisten = ''\nlisen = 'y'\n", 7, "gateway.lisen"),
        ("[gateway.pool]\nsize_max = 3\n", 2, "gateway.pool.size_max"),
        ("name = 'x'\n[gatway]\nlisten = 'x'\n", 2, "gatway"),
        ("lisen = ''\n[gateway]\n" if False else "[gateway]\n'lisen' = 1\n", 2, "gateway.lisen"),
    ],
)
def test_an_unknown_key_is_named_with_file_and_line(tmp_path: Path, text: str, line: int, key: str) -> None:
    error = failing(tmp_path, text)
    assert error.message.startswith(f"{tmp_path}/config.toml:{line}: ")
    assert repr(key) in error.message
    assert error.detail == {"key": key}
    assert "Known here: " in error.hint


def test_a_wrong_value_is_named_with_file_and_line(tmp_path: Path) -> None:
    error = failing(tmp_path, "name = 'x'\n[gateway]\nlisten = 'a'\nbody-bytes-max = 'many'\n")
    assert error.message.startswith(f"{tmp_path}/config.toml:4: ")
    assert error.detail == {"key": "gateway.body-bytes-max"}


def test_a_wrong_value_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    error = failing(tmp_path, "[gateway]\nbody-bytes-max = 1\n", {"BACKENDAI_GATEWAY_BODY_BYTES_MAX": "many"})
    assert error.message.startswith("environment variable BACKENDAI_GATEWAY_BODY_BYTES_MAX: ")


def test_a_wrong_flag_names_the_flag(tmp_path: Path) -> None:
    error = failing(tmp_path, "", None, {"gateway.body-bytes-max": "many"})
    assert error.message.startswith("--gateway.body-bytes-max: ")


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    assert "nmae" in failing(tmp_path, "", None, {"nmae": "x"}).message


def test_a_value_where_a_section_belongs(tmp_path: Path) -> None:
    error = failing(tmp_path, "gateway = 5\n", {"BACKENDAI_GATEWAY_LISTEN": "x"})
    assert error.message.startswith(f"{tmp_path}/config.toml:1: ")
    assert error.detail == {"key": "gateway"}


def test_a_missing_required_key(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("\n")
    with pytest.raises(ConfigError) as caught:
        load(Strict, path, environ={})
    assert str(path) in caught.value.message
    assert "home-dir" in caught.value.message
    with pytest.raises(ConfigError, match="home-dir"):
        load(Strict, None, environ={})


def test_no_file_no_toml_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load(Config, tmp_path / "absent.toml", environ={})
    assert "no TOML" in failing(tmp_path, "name = \n").message
    path = tmp_path / "binary.toml"
    path.write_bytes(b"name = '\xff'\n")
    with pytest.raises(ConfigError, match="no TOML"):
        load(Config, path, environ={})
