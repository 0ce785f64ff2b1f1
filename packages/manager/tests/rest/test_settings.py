"""Announcement, freezing, the tree of settings, and orders to the scheduler."""

import pytest
import sqlalchemy as sa

from ai.backend.common.errors import InvalidInput
from ai.backend.manager.db.schema import agents, audit_logs, settings
from ai.backend.manager.setting import policy

SUPERADMIN_ONLY = [
    ("POST", "/manager/announcement", {"enabled": True, "message": "x"}),
    ("PUT", "/manager/status", {"status": "frozen"}),
    ("POST", "/manager/scheduler/operation", {"op": "exclude-agents", "args": ["a1"]}),
    ("POST", "/manager/scheduler/trigger", {"event": "schedule"}),
    ("GET", "/manager/scheduler/status", None),
    ("POST", "/config/get", {"key": "config", "prefix": True}),
    ("POST", "/config/set", {"key": "config/x", "value": "y"}),
    ("POST", "/config/delete", {"key": "config/x"}),
    ("GET", "/config/docker-registries", None),
    ("GET", "/resource/container-registries", None),
]


@pytest.mark.parametrize("role", ["user", "admin", "monitor", "boss"])
@pytest.mark.parametrize(("method", "target", "body"), SUPERADMIN_ONLY)
async def test_superadministrators_only(world, role, method, target, body):
    answer = await world.call(method, target, body, key=role)
    assert (answer.status, answer.problem) == (401, "auth-failed")
    assert (await world.call(method, target, body, key=None)).status == 401
    rows = await world.database.read(lambda conn: conn.execute(sa.select(settings)).all())
    assert rows == [] and (await world.call("GET", "/manager/status", key=None)).json["status"] == "running"


async def test_announcement(world):
    assert (await world.call("GET", "/manager/announcement", key=None)).json == {
        "enabled": False,
        "message": "",
    }
    body = {"enabled": True, "message": "We move on Friday."}
    assert (await world.call("POST", "/manager/announcement", body, key="root")).status == 204
    assert (await world.call("GET", "/manager/announcement", key=None)).json == body
    for empty in (None, "", "  "):
        refused = await world.call(
            "POST", "/manager/announcement", {"enabled": True, "message": empty}, key="root"
        )
        assert (refused.status, refused.problem) == (400, "invalid-api-params")
    off = {"enabled": False, "message": None}
    assert (await world.call("POST", "/manager/announcement", off, key="root")).status == 204
    assert not (await world.call("GET", "/manager/announcement", key=None)).json["enabled"]


async def test_status_counts_what_lives(world):
    await world.start()
    world.manager.settings.forget()
    status = (await world.call("GET", "/manager/status", {"status": "running"}, key=None)).json
    assert (status["active_sessions"], status["status"]) == (1, "running")
    (node,) = status["nodes"]
    assert node["active_sessions"] == 1 and node["api_version"] == [8, "20240915"]


async def test_frozen_refuses_changes_and_lets_the_rest_pass(world):
    assert (await world.start("before")).status == 201
    assert (await world.call("PUT", "/manager/status", {"status": "frozen"}, key="root")).status == 204
    for method, target, body in (
        ("POST", "/session", {"name": "later", "image": "python"}),
        ("POST", "/session/_/create", {"name": "later", "image": "python"}),
        ("PATCH", "/session/before", None),
        ("POST", "/session/before/rename?name=other", None),
        ("POST", "/config/set", {"key": "a", "value": "b"}),
    ):
        for key in ("user", "root"):
            answer = await world.call(method, target, body, key=key)
            assert (answer.status, answer.problem) == (503, "server-frozen"), target
    # Whoever is nobody is told so, not that it is frozen.
    assert (
        await world.call("POST", "/session", {"name": "later", "image": "python"}, key=None)
    ).status == 401
    assert (await world.call("GET", "/session/before")).json["status"] == "RUNNING"
    ran = await world.call("POST", "/session/before", {"mode": "query", "code": "print(42)"})
    assert ran.json["result"]["console"] == [["stdout", "42\n"]]
    assert (await world.call("POST", "/config/get", {"key": "a"}, key="root")).json == {"result": None}
    assert (await world.call("GET", "/manager/status", key=None)).json["nodes"][0]["status"] == "frozen"
    assert (await world.call("DELETE", "/session/before")).status == 200
    assert (await world.call("PUT", "/manager/status", {"status": "running"}, key="root")).status == 204
    assert (await world.start("later")).status == 201


async def test_force_kill_ends_all_sessions(world):
    await world.start("sess-one")
    await world.start("sess-two", key="peer")
    body = {"status": "running", "force_kill": True}
    assert (await world.call("PUT", "/manager/status", body, key="root")).status == 400
    body = {"status": "frozen", "force_kill": True}
    assert (await world.call("PUT", "/manager/status", body, key="root")).status == 204
    page = await world.call("GET", "/session?status=TERMINATED", key="root")
    assert {item["reason"] for item in page.json["items"]} == {"force-terminated"}
    assert page.json["total_count"] == 2


