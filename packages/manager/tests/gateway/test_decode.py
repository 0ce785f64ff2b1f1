"""Tolerant decoding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.common.errors import InvalidInput, MalformedBody
from ai.backend.common.wire.rest import session as wire
from ai.backend.common.wire.rest.resource import MonthUse
from ai.backend.gateway.decode import body_values, convert, parameters, prefers_html, upload_path
from ai.backend.gateway.rest.session import draft_of, statuses_of


def test_one_value_is_a_list_of_one() -> None:
    """Also where the list may be left out altogether."""
    assert parameters(MonthUse, [("month", "202601"), ("group_ids", "a")], b"").group_ids == ["a"]
    assert parameters(MonthUse, [], b'{"month": "202601", "groupIds": "a"}').group_ids == ["a"]
    assert parameters(MonthUse, [("month", "1"), ("group_ids", "a"), ("group_ids", "b")], b"").group_ids == [
        "a",
        "b",
    ]
    assert parameters(MonthUse, [("month", "202601")], b"").group_ids is None


def test_body_wins_over_query_but_the_owner_is_found_in_either() -> None:
    form = parameters(
        wire.ExecuteCode, [("owner_access_key", "AK"), ("mode", "batch")], b'{"mode":"query","code":"1"}'
    )
    assert (form.owner_access_key, form.mode, form.code) == ("AK", "query", "1")
    assert parameters(wire.GetSession, [], b'{"ownerAccessKey":"AK"}').owner_access_key == "AK"


def test_spelling_aliases_nulls_and_unknown_keys() -> None:
    body = b"""{"clientSessionToken":"mysess","lang":"python","sess_type":1,"enqueue_only":"True","reuseIfExists":null,
    "clusterSize":"2","config":{"scalingGroup":"gpu","resource_opts":{"shmem":"64m"},"resources":{"cpu":1,"mem":"1g","x":null},
    "mount_ids":[],"environ":null},"dependencies":null}"""
    form = parameters(wire.CreateSession, [], body)
    draft = draft_of(form)
    assert (draft.name, draft.image, draft.enqueue_only, draft.reuse, draft.cluster_size) == (
        "mysess",
        "python",
        True,
        True,
        2,
    )
    assert (draft.resource_group, draft.resource_opts) == ("gpu", {"shmem": "64m"})
    assert draft.resources == {"cpu": 1, "mem": "1g"}


def test_the_proper_name_wins_over_an_alias() -> None:
    for body in (
        b'{"name":"right","session_name":"wrong","image":"i"}',
        b'{"session_name":"wrong","name":"right","image":"i"}',
    ):
        assert parameters(wire.CreateSession, [], body).name == "right"


def test_all_that_changes_the_meaning_is_understood() -> None:
    given = {
        "name": "mysess", "image": "i", "type": "batch", "startupCommand": "true", "startsAt": "1h", "batch_timeout": "2h",
        "dependencies": ["one"], "callbackURL": "http://x", "clusterMode": "multi-node", "clusterSize": "2",
        "config": {"agentList": ["a1", "a2"]},
    }  # fmt: skip
    draft = draft_of(convert(wire.CreateSession, given))
    assert (draft.starts_at, draft.batch_timeout, draft.dependencies) == ("1h", "2h", ("one",))
    assert (draft.callback_url, draft.cluster_mode, draft.cluster_size) == ("http://x", "multi-node", 2)
    assert draft.agent_list == ("a1", "a2")


def test_what_would_change_the_meaning_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"config\.mounts"):
        draft_of(
            convert(wire.CreateSession, {"name": "mysess", "image": "i", "config": {"mounts": ["data"]}})
        )


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":1}x'])
def test_malformed_bodies(body: bytes) -> None:
    with pytest.raises(MalformedBody, match="Malformed body"):
        body_values(body)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"image": "i"}, "name"),
        ({"name": "mysess", "image": "i", "clusterSize": "many"}, "clusterSize"),
        ({"name": "mysess", "image": "i", "config": {"resources": {"cpu": []}}}, "config.resources[...]"),
    ],
)
def test_the_field_is_named(values: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        convert(wire.CreateSession, values)
    assert caught.value.detail["field"] == field


def test_lists_in_queries() -> None:
    assert parameters(wire.DownloadFiles, [("files", "a"), ("files", "b")], b"").files == ["a", "b"]
    assert parameters(wire.DownloadFiles, [("file", "a")], b"").files == ["a"]
    assert parameters(wire.DestroySession, [("forced", "true")], b"").forced


def test_statuses() -> None:
    assert statuses_of(None) is None
    assert {s.value for s in statuses_of("running, PENDING") or ()} == {"RUNNING", "PENDING"}
    with pytest.raises(InvalidInput, match="SLEEPING"):
        statuses_of("sleeping")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("main.py", "main.py"),
        ("src/./a b.py", "src/a b.py"),
        ("/home/work/x/y", "x/y"),
        ("src%2Fa%20b.py", "src/a b.py"),
        ("100% sure.txt", "100% sure.txt"),
        ("한글.py", "한글.py"),
    ],
)
def test_upload_paths(name: str, path: str) -> None:
    assert upload_path(name) == path


@pytest.mark.parametrize(
    "name",
    [
        "",
        None,
        ".",
        "/",
        "..",
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a\0b",
        "%2e%2e%2fx",
        "dir/",
        "x" * 2000,
        "/home/work/../x",
    ],
)
def test_paths_that_leave_the_home_folder_are_refused(name: str | None) -> None:
    with pytest.raises(InvalidInput):
        upload_path(name)


@given(st.text(max_size=60))
def test_no_upload_path_ever_leaves(name: str) -> None:
    try:
        path = upload_path(name)
    except InvalidInput:
        return
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))


@given(
    st.dictionaries(
        st.sampled_from(["name", "image", "config", "tag", "clusterSize", "x"]),
        st.none()
        | st.text()
        | st.integers()
        | st.lists(st.integers())
        | st.dictionaries(st.text(), st.text()),
    )
)
def test_conversion_raises_nothing_else(values: dict[str, object]) -> None:
    try:
        convert(wire.CreateSession, values)
    except InvalidInput as refusal:
        assert refusal.message


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", True),
        ("application/json, text/html;q=0.5", False),
        ("text/html;q=0", False),
        ("text/html;q=x,;;,", True),
    ],
)
def test_who_gets_a_page(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


def test_a_yaml_body_has_texts() -> None:
    body = b"name: mysess\nimage: python:3.11\nenqueueOnly: true\ntag:\nconfig:\n  resources: {cpu: 1, mem: 1g}\n"
    draft = draft_of(parameters(wire.CreateSession, [("group", "g")], body, is_yaml=True))
    assert (draft.name, draft.enqueue_only, draft.tag, draft.project) == ("mysess", True, None, "g")
    assert draft.resources == {"cpu": "1", "mem": "1g"}


@pytest.mark.parametrize(
    "body", [b"a: [", b"- 1", b"x", b"a: &x 1\nb: *x", b"!!python/object/apply:os.getcwd []", b"[" * 5000]
)
def test_malformed_yaml_bodies(body: bytes) -> None:
    with pytest.raises(MalformedBody, match="Malformed body"):
        body_values(body, is_yaml=True)
