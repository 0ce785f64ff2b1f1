"""Who may do what: every route and every root of GraphQL, by every kind of person, and what each of them learns by trying.

The tables below say it in words; the requests are real and signed. A route or a root that has no line fails, so that nobody can add one
without deciding. Wherever somebody gets nothing, the same is asked of a thing that does not exist: both answers must be the same.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import pytest_asyncio
import sqlalchemy as sa
from graphql import (
    GraphQLField,
    GraphQLObjectType,
    get_named_type,
    is_interface_type,
    is_leaf_type,
    is_object_type,
    is_required_argument,
)

from ai.backend.common.wire import rpc
from ai.backend.common.wire.rest.form import OwnedForm
from ai.backend.gateway.app import ROUTES
from ai.backend.gateway.graphql.route import schema
from ai.backend.gateway.openapi import operation_of
from ai.backend.manager.db import schema as t

from .inprocess import Answer, without
from .matrix_world import (
    CLUSTER,
    NODES,
    OTHER_PASSWORD,
    PASSWORD,
    PEOPLE,
    TASK,
    TOKEN,
    World,
    open_world,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCESS = {
    # A: allowed. R: refused, H: told that there is no such thing, E: told of nothing; whether it exists makes no difference in these three.
    # S: refused, N: told of nothing; but what was named may be looked at, so its existence is no secret.
    "public":                       "A A A A A A A A A",
    "off":                          "H H H H H H H H H",
    "anybody who is known":         "R A A A A A A A A",
    "superadmin":                   "R R R R R R R R A",
    "any administrator":            "R R A R R R R A A",
    "who sees everything":          "R R R R R R A R A",
    "nothing there yet":            "R E E E E E E E E",
    "nothing there yet, for all":   "R R R R R R E R E",
    "see":                          "R H H H H A A A A",
    "see, else null":               "R E E E E A A A A",
    "see the session":              "R H H H A A A A A",
    "see the session, else null":   "R E E E A A A A A",
    "use":                          "R H H H H A S A A",
    "use the session":              "R H H H S A S A A",
    "end":                          "R H H H A A S A A",
    "see the member":               "R E E E A A A A A",
    "see, among members":           "R E E N N A A A A",
    "see the members":              "R E E N A A A A A",
    "own list":                     "R E E E E A E E E",
    "own policies":                 "R E E E E A A E A",
    "watch own":                    "R H H H H A H H H",
    "clear":                        "R H H H H A H A A",
    "oneself":                      "R R R R R A R R R",
    "oneself or administrator":     "R R H R R A R A A",
    "member, or administrator":     "R H H A A A H A A",
    "of the project":               "R E E A A A A A A",
    "see the project":              "R H H A A A A A A",
    "create in the project":        "R H H A A A R A A",
    "administer the project":       "R R H R S R R A A",
    "manage the project":           "R R H R A R R A A",
    "use of the project":           "R R R R A R A R A",
    "shared by the project":        "R H H S A S H A A",
    "of the domain":                "R E E A A A A A A",
    "see the domain":               "R H H A A A A A A",
    "shared by the domain":         "R H H S S S S A A",
    "depend on":                    "R H H H H A R A A",
    "depend on the session":        "R H H H A A R A A",
    "make a project":               "R R R R R R R A A",
}  # fmt: skip
FOUND = {"S": "R", "N": "E"}
"""What the last two look like in an answer."""
ACTING = "R R R R R o R o o"
"""With `owner_access_key`: who may be somebody else. `o` stands for what the owner gets."""


@dataclass(frozen=True)
class Line:
    """One request. Words in braces stand for things of the owner, or for names of none.

    `ok`: the error code by which an allowed call is known that goes no further (an agent that does not answer); without it, success.
    `shows`: what must be in an answer, else there was nothing to see.
    """

    method: str
    path: str
    access: str
    body: Any = None
    ok: str = ""
    shows: str = ""
    tells_secret: bool = False
    upload: bool = False

    @property
    def key(self) -> str:
        path = self.path.partition("?")[0]
        return f"{self.method} " + re.sub(r"{(session|waiting|resource group)}", "{name}", path)


AGENT, NOT_SERVED = "agent.unreachable", "service.not-implemented"
DOTFILE = {"path": ".vimrc", "permission": "644", "data": "x"}
OF_PROJECT = DOTFILE | {"group": "{project}"}
OF_DOMAIN = DOTFILE | {"domain": "{domain}"}
LOGIN = {"username": "{email}", "password": PASSWORD}
EXPIRED = {"username": "{email}", "current_password": PASSWORD, "new_password": OTHER_PASSWORD}
CREATE = {"name": "another", "image": "python", "enqueueOnly": True, "group": "{project}"}
ERROR = {"severity": "error", "message": "it broke"}

REST = (
    Line("GET", "/", "public"),
    Line("GET", "/openapi.json", "public"),
    Line("GET", "/health", "public"),
    Line("GET", "/config/resource-slots", "public"),
    Line("GET", "/config/resource-slots/details", "public"),
    Line("GET", "/config/vfolder-types", "public"),
    Line("GET", "/folders/_/hosts", "anybody who is known"),
    Line("GET", "/folders/_/hosts?group_id={project}", "see the project"),
    Line("GET", "/folders/_/all_hosts", "superadmin"),
    Line("GET", "/folders/_/all-hosts", "superadmin"),
    Line("GET", "/folders/_/allowed_types", "anybody who is known"),
    Line("GET", "/folders/_/allowed-types", "anybody who is known"),
    Line("GET", "/manager/announcement", "public"),
    Line("GET", "/manager/status", "public"),
    Line("GET", "/ping", "public"),
    Line("GET", "/agents", "who sees everything"),
    Line("GET", "/images", "anybody who is known"),
    # Logging in, and one's own account.
    Line("GET", "/auth", "anybody who is known", {"echo": "x"}),
    Line("GET", "/auth/test", "anybody who is known", {"echo": "x"}),
    Line("POST", "/auth", "anybody who is known", {"echo": "x"}),
    Line("POST", "/auth/test", "anybody who is known", {"echo": "x"}),
    Line("POST", "/auth/authorize", "public", LOGIN | {"type": "keypair", "domain": "{domain}"}, tells_secret=True),
    Line("POST", "/auth/signup", "public", {"email": "new@example.com", "password": PASSWORD}),
    Line("POST", "/auth/signout", "oneself", {"email": "{email}", "password": PASSWORD}),
    Line("POST", "/auth/update-password", "anybody who is known",
         {"old_password": PASSWORD, "new_password": OTHER_PASSWORD, "new_password2": OTHER_PASSWORD}),
    Line("POST", "/auth/update-password-no-auth", "public", EXPIRED, ok="request.invalid"),
    Line("POST", "/auth/update-full-name", "oneself", {"email": "{email}", "full_name": "New"}),
    Line("GET", "/auth/role", "anybody who is known"),
    Line("GET", "/auth/role?group={project}", "member, or administrator"),
    Line("GET", "/auth/ssh-keypair", "anybody who is known"),
    Line("PATCH", "/auth/ssh-keypair", "anybody who is known"),
    Line("POST", "/auth/ssh-keypair", "anybody who is known", {"pubkey": "{public key}", "privkey": "{private key}"}),
    Line("GET", "/acl", "anybody who is known"),
    Line("POST", "/server/login", "public", LOGIN),
    Line("POST", "/server/token-login", "public", {"sToken": "x"}),
    Line("POST", "/server/login-check", "public"),
    Line("POST", "/server/logout", "public"),
    Line("POST", "/server/update-password-no-auth", "public", EXPIRED),
    Line("POST", "/totp", "anybody who is known"),
    Line("POST", "/totp/verify", "anybody who is known", {"otp": "000000"}, ok="request.invalid"),
    Line("DELETE", "/totp", "anybody who is known"),
    Line("DELETE", "/totp?email={email}", "oneself or administrator"),
    Line("GET", "/openid/login", "off"),
    Line("GET", "/openid/callback", "off"),
    # What administrators do.
    Line("POST", "/manager/announcement", "superadmin", {"enabled": True, "message": "Hello"}),
    Line("PUT", "/manager/status", "superadmin", {"status": "frozen"}),
    Line("POST", "/manager/scheduler/operation", "superadmin", {"op": "exclude-agents", "args": ["{agent}"]}),
    Line("POST", "/manager/scheduler/trigger", "superadmin", {"event": "schedule"}),
    Line("GET", "/manager/scheduler/status", "superadmin"),
    Line("POST", "/config/get", "superadmin", {"key": "{setting}"}),
    Line("POST", "/config/set", "superadmin", {"key": "{setting}", "value": "2"}),
    Line("POST", "/config/delete", "superadmin", {"key": "{setting}"}),
    Line("GET", "/config/docker-registries", "superadmin"),
    Line("GET", "/resource/container-registries", "superadmin"),
    Line("GET", "/logs/error", "see, else null", shows="{error log}"),
    Line("POST", "/logs/error", "anybody who is known", ERROR),
    Line("POST", "/logs/error/{error log}/clear", "clear"),
    Line("GET", "/audit-logs", "superadmin"),
    # Resources.
    Line("GET", "/scaling-groups?group={project}", "see the project"),
    Line("GET", "/scaling-groups/{resource group}/wsproxy-version?group={project}", "see the project"),
    Line("GET", "/resource/presets", "anybody who is known"),
    Line("POST", "/resource/check-presets", "see the project", {"group": "{project}"}),
    Line("POST", "/resource/recalculate-usage", "superadmin"),
    Line("GET", "/resource/usage/month?month=202601", "use of the project"),
    Line("GET", "/resource/usage/month?month=202601&group_ids={project}", "use of the project"),
    Line("GET", "/resource/usage/month", "use of the project", {"month": "202601", "group_ids": ["{project}"]}),
    Line("GET", "/resource/usage/period?start_date=20260101&end_date=20260102", "use of the project"),
    Line("GET", "/resource/usage/period?start_date=20260101&end_date=20260102&group_id={project}", "use of the project"),
    Line("GET", "/resource/stats/user/month", "anybody who is known"),
    Line("GET", "/resource/stats/admin/month", "who sees everything"),
    Line("GET", "/resource/watcher?agent_id={agent}", "superadmin", ok=NOT_SERVED),
    Line("POST", "/resource/watcher/agent/start", "superadmin", {"agent_id": "{agent}"}, ok=NOT_SERVED),
    Line("POST", "/resource/watcher/agent/stop", "superadmin", {"agent_id": "{agent}"}, ok=NOT_SERVED),
    Line("POST", "/resource/watcher/agent/restart", "superadmin", {"agent_id": "{agent}"}, ok=NOT_SERVED),
    Line("POST", "/session/_/sync-agent-registry", "superadmin", {"agent": "{agent}"}),
    Line("GET", "/image/import", "anybody who is known", ok=NOT_SERVED),
    Line("POST", "/image/import", "anybody who is known", ok=NOT_SERVED),
    # Dotfiles.
    Line("GET", "/user-config/dotfiles", "own list", shows=".bashrc"),
    Line("POST", "/user-config/dotfiles", "anybody who is known", DOTFILE),
    Line("PATCH", "/user-config/dotfiles", "watch own", DOTFILE | {"path": ".bashrc"}),
    Line("DELETE", "/user-config/dotfiles?path=.bashrc", "watch own"),
    Line("GET", "/group-config/dotfiles?group={project}", "member, or administrator"),
    Line("POST", "/group-config/dotfiles", "shared by the project", OF_PROJECT),
    Line("PATCH", "/group-config/dotfiles", "shared by the project", OF_PROJECT | {"path": ".bashrc"}),
    Line("DELETE", "/group-config/dotfiles?group={project}&path=.bashrc", "shared by the project"),
    Line("GET", "/domain-config/dotfiles?domain={domain}", "see the domain"),
    Line("POST", "/domain-config/dotfiles", "shared by the domain", OF_DOMAIN),
    Line("PATCH", "/domain-config/dotfiles", "shared by the domain", OF_DOMAIN | {"path": ".bashrc"}),
    Line("DELETE", "/domain-config/dotfiles?domain={domain}&path=.bashrc", "shared by the domain"),
    Line("GET", "/user-config/bootstrap-script", "own list", shows="echo hello"),
    Line("POST", "/user-config/bootstrap-script", "anybody who is known", {"script": "true"}),
    # Sessions.
    Line("POST", "/session", "create in the project", CREATE),
    Line("POST", "/session", "depend on the session", CREATE | {"group": "{own project}", "domain": "{own domain}",
         "dependencies": ["{session}"], "type": "batch", "startupCommand": "true"}),
    Line("GET", "/session", "see the session, else null", shows="{session}"),
    Line("GET", "/session/_/match?id=my", "own list", shows="{session}"),
    Line("GET", "/session/_/match?id={session}", "own list", shows="mysess"),
    Line("GET", "/session/{session}", "see the session"),
    Line("PATCH", "/session/{waiting}", "end", ok="session.invalid-state"),
    Line("DELETE", "/session/{waiting}", "end"),
    Line("DELETE", "/session/{waiting}?recursive=1&forced=1", "end"),
    Line("POST", "/session/{session}/rename", "use the session", {"name": "renamed"}),
    Line("GET", "/session/{session}/status-history", "see the session"),
    Line("GET", "/session/{session}/dependency-graph", "see the session"),
    Line("GET", "/session/{session}/abusing-report", "see the session"),
    Line("GET", "/session/{session}/commit", "see the session"),
    Line("POST", "/session/{session}/commit", "use the session", ok=AGENT),
    Line("POST", "/session/{session}/imagify", "use the session", {"image_name": "mine"}, ok=AGENT),
    Line("POST", "/session/{session}", "use the session", {"mode": "query", "code": "1"}, ok=AGENT),
    Line("POST", "/session/{session}", "use the session", {"mode": "complete", "code": "1"}, ok=AGENT),
    Line("POST", "/session/{session}/interrupt", "end", ok=AGENT),
    Line("POST", "/session/{session}/complete", "use the session", {"code": "1", "options": {}}, ok=AGENT),
    Line("GET", "/session/{session}/logs", "use the session", ok=AGENT),
    Line("GET", "/session/_/logs?taskId={task session}", "use the session", ok=AGENT),
    Line("POST", "/session/{session}/start-service", "use the session", {"app": "8080"}, ok="coordinator.none"),
    Line("POST", "/session/{session}/shutdown-service", "use the session", {"service_name": "8080"}),
    Line("GET", "/session/{session}/direct-access-info", "see the session"),
    Line("POST", "/session/{session}/upload", "use the session", ok=AGENT, upload=True),
    Line("GET", "/session/{session}/download?files=a", "use the session", ok=AGENT),
    Line("POST", "/session/{session}/download", "use the session", {"files": ["a"]}, ok=AGENT),
    Line("GET", "/session/{session}/download_single?file=a", "use the session", ok=AGENT),
    Line("GET", "/session/{session}/files", "use the session", ok=AGENT),
    Line("GET", "/events/session", "anybody who is known"),
    Line("GET", "/events/session?sessionId={session}", "see the session"),
    Line("GET", "/events/background-task?task_id={task}", "watch own"),
    Line("WS", "/stream/session/{session}/execute", "use the session", {"mode": "query", "code": "1"}, ok=AGENT),
    Line("GET", "/stream/session/{session}/apps", "use the session"),
    Line("WS", "/stream/session/{session}/tcpproxy?app=8080", "use the session", ok=AGENT),
    Line("WS", "/stream/session/{session}/httpproxy?app=8080", "use the session", ok=AGENT),
    Line("WS", "/stream/session/{session}/pty", "use the session", ok=AGENT),
    # Templates.
    Line("POST", "/template/session", "create in the project", {"payload": TASK, "group": "{project}"}),
    Line("POST", "/template/cluster", "create in the project",
         {"payload": CLUSTER | {"spec": {"nodes": [NODES[0] | {"session_template": "{own template}"}]}}, "group": "{project}"}),
    Line("POST", "/template/cluster", "depend on", {"payload": CLUSTER, "group": "{own project}", "domain": "{own domain}"}),
    Line("GET", "/template/session", "own list", shows="{template}"),
    Line("GET", "/template/session?all=1", "see, else null", shows="{template}"),
    Line("GET", "/template/cluster?all=1", "see, else null", shows="{cluster template}"),
    Line("GET", "/template/session/{template}", "see"),
    Line("GET", "/template/cluster/{cluster template}", "see"),
    Line("PUT", "/template/session/{template}", "use", {"payload": TASK}),
    Line("PUT", "/template/cluster/{cluster template}", "use",
         {"payload": CLUSTER | {"spec": {"nodes": [NODES[0] | {"session_template": "{own template}"}]}}}),
    Line("DELETE", "/template/session/{template}", "use"),
    Line("DELETE", "/template/cluster/{cluster template}", "use"),
    Line("POST", "/session/_/create-from-template", "use",
         {"template_id": "{template}", "name": "made", "group": "{own project}", "domain": "{own domain}", "enqueueOnly": True}),
    Line("POST", "/session/_/create-cluster", "use",
         {"template_id": "{cluster template}", "name": "made", "group": "{own project}", "domain": "{own domain}", "enqueueOnly": True}),
    # GraphQL has tables of its own below.
    Line("POST", "/admin/gql", "anybody who is known", {"query": "{ __typename }"}),
    Line("POST", "/admin/graphql", "anybody who is known", {"query": "{ __typename }"}),
    Line("GET", "/admin/schema.graphql", "anybody who is known"),
    Line("GET", "/admin/graphiql", "any administrator"),
    Line("GET", "/admin/graphiql/{graphiql file}", "public"),
)  # fmt: skip


@dataclass(frozen=True)
class Root:
    """One root of GraphQL, asked with all that it has. `shows` as above."""

    name: str
    access: str
    args: dict[str, Any] = field(default_factory=dict)
    shows: str = ""


PAGE = {"limit": 100, "offset": 0}
ROOTS = (
    Root("compute_session", "see the session, else null", {"id": "{session}"}),
    Root("compute_session_list", "see the session, else null", PAGE, "{session}"),
    Root("compute_session_list", "see the session, else null", PAGE | {"access_key": "{access key}"}, "{session}"),
    Root("compute_session_list", "see the session, else null", PAGE | {"group_id": "{project}"}, "{session}"),
    Root("compute_session_list", "see the session, else null", PAGE | {"filter": 'id == "{session}"'}, "mysess"),
    Root("compute_session_list", "see the session, else null", PAGE | {"filter": 'user_email == "{email}"'}, "{session}"),
    Root("compute_container_list", "see the session, else null", PAGE | {"session_id": "{session}"}, "{session}"),
    Root("keypair", "see, else null", {"access_key": "{access key}"}),
    Root("keypair", "anybody who is known"),
    Root("keypairs", "see, else null", {}, "{access key}"),
    Root("keypairs", "see, else null", {"email": "{email}"}, "{access key}"),
    Root("keypairs", "see, among members", {"domain_name": "{domain}"}, "{access key}"),
    Root("keypair_list", "see, else null", PAGE, "{access key}"),
    Root("keypair_list", "see, else null", PAGE | {"filter": 'access_key == "{access key}"'}, "{email}"),
    Root("user", "see the member", {"email": "{email}"}),
    Root("user", "anybody who is known"),
    Root("user_from_uuid", "see the member", {"user_id": "{user}"}),
    Root("users", "see the member", {}, "{user}"),
    Root("users", "see the members", {"group_id": "{project}"}, "{user}"),
    Root("user_list", "see the member", PAGE, "{user}"),
    Root("user_list", "see the member", PAGE | {"filter": 'email == "{email}"'}, "{user}"),
    Root("domains", "who sees everything"),
    Root("domain", "of the domain", {"name": "{domain}"}),
    Root("groups", "of the project", {}, "{project}"),
    Root("groups", "of the project", {"domain_name": "{domain}"}, "{project}"),
    Root("group", "of the project", {"id": "{project}"}),
    Root("groups_by_name", "of the project", {"name": "{project name}"}, "{project}"),
    Root("keypair_resource_policy", "own policies", {"name": "{policy}"}),
    Root("keypair_resource_policies", "own policies", {}, "{policy}"),
    Root("user_resource_policy", "who sees everything", {"name": "{user policy}"}),
    Root("user_resource_policies", "who sees everything"),
    Root("project_resource_policy", "who sees everything", {"name": "{project policy}"}),
    Root("project_resource_policies", "who sees everything"),
    Root("scaling_group", "who sees everything", {"name": "{resource group}"}),
    Root("scaling_groups", "who sees everything"),
    Root("scaling_groups_for_domain", "see the domain", {"domain": "{domain}"}),
    Root("scaling_groups_for_user_group", "see the project", {"user_group": "{project}"}),
    Root("resource_presets", "anybody who is known"),
    Root("resource_preset", "anybody who is known", {"name": "{preset}"}),
    Root("agent", "who sees everything", {"agent_id": "{agent}"}),
    Root("agents", "who sees everything"),
    Root("agent_list", "who sees everything", PAGE),
    Root("images", "anybody who is known"),
    Root("image", "anybody who is known", {"reference": "local/python:3.11"}),
    Root("vfolder_list", "nothing there yet", PAGE),
    Root("vfolder_own_list", "nothing there yet", PAGE),
    Root("vfolder_invited_list", "nothing there yet", PAGE),
    Root("vfolder_project_list", "nothing there yet", PAGE),
    Root("vfolder_host_permissions", "anybody who is known"),
    Root("storage_volume", "nothing there yet, for all", {"id": "x"}),
    Root("storage_volume_list", "nothing there yet, for all", PAGE),
    Root("endpoint", "nothing there yet", {"endpoint_id": "{session}"}),
    Root("endpoint_list", "nothing there yet", PAGE),
    Root("compute_container", "see the session, else null", {"id": "{kernel}"}),
    Root("legacy_compute_session", "see the session, else null", {"sess_id": "{session}"}),
    Root("legacy_compute_session", "see the session, else null", {"sess_id": "mysess"}, "{session}"),
    Root("legacy_compute_session_list", "see the session, else null", PAGE, "{session}"),
    Root("legacy_compute_session_list", "see the session, else null", PAGE | {"access_key": "{access key}"}, "{session}"),
    Root("agent_summary", "who sees everything", {"agent_id": "{agent}"}),
    Root("agent_summary_list", "who sees everything", PAGE),
    Root("scaling_groups_for_keypair", "see", {"access_key": "{access key}"}),
    Root("resource_preset_by_id", "anybody who is known", {"id": "{preset id}"}),
    Root("container_registries", "superadmin"),
    Root("container_registry", "superadmin", {"hostname": "{registry}"}),
    # Nodes of Relay.
    Root("node", "see the member", {"id": "{user node}"}),
    Root("node", "of the project", {"id": "{project node}"}),
    Root("node", "of the domain", {"id": "{domain node}"}),
    Root("node", "see the session, else null", {"id": "{session node}"}),
    Root("node", "see the session, else null", {"id": "{kernel node}"}),
    Root("node", "who sees everything", {"id": "{agent node}"}),
    Root("node", "who sees everything", {"id": "{resource group node}"}),
    Root("node", "anybody who is known", {"id": "{image node}"}),
    Root("user_node", "see the member", {"id": "{user node}"}),
    Root("user_nodes", "see the member", {}, "{email}"),
    Root("user_nodes", "see the member", {"filter": 'email == "{email}"'}, "the-owner"),
    Root("group_node", "of the project", {"id": "{project node}"}),
    Root("group_nodes", "of the project", {}, "{project}"),
    Root("group_nodes", "of the project", {"scope": "domain:{domain}"}, "{project}"),
    Root("group_nodes", "of the project", {"scope": "project:{project}"}, "{project}"),
    Root("domain_node", "of the domain", {"id": "{domain node}"}),
    Root("domain_nodes", "of the domain", {}, '"name":"{domain}"'),
    Root("compute_session_node", "see the session, else null", {"id": "{session node}"}),
    Root("compute_session_node", "see the session, else null", {"id": "{session}"}),
    Root("compute_session_nodes", "see the session, else null", {}, "{session}"),
    Root("compute_session_nodes", "see the session, else null", {"project_id": "{project}"}, "{session}"),
    Root("compute_session_nodes", "see the session, else null", {"scope_id": "domain:{domain}"}, "{session}"),
    Root("image_node", "anybody who is known", {"id": "{image node}"}),
    Root("image_nodes", "anybody who is known", {"scope_id": "system"}, "local/python"),
    Root("customized_images", "nothing there yet"),
    Root("agent_nodes", "who sees everything", {}, "{agent}"),
    # What changes something.
    Root("create_domain", "superadmin", {"name": "fresh", "props": {}}),
    Root("modify_domain", "superadmin", {"name": "{domain}", "props": {"description": "x"}}),
    Root("delete_domain", "superadmin", {"name": "{empty domain}"}),
    Root("purge_domain", "superadmin", {"name": "{empty domain}"}),
    Root("create_group", "make a project", {"name": "fresh", "props": {"domain_name": "{domain}"}}),
    Root("modify_group", "manage the project", {"gid": "{project}", "props": {"description": "x"}}),
    Root("modify_group", "manage the project",
         {"gid": "{project}", "props": {"user_update_mode": "add", "user_uuids": ["{monitor}"]}}),
    Root("modify_group", "manage the project",
         {"gid": "{project}", "props": {"user_update_mode": "remove", "user_uuids": ["{user}"]}}),
    Root("modify_group", "administer the project",
         {"gid": "{project}", "props": {"user_update_mode": "add", "user_uuids": ["{user}"], "as_admin": True}}),
    Root("modify_group", "administer the project", {"gid": "{project}", "props": {"name": "renamed"}}),
    Root("modify_group", "administer the project", {"gid": "{project}", "props": {"total_resource_slots": "{}"}}),
    Root("delete_group", "administer the project", {"gid": "{empty project}"}),
    Root("purge_group", "administer the project", {"gid": "{empty project}"}),
    Root("create_user", "superadmin", {"email": "fresh@example.com",
         "props": {"username": "fresh", "password": PASSWORD, "domain_name": "{domain}"}}),
    Root("modify_user", "superadmin", {"email": "{email}", "props": {"full_name": "New"}}),
    Root("delete_user", "superadmin", {"email": "{email}"}),
    Root("purge_user", "superadmin", {"email": "{idle email}", "props": {}}),
    Root("create_keypair", "superadmin", {"user_id": "{email}", "props": {"resource_policy": "default", "rate_limit": 10}}),
    Root("modify_keypair", "superadmin", {"access_key": "{access key}", "props": {"is_active": False}}),
    Root("delete_keypair", "superadmin", {"access_key": "{idle access key}"}),
    Root("create_keypair_resource_policy", "superadmin", {"name": "fresh", "props": {}}),
    Root("modify_keypair_resource_policy", "superadmin", {"name": "{policy}", "props": {"max_concurrent_sessions": 1}}),
    Root("delete_keypair_resource_policy", "superadmin", {"name": "{idle policy}"}),
    Root("create_user_resource_policy", "superadmin", {"name": "fresh", "props": {}}),
    Root("modify_user_resource_policy", "superadmin", {"name": "{user policy}", "props": {"max_vfolder_count": 1}}),
    Root("delete_user_resource_policy", "superadmin", {"name": "{user policy}"}),
    Root("create_project_resource_policy", "superadmin", {"name": "fresh", "props": {}}),
    Root("modify_project_resource_policy", "superadmin", {"name": "{project policy}", "props": {"max_vfolder_count": 1}}),
    Root("delete_project_resource_policy", "superadmin", {"name": "{project policy}"}),
    Root("create_scaling_group", "superadmin", {"name": "fresh", "props": {}}),
    Root("modify_scaling_group", "superadmin", {"name": "{resource group}", "props": {"description": "x"}}),
    Root("delete_scaling_group", "superadmin", {"name": "{resource group}"}),
    Root("associate_scaling_group_with_domain", "superadmin", {"scaling_group": "{resource group}", "domain": "{domain}"}),
    Root("disassociate_scaling_group_with_domain", "superadmin", {"scaling_group": "{resource group}", "domain": "{domain}"}),
    Root("disassociate_all_scaling_groups_with_domain", "superadmin", {"domain": "{domain}"}),
    Root("associate_scaling_group_with_user_group", "superadmin",
         {"scaling_group": "{resource group}", "user_group": "{project}"}),
    Root("disassociate_scaling_group_with_user_group", "superadmin",
         {"scaling_group": "{resource group}", "user_group": "{project}"}),
    Root("disassociate_all_scaling_groups_with_group", "superadmin", {"user_group": "{project}"}),
    Root("associate_scaling_group_with_keypair", "superadmin",
         {"scaling_group": "{resource group}", "access_key": "{access key}"}),
    Root("disassociate_scaling_group_with_keypair", "superadmin",
         {"scaling_group": "{resource group}", "access_key": "{access key}"}),
    Root("create_resource_preset", "superadmin", {"name": "fresh", "props": {"resource_slots": '{"cpu": "1"}'}}),
    Root("modify_resource_preset", "superadmin", {"name": "{preset}", "props": {"shared_memory": "1g"}}),
    Root("delete_resource_preset", "superadmin", {"name": "{preset}"}),
    Root("alias_image", "superadmin", {"alias": "snake", "target": "local/python:3.11"}),
    Root("dealias_image", "superadmin", {"alias": "{alias}"}),
    Root("rescan_images", "any administrator"),
    Root("modify_compute_session", "use the session", {"input": {"id": "{session}", "priority": 5}}),
    Root("modify_compute_session", "use the session", {"input": {"id": "{session}", "name": "renamed"}}),
    Root("modify_agent", "superadmin", {"id": "{agent}", "props": {"schedulable": False}}),
)  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Built once; whatever a request writes is undone after it."""
    made = await open_world(tmp_path_factory.mktemp("matrix"))
    yield made
    told = ", ".join(f"{number} {what}" for what, number in sorted(made.cells.items()))
    print(f"\nauthorisation matrix: {told}")