@pytest.mark.parametrize("status", ["", "melted", "FROZEN"])
async def test_no_other_status(world, status):
    answer = await world.call("PUT", "/manager/status", {"status": status}, key="root")
    assert (answer.status, answer.problem) == (400, "invalid-api-params")
    body = {"key": "manager/status", "value": status}
    assert (await world.call("POST", "/config/set", body, key="root")).status == 400


async def test_one_read_answers_all_who_ask_at_once(world, monkeypatch):
    import asyncio

    from ai.backend.manager.setting import store

    reads = []
    real = store.status
    monkeypatch.setattr(store, "status", lambda conn: (reads.append(1), real(conn))[1])
    world.manager.settings.forget()
    await asyncio.gather(*(world.manager.settings.status() for _ in range(50)))
    assert len(reads) == 1


async def test_what_another_manager_freezes_counts_here(database, tmp_path):
    """On a clock of the test: nothing is measured."""
    from ai.backend.manager.setting.model import ManagerState
    from ai.backend.manager.setting.service import KEPT_S, SettingService

    class Hands:
        seconds = 0.0

        def monotonic(self):
            return self.seconds

    clock = Hands()
    service = SettingService(database, clock, loops=(), end_all=None)
    assert (await service.status()).state is ManagerState.RUNNING
    from ai.backend.manager.setting import store

    await database.run(lambda conn: store.put(conn, {policy.STATE_KEY: "frozen"}))
    assert (await service.status()).state is ManagerState.RUNNING
    clock.seconds = KEPT_S
    assert (await service.status()).state is ManagerState.FROZEN


async def test_settings_are_a_tree(world):
    async def get(key, *, prefix=False):
        answer = await world.call("POST", "/config/get", {"key": key, "prefix": prefix}, key="root")
        assert answer.status == 200
        return answer.json["result"]

    async def put(key, value):
        answer = await world.call("POST", "/config/set", {"key": key, "value": value}, key="root")
        assert (answer.status, answer.json) == (200, {"result": "ok"})

    await put("config/docker/registry/cr.example.com", "https://cr.example.com")
    await put("/config/docker/registry/cr.example.com/", {"username": "u", "password": "geheim"})
    await put("config/docker/registry/127.0.0.1%3A8080", "http://127.0.0.1:8080")
    await put("config/plain", 5)
    assert await get("config/plain") == "5"
    assert await get("nothing") is None and await get("nothing", prefix=True) == {}
    assert await get("config/docker/registry/cr.example.com", prefix=True) == {
        "": "https://cr.example.com",
        "username": "u",
        "password": "geheim",
    }
    assert (await get("config", prefix=True))["plain"] == "5"
    assert (await get("", prefix=True))["config"]["plain"] == "5"
    for path in ("/config/docker-registries", "/resource/container-registries"):
        assert (await world.call("GET", path, key="root")).json == {
            "cr.example.com": "https://cr.example.com",
            "127.0.0.1:8080": "http://127.0.0.1:8080",
        }
    body = {"key": "config/docker/registry/cr.example.com", "prefix": False}
    assert (await world.call("POST", "/config/delete", body, key="root")).json == {"result": "ok"}
    assert await get("config/docker/registry/cr.example.com/username") == "u"
    body["prefix"] = True
    await world.call("POST", "/config/delete", body, key="root")
    assert await get("config/docker/registry/cr.example.com", prefix=True) == {}
    assert await get("config/plain") == "5"


async def test_similar_keys_are_not_below_each_other(world):
    for key in ("a_b/x", "axb/x", "a_bc/x"):
        await world.call("POST", "/config/set", {"key": key, "value": "1"}, key="root")
    await world.call("POST", "/config/delete", {"key": "a_b", "prefix": True}, key="root")
    rows = await world.database.read(lambda conn: conn.execute(sa.select(settings.c.key)).scalars().all())
    assert sorted(rows) == ["a_bc/x", "axb/x"]


async def test_secrets_are_in_no_log(world, capfd):
    body = {"key": "config/x", "value": {"password": "very-geheim"}}
    assert (await world.call("POST", "/config/set", body, key="root")).status == 200
    rows = await world.database.read(lambda conn: str(conn.execute(sa.select(audit_logs)).all()))
    assert "config/x/password" in rows and "very-geheim" not in rows
    assert "very-geheim" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "body",
    [
        {"key": "", "value": "x"},
        {"key": "a//b", "value": "x"},
        {"key": "a\nb", "value": "x"},
        {"key": "x" * 513, "value": "x"},
        {"key": "a"},
        {"key": "a", "value": ["x"]},
        {"key": "a", "value": {"b": None, "c": ["x"]}},
        {"key": "a", "value": {str(n): "x" for n in range(17)}},
        {"key": "a", "value": "x" * (65 << 10)},
        {"key": "a", "value": "nul \0"},
    ],
)
async def test_malformed_settings(world, body):
    answer = await world.call("POST", "/config/set", body, key="root")
    assert (answer.status, answer.problem) == (400, "invalid-api-params")
    rows = await world.database.read(lambda conn: conn.execute(sa.select(settings)).all())
    assert rows == []


