"""The description's promises about these routes are true: each status that it names occurs, with a real manager."""

import itertools
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ai.backend.gateway.openapi import operation_of
from ai.backend.gateway.rest import dotfile, errorlog, folder, resource, scheduler, setting
from ai.backend.gateway.stream import tasks
from ai.backend.manager.db.schema import keypairs
from ai.backend.manager.dotfile.model import Scope

ROUTES = [
    *setting.ROUTES,
    *dotfile.ROUTES,
    *errorlog.ROUTES,
    *resource.ROUTES,
    *tasks.ROUTES,
    *folder.ROUTES,
    *scheduler.ROUTES,
]
COUNTER = itertools.count()
NOTHING = str(UUID(int=1))
FILE = {"path": ".there", "data": "x"}
PERIOD = {"start_date": "20260101", "end_date": "20260102"}
BODIES: dict[str, Any] = {
    "set_announcement": {"enabled": False},
    "set_manager_status": {"status": "running"},
    "operate_scheduler": {"op": "include-agents", "args": ["a1"]},
    "get_setting": {"key": "a"},
    "set_setting": {"key": "a", "value": "b"},
    "delete_setting": {"key": "a"},
    "create_dotfile": FILE,
    "change_dotfile": FILE,
    "delete_dotfile": FILE,
    "get_project_dotfiles": {"group": "default"},
    "create_project_dotfile": FILE | {"group": "default"},
    "change_project_dotfile": FILE | {"group": "default"},
    "delete_project_dotfile": FILE | {"group": "default"},
    "create_domain_dotfile": FILE,
    "change_domain_dotfile": FILE,
    "delete_domain_dotfile": FILE,
    "report_error": {"severity": "error", "message": "x"},
    "list_groups": {"group": "default"},
    "get_proxy_version": {"group": "default"},
    "sync_agent": {"agent": "a1"},
    "dry_run": {"workloads": [{"slots": {"cpu": 1}}]},
    "get_month_use": {"month": "202601"},
    "get_period_use": PERIOD,
    **{key: {"agent_id": "a1"} for key in ("get_watcher", "start_agent", "stop_agent", "restart_agent")},
}
MISSING: dict[str, Any] = {
    "operate_scheduler": {"op": "include-agents", "args": ["nobody"]},
    **{key: {"agent_id": "nobody"} for key in ("get_watcher", "start_agent", "stop_agent", "restart_agent")},
    "sync_agent": {"agent": "nobody"},
    **{key: {"group": "nothing"} for key in ("list_groups", "get_proxy_version", "check_presets")},
    "watch_task": {"task_id": NOTHING},
    "dry_run": {"resource_group": "nothing"},
    "list_hosts": {"group_id": "nothing"},
}


async def prepared(world: Any, name: str) -> dict[str, Any]:
    """What has to be there for the route to succeed; returns what names it in the request."""
    root = world.who["root"]
    if "dotfile" in name:
        for scope in Scope:
            files = await world.manager.dotfiles.list(root, scope, project="default")
            if files == []:
                await world.manager.dotfiles.create(root, scope, ".there", "644", "x", project="default")
        return {"path": f"new-{next(COUNTER)}"} if name.startswith("create") else {}
    if name == "clear_error":
        await world.call("POST", "/logs/error", BODIES["report_error"], key="root")
        return {"id": (await world.call("GET", "/logs/error", key="root")).json["logs"][0]["log_id"]}
    if name == "get_why":
        form = {"name": "explained", "image": "python", "enqueueOnly": True}
        return {"id": (await world.call("POST", "/session", form, key="root")).json["sessionId"]}
    if name == "watch_task":

        async def work(_reporter: Any) -> str:
            return "done"

        return {"task_id": str(await world.manager.tasks.start(root, "quick", work))}
    return {}


async def provoke(world: Any, route: Any, status: int) -> int:
    name, operation = route.fn.__name__, operation_of(route)
    (method,) = route.http_methods
    body = dict(BODIES.get(name, {})) | await prepared(world, name)
    key, headers, frozen = "root", {}, False
    target = min(route.paths)
    ref = body.pop("id", "default")
    match status:
        case 400:
            headers = {"X-BackendAI-Version": "nonsense"}
        case 401:
            headers = {
                "Authorization": f"BackendAI signMethod=HMAC-SHA256, credential={world.keys['root'][0]}:{'0' * 64}"
            }
        case 403:
            key, body["owner_access_key"] = "user", world.keys["root"][0]
        case 404:
            if "dotfile" in name:
                body["path"] = "missing"
                if name.startswith("create"):
                    body |= {"group": "nothing", "domain": "nothing"}
            ref = "nothing"
            body |= MISSING.get(name, {})
        case 413:
            body["x"] = "x" * (9 << 20)
        case 429:
            key = "peer"
        case 503 if status != operation.status:
            frozen = "agent" not in name and "watcher" not in name
    target = target.replace("{name:str}", ref).replace("{log_id:str}", ref)
    if frozen:
        await world.manager.settings.set_state(world.who["root"], "frozen")
    try:
        signer = None if operation.anonymous else key
        answer = await world.call(method, target, body or None, key=signer, headers=headers)
    finally:
        if frozen:
            await world.manager.settings.set_state(world.who["root"], "running")
    return int(answer.status)


async def test_each_promised_status_occurs(world):
    def slow(conn: sa.Connection) -> None:
        conn.execute(
            sa.update(keypairs).where(keypairs.c.access_key == world.keys["peer"][0]).values(rate_limit=0)
        )

    await world.database.run(slow)
    world.manager.identity.forget()
    await world.call("GET", "/resource/presets", key="peer")
    promised = [(route, status) for route in ROUTES for status in operation_of(route).statuses]
    came = {(route.fn.__name__, status): await provoke(world, route, status) for route, status in promised}
    assert {key: status for key, status in came.items() if status != key[1]} == {}
    assert len(came) > 200


def test_what_changes_something_is_refused_when_frozen():
    """Every route that is no reading says what it is: it promises the refusal, or that it is served all the same."""
    for route in ROUTES:
        operation = operation_of(route)
        reads = route.http_methods <= {"GET", "HEAD", "OPTIONS"}
        assert reads or operation.while_frozen or 503 in operation.statuses, route.fn.__name__
