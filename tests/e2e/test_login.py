"""Logging in by password instead of signing, from the command line and with cookies, on a real cluster."""

import json
import stat
from pathlib import Path

import aiohttp

from ai.backend.common.clock import SystemClock
from ai.backend.manager.login import totp

from .conftest import Cluster


def session_mode(cluster: Cluster, state: Path) -> dict[str, str]:
    return {
        "BACKEND_ENDPOINT": cluster.env["BACKEND_ENDPOINT"],
        "BACKEND_ENDPOINT_TYPE": "session",
        "BACKEND_ACCESS_KEY": "",
        "BACKEND_SECRET_KEY": "",
        "XDG_STATE_HOME": str(state),
    }


def test_the_command_line_logs_in_runs_and_logs_out(sandbox_cluster: Cluster, tmp_path: Path) -> None:
    cluster, env = sandbox_cluster, session_mode(sandbox_cluster, tmp_path)
    email, password = cluster.env["BACKEND_USER_EMAIL"], cluster.env["BACKEND_USER_PASSWORD"]
    refused = cluster.cli("login", email, env=env, stdin="wrong\n", check=False)
    assert refused.returncode == 1 and "User credential mismatch." in refused.stderr
    before = cluster.cli("ps", env=env, check=False)
    assert before.returncode == 1
    done = cluster.cli("login", env=env, stdin=f"{email}\n{password}\n")
    assert "Logged in." in done.stdout
    assert password not in done.stdout + done.stderr
    kept = tmp_path / "backend.ai" / "login.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and password not in kept.read_text()
    ran = cluster.cli("run", "python", "-c", "print(6 * 7)", env=env)
    assert ran.stdout.split()[-1] == "42"
    assert json.loads(cluster.cli("--output", "json", "config", env=env).stdout)["logged_in"] == "yes"
    assert "Logged out." in cluster.cli("logout", env=env).stdout
    assert cluster.cli("ps", env=env, check=False).returncode == 1
    assert json.loads(kept.read_text()) == {"endpoints": {}}
    # With a keypair there is nothing to log in to.
    assert "session mode only" in cluster.cli("login", email, stdin="x\n", check=False).stderr
    log = (cluster.home / "logs" / "cluster.log").read_text()
    assert password not in log


async def test_a_second_factor_and_no_way_to_guess_it(sandbox_cluster: Cluster) -> None:
    """The administrator gets one, is asked for it, and is rid of it again."""
    cluster = sandbox_cluster
    url = cluster.env["BACKEND_ENDPOINT"]
    form = {"username": cluster.env["BACKEND_ADMIN_EMAIL"], "password": cluster.env["BACKEND_ADMIN_PASSWORD"]}
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:

        async def post(path: str, body: dict[str, str] | None = None) -> dict[str, object]:
            async with http.post(url + path, json=body or {}) as response:
                told: dict[str, object] = await response.json()
                return told

        assert (await post("/server/login", form))["authenticated"] is True
        prepared = await post("/func/totp")
        step = totp.step_of(SystemClock().now())
        code = totp.code_at(str(prepared["totp_key"]), step)
        assert await post("/func/totp/verify", {"otp": code}) == {"success": True}
        async with http.post(url + "/server/logout") as response:
            assert response.status == 201
        told = await post("/server/login", form)
        assert told["data"]["details"] == "OTP not provided"  # type: ignore[index]
        # The code that activated it was used by that; the next one is good.
        assert (await post("/server/login", form | {"otp": code}))["authenticated"] is False
        code = totp.code_at(str(prepared["totp_key"]), step + 1)
        assert (await post("/server/login", form | {"otp": code}))["authenticated"] is True
        async with http.delete(url + "/func/totp") as response:
            assert response.status == 200


async def test_guessing_is_refused_also_after_the_cluster_came_back(tmp_path: Path) -> None:
    """What is counted is in the database, so that no restart makes it forgotten."""
    cluster = Cluster(home=tmp_path / "home", backend="sandbox")
    cluster.up()
    try:
        for round_ in range(2):
            url = cluster.env["BACKEND_ENDPOINT"]
            async with aiohttp.ClientSession() as http:
                for n in range(5):
                    body = {"username": "nobody@example.com", "password": f"guess {n}"}
                    async with http.post(url + "/server/login", json=body) as response:
                        assert response.status == 200
            if round_ == 0:
                cluster.down()
                cluster.up()
        async with aiohttp.ClientSession() as http:
            body = {"username": "nobody@example.com", "password": "guess"}
            for path in ("/server/login", "/auth/authorize"):
                async with http.post(cluster.env["BACKEND_ENDPOINT"] + path, json=body) as response:
                    assert response.status == 429
                    assert int(response.headers["Retry-After"]) > 0
    finally:
        cluster.down()