async def test_a_malformed_body(world):
    answer = await world.call("POST", "/config/set", key="root", body=b"{")
    assert (answer.status, answer.problem) == (400, "invalid-api-params")


async def test_excluded_agents_take_no_sessions(world):
    body = {"op": "exclude-agents", "args": ["a1"]}
    assert (await world.call("POST", "/manager/scheduler/operation", body, key="root")).status == 204
    waiting = await world.call("POST", "/session", {"name": "waits", "image": "python", "enqueueOnly": True})
    assert waiting.json["status"] == "PENDING"
    told = (await world.call("GET", "/manager/scheduler/status", key="root")).json
    assert (told["pending_sessions"], told["schedulable_agents"]) == (1, 0)
    body = {"op": "include-agents", "args": ["a1"]}
    assert (await world.call("POST", "/manager/scheduler/operation", body, key="root")).status == 204
    assert (await world.start("waits")).json["status"] == "RUNNING"


async def test_unknown_agents_change_nothing(world):
    body = {"op": "exclude-agents", "args": ["a1", "nobody"]}
    answer = await world.call("POST", "/manager/scheduler/operation", body, key="root")
    assert (answer.status, answer.problem, answer.json["title"]) == (
        404,
        "object-not-found",
        "No such agent instance.",
    )
    rows = await world.database.read(
        lambda conn: conn.execute(sa.select(agents.c.schedulable)).scalars().all()
    )
    assert rows == [True]
    for malformed in (
        {"op": "eject", "args": ["a1"]},
        {"op": "exclude-agents", "args": []},
        {"args": ["a1"]},
    ):
        answer = await world.call("POST", "/manager/scheduler/operation", malformed, key="root")
        assert answer.status == 400


async def test_trigger(world):
    answer = await world.call("POST", "/manager/scheduler/trigger", {"event": "schedule"}, key="root")
    assert answer.status == 204
    answer = await world.call("POST", "/manager/scheduler/trigger", {"event": "explode"}, key="root")
    assert answer.status == 400


async def test_slots(world):
    assert (await world.call("GET", "/config/resource-slots", key=None)).json == {
        "cpu": "count",
        "mem": "bytes",
    }
    world.agent.capacity["cuda.device"] = 2000
    await world.agent.report()
    assert (await world.call("GET", "/config/resource-slots", key=None)).json["cuda.device"] == "count"
    details = (await world.call("GET", "/config/resource-slots/details", key=None)).json
    assert details["cuda.device"]["human_readable_name"] == "CUDA"
    assert details["mem"]["number_format"] == {"binary": True, "round_length": 0}
    elsewhere = (await world.call("GET", "/config/resource-slots/details?sgroup=elsewhere", key=None)).json
    assert sorted(elsewhere) == ["cpu", "mem"]


async def test_changes_are_in_the_audit_log(world):
    await world.call("PUT", "/manager/status", {"status": "frozen"}, key="root")
    row = (await world.database.read(lambda conn: conn.execute(sa.select(audit_logs)).all()))[0]
    assert (row.action, row.access_key, row.detail) == (
        "manager:freeze",
        world.keys["root"][0],
        {"force_kill": False},
    )
    assert len(row.request_id) == 16


def test_the_tree_of_keys():
    assert policy.tree("a", {"a/b": "1", "a/b/c": "2", "a/b/c/d": "3", "a": "0"}) == {
        "": "0",
        "b": {"": "1", "c": {"": "2", "d": "3"}},
    }
    assert policy.leaves("a", {"b": {"": "1", "c": "2"}}) == {"a/b": "1", "a/b/c": "2"}
    with pytest.raises(InvalidInput):
        policy.leaves("a", {"b": {"b": {"b": {"b": {}}}}, **{str(n): "x" for n in range(17)}})
    with pytest.raises(InvalidInput):
        policy.announcement_of(True, "x" * (17 << 10))


async def test_what_was_read_before_a_change_is_not_kept():
    """The read was on its way when the change was committed."""
    import asyncio

    from ai.backend.common.clock import SystemClock
    from ai.backend.manager.setting.model import ManagerState, Status
    from ai.backend.manager.setting.service import SettingService

    class Slow:
        state, reads = ManagerState.RUNNING, 0

        def __init__(self):
            self.reading, self.go_on = asyncio.Event(), asyncio.Event()

        async def read(self, op):
            self.reads += 1
            found = Status(state=self.state, active_sessions=0, announcement="")
            self.reading.set()
            await self.go_on.wait()
            return found

    database = Slow()
    service = SettingService(database, SystemClock(), loops=(), end_all=None)
    asking = asyncio.create_task(service.status())
    await database.reading.wait()
    database.state = ManagerState.FROZEN
    service.forget()
    database.go_on.set()
    assert (await asking).state is ManagerState.FROZEN
    assert (await service.status()).state is ManagerState.FROZEN
    assert database.reads == 2
