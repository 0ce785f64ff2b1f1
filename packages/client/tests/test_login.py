"""Session mode: where requests go and what vouches for them, and logins that are kept in a private file."""

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from ai.backend.client.client import AsyncClient
from ai.backend.client.config import ClientConfig
from ai.backend.client.error import LoginRefused, OtpNeeded
from ai.backend.client.login import SavedLogin, forget, login_file, save, saved_session
from ai.backend.client.request import Requester

HERE, THERE = "http://127.0.0.1:1", "https://other.example"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return login_file({"XDG_STATE_HOME": str(tmp_path / "state")})


def test_logins_are_kept_privately_and_each_for_its_endpoint(path: Path) -> None:
    save(path, HERE, SavedLogin(session_id="one", username="eve"))
    save(path, THERE, SavedLogin(session_id="two"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert (saved_session(path, HERE), saved_session(path, THERE)) == ("one", "two")
    assert saved_session(path, "http://third") == ""
    forget(path, HERE)
    assert (saved_session(path, HERE), saved_session(path, THERE)) == ("", "two")
    assert [file.name for file in path.parent.iterdir()] == ["login.json"]
    path.write_text("nonsense")
    assert saved_session(path, THERE) == ""


def test_where_they_are_kept(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert login_file(home) == tmp_path / ".local/state/backend.ai/login.json"
    assert login_file(home | {"XDG_STATE_HOME": "relative"}) == login_file(home)


def test_a_configuration_of_session_mode(path: Path, tmp_path: Path) -> None:
    save(path, HERE, SavedLogin(session_id="one"))
    values = {"BACKEND_ENDPOINT": HERE, "XDG_STATE_HOME": str(tmp_path / "state")}
    session = ClientConfig.from_environ(values | {"BACKEND_ENDPOINT_TYPE": "session"})
    assert session.in_session_mode and session.session_id == "one" and "one" not in repr(session)
    # Who signs sends no login along.
    assert ClientConfig.from_environ(values).session_id == ""


class Played:
    """A server that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path_qs, request.headers))
        match request.path:
            case "/func/":
                return web.json_response({"version": "v8.20240915", "manager": "25.5.2"})
            case "/server/login":
                form = await request.json()
                if form["password"] != "right":
                    details = "User credential mismatch."
                elif form.get("otp") != "123456":
                    details = "OTP not provided"
                else:
                    reply = {"authenticated": True, "data": {"access_key": "A"}}
                    return web.json_response(reply, headers={"X-BackendAI-SessionID": "s" * 32})
                return web.json_response({"authenticated": False, "data": {"details": details}})
            case "/func/stream":
                socket = web.WebSocketResponse()
                await socket.prepare(request)
                await socket.send_str("hello")
                await socket.close()
                return socket
        return web.json_response({"status": "ok", "agents": 1})


@pytest.fixture
async def played() -> AsyncIterator[Played]:
    server = Played()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    yield server
    await runner.cleanup()


def config(played: Played, session_id: str = "") -> ClientConfig:
    keys = {"access_key": "AKIA", "secret_key": "s"}
    return ClientConfig(endpoint=played.url, endpoint_type="session", session_id=session_id, **keys)


async def test_logging_in(played: Played) -> None:
    async with AsyncClient(config(played)) as api:
        with pytest.raises(LoginRefused) as refused:
            await api.log_in("eve", "wrong")
        assert type(refused.value) is LoginRefused and refused.value.message == "User credential mismatch."
        with pytest.raises(OtpNeeded):
            await api.log_in("eve", "right")
        assert await api.log_in("eve", "right", "123456") == "s" * 32
    assert all("X-BackendAI-SessionID" not in headers for _, _, headers in played.asked)


async def test_requests_are_vouched_for_by_the_login_and_not_signed(played: Played) -> None:
    async with AsyncClient(config(played, "s" * 32)) as api:
        await api.health()
        await api.log_out()
    async with AsyncClient(config(played, "s" * 32)) as api:
        requester: Requester = api._requester
        async with requester.websocket("/stream") as socket:
            assert (await socket.receive()).type is WSMsgType.TEXT
    asked = [(method, target) for method, target, _ in played.asked]
    assert asked == [
        ("GET", "/func/"),
        ("GET", "/func/health"),
        ("POST", "/server/logout"),
        ("GET", "/func/"),
        ("GET", "/func/stream"),
    ]
    for _, target, headers in played.asked:
        assert "Authorization" not in headers
        assert (headers.get("X-BackendAI-SessionID") == "s" * 32) is (target != "/func/")
