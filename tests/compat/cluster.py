"""The live cluster that the clients talk to, started and stopped through the launcher as a user does."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = Path(__file__).resolve().parents[2] / "backend.ai"


@dataclass(frozen=True)
class Account:
    """Who a client speaks for."""

    email: str
    password: str
    access_key: str
    secret_key: str


@dataclass(frozen=True)
class Cluster:
    home: Path
    endpoint: str
    admin: Account
    user: Account

    def env(self, account: Account) -> dict[str, str]:
        return {
            "BACKEND_ENDPOINT": self.endpoint,
            "BACKEND_ENDPOINT_TYPE": "api",
            "BACKEND_ACCESS_KEY": account.access_key,
            "BACKEND_SECRET_KEY": account.secret_key,
        }


SETTINGS = """
[manager.login]
signup = true
"""
"""What an administrator switched on that is off at first."""


def start(home: Path) -> Cluster:
    home.mkdir()
    (home / "config.toml").write_text(SETTINGS)
    _launch(
        "up", "--home", str(home), "--backend", "sandbox", "--detach", "--listen", "127.0.0.1:0", "--json"
    )
    told = _exports(home / "env.sh")
    return Cluster(
        home=home,
        endpoint=told["BACKEND_ENDPOINT"],
        admin=Account(
            told["BACKEND_ADMIN_EMAIL"],
            told["BACKEND_ADMIN_PASSWORD"],
            told["BACKEND_ACCESS_KEY"],
            told["BACKEND_SECRET_KEY"],
        ),
        user=Account(
            told["BACKEND_USER_EMAIL"],
            told["BACKEND_USER_PASSWORD"],
            told["BACKEND_USER_ACCESS_KEY"],
            told["BACKEND_USER_SECRET_KEY"],
        ),
    )


def stop(cluster: Cluster) -> None:
    _launch("down", "--home", str(cluster.home))


def sweep(cluster: Cluster, keep: str) -> None:
    """Ends what a failed step may have left, by our own command line, but for sessions whose names begin with `keep`."""
    for account in (cluster.admin, cluster.user):
        env = cluster.env(account)
        listed = json.loads(_launch("--output", "json", "ps", env=env))["items"]
        if left := [item["id"] for item in listed if not item["name"].startswith(keep)]:
            _launch("rm", "--forced", *left, env=env, check=False)


def _launch(*args: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
    done = subprocess.run(
        [str(LAUNCHER), *args],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    if check and done.returncode != 0:
        raise RuntimeError(
            f"{args} ended with {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}"
        )
    return done.stdout


def _exports(path: Path) -> dict[str, str]:
    """What `env.sh` exports, with the shell's quoting undone."""
    lines = re.findall(r"^export (\w+)=(.*)$", path.read_text(), re.MULTILINE)
    return {name: "".join(shlex.split(value)) for name, value in lines}
