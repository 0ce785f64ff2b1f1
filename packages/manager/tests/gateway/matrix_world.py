"""The world of the authorisation matrix: two domains, everybody, what the owner has, and names of what does not exist."""

import base64
import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from ai.backend.common.clock import SystemClock
from ai.backend.common.ids import ProjectId
from ai.backend.common.wire.rpc import AgentReport, ImageReport
from ai.backend.manager.access.model import Principal, Role
from ai.backend.manager.account import sshkey
from ai.backend.manager.config import LoginConfig, ManagerConfig
from ai.backend.manager.db import schema as t
from ai.backend.manager.identity.model import UserDraft
from ai.backend.manager.session.model import SessionDraft, SessionType
from ai.backend.manager.template.model import TemplateType

from .inprocess import Answer, Gateway, open_gateway

PASSWORD = "correct horse"
OTHER_PASSWORD = "another horse"
TOKEN = "token-of-the-app-proxy"
PRESET = uuid4()

PEOPLE = (
    "anonymous", "outsider", "boss", "peer", "project admin", "owner", "monitor", "domain admin", "superadmin",
)  # fmt: skip
"""The owner's things are asked for. `outsider` and `boss`, its administrator, are of another domain; `peer` and `project admin` are of the
owner's project."""

TASK = {
    "api_version": "v1", "kind": "task_template", "metadata": {"name": "trainer"},
    "spec": {"session_type": "interactive", "kernel": {"image": "python"}, "resources": {"cpu": "1", "mem": "512m"}},
}  # fmt: skip
NODES_OF = {
    "user": "UserNode", "project": "GroupNode", "domain": "DomainNode", "session": "ComputeSessionNode", "kernel": "KernelNode",
    "agent": "AgentNode", "resource group": "ScalingGroupNode", "image": "ImageNode",
    "registry": "ContainerRegistry",
}  # fmt: skip
"""Of which things there are nodes of Relay, and how their types are called."""
NODES = [{"role": "main", "session_template": "{template}"}]
CLUSTER = {
    "api_version": "v1", "kind": "cluster_template", "metadata": {"name": "pair"}, "mode": "single-node",
    "spec": {"nodes": NODES},
}  # fmt: skip


@dataclass
class World:
    gateway: Gateway
    who: dict[str, Principal]
    things: dict[str, str]
    ghosts: dict[str, str]
    """Names of no things, each of the same form as the thing's."""
    own: dict[str, dict[str, str]]
    """What each person has alike: so a request may be right in all but the one thing that is asked about."""
    cells: Counter[str] = field(default_factory=Counter)

    def filled(self, value: Any, person: str, *, ghost: bool = False) -> Any:
        """A value with names for the words in braces."""
        if isinstance(value, dict):
            return {name: self.filled(inner, person, ghost=ghost) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.filled(inner, person, ghost=ghost) for inner in value]
        if not isinstance(value, str):
            return value
        names = {**self.things, **(self.ghosts if ghost else {}), **self.own[person]}
        for word, name in names.items():
            value = value.replace("{" + word + "}", name)
        return value

    def names_a_thing(self, value: Any) -> bool:
        return any("{" + word + "}" in str(value) for word in self.ghosts)

    def blurred(self, answer: Answer) -> tuple[int, Any]:
        """What an answer says but for the names of what was asked for, times, and the request's own id."""
        text = answer.body.decode() + "\n" + json.dumps(answer.frames)
        # Things of one name (a domain and its project) are one word.
        words = {name: word for word, name in reversed(self.things.items())}
        names = {**words, **{ghost: words[self.things[word]] for word, ghost in self.ghosts.items()}}
        names |= {str(UUID(name)): word for name, word in names.items() if re.fullmatch("[0-9a-f]{32}", name)}
        for name in sorted(names, key=len, reverse=True):
            text = text.replace(name, "{" + names[name] + "}")
        text = re.sub(r'"request_id": ?"[^"]*"', '"request_id":""', text)
        return answer.status, re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+(\+00:00|Z)", "TIME", text)