def decided(access: str) -> dict[str, str]:
    return dict(zip(PEOPLE, access.split(), strict=True))


# -- what is asked ------------------------------------------------------------------------------------------------------------


async def ask(world: World, line: Line, person: str, *, ghost: bool = False) -> Answer:
    key = None if person == "anonymous" else person
    path, _, query = world.filled(line.path, person, ghost=ghost).partition("?")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    encoded = "&".join(f"{name}={quote(value)}" for name, _, value in pairs)
    target = quote(path) + (f"?{encoded}" if encoded else "")
    body = world.filled(line.body, person, ghost=ghost)
    world.gateway.restore()
    if line.upload:
        form = (
            b'--B\r\nContent-Disposition: form-data; name="src"; filename="a"\r\n'
            b"Content-Type: text/plain\r\n\r\nhello\r\n--B--\r\n"
        )
        kind = "multipart/form-data; boundary=B"
        return await world.gateway.call(line.method, target, key=key, body=form, content_type=kind)
    if line.method == "WS":
        return await world.gateway.call("WS", target, key=key, body=msgspec.json.encode(body or {}))
    return await world.gateway.call(line.method, target, body, key=key)


def told_code(answer: Answer) -> str:
    """The error code of a refusal, in whatever form it came."""
    if answer.status == 101:
        return next((frame["error_code"] for frame in answer.frames if "error_code" in frame), "")
    if answer.status < 400:
        return ""
    return str(answer.json["error_code"])


