"""`apps` and `app`, as the real program against a server that plays a session."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from .conftest import environ_of


def test_apps_are_listed(cli: Any) -> None:
    assert cli("apps", "mine").stdout.splitlines()[1:] == ["8000  preopen   8000", "8001  preopen   8001"]
    assert json.loads(cli("apps", "mine", "8001", "--output", "json").stdout) == {
        "items": [{"name": "8001", "protocol": "preopen", "ports": [8001]}],
        "total_count": 1,
    }
    assert "no session 'gone'" in cli("apps", "gone").stderr


def test_ports_are_wished_for(cli: Any, server: Any) -> None:
    assert cli("session", "create", "python", "-t", "mine", "--preopen", "8000, 8001").returncode == 0
    body = next(body for method, _, body in server.requests if method == "POST")
    assert body["config"]["preopen_ports"] == [8000, 8001]
    assert cli("session", "create", "python", "--preopen", "80,http").returncode == 4


def test_a_local_port(server: Any, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "ai.backend.cli", "app", "mine", "8000", "-b", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environ_of({**server.environ, "HOME": str(tmp_path)}),
    )
    assert process.stdout is not None
    told = re.fullmatch(r"http://127\.0\.0\.1:(\d+)\n", process.stdout.readline())
    assert told is not None
    with socket.create_connection(("127.0.0.1", int(told[1])), timeout=10) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and "leads to 8000 in mine" in errors and "Closed." in errors


def test_what_goes_wrong(cli: Any) -> None:
    refused = cli("app", "mine", "nope")
    assert refused.returncode == 1 and "It offers: 8000, 8001." in refused.stderr
    for bind in ("x", "1.2.3.4:x", "99999", "127.0.0.1:"):
        assert cli("app", "mine", "8000", "-b", bind).returncode == 4
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = cli("app", "mine", "8000", "-b", f"127.0.0.1:{port}")
    assert told.returncode == 1 and f"can't listen on 127.0.0.1:{port}" in told.stderr
