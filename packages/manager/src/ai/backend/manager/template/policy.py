"""What a template must look like, and what session it describes. Pure.

Keys may be snake_case or camelCase; unknown ones are dropped, so that what is stored is what is understood.
"""

import base64
import binascii
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import UUID

from ai.backend.common.errors import InvalidInput
from ai.backend.common.ids import parse_uuid

from ..session.model import SessionDraft, SessionType
from .model import Document, Overlay, Template, TemplateType

BODY_BYTES_MAX = 256 << 10
DOCUMENTS_MAX = 32
NAME_CHARS_MAX = 128
NODES_MAX = 64
KINDS = {
    TemplateType.TASK: frozenset({"taskTemplate", "task_template"}),
    TemplateType.CLUSTER: frozenset({"clusterTemplate", "cluster_template"}),
}
MODES = frozenset({"single-node", "multi-node"})


def documents(kind: TemplateType, found: Sequence[Any], user_id: UUID) -> list[Document]:
    """The templates in what a payload holds: documents, or lists of them, bare or with a name and an owner around. Raises InvalidInput."""
    items = [item for one in found for item in (one if isinstance(one, list) else [one])]
    if not items:
        raise InvalidInput("the payload holds no template", field="payload")
    if len(items) > DOCUMENTS_MAX:
        raise InvalidInput(f"at most {DOCUMENTS_MAX} templates at a time", field="payload")
    return [_document(kind, item, user_id) for item in items]


def _document(kind: TemplateType, item: Any, user_id: UUID) -> Document:
    around = _mapping(item, "payload")
    wrapped = "template" in around
    body = checked(kind, around["template"] if wrapped else around)
    owner = _text(around, "user_uuid", "userUuid") if wrapped else ""
    if owner and parse_uuid(owner) != user_id:
        raise InvalidInput(
            "user_uuid names somebody else", hint="Make it for them with owner_access_key.", field="user_uuid"
        )
    name = (_text(around, "name") if wrapped else "") or body["metadata"]["name"]
    if not name or len(name) > NAME_CHARS_MAX:
        raise InvalidInput(f"a template's name has 1 to {NAME_CHARS_MAX} characters", field="name")
    return Document(name=name, body=body, project=_text(around, "group_id", "groupId") if wrapped else "")


def checked(kind: TemplateType, given: Any) -> dict[str, Any]:
    """The body in its stored form. Raises InvalidInput naming the place."""
    top = _mapping(given, "template")
    version = _text(top, "api_version", "apiVersion")
    if not version:
        raise InvalidInput("a template has an api_version", field="api_version")
    word = _text(top, "kind")
    if word not in KINDS[kind]:
        raise InvalidInput(
            f"kind {word[:40]!r} is not that of a {kind.value} template",
            hint=f"It is {sorted(KINDS[kind])[0]}.",
            field="kind",
        )
    metadata = _mapping(top.get("metadata", {}), "metadata")
    head = {
        "api_version": version,
        "kind": sorted(KINDS[kind])[1],
        "metadata": {"name": _text(metadata, "name"), "tag": _text(metadata, "tag") or None},
    }
    spec = _mapping(top.get("spec"), "spec")
    if kind is TemplateType.TASK:
        return {**head, "spec": _task(spec)}
    mode = _text(top, "mode") or _text(spec, "mode") or "single-node"
    if mode not in MODES:
        raise InvalidInput(f"mode is one of {', '.join(sorted(MODES))}", field="mode")
    return {**head, "mode": mode, "spec": _cluster(spec)}


def _task(spec: Mapping[str, Any]) -> dict[str, Any]:
    word = (_text(spec, "session_type", "sessionType", "type") or "interactive").lower()
    if word not in set(SessionType):
        raise InvalidInput(f"no session type {word[:40]!r}", field="spec.session_type")
    kernel = _mapping(spec.get("kernel"), "spec.kernel")
    image = _text(kernel, "image")
    if not image:
        raise InvalidInput("a template's kernel has an image", field="spec.kernel.image")
    run = _mapping(kernel.get("run") or {}, "spec.kernel.run")
    made: dict[str, Any] = {
        "image": image,
        "architecture": _text(kernel, "architecture", "arch") or "x86_64",
        "environ": _texts(kernel.get("environ"), "spec.kernel.environ"),
        "run": {
            "bootstrap": _text(run, "bootstrap") or None,
            "startup_command": _text(run, "startup_command", "startupCommand", "startup") or None,
        },
    }
    if kernel.get("git"):
        made["git"] = _git(_mapping(kernel["git"], "spec.kernel.git"))
    agents = _first(spec, "agent_list", "agentList")
    if agents is not None and not isinstance(agents, list):
        raise InvalidInput("agent_list is a list", field="spec.agent_list")
    return {
        "session_type": word,
        "kernel": made,
        "scaling_group": _text(spec, "scaling_group", "scalingGroup", "resource_group", "resourceGroup")
        or None,
        "mounts": _texts(spec.get("mounts"), "spec.mounts"),
        "resources": _amounts(spec.get("resources")),
        "agent_list": [str(one) for one in agents or ()],
    }


