"""Errors that clients report, and the audit log."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from ai.backend.manager.db.schema import error_logs
from ai.backend.manager.errorlog import policy, service

LOGS = "/logs/error"
ERROR = {
    "severity": "error",
    "source": "webui",
    "message": "it broke",
    "context_lang": "js",
    "context_env": '{"browser": "x"}',
    "request_url": "http://x",
    "request_status": "500",
    "traceback": "at line 1",
}


async def seen(world, key, query=""):
    answer = await world.call("GET", f"{LOGS}{query}", key=key)
    assert answer.status == 200
    return answer.json


async def test_a_report(world):
    assert (await world.call("POST", LOGS, ERROR)).json == {"success": True}
    told = await seen(world, "user", "?mark_read=False&page_size=20&page_no=1")
    (log,) = told["logs"]
    assert told["count"] == 1
    UUID(log.pop("log_id"))
    assert isinstance(log.pop("created_at"), float)
    assert log == {
        "severity": "error",
        "source": "webui",
        "user": str(world.who["user"].user_id),
        "is_read": False,
        "message": "it broke",
        "context_lang": "js",
        "context_env": {"browser": "x"},
        "request_url": "http://x",
        "request_status": 500,
        "traceback": "at line 1",
        "is_cleared": False,
    }
    assert (await world.call("GET", LOGS, {"mark_read": True})).json["logs"][0]["is_read"] is False
    assert (await seen(world, "user"))["logs"][0]["is_read"] is True


async def test_who_sees_what(world):
    for key in ("user", "peer", "stranger"):
        await world.call("POST", LOGS, ERROR | {"message": key}, key=key)
    expected = {
        "user": {"user"},
        "peer": {"peer"},
        "stranger": {"stranger"},
        "admin": {"user", "peer"},
        "boss": {"stranger"},
        "root": {"user", "peer", "stranger"},
        "monitor": {"user", "peer", "stranger"},
    }
    for key, messages in expected.items():
        told = await seen(world, key)
        assert {log["message"] for log in told["logs"]} == messages, key
        assert told["count"] == len(messages)


async def test_clearing(world):
    await world.call("POST", LOGS, ERROR)
    log_id = (await seen(world, "user"))["logs"][0]["log_id"]
    for key in ("peer", "stranger", "boss", "monitor"):
        refused = await world.call("POST", f"{LOGS}/{log_id}/clear", key=key)
        assert (refused.status, refused.problem) == (404, "object-not-found")
    for nothing in (str(UUID(int=1)), "nonsense"):
        assert (await world.call("POST", f"{LOGS}/{nothing}/clear")).status == 404
    cleared = await world.call("POST", f"{LOGS}/{log_id.replace('-', '')}/clear")
    assert cleared.json == {"success": True}
    assert (await seen(world, "user")) == {"logs": [], "count": 0}
    assert (await seen(world, "admin"))["count"] == 0
    assert (await seen(world, "root"))["logs"][0]["is_cleared"] is True


async def test_pages(world):
    for number in range(5):
        await world.call("POST", LOGS, ERROR | {"message": str(number)})
    first, last = (
        await seen(world, "user", "?page_size=2"),
        await seen(world, "user", "?page_size=2&page_no=3"),
    )
    assert [log["message"] for log in first["logs"]] == ["4", "3"]
    assert [log["message"] for log in last["logs"]] == ["0"] and last["count"] == 5
    for query in ("?page_size=0", "?page_size=101", "?page_no=0", "?page_no=x"):
        assert (await world.call("GET", f"{LOGS}{query}")).status == 400


@pytest.mark.parametrize(
    "change",
    [
        {"severity": "funny"},
        {"severity": None},
        {"message": ""},
        {"message": "x" * (65 << 10)},
        {"source": "x" * 256},
        {"context_env": "{"},
        {"context_env": "[]"},
        {"context_env": "[" * 5000},
        {"context_env": {"a": "x" * (65 << 10)}},
        {"context_env": '{"a": "\\u0000"}'},
        {"request_status": -1},
        {"request_status": "many"},
        {"traceback": "a\0b"},
    ],
)
async def test_malformed(world, change):
    answer = await world.call("POST", LOGS, ERROR | change)
    assert (answer.status, answer.problem) == (400, "invalid-api-params")
    assert (await seen(world, "root"))["count"] == 0


async def test_they_do_not_grow_without_end(world, monkeypatch):
    monkeypatch.setattr(service, "PER_USER_MAX", 3)
    await world.call("POST", LOGS, ERROR, key="peer")
    for number in range(5):
        await world.call("POST", LOGS, ERROR | {"message": str(number)})
    assert [log["message"] for log in (await seen(world, "user"))["logs"]] == ["4", "3", "2"]
    assert (await seen(world, "peer"))["count"] == 1
    old = datetime.now(UTC) - policy.KEPT - timedelta(minutes=1)
    await world.database.run(lambda conn: conn.execute(sa.update(error_logs).values(created_at=old)))
    await world.manager.error_logs._forget()
    assert (await seen(world, "root"))["count"] == 0


async def test_the_audit_log(world):
    for value in ("a", "b"):
        await world.call("POST", "/config/set", {"key": f"config/{value}", "value": value}, key="root")
    await world.call("PUT", "/manager/status", {"status": "running"}, key="root")
    told = (await world.call("GET", "/audit-logs", key="root")).json
    assert [(item["action"], item["target"]) for item in told["items"]] == [
        ("manager:unfreeze", "manager"),
        ("setting:set", "config/b"),
        ("setting:set", "config/a"),
    ]
    assert told["total_count"] == 3
    assert told["items"][0]["user"] == str(world.who["root"].user_id)
    some = (await world.call("GET", "/audit-logs?action=setting&target=config/a&limit=1", key="root")).json
    assert some["total_count"] == 1
    assert (await world.call("GET", "/audit-logs?action=%25", key="root")).json["total_count"] == 0
    for key in ("user", "admin", "monitor"):
        assert (await world.call("GET", "/audit-logs", key=key)).problem == "auth-failed"
    for query in ("?limit=0", "?limit=101", "?offset=-1"):
        assert (await world.call("GET", f"/audit-logs{query}", key="root")).status == 400