def outcome(world: World, line: Line, person: str, answer: Answer) -> str:
    """A, R, H, E, or what was answered instead."""
    code = told_code(answer)
    if answer.status in (401, 403) or code.startswith("access."):
        return "R"
    if answer.status == 404 and not line.ok.endswith("not-found"):
        return "H"
    asked_agent = bool(world.gateway.bus.asked)
    if line.ok == AGENT:
        # A stream may have been accepted before the agent was asked; its last frame says why it closed.
        reached = answer.status == 101 if line.method == "WS" else code == AGENT
        return "A" if reached and asked_agent else f"{answer.status} {code} {answer.frames}"
    if code != line.ok or (not code and not 200 <= answer.status < 300):
        return f"{answer.status} {answer.body.decode()[:300]}"
    shows = world.filled(line.shows, person)
    return "A" if shows in answer.body.decode() else "E"


def check_secrets(world: World, person: str, answer: Answer, *, tells: bool = False) -> None:
    """Nobody but the owner and a superadministrator ever sees the owner's secret key or the token of a resource group."""
    text = answer.body.decode()
    if person not in ("owner", "superadmin") and not tells:
        assert world.gateway.keys["owner"][1] not in text, f"{person} sees the owner's secret key"
    if person != "superadmin":
        assert TOKEN not in text, f"{person} sees the token of the app proxy"
    assert "$argon2" not in text, "a password's hash"


