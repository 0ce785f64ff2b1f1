"""The description: valid, committed as generated, and true - each status that it promises occurs."""

from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from openapi_spec_validator import validate

from ai.backend.gateway.app import ROUTES
from ai.backend.gateway.openapi import document, operation_of
from ai.backend.gateway.rest import dotfile, errorlog, folder, resource, scheduler, setting, template
from ai.backend.gateway.stream import tasks

REAL = frozenset(
    (
        *setting.ROUTES,
        *dotfile.ROUTES,
        *errorlog.ROUTES,
        *resource.ROUTES,
        *scheduler.ROUTES,
        *tasks.ROUTES,
        *template.ROUTES,
        *folder.ROUTES,
    )
)
"""What `tests/rest/test_promises.py` asks of a real manager."""
COMMITTED = Path(__file__).parents[4] / "api" / "openapi.json"
OWNER = "owner_access_key=AKIAROOTROOTROOTROOT"
"""Someone for whom the plain user may not act."""
LOGIN = {"username": "user@example.com", "password": "right"}
EXPIRED = {"username": "user@example.com", "current_password": "right", "new_password": "better"}
NAMED = {"name": "fresh", "image": "python"}
QUERIES = {
    "match_sessions": "id=my",
    "finish_openid_login": "code=right",
    "rename_session": "name=better",
    "download_files": "files=a",
    "download_files_by_body": "files=a",
    "download_file": "file=a",
    "proxy_tcp": "app=web",
    "get_task_log": "taskId=mysess",
    "watch_events": f"sessionId={'0' * 31}9",
}
BODIES: dict[str, Any] = {
    "post_gql": {"query": "{ __typename }"},
    "post_graphql": {"query": "{ __typename }"},
    "create_session": NAMED,
    "imagify_session": {"image_name": "mine"},
    "start_service": {"app": "web"},
    "shutdown_service": {"service_name": "web"},
    "execute_code": {"mode": "query", "code": "1"},
    "authorize": LOGIN,
    "log_in": LOGIN,
    "log_in_by_token": {"sToken": "x"},
    "update_expired_password": EXPIRED,
    "update_expired_password_in_session": EXPIRED,
    "sign_up": {"email": "new@example.com", "password": "x"},
    "sign_out": {"email": "user@example.com", "password": "right"},
    "update_password": {"old_password": "x", "new_password": "y", "new_password2": "y"},
    "update_full_name": {"email": "user@example.com", "full_name": "U"},
    "set_ssh_keypair": {"pubkey": "x", "privkey": "x"},
    "activate_totp": {"otp": "123456"},
}
OPENID = {401: "code=wrong", 404: "code=never&next=/never", 503: "code=later&next=/later"}
WRONG = {"username": "u", "password": "x", "current_password": "x", "new_password": "x"}
GUARDED = ("authorize", "log_in", "update_expired_password", "update_expired_password_in_session")
"""Calls that take a password instead of a signature."""


def test_it_is_valid():
    validate(document(ROUTES))


def test_it_is_committed_as_generated():
    if not COMMITTED.exists():
        pytest.fail(f"{COMMITTED} is missing: python -m ai.backend.gateway.openapi > api/openapi.json")
    assert msgspec.json.decode(COMMITTED.read_bytes()) == msgspec.json.decode(
        msgspec.json.encode(document(ROUTES))
    )


def test_every_route_is_described():
    for route in ROUTES:
        operation = operation_of(route)
        assert operation.summary
        assert not operation.summary.endswith(".")


async def provoke(client: Any, route: Any, status: int) -> int:
    """Makes a request that should be answered with the status; returns what came."""
    name = route.fn.__name__
    operation = operation_of(route)
    ref, query, body, key, sign, headers = "mysess", QUERIES.get(name, ""), BODIES.get(name), "user", {}, {}
    if name in ("list_agents", "get_graphiql"):
        key = "root"
    match status:
        case 400:
            headers = {"X-BackendAI-Version": "nonsense"}
        case 401:
            key = "liar"
            # Each with a name of its own, so that none is refused for another's failures.
            body = WRONG | {"username": name} if name in GUARDED else body
            query = OPENID[401] if "openid" in name else query
        case 403 if name in ("sign_up", "sign_out", "update_full_name"):
            body = {"email": "late@example.com", "password": "x", "full_name": "x"}
        case 403 if name == "remove_totp":
            query = "email=other@example.com"
        case 403 if name == "log_out":
            headers = {"Sec-Fetch-Site": "cross-site"}
        case 403:
            query, key = f"{query}&{OWNER}", "user"
        case 404:
            ref = "missing"
            body = NAMED | {"image": "nowhere"} if name == "create_session" else body
            query = f"sessionId={'0' * 32}" if name == "watch_events" else query
            query = "group=missing" if name == "get_roles" else query
            query = "taskId=missing" if name == "get_task_log" else query
            query = "email=missing@example.com" if name == "remove_totp" else query
            query = OPENID[404] if "openid" in name else query
        case 409:
            ref = "changed"
        case 412 if name == "imagify_session":
            body = {"image_name": "more"}
        case 412 | 500:
            body = NAMED | {"image": "too-many" if status == 412 else "broken"}
        case 413:
            body = {"code": "x" * (9 << 20)}
        case 429:
            key = "slow"
            await client.call("GET", "/auth", key=key)
            for _ in range(10 if name in GUARDED else 0):
                await client.call("POST", "/auth/authorize", WRONG, key=None)
            body = WRONG if name in GUARDED else body
        case 503 if "openid" in name:
            query = OPENID[503]
        case 503:
            ref, client.manager.settings.frozen = "faraway", True
            query = "taskId=faraway" if name == "get_task_log" else query
    path = min(route.paths).replace("{file_name:str}", "missing" if status == 404 else "page.css")
    target = path.replace("{name:str}", ref) + (f"?{query}" if query else "")
    if status == 101 or not hasattr(route, "http_methods"):
        return await upgrade(client, target, key, headers)
    form = None
    if operation.form_in == "multipart":
        form, body = aiohttp.FormData(), None
        form.add_field("src", b"x" * ((41 << 20) if status == 413 else 1), filename="a.txt")
    signer = None if operation.anonymous else key
    (method,) = route.http_methods
    answer = await client.call(method, target, body, key=signer, headers=headers, form=form, **sign)
    client.manager.settings.frozen = False
    return answer.status


async def upgrade(client: Any, target: str, key: str, headers: dict[str, str]) -> int:
    signed = client.signed("GET", target, key=key) | headers
    try:
        async with client.http.ws_connect(client.url(target, "ws"), headers=signed):
            return 101
    except aiohttp.WSServerHandshakeError as refused:
        return refused.status


async def test_each_promised_status_occurs(client):
    promised = [
        (route, status) for route in ROUTES if route not in REAL for status in operation_of(route).statuses
    ]
    came = {(route.fn.__name__, status): await provoke(client, route, status) for route, status in promised}
    assert {key: status for key, status in came.items() if status != key[1]} == {}
    assert len(came) > 100
