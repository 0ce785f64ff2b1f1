"""Templates: what is accepted, how it is kept, and what session it describes."""

import base64
import subprocess
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from ai.backend.common.errors import InvalidInput
from ai.backend.common.ids import ProjectId, UserId
from ai.backend.manager.session.model import SessionType
from ai.backend.manager.template.model import Overlay, Template, TemplateType
from ai.backend.manager.template.policy import checked, clone_command, documents, draft_of
from ai.backend.manager.yamltext import documents_of

USER = UserId(UUID(int=1))
TASK = """
apiVersion: v1
kind: taskTemplate
metadata: {name: trainer, tag: nightly}
spec:
  sessionType: batch
  kernel:
    image: python:3.11
    environ: {A: 1, B: two}
    run: {bootstrap: "pip list", startupCommand: python train.py}
  scalingGroup: default
  resources: {cpu: 2, mem: 1g}
"""


def task(text: str = TASK) -> dict[str, Any]:
    (one,) = documents(TemplateType.TASK, documents_of(text), USER)
    return one.body


def template(body: dict[str, Any]) -> Template:
    return Template(
        id=UUID(int=5),
        template_type=TemplateType.TASK,
        name="trainer",
        body=body,
        domain_name="default",
        project_id=ProjectId(UUID(int=7)),
        user_id=USER,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_one_spelling_is_kept() -> None:
    body = task()
    assert body["metadata"] == {"name": "trainer", "tag": "nightly"} and body["kind"] == "task_template"
    assert body["spec"]["session_type"] == "batch" and body["spec"]["scaling_group"] == "default"
    assert body["spec"]["kernel"]["run"] == {"bootstrap": "pip list", "startup_command": "python train.py"}
    assert body["spec"]["kernel"]["environ"] == {"A": "1", "B": "two"}
    assert checked(TemplateType.TASK, body) == body, "what is kept is accepted again"


def test_payloads_of_several_kinds() -> None:
    two = documents(TemplateType.TASK, documents_of(TASK + "---" + TASK), USER)
    assert [one.name for one in two] == ["trainer", "trainer"]
    wrapped = [{"name": "mine", "group_id": "research", "template": documents_of(TASK)[0]}]
    (one,) = documents(TemplateType.TASK, [wrapped], USER)
    assert (one.name, one.project) == ("mine", "research")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("apiVersion: v1", ""), "api_version"),
        (("taskTemplate", "clusterTemplate"), "kind"),
        (("name: trainer, ", ""), "name"),
        (("sessionType: batch", "sessionType: endless"), "session type"),
        (("    image: python:3.11\n", ""), "image"),
        (("environ: {A: 1, B: two}", "environ: [A]"), "object"),
        (("{cpu: 2, mem: 1g}", "{cpu: [2]}"), "texts"),
    ],
)
def test_what_is_wrong_is_named(change: tuple[str, str], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        task(TASK.replace(*change))


@pytest.mark.parametrize("found", [[], ["x"], [[1]], [{"name": "x", "template": 3}], [{}] * 33])
def test_what_is_no_template(found: list[Any]) -> None:
    with pytest.raises(InvalidInput):
        documents(TemplateType.TASK, found, USER)


def test_somebody_elses_owner_is_refused() -> None:
    with pytest.raises(InvalidInput, match="somebody else"):
        documents(
            TemplateType.TASK, [{"user_uuid": str(UUID(int=9)), "template": documents_of(TASK)[0]}], USER
        )


NODES = [
    {"role": "main", "session_template": str(UUID(int=5))},
    {"role": "sub", "sessionTemplate": UUID(int=6).hex, "replicas": "2"},
]


def cluster(nodes: Any, **more: Any) -> dict[str, Any]:
    given = {
        "api_version": "v1",
        "kind": "cluster_template",
        "metadata": {"name": "c"},
        "spec": {"nodes": nodes},
    }
    return checked(TemplateType.CLUSTER, given | more)


def test_a_cluster_has_exactly_one_main_node() -> None:
    body = cluster(NODES, mode="multi-node")
    assert body["mode"] == "multi-node" and [node["replicas"] for node in body["spec"]["nodes"]] == [1, 2]
    assert checked(TemplateType.CLUSTER, body) == body
    bad: list[Any] = [
        None,
        [],
        NODES[1:],
        [NODES[0], NODES[0]],
        [NODES[0] | {"replicas": 2}],
        [NODES[0], {"role": "sub", "session_template": "x"}],
        [NODES[0], NODES[1] | {"replicas": "many"}],
        [NODES[0], NODES[1] | {"role": "No Role"}],
    ]
    for nodes in bad:
        with pytest.raises(InvalidInput):
            cluster(nodes)


def test_the_template_decides_what_the_request_does_not() -> None:
    draft = draft_of(template(task()), Overlay(name="mysess"))
    assert (draft.name, draft.image, draft.session_type, draft.tag) == (
        "mysess", "python:3.11", SessionType.BATCH, "nightly",
    )  # fmt: skip
    assert (draft.startup_command, draft.bootstrap_script) == ("python train.py", "pip list")
    assert draft.resources == {"cpu": 2, "mem": "1g"} and draft.resource_group == "default"
    assert draft.project == str(UUID(int=7)) and draft.cluster_size == 1


def test_the_request_replaces() -> None:
    over = Overlay(
        name="mysess",
        image="ruby",
        session_type="interactive",
        environ={"C": "3"},
        bootstrap_script="",
        cluster_size=2,
        rest={"enqueue_only": True},
    )
    draft = draft_of(template(task()), over)
    assert (draft.image, draft.session_type, draft.environ) == ("ruby", SessionType.INTERACTIVE, {"C": "3"})
    assert (draft.bootstrap_script, draft.cluster_size, draft.enqueue_only) == (None, 2, True)


def test_a_bootstrap_script_in_base64() -> None:
    packed = base64.b64encode(b"#!/bin/sh\necho hello\n").decode()
    draft = draft_of(template(task(TASK.replace('"pip list"', packed))), Overlay(name="mysess"))
    assert draft.bootstrap_script == "#!/bin/sh\necho hello\n"


def test_a_repository_is_cloned_by_the_bootstrap_script() -> None:
    git = "    git: {repository: 'https://example.com/a/repo.git', branch: main, commit: abc, "
    git += "credential: {username: 'u@x', password: \"p'w\"}}\n"
    body = task(TASK.replace("    environ:", git + "    environ:"))
    draft = draft_of(template(body), Overlay(name="mysess"))
    script = draft.bootstrap_script or ""
    assert script.startswith("pip list\n[ -e repo/.git ] || { git clone --branch main -- ")
    assert "https://u%40x:p%27w@example.com/a/repo.git" in script and "git -C repo checkout abc" in script
    assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("nasty", ["$(touch x)", "a; rm -rf b", "`id`", "two words", "q'uote"])
def test_nothing_in_a_repository_is_a_command(nasty: str) -> None:
    git = {
        "repository": f"/r/{nasty}",
        "commit": nasty,
        "branch": nasty,
        "destination_dir": nasty,
        "credential": None,
    }
    words = subprocess.run(
        ["sh", "-c", f"git() {{ for w in \"$@\"; do echo \"<$w>\"; done; }}\n{clone_command(git)}"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert words == [
        *("<clone>", "<--branch>", f"<{nasty}>", "<-->", f"</r/{nasty}>", f"<{nasty}>"),
        *("<-C>", f"<{nasty}>", "<checkout>", f"<{nasty}>"),
    ]