async def check_line(world: World, line: Line, expected: dict[str, str], kind: str) -> None:
    wrong = []
    for person, letter in expected.items():
        answer = await ask(world, line, person)
        found = outcome(world, line, person, answer)
        world.cells[f"cells of {kind}"] += 1
        if found != FOUND.get(letter, letter):
            wrong.append(f"{person}: {found}, not {letter}")
        if found != "A":
            assert not world.gateway.bus.asked, f"{person}: the agent was asked"
        check_secrets(world, person, answer, tells=line.tells_secret)
        if letter in "RHE" and world.names_a_thing((line.path, line.body)):
            ghost = await ask(world, line, person, ghost=True)
            world.cells["comparisons with what does not exist"] += 1
            if world.blurred(ghost) != world.blurred(answer):
                wrong.append(
                    f"{person} learns: {world.blurred(answer)}, but of nothing {world.blurred(ghost)}"
                )
    assert not wrong, f"{line.key}\n" + "\n".join(wrong)


@pytest.mark.parametrize("line", REST, ids=lambda line: f"{line.method} {line.path}")
async def test_rest(world: World, line: Line) -> None:
    await check_line(world, line, decided(ACCESS[line.access]), "REST")


def owned() -> Iterator[Line]:
    """Lines of calls that may be made for somebody else, made for the owner."""
    forms = {key: operation.form for key, operation in described().items()}
    for line in REST:
        form = forms.get(line.key)
        if form is not None and issubclass(form, OwnedForm):
            path = line.path + ("&" if "?" in line.path else "?") + "owner_access_key={access key}"
            yield replace(line, path=path)