def _git(git: Mapping[str, Any]) -> dict[str, Any]:
    repository = _text(git, "repository")
    if not repository or repository.startswith("-"):
        raise InvalidInput("git has a repository", field="spec.kernel.git.repository")
    credential = git.get("credential")
    made: dict[str, Any] = {
        "repository": repository,
        "commit": _text(git, "commit") or None,
        "branch": _text(git, "branch") or None,
        "destination_dir": _text(git, "destination_dir", "destinationDir") or None,
        "credential": None,
    }
    if credential:
        known = _mapping(credential, "spec.kernel.git.credential")
        made["credential"] = {"username": _text(known, "username"), "password": _text(known, "password")}
    for key in ("commit", "branch", "destination_dir"):
        if (made[key] or "").startswith("-"):
            raise InvalidInput(f"{key} can't begin with a dash", field=f"spec.kernel.git.{key}")
    return made


def _cluster(spec: Mapping[str, Any]) -> dict[str, Any]:
    given = spec.get("nodes")
    if not isinstance(given, list) or not given or len(given) > NODES_MAX:
        raise InvalidInput(f"nodes is a list of 1 to {NODES_MAX}", field="spec.nodes")
    nodes = [_node(_mapping(one, "spec.nodes")) for one in given]
    mains = [node for node in nodes if node["role"] == "main"]
    if len(mains) != 1 or mains[0]["replicas"] != 1:
        raise InvalidInput("exactly one node has the role main", field="spec.nodes")
    return {
        "environ": _texts(spec.get("environ"), "spec.environ"),
        "mounts": _texts(spec.get("mounts"), "spec.mounts"),
        "nodes": nodes,
    }


def _node(node: Mapping[str, Any]) -> dict[str, Any]:
    role = _text(node, "role", "cluster_role", "clusterRole")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,15}", role):
        raise InvalidInput(f"{role[:40]!r} is no role of a node", field="spec.nodes.role")
    template_id = parse_uuid(_text(node, "session_template", "sessionTemplate"))
    if template_id is None:
        raise InvalidInput("session_template is the id of a template", field="spec.nodes.session_template")
    try:
        replicas = int(node.get("replicas") or 1)
    except (TypeError, ValueError):
        replicas = 0
    if not 1 <= replicas <= NODES_MAX:
        raise InvalidInput(f"replicas is 1 to {NODES_MAX}", field="spec.nodes.replicas")
    return {"role": role, "session_template": str(template_id), "replicas": replicas}


def draft_of(template: Template, over: Overlay) -> SessionDraft:
    """The session that a template and a request describe together. Raises InvalidInput."""
    if template.template_type is not TemplateType.TASK:
        raise InvalidInput("a session is made from a session template", field="template_id")
    spec = template.body["spec"]
    kernel = spec["kernel"]
    mounts = spec["mounts"] if over.mounts is None else over.mounts
    if mounts:
        raise InvalidInput(
            "mounts are not supported by this server", hint="Leave mounts out.", field="config.mounts"
        )
    word = over.session_type or spec["session_type"]
    try:
        session_type = SessionType(word.lower())
    except ValueError:
        known = ", ".join(SessionType)
        raise InvalidInput(f"no session type {word[:40]!r}", hint=f"One of {known}.", field="type") from None
    script = script_of(kernel) if over.bootstrap_script is None else over.bootstrap_script
    git = kernel.get("git")
    if git:
        script = f"{script}\n{clone_command(git)}\n".lstrip("\n")
    optional: dict[str, Any] = {"cluster_size": over.cluster_size, "cluster_mode": over.cluster_mode}
    return SessionDraft(
        name=over.name,
        image=over.image or kernel["image"],
        architecture=kernel["architecture"],
        session_type=session_type,
        domain_name=over.domain_name or template.domain_name,
        project=over.project or str(template.project_id),
        resource_group=over.resource_group or spec["scaling_group"],
        resources=over.resources or spec["resources"],
        environ=over.environ or kernel["environ"],
        tag=over.tag or template.body["metadata"]["tag"],
        startup_command=over.startup_command or kernel["run"]["startup_command"],
        bootstrap_script=script or None,
        agent_list=over.agent_list or tuple(spec["agent_list"]),
        **{key: value for key, value in optional.items() if value is not None},
        **over.rest,
    )


