"""Session mode: logging in with a password, then working with a cookie instead of keys."""

import re
from collections.abc import Callable, Iterator

import pytest

from .client import Client
from .cluster import Account, Cluster
from .sessions import SMALL

LOGIN = """
from ai.backend.client.session import Session
with Session() as s:
    told = s.Auth.login(user, password)
    told["cookies"] = sorted(told["cookies"])
    give(told)
"""


@pytest.fixture
def web(cluster: Cluster, client_of: Callable[[Account], Client]) -> Client:
    """A client that has no keys and a fresh home folder."""
    client = client_of(cluster.user)
    client.env = {"BACKEND_ENDPOINT": cluster.endpoint, "BACKEND_ENDPOINT_TYPE": "session"}
    return client


@pytest.fixture
def logged_in(web: Client, cluster: Cluster) -> Iterator[Client]:
    done = web.cli("login", input=f"{cluster.user.email}\n{cluster.user.password}\n").ok()
    assert "Login succeeded." in done.text, done
    yield web
    web.cli("logout")


def test_negotiation_has_a_prefix(web: Client) -> None:
    told = web.cli("config").ok().text
    assert "mode: session" in told and "Server version: 25.5.2" in told


def test_login_tells_the_account(web: Client, cluster: Cluster) -> None:
    told = web.sdk(LOGIN, user=cluster.user.email, password=cluster.user.password)
    assert told["authenticated"] is True and "AIOHTTP_SESSION" in told["cookies"]
    assert told["data"]["access_key"] == cluster.user.access_key
    assert told["data"]["role"] == "user" and told["data"]["status"] == "active"


def test_a_wrong_password_is_told(web: Client, cluster: Cluster) -> None:
    done = web.cli("login", input=f"{cluster.user.email}\nWrong-1234!\n").failed()
    assert "Login failed." in done.text


def test_login_keeps_a_cookie(logged_in: Client, cluster: Cluster) -> None:
    assert list(logged_in.home.rglob("cookie.dat"))
    assert f'Username: "{cluster.user.email}"' in logged_in.cli("config").ok().text


def test_ps(logged_in: Client) -> None:
    assert logged_in.json("ps")["items"] == []


def test_queries_act_for_the_account(logged_in: Client, cluster: Cluster) -> None:
    (item,) = logged_in.items("admin", "user", "info")
    assert item["email"] == cluster.user.email


def test_run(logged_in: Client) -> None:
    done = logged_in.cli(
        "run", "--rm", *SMALL, "-c", "print(input('? '))", "python", input="over a cookie\n"
    ).ok()
    assert "over a cookie" in done.stdout


def test_files(logged_in: Client) -> None:
    (logged_in.home / "main.py").write_text("print('uploaded', 6 * 7)")
    done = logged_in.cli("run", "--rm", *SMALL, "python", "main.py").ok()
    assert "uploaded 42" in done.stdout


def test_errors_pass_through(logged_in: Client) -> None:
    done = logged_in.cli("session", "logs", "no-such-session").failed()
    assert "404" in done.text and "No such session." in done.text


def test_logout_ends_it(logged_in: Client) -> None:
    assert "Logout done." in logged_in.cli("logout").ok().text
    assert not list(logged_in.home.rglob("cookie.dat"))
    assert re.search(r"401|Unauthorized", logged_in.cli("session", "logs", "whatever").failed().text)


def test_without_login_nothing_works(web: Client) -> None:
    assert "401" in web.cli("session", "logs", "whatever").failed().text


def test_a_password_is_changed(logged_in: Client, cluster: Cluster) -> None:
    old, new = cluster.user.password, "Changed-In-Session-1234!"
    try:
        assert "Password updated." in logged_in.cli("update-password", old, new, new).ok().text
        told = logged_in.sdk(LOGIN, user=cluster.user.email, password=old)
        assert told["authenticated"] is False and told["data"]["details"]
    finally:
        logged_in.cli("update-password", new, old, old)