def described() -> dict[str, Any]:
    """Every route by method and path."""
    found = {}
    for route in ROUTES:
        handler: Any = route
        for method in sorted(getattr(handler, "http_methods", ["WS"])):
            for path in handler.paths:
                plain = re.sub(r"{(\w+):\w+}", r"{\1}", path)
                names = {
                    "log_id": "error log",
                    "file_name": "graphiql file",
                    "template_id": _TEMPLATE_WORDS.get(path.rpartition("/")[0], ""),
                }
                for parameter, word in names.items():
                    plain = plain.replace("{" + parameter + "}", "{" + word + "}")
                found[f"{method} {plain}"] = operation_of(handler)
    return found


_TEMPLATE_WORDS = {"/template/session": "template", "/template/cluster": "cluster template"}


@pytest.mark.parametrize("line", list(owned()), ids=lambda line: f"{line.method} {line.path}")
async def test_acting_for_the_owner(world: World, line: Line) -> None:
    """Whoever may not be the owner does not learn whether there is such a key. A superadministrator does: nothing is hidden there."""
    # What is each person's own becomes the owner's.
    own = {**world.own, **dict.fromkeys(PEOPLE, world.own["owner"])}
    as_owner = decided(ACCESS[line.access])["owner"]
    expected = {person: as_owner if letter == "o" else letter for person, letter in decided(ACTING).items()}
    if as_owner in "SHE":
        expected |= {person: "S" for person, letter in expected.items() if letter == as_owner}
    await check_line(replace(world, own=own), line, expected, "acting for somebody else")


