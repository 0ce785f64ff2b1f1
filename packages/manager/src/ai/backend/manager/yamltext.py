"""YAML that strangers send: without tags that make objects, and without aliases, a few lines of which can stand for gigabytes."""

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        return super().compose_node(parent, index)


class _TextLoader(_Loader):
    """Scalars stay texts; an empty one and null are none."""


_TextLoader.yaml_implicit_resolvers = {
    first: [one for one in known if one[0] == "tag:yaml.org,2002:null"]
    for first, known in _Loader.yaml_implicit_resolvers.items()
}


def texts_of(content: bytes | str) -> Any:
    """The document with all scalars as texts. Raises ValueError."""
    return _load(content, _TextLoader)[0]


def documents_of(content: bytes | str) -> list[Any]:
    """All documents, with numbers and truth values as such; JSON is one such. Raises ValueError."""
    return [one for one in _load(content, _Loader) if one is not None]


def _load(content: bytes | str, loader: type[_Loader]) -> list[Any]:
    try:
        return list(yaml.load_all(content, loader)) or [None]
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise ValueError(str(exc)) from exc