def cluster_draft(cluster: Template, nodes: Mapping[str, Template], over: Overlay) -> SessionDraft:
    """The session that a cluster template and a request describe together. `nodes`: the session templates of its nodes, by id.

    All containers of a session are alike here. So the nodes have to be, but for what the main one runs; others are refused rather than
    made into something else. Raises InvalidInput.
    """
    spec = cluster.body["spec"]
    main, *others = sorted(spec["nodes"], key=lambda node: node["role"] != "main")
    template = nodes[main["session_template"]]
    for node in others:
        if node["role"] != "sub":
            raise InvalidInput(
                f"the role {node['role']!r} can't be given here: containers are main and sub",
                hint="Name the role sub in the cluster template.",
                field="spec.nodes.role",
            )
        differs = _difference(template, nodes[node["session_template"]])
        if differs:
            raise InvalidInput(
                f"the nodes differ in {differs}, and all containers of a session are alike here",
                hint="Use one session template for all nodes, or sessions of their own.",
                field="spec.nodes.session_template",
            )
    filled = replace(
        over,
        domain_name=over.domain_name or cluster.domain_name,
        project=over.project or str(cluster.project_id),
        tag=over.tag or cluster.body["metadata"]["tag"],
        environ={**template.body["spec"]["kernel"]["environ"], **spec["environ"]},
        mounts={**template.body["spec"]["mounts"], **spec["mounts"]},
        cluster_size=sum(node["replicas"] for node in spec["nodes"]),
        cluster_mode=cluster.body["mode"],
    )
    return draft_of(template, filled)


def _difference(one: Template, other: Template) -> str:
    """In what two containers made of these templates would differ; empty: in nothing."""

    def parts(template: Template) -> dict[str, Any]:
        spec = template.body["spec"]
        kernel = spec["kernel"]
        found = {name: kernel[name] for name in ("image", "architecture", "environ")}
        found |= {"git": kernel.get("git"), "bootstrap": kernel["run"]["bootstrap"]}
        return found | {name: spec[name] for name in ("resources", "mounts")}

    mine, theirs = parts(one), parts(other)
    return ", ".join(name for name in mine if mine[name] != theirs[name])


def script_of(kernel: Mapping[str, Any]) -> str:
    """The bootstrap script of a template: base64 as published, or plain text."""
    text: str = kernel["run"]["bootstrap"] or ""
    packed = "".join(text.split())
    try:
        plain = base64.b64decode(packed, validate=True).decode()
    except (binascii.Error, ValueError):
        return text
    return plain if len(packed) >= 4 and all(char.isprintable() or char.isspace() for char in plain) else text


def clone_command(git: Mapping[str, Any]) -> str:
    """Shell text that fetches the repository, at most once: a restarted container finds it there."""
    repository = git["repository"]
    credential = git["credential"]
    if credential and credential["username"]:
        parts = urlsplit(repository)
        login = quote(credential["username"], safe="")
        if credential["password"]:
            login += ":" + quote(credential["password"], safe="")
        host = parts.netloc.rpartition("@")[2]
        repository = urlunsplit(parts._replace(netloc=f"{login}@{host}"))
    stem = urlsplit(git["repository"]).path.rstrip("/").rpartition("/")[2].removesuffix(".git")
    folder = shlex.quote(git["destination_dir"] or stem or "repository")
    branch = f"--branch {shlex.quote(git['branch'])} " if git["branch"] else ""
    clone = f"git clone {branch}-- {shlex.quote(repository)} {folder}"
    if git["commit"]:
        clone += f" && git -C {folder} checkout {shlex.quote(git['commit'])}"
    return f"[ -e {folder}/.git ] || {{ {clone}; }}"


def _first(values: Mapping[str, Any], *names: str) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _text(values: Mapping[str, Any], *names: str) -> str:
    found = _first(values, *names)
    if isinstance(found, dict | list):
        raise InvalidInput(f"{names[0]} is a text", field=names[0])
    return "" if found is None else str(found)


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidInput(f"{place} is an object", field=place)
    return value


def _each(value: Any, place: str, take: Callable[[Any], Any]) -> dict[str, Any]:
    found = _mapping(value or {}, place)
    if any(isinstance(one, dict | list) for one in found.values()):
        raise InvalidInput(f"{place} maps names to texts", field=place)
    return {key: take(one) for key, one in found.items()}


def _texts(value: Any, place: str) -> dict[str, str]:
    return _each(value, place, lambda one: "" if one is None else str(one))


def _amounts(value: Any) -> dict[str, str | int | float]:
    found = _each(value, "spec.resources", lambda one: one)
    return {
        key: one if isinstance(one, int | float) and not isinstance(one, bool) else str(one)
        for key, one in found.items()
        if one is not None
    }