# -- GraphQL ------------------------------------------------------------------------------------------------------------------

CORE = schema._schema
assert CORE.query_type is not None
assert CORE.mutation_type is not None
ROOT_FIELDS: dict[str, GraphQLField] = {**CORE.query_type.fields, **CORE.mutation_type.fields}


def selection(kind: GraphQLObjectType, depth: int = 3) -> str:
    """All fields without arguments that must be given, some levels deep."""
    parts = []
    for name, inner in kind.fields.items():
        if any(map(is_required_argument, inner.args.values())):
            continue
        named = get_named_type(inner.type)
        if is_leaf_type(named):
            parts.append(name)
        elif depth and isinstance(named, GraphQLObjectType):
            parts.append(f"{name} {selection(named, depth - 1)}")
    return "{ " + " ".join(parts or ["__typename"]) + " }"


def text_of(root: Root) -> str:
    asked = ROOT_FIELDS[root.name]
    assert set(root.args) <= set(asked.args), root.name
    needed = {name for name, one in asked.args.items() if is_required_argument(one)}
    assert needed <= set(root.args), f"{root.name} needs {needed}"
    variables = ", ".join(f"${name}: {asked.args[name].type}" for name in root.args)
    arguments = ", ".join(f"{name}: ${name}" for name in root.args)
    named = get_named_type(asked.type)
    depth = 3 if root.name.endswith("_nodes") else 1 if root.name.endswith(("_list", "s")) else 2
    chosen = selection(named, depth) if is_object_type(named) else ""
    if is_interface_type(named):
        kinds = CORE.get_possible_types(named)
        chosen = "{ " + " ".join(f"... on {kind.name} {selection(kind, 0)}" for kind in kinds) + " }"
    assert CORE.mutation_type is not None
    verb = "mutation" if root.name in CORE.mutation_type.fields else "query"
    return (
        f"{verb}{f'({variables})' if variables else ''} "
        f"{{ it: {root.name}{f'({arguments})' if arguments else ''} {chosen} }}"
    )