async def _people(gateway: Gateway) -> dict[str, ProjectId]:
    """Two domains, three projects, and everybody."""
    now = SystemClock().now()
    rng: Any = gateway.identity._rng
    seeded = await gateway.identity.seed(rng, now)
    projects = {name: ProjectId(uuid4()) for name in ("second", "empty", "theirs")}

    def op(conn: sa.Connection) -> None:
        for name in ("other", "hollow"):
            conn.execute(sa.insert(t.domains).values(name=name, created_at=now))
        for name, project_id in projects.items():
            domain_name = "other" if name == "theirs" else "default"
            conn.execute(
                sa.insert(t.projects).values(
                    id=project_id, name=name, domain_name=domain_name, created_at=now
                )
            )
        conn.execute(
            sa.insert(t.keypair_policies),
            [
                {
                    "name": name,
                    "created_at": now,
                    "max_concurrent_sessions": 9,
                    "max_containers_per_session": 1,
                }
                for name in ("generous", "unused")
            ],
        )
        conn.execute(sa.insert(t.user_policies).values(name="for-users", created_at=now))
        conn.execute(sa.insert(t.project_policies).values(name="for-projects", created_at=now))

    await gateway.database.run(op)
    first = seeded.project_id
    gateway.keys["superadmin"] = (seeded.admin.access_key, seeded.admin.secret_key)
    for name, role, domain, member_of in (
        ("outsider", Role.USER, "other", (projects["theirs"],)),
        ("boss", Role.ADMIN, "other", (projects["theirs"],)),
        ("peer", Role.USER, "default", (first, projects["second"])),
        ("project admin", Role.USER, "default", (first, projects["second"])),
        ("owner", Role.USER, "default", (first, projects["second"])),
        ("monitor", Role.MONITOR, "default", (projects["second"],)),
        ("domain admin", Role.ADMIN, "default", (projects["second"],)),
        ("idle", Role.USER, "default", ()),
    ):
        username = name.replace(" ", "-")
        draft = UserDraft(
            email=f"{username}@example.com",
            username=f"the-{username}",
            password=PASSWORD,
            role=role,
            domain_name=domain,
            project_ids=member_of,
        )
        account = await gateway.identity.create_user(draft)
        gateway.keys[name] = (account.access_key, account.secret_key)
    hashed = await gateway.identity.hash_password(PASSWORD)

    def finish(conn: sa.Connection) -> None:
        conn.execute(sa.update(t.users).where(t.users.c.role == "superadmin").values(password_hash=hashed))
        managing = sa.select(t.users.c.id).where(t.users.c.username == "the-project-admin")
        members = t.project_members.c
        conn.execute(sa.update(t.project_members).where(members.user_id.in_(managing)).values(is_admin=True))
        mine = t.keypairs.c.access_key == gateway.keys["owner"][0]
        conn.execute(
            sa.update(t.keypairs).where(mine).values(policy_name="generous", bootstrap_script="echo hello")
        )

    await gateway.database.run(finish)
    gateway.identity.forget()
    return {"first": first, **projects}


async def _nodes(gateway: Gateway) -> None:
    """An agent, an image, a resource group with a secret, a preset, a setting."""
    image = ImageReport(name="local/python:3.11", digest="d", architecture="x86_64", size_bytes=1, labels={})
    report = AgentReport(
        agent_id="agent-one",
        started_at_us=1,
        sequence=1,
        generation=0,
        version="1",
        backend="fake",
        architecture="x86_64",
        address="",
        capacity={"cpu": 16_000, "mem": 64 << 30},
        images=[image],
        kernels=[],
    )
    assert gateway.bus.report is not None
    await gateway.bus.report(report)
    now = SystemClock().now()

    def op(conn: sa.Connection) -> None:
        conn.execute(
            sa.insert(t.resource_groups).values(
                name="special", created_at=now, is_public=True, wsproxy_addr="x", wsproxy_api_token=TOKEN
            )
        )
        conn.execute(
            sa.insert(t.resource_group_domains).values(resource_group="special", domain_name="default")
        )
        conn.execute(
            sa.insert(t.resource_presets).values(
                id=PRESET, name="small", resource_slots={"cpu": 1000}, resource_group=""
            )
        )
        conn.execute(
            sa.insert(t.image_aliases).values(
                alias="a-snake", image_name="local/python:3.11", architecture="x86_64"
            )
        )
        conn.execute(sa.insert(t.settings).values(key="config/secret", value="1"))
        conn.execute(
            sa.insert(t.settings).values(
                key="config/docker/registry/cr.example.com", value="https://cr.example.com"
            )
        )

    await gateway.database.run(op)


