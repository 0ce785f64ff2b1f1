"""The quick start changes nothing: what a client says and how it ends is as when its program is started as it is."""

from dataclasses import replace

import pytest

from .client import Client
from .sessions import Running


@pytest.mark.parametrize(
    ("command", "exit"),
    [
        (["config"], 0),
        (["--output", "json", "admin", "user", "info"], 0),
        (["session", "logs", "no-such-session"], 1),
        (["nonsense"], 2),
        (["session", "destroy"], 4),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else str(value),
)
def test_a_quick_start_is_a_start(user: Client, command: list[str], exit: int) -> None:
    quick, plain = user.cli(*command), replace(user, starter=None).cli(*command)
    assert quick.exit == plain.exit == exit
    assert (quick.stdout, quick.stderr) == (plain.stdout, plain.stderr)


def test_what_was_typed_is_read(user: Client) -> None:
    """A password that is asked for comes from standard input, with either start."""
    web = {"BACKEND_ENDPOINT_TYPE": "session"}
    typed = "nobody@example.org\nWrong-1234!\n"
    quick = user.cli("login", input=typed, env=web)
    plain = replace(user, starter=None).cli("login", input=typed, env=web)
    assert (quick.exit, quick.text) == (plain.exit, plain.text) and "Login failed." in quick.text


def test_what_stays_is_ended(user: Client, live: Running) -> None:
    done = user.cli("watch", live.name, timeout_s=2)
    assert done.exit == 124 and "still running after 2 s" in done.stderr
    assert user.cli("config").ok(), "the next one starts as ever"