async def ask_root(world: World, root: Root, person: str, *, ghost: bool = False) -> Answer:
    body = {"query": text_of(root), "variables": world.filled(root.args, person, ghost=ghost)}
    world.gateway.restore()
    key = None if person == "anonymous" else person
    return await world.gateway.call("POST", "/admin/gql", body, key=key)


def root_outcome(world: World, root: Root, person: str, answer: Answer) -> str:
    if answer.status in (401, 403):
        return "R"
    assert answer.status == 200, answer.body
    for error in answer.json.get("errors", ()):
        code = error.get("extensions", {}).get("code", "")
        return "R" if code.startswith("access.") else "H" if code.endswith("not-found") else str(error)
    found = answer.json["data"]["it"]
    if (
        found is None
        or found == []
        or (isinstance(found, dict) and [] in (found.get("items"), found.get("edges")))
    ):
        return "E"
    if isinstance(found, dict) and "ok" in found and not found["ok"]:
        message = str(found["msg"])
        if message == f"no permission to execute {root.name}":
            return "R"
        return "H" if message.startswith("no ") else message
    text = json.dumps(without(answer.json, ["it"])) if not root.shows else answer.body.decode()
    return "A" if world.filled(root.shows, person) in text else "E"


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: f"{root.name} {sorted(root.args)}")
async def test_graphql(world: World, root: Root) -> None:
    wrong = []
    for person, letter in decided(ACCESS[root.access]).items():
        answer = await ask_root(world, root, person)
        found = root_outcome(world, root, person, answer)
        world.cells["cells of GraphQL"] += 1
        if found != FOUND.get(letter, letter):
            wrong.append(f"{person}: {found}, not {letter}")
        check_secrets(world, person, answer)
        if letter in "RHE" and world.names_a_thing(root.args):
            ghost = await ask_root(world, root, person, ghost=True)
            world.cells["comparisons with what does not exist"] += 1
            if world.blurred(ghost) != world.blurred(answer):
                wrong.append(
                    f"{person} learns: {world.blurred(answer)}, but of nothing {world.blurred(ghost)}"
                )
    assert not wrong, f"{root.name} {root.args}\n" + "\n".join(wrong)


