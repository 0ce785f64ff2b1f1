"""What a dotfile may be, and what a session gets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.common.errors import InvalidInput
from ai.backend.manager.dotfile.model import Dotfile, DotfileExists, DotfileNotFound, DotfileRefused, Scope
from ai.backend.manager.dotfile.policy import (
    FILES_MAX,
    PACKED_BYTES_MAX,
    RESERVED,
    check_script,
    merged,
    packed_bytes,
    path_of,
    refuse_change,
    refuse_new,
    within,
)


def dotfile(path=".bashrc", data="x", permission="644"):
    return Dotfile(path=path, permission=permission, data=data)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (".bashrc", ".bashrc"),
        ("./a//b", "a/b"),
        ("/home/work/.vimrc", ".vimrc"),
        (".ssh/config", ".ssh/config"),
        ("..a", "..a"),
    ],
)
def test_paths(text, path):
    assert path_of(text) == path


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "/",
        "/etc/passwd",
        "..",
        "a/../b",
        "../x",
        "a/",
        "/home/work/",
        "/home/work/../x",
        "a\0",
        "a\nb",
        "x" * 256,
    ],
)
def test_what_is_no_path(text):
    with pytest.raises(InvalidInput):
        path_of(text)


@given(st.text(max_size=40))
def test_a_path_stays_below_the_home_folder(text):
    try:
        path = path_of(text)
    except InvalidInput:
        return
    assert not path.startswith("/") and ".." not in path.split("/")
    assert path_of(path) == path


@pytest.mark.parametrize("permission", ["", "6444", "64", "888", "rw-", "0o644", "６44", " 644"])
def test_what_is_no_permission(permission):
    assert isinstance(refuse_new(dotfile(permission=permission), []), InvalidInput)


@pytest.mark.parametrize("path", sorted(RESERVED))
def test_reserved_names(path):
    assert isinstance(refuse_new(dotfile(path), []), DotfileRefused)
    assert refuse_new(dotfile(f"{path}/x"), []) is None


def test_limits():
    assert refuse_new(dotfile(), [dotfile(f"f{n}") for n in range(FILES_MAX - 1)]) is None
    assert isinstance(refuse_new(dotfile(), [dotfile(f"f{n}") for n in range(FILES_MAX)]), DotfileRefused)
    room = (
        PACKED_BYTES_MAX - packed_bytes([dotfile(data="")]) - 2
    )  # a text of that length has a longer header
    assert refuse_new(dotfile(data="x" * room), []) is None
    assert isinstance(refuse_new(dotfile(data="x" * (room + 1)), []), DotfileRefused)
    assert isinstance(refuse_new(dotfile(data="ü" * (room // 2 + 1)), []), DotfileRefused), (
        "bytes, not characters"
    )
    assert isinstance(refuse_new(dotfile(data=""), []), InvalidInput)
    assert isinstance(refuse_new(dotfile(data="a\0"), []), InvalidInput)
    assert check_script("x" * PACKED_BYTES_MAX) is None
    assert check_script("x" * (PACKED_BYTES_MAX + 1)) is not None


def test_duplicates_and_changes():
    assert isinstance(refuse_new(dotfile(), [dotfile()]), DotfileExists)
    assert isinstance(refuse_new(dotfile("a/b"), [dotfile("a")]), DotfileRefused)
    assert isinstance(refuse_new(dotfile("a"), [dotfile("a/b")]), DotfileRefused)
    assert refuse_new(dotfile("ab"), [dotfile("a")]) is None
    assert refuse_change(dotfile(data="y"), [dotfile()]) is None
    assert isinstance(refuse_change(dotfile(), []), DotfileNotFound)
    # What is replaced makes room.
    assert refuse_change(dotfile(data="y" * 60_000), [dotfile(data="x" * 60_000)]) is None


def test_the_nearer_owner_wins():
    files = [
        (Scope.DOMAIN, dotfile("a", "domain")),
        (Scope.PROJECT, dotfile("a", "project")),
        (Scope.USER, dotfile("a", "user")),
        (Scope.DOMAIN, dotfile("b", "domain")),
        (Scope.PROJECT, dotfile("b", "project")),
        (Scope.DOMAIN, dotfile("c", "domain")),
    ]
    for order in (files, files[::-1]):
        assert {f.path: f.data for f in merged(order)} == {"a": "user", "b": "project", "c": "domain"}
    clash = [(Scope.DOMAIN, dotfile("d/e")), (Scope.USER, dotfile("d")), (Scope.PROJECT, dotfile("d/e/f"))]
    assert [f.path for f in merged(clash)] == ["d"]


SCOPED = st.tuples(
    st.sampled_from(list(Scope)),
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(lambda parts: dotfile("/".join(parts))),
)


@given(st.lists(SCOPED))
def test_a_session_can_always_be_given_what_was_merged(files):
    paths = [f.path for f in merged(files)]
    assert len(set(paths)) == len(paths)
    assert not any(within(a, b) for a in paths for b in paths)
    assert all(
        f.path in paths
        for scope, f in files
        if scope is Scope.USER
        and not any(
            within(f.path, g.path) or within(g.path, f.path) for other, g in files if other is Scope.USER
        )
    )
