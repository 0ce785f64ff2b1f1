"""What administrators and users set, through the launcher: dotfiles in real sessions, freezing, settings."""

import json
from pathlib import Path
from typing import Any

import pytest


def ended(cluster: Any, *names: str) -> None:
    for name in names:
        cluster.cli("session", "rm", name, check=False)


def test_dotfiles_are_in_new_sessions_with_their_mode(cluster: Any, tmp_path: Path) -> None:
    user = cluster.as_user()
    (tmp_path / "rc").write_text("export GREETING='from a dotfile'\n")
    cluster.cli("dotfile", "create", ".my-rc", "-f", str(tmp_path / "rc"), "--perm", "640", env=user)
    cluster.cli("dotfile", "create", "bin/tool", "--perm", "755", stdin="#!/bin/sh\necho tool\n", env=user)
    cluster.cli("dotfile", "create", ".shared", "-g", "default", stdin="of the project")
    cluster.cli("dotfile", "create", ".my-rc", "-d", "default", stdin="of the domain")
    cluster.cli("dotfile", "bootstrap-script", "-f", "-", stdin="echo bootstrapped > .was-here\n", env=user)
    try:
        listed = cluster.json("dotfile", "list", env=user)
        assert [item["path"] for item in listed["items"]] == [".my-rc", "bin/tool"]
        cluster.cli("session", "create", "python", "-t", "dotted", env=user)
        code = (
            "import os, json, subprocess\n"
            "def seen(p):\n"
            "    s = os.stat(p)\n"
            "    return [oct(s.st_mode & 0o777), s.st_uid == os.getuid(), open(p).read()]\n"
            "paths = ['.my-rc', 'bin/tool', '.shared', '.was-here']\n"
            "print(json.dumps({p: seen(p) for p in paths if os.path.exists(p)}))\n"
            "print(subprocess.run(['bin/tool'], capture_output=True, text=True).stdout)\n"
        )
        told = cluster.cli("exec", "dotted", "-c", code, env=user).stdout.splitlines()
        found = json.loads(told[0])
        assert found[".my-rc"] == ["0o640", True, "export GREETING='from a dotfile'\n"]
        assert found["bin/tool"][:2] == ["0o755", True]
        assert found[".shared"] == ["0o644", True, "of the project"]
        assert found[".was-here"][2] == "bootstrapped\n"
        assert told[1] == "tool"
        # A restart keeps the home folder as its user left it.
        cluster.cli("exec", "dotted", "-c", "open('.my-rc', 'w').write('mine now')", env=user)
        cluster.cli("session", "restart", "dotted", env=user)
        again = cluster.cli("exec", "dotted", "-c", "print(open('.my-rc').read())", env=user)
        assert again.stdout == "mine now\n"
    finally:
        cluster.cli("session", "rm", "dotted", env=user, check=False)
        for path in (".my-rc", "bin/tool"):
            cluster.cli("dotfile", "delete", "-f", path, env=user, check=False)
        cluster.cli("dotfile", "delete", "-f", ".shared", "-g", "default", check=False)
        cluster.cli("dotfile", "delete", "-f", ".my-rc", "-d", "default", check=False)
        cluster.cli("dotfile", "bootstrap-script", "--clear", env=user, check=False)
    assert cluster.json("dotfile", "list", env=user)["total_count"] == 0


def test_a_frozen_cluster_refuses_sessions_and_answers_questions(cluster: Any) -> None:
    user = cluster.as_user()
    cluster.cli("session", "create", "python", "-t", "thawed", env=user)
    cluster.cli("admin", "manager", "freeze")
    try:
        refused = cluster.cli("--output", "json", "session", "create", "python", env=user, check=False)
        assert refused.returncode == 1
        assert json.loads(refused.stdout)["error"]["code"] == "manager.frozen"
        assert "maintenance" in refused.stderr
        assert cluster.json("info", "thawed", env=user)["status"] == "RUNNING"
        assert cluster.cli("exec", "thawed", "-c", "print(6*7)", env=user).stdout == "42\n"
        status = cluster.json("admin", "manager", "status", env=user)
        assert (status["status"], status["nodes"][0]["status"]) == ("frozen", "frozen")
        forbidden = cluster.cli("admin", "manager", "unfreeze", env=user, check=False)
        assert forbidden.returncode == 1 and "Unauthorized access" in forbidden.stderr
    finally:
        cluster.cli("admin", "manager", "unfreeze")
        cluster.cli("session", "rm", "thawed", env=user)
    assert cluster.json("admin", "manager", "status")["status"] == "running"
    assert "manager:freeze" in cluster.cli("admin", "audit", "list").stdout


def test_settings_and_announcement(cluster: Any) -> None:
    cluster.cli("admin", "etcd", "set", "config/docker/registry/cr.example.com", "https://cr.example.com")
    cluster.cli("admin", "etcd", "set", "config/x", '{"a": "1", "b": {"c": "2"}}')
    assert cluster.json("admin", "etcd", "get", "-p", "config/x")["result"] == {"a": "1", "b": {"c": "2"}}
    assert cluster.cli("admin", "etcd", "get", "config/x/a").stdout == "1\n"
    cluster.cli("admin", "etcd", "delete", "-p", "config")
    assert cluster.json("admin", "etcd", "get", "-p", "config")["result"] == {}
    cluster.cli("announcement", "update", "-m", "We move on Friday.")
    assert cluster.cli("announcement", "get", env=cluster.as_user()).stdout == "We move on Friday.\n"
    cluster.cli("announcement", "delete")
    assert cluster.json("announcement", "get") == {"enabled": False, "message": ""}


def test_what_is_left(cluster: Any) -> None:
    user = cluster.as_user()
    told = cluster.json("resource", "check", env=user)
    assert told["keypair_limits"] == {"cpu": "Infinity", "mem": "Infinity"}
    assert cluster.json("resource", "groups", env=user)["items"] == [{"name": "default"}]
    assert cluster.json("resource", "presets", env=user)["total_count"] == 0
    assert "you may use" in cluster.cli("resource", "check", env=user).stdout
    assert cluster.json("server-logs", "list", env=user)["count"] == 0


@pytest.mark.parametrize("args", [("get", "missing"), ("delete", "-f", "missing")])
def test_a_missing_dotfile_is_told(cluster: Any, args: tuple[str, ...]) -> None:
    done = cluster.cli("dotfile", *args, env=cluster.as_user(), check=False)
    assert done.returncode == 1 and "No such dotfile" in done.stderr