async def test_a_role_that_is_lost_is_lost_at_once(world: World) -> None:
    """Where a session runs is remembered for the next call; that its caller was allowed to reach it must not be."""
    gateway = world.gateway
    gateway.restore()
    gateway.bus.reply = rpc.Done()
    try:
        target = world.filled("/session/{session}/interrupt", "domain admin")
        assert (await gateway.call("POST", target, key="domain admin")).status == 204
        await gateway.database.run(
            lambda conn: conn.execute(
                sa.update(t.users).where(t.users.c.username == "the-domain-admin").values(role="user")
            ).close()
        )
        gateway.identity.forget()
        assert (await gateway.call("POST", target, key="domain admin")).status == 404
        assert len(gateway.bus.asked) == 1
    finally:
        gateway.bus.reply = None


# -- that nothing is missing --------------------------------------------------------------------------------------------------


async def test_every_route_is_decided() -> None:
    routes, lines = set(described()), {line.key for line in REST}
    assert not sorted(routes - lines), "routes without a line in REST: decide who may use them"
    assert not sorted(lines - routes), "lines of no route"


async def test_every_root_is_decided() -> None:
    roots = {root.name for root in ROOTS}
    assert not sorted(set(ROOT_FIELDS) - roots), "roots without a line in ROOTS: decide who may ask for them"
    assert not sorted(roots - set(ROOT_FIELDS)), "lines of no root"


async def test_only_what_is_meant_to_be_is_anonymous() -> None:
    decided_public = {line.key for line in REST if line.access in ("public", "off")}
    assert {key for key, operation in described().items() if operation.anonymous} == decided_public