async def _things(
    gateway: Gateway, who: dict[str, Principal], projects: dict[str, ProjectId]
) -> dict[str, str]:
    """What the owner has."""
    owner, manager, now = who["owner"], gateway.manager, SystemClock().now()
    made = {}
    for word, name in (("session", "mysess"), ("waiting", "waiting")):
        draft = SessionDraft(
            name=name, image="python", project=str(projects["first"]), enqueue_only=True,
            resources={"cpu": 1, "mem": "256m"}, preopen_ports=(8080,),
        )  # fmt: skip
        created = (await manager.sessions.create(owner, draft)).session
        made[word] = str(created.id)
        made.setdefault("kernel", str(created.main.id))
    batch = replace(draft, name="a-task", session_type=SessionType.BATCH, startup_command="true")
    made["task session"] = str((await manager.sessions.create(owner, batch)).session.id)
    for word, kind, body in (
        ("template", TemplateType.TASK, TASK),
        ("cluster template", TemplateType.CLUSTER, CLUSTER),
    ):
        payload = json.dumps(body).replace("{template}", made.get("template", ""))
        (template,) = await manager.templates.create(
            owner, kind, payload, domain_name="default", project=str(projects["first"])
        )
        made[word] = template.id.hex
    task_id, log_id = uuid4(), uuid4()

    def op(conn: sa.Connection) -> None:
        running = [UUID(made[word]) for word in ("session", "task session")]
        conn.execute(sa.update(t.sessions).where(t.sessions.c.id.in_(running)).values(status="RUNNING"))
        conn.execute(
            sa.update(t.kernels)
            .where(t.kernels.c.session_id.in_(running))
            .values(status="RUNNING", agent_id="agent-one")
        )
        conn.execute(
            sa.insert(t.tasks).values(
                id=task_id, name="x", user_id=owner.user_id, status="done", created_at=now, finished_at=now
            )
        )
        conn.execute(
            sa.insert(t.error_logs).values(
                id=log_id, created_at=now, severity="error", source="x", user_id=owner.user_id, message="x"
            )
        )
        conn.execute(
            sa.insert(t.resource_group_keypairs).values(resource_group="default", access_key=owner.access_key)
        )
        for scope, key in (
            ("user", owner.access_key), ("project", str(projects["first"])), ("domain", "default"),
        ):  # fmt: skip
            conn.execute(
                sa.insert(t.dotfiles).values(
                    scope=scope, owner=key, path=".bashrc", permission="644", data="x"
                )
            )

    await gateway.database.run(op)
    return {
        **made,
        "task": str(task_id),
        "error log": str(log_id),
        "access key": owner.access_key,
        "idle access key": gateway.keys["idle"][0],
        "email": owner.email,
        "idle email": "idle@example.com",
        "user": str(owner.user_id),
        "project": str(projects["first"]),
        "empty project": str(projects["empty"]),
        "project name": "default",
        "domain": "default",
        "empty domain": "hollow",
        "policy": "generous",
        "idle policy": "unused",
        "user policy": "for-users",
        "project policy": "for-projects",
        "resource group": "special",
        "preset": "small",
        "preset id": str(PRESET),
        "kernel": made["kernel"],
        "image": "x86_64:local/python:3.11",
        "registry": "cr.example.com",
        "agent": "agent-one",
        "alias": "a-snake",
        "setting": "config/secret",
        "graphiql file": "page.css",
    }


GHOSTS = {
    "access key": "AKIAZZZZZZZZZZZZZZZZ",
    "idle access key": "AKIAYYYYYYYYYYYYYYYY",
    "email": "ghost@example.com",
    "idle email": "phantom@example.com",
    "template": uuid4().hex,
    "cluster template": uuid4().hex,
}


async def open_world(folder: Path) -> World:
    config = ManagerConfig(login=LoginConfig(signup=True), destroy_wait_s=0.05)
    gateway = await open_gateway(folder, config)
    projects = await _people(gateway)
    await _nodes(gateway)
    who = {name: (await gateway.identity.authenticate(key))[0] for name, (key, _) in gateway.keys.items()}
    things = await _things(gateway, who, projects)
    pair = sshkey.generate()
    own = {}
    for person in PEOPLE:
        other = person in ("outsider", "boss")
        own[person] = {
            "own project": str(projects["theirs" if other else "second"]),
            "own domain": "other" if other else "default",
            "public key": pair.public.replace("\n", "").strip(),
            "private key": pair.private,
            "monitor": str(who["monitor"].user_id),
        }
    own_templates = await _own_templates(gateway, who, projects)
    for person, template_id in own_templates.items():
        own[person]["own template"] = template_id
    ghosts = {
        word: GHOSTS.get(word) or (str(uuid4()) if _is_uuid(name) else f"no-such-{word.replace(' ', '-')}")
        for word, name in things.items()
    }
    for word, kind in NODES_OF.items():
        things[f"{word} node"], ghosts[f"{word} node"] = (
            base64.b64encode(f"{kind}:{name}".encode()).decode() for name in (things[word], ghosts[word])
        )
    gateway.keep()
    return World(gateway, who, things, ghosts, own)


async def _own_templates(
    gateway: Gateway, who: dict[str, Principal], projects: dict[str, ProjectId]
) -> dict[str, str]:
    found = {"anonymous": uuid4().hex}
    for person in PEOPLE[1:]:
        principal = who[person]
        if principal.role is Role.MONITOR:
            found[person] = uuid4().hex
            continue
        project = projects["theirs" if principal.domain_name == "other" else "second"]
        (made,) = await gateway.manager.templates.create(
            principal,
            TemplateType.TASK,
            json.dumps(TASK),
            domain_name=principal.domain_name,
            project=str(project),
        )
        found[person] = made.id.hex
    return found


def _is_uuid(text: str) -> bool:
    return len(text) == 36
